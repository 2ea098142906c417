"""Float32 operations that the all-atom kernel does for one walker's step, counted from its code.

Every addition, multiplication, comparison and the processor's guess of a reciprocal counts as one,
a multiply-add as two; integers, conversions and selections count nothing. The ceiling is of
multiply-adds alone, so a pass of which half the instructions are single multiplications or
additions can reach three quarters of it at most.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cgfe.all_atom.parameters import Layout, Parameters, pair_order

PASSES = ("bonded", "Born radii", "pair forces", "chain rule", "step")
"""In the order of peptide.cpp."""
BOND, ANGLE, TORSION = 27, 111, 150
DISTANCE, SERIES, COEFFICIENT = 8, 13, 8
"""Of a pair's Born integrals: r², a series without its coefficients, each further coefficient."""
LOGARITHM = 118
"""Of a close pair's Born integrals, both directions."""
RADIUS, RADIUS_SLOPE = 33, 15
PAIR, EXPONENTIAL = 34, {True: 9, False: 17}
"""The exponential has a table in a register where vectors have 16 lanes."""
CHAIN = 16
ATOM, NORMAL = 34, 27
INVERT = {0: 0, 1: 4, 2: 11, 3: 58}


@dataclass(frozen=True)
class PairClasses:
    """Pairs of one vector by what their Born integrals take."""

    far: int
    middle: int
    near: int


def pair_classes(
    positions: NDArray[np.floating], parameters: Parameters, layout: Layout
) -> PairClasses:
    """Return the classes of all pairs of walkers (lanes, A, 3) that share a vector.

    A block of rows takes the short series where no walker's pair is closer than its distance;
    elsewhere a pair takes the logarithm if it is near in any walker.
    """
    atoms = positions.shape[1]
    one, two = pair_order(atoms, layout.rows)
    vectors = positions[:, one].astype(np.float64) - positions[:, two]
    squared = np.square(vectors).sum(-1).min(0)
    end = len(parameters.floats) - atoms * (5 + 2 * (layout.middle + layout.far))
    near = squared < parameters.floats[end - len(one) : end]
    # Pairs within a block of rows are met one by one.
    whole = atoms - atoms % layout.rows
    alone = (one // layout.rows == two // layout.rows) | (one >= whole)
    block = np.where(alone, one, one // layout.rows + atoms) * atoms + two
    _, of_pair = np.unique(block, return_inverse=True)
    least = np.full(of_pair.max() + 1, np.inf)
    np.minimum.at(least, of_pair, squared)
    far = least[of_pair] >= parameters.far_nm**2
    close = int((near & ~far).sum())
    return PairClasses(int(far.sum()), int((~far).sum()) - close, close)


def walker_step(parameters: Parameters, layout: Layout, classes: PairClasses) -> dict[str, int]:
    """Return the operations of each of `PASSES` for one walker and step."""
    counts = parameters.counts
    atoms = counts["atoms"]
    pairs = atoms * (atoms - 1) // 2

    def series(coefficients: int) -> int:
        return SERIES + COEFFICIENT * (coefficients - 1)

    born = classes.far * series(layout.far) + classes.middle * series(layout.middle)
    bonded = (counts["bonds"] * BOND, counts["angles"] * ANGLE, counts["torsions"] * TORSION)
    clusters = parameters.integers[-5 * counts["clusters"] :].reshape(-1, 5)
    return {
        "bonded": sum(bonded),
        "Born radii": pairs * DISTANCE + born + classes.near * LOGARITHM + atoms * RADIUS,
        "pair forces": pairs * (PAIR + EXPONENTIAL[layout.lanes == 16]) + atoms * RADIUS_SLOPE,
        "chain rule": pairs * CHAIN,
        "step": atoms * (ATOM + 3 * NORMAL) + sum(cluster(int(k)) for k in clusters[:, 0]),
    }


def cluster(held: int) -> int:
    """Return the operations of the constraints of one atom that holds others at fixed distances."""
    square = held**2
    velocities = 8 * held + 8 * square + INVERT[held] + 14 * held
    newton = 7 * held + 2 * square + held + 7 * square
    return 3 * held + velocities + 6 * held + 7 * square + INVERT[held] + 4 * newton + 27 * held
