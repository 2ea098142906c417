"""Made experiments on a peptide whose answer is known.

Microstates hold real Cα frames of the embedded chignolin set: folded ones (RMSD below 1.4 Å),
ones on the way, and unfolded ones. A reversible Markov chain with chosen populations jumps between
them, so milliseconds cost nothing and ΔF, rates and the surface are exact. What the beads do not
show can be added: folded frames of two kinds, packed and not, that turn into each other slowly.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cgfe.analysis.folding import FoldingData
from cgfe.analysis.weights import Walkers, inverse_variance_share
from cgfe.data.embedded import EMBEDDED
from cgfe.data.frames import CGFrames
from cgfe.geometry import rmsd
from cgfe.reference.sampled import Sampled, fit_projection

STEP_NS = 0.1
MEMBERS = 40
"""Real frames of a microstate."""
COUNTS = {"folded": 6, "between": 8, "unfolded": 16}
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Made:
    """A peptide of microstates, and what is true of it.

    Attributes
    ----------
    population : array (S,)
        Of each microstate; with hidden kinds these are microstates of their own.
    matrix : array (S, S)
        Probability of each jump in a step.
    kind : int array (S,)
        1 folded, 0 between, -1 unfolded.
    visible : int array (S,)
        The state that the beads show.
    members : int array (S, M)
        Frames of each microstate.
    distance, bins, positions
        Of the frames.
    """

    population: FloatArray
    matrix: FloatArray
    kind: IntArray
    visible: IntArray
    members: IntArray
    frames: CGFrames
    distance: FloatArray
    bins: IntArray
    grid: object

    @property
    def surface(self) -> FloatArray:
        """Exact probability of what is outside, and of each bin."""
        return self.histogram(self.population)

    def histogram(self, population: FloatArray) -> FloatArray:
        """Return the surface of some population."""
        mass = np.repeat(population / MEMBERS, MEMBERS)
        size = self.grid.shape[0] * self.grid.shape[1] + 1
        return np.bincount(self.bins[self.members.ravel()] + 1, mass, minlength=size)

    @property
    def delta_f(self) -> float:
        """Exact ΔF by RMSD, kT."""
        folded = ((self.distance[self.members] <= 2.0).mean(axis=1) * self.population).sum()
        return float(np.log((1 - folded) / folded))

    def delta_f_by_core(self) -> float:
        """Exact ΔF by the core that was last: committor to the folded core, time reversed."""
        inner = self.kind == 0
        share = (self.kind == 1).astype(float)
        block = np.eye(inner.sum()) - self.matrix[np.ix_(inner, inner)]
        share[inner] = np.linalg.solve(block, self.matrix[np.ix_(inner, self.kind == 1)].sum(1))
        folded = (share * self.population).sum()
        return float(np.log((1 - folded) / folded))

    def walk(
        self,
        starts: IntArray,
        steps: int,
        random: np.random.Generator,
        tilt: FloatArray | None = None,
    ) -> IntArray:
        """Return microstates (W, steps) of walkers; a tilt (S,) biases the populations by it."""
        matrix = self.matrix
        if tilt is not None:
            # Metropolis on the tilt keeps population times tilt.
            matrix = matrix * np.minimum(1, tilt[None, :] / tilt[:, None])
            matrix += np.diag(1 - matrix.sum(axis=1))
        cumulative = matrix.cumsum(axis=1)
        cumulative[:, -1] = 1.0
        paths = np.empty((len(starts), steps), dtype=np.int64)
        state = np.asarray(starts)
        for step in range(steps):
            paths[:, step] = state
            draw = random.random(len(state))
            state = (cumulative[state] < draw[:, None]).sum(axis=1)
        return paths

    def show(self, paths: IntArray, random: np.random.Generator) -> IntArray:
        """Return a real frame for each step of paths, drawn from the microstate's members."""
        return self.members[paths, random.integers(MEMBERS, size=paths.shape)]

    def sampled(
        self,
        paths: IntArray,
        random: np.random.Generator,
        lag: int,
        biased: IntArray | None = None,
        tilt: FloatArray | None = None,
    ) -> Sampled:
        """Return walkers (W, T), and biased ones, as the report sees them, states included."""
        groups = [paths] if biased is None else [paths, biased]
        states = [self.visible[path] for group in groups for path in group]
        logs: list[FloatArray | None] = [None] * len(paths)
        if biased is not None:
            assert tilt is not None
            logs += [-np.log(tilt[path]) for path in biased]
        walkers = Walkers.of(states, logs, int(self.visible.max()) + 1, lag)
        shown = np.concatenate([self.show(group, random).ravel() for group in groups])
        distance = self.distance[shown]
        folding = FoldingData(distance, walkers.walker, walkers.biased, 1000 * STEP_NS)
        share = inverse_variance_share(walkers, random)
        return Sampled(
            walkers, share, self.bins[shown], self.grid, distance <= 2.0, folding,
            1000 * STEP_NS, 10,
        )  # fmt: skip

    def starts(self, kind: int, count: int, random: np.random.Generator) -> IntArray:
        """Return starts in equilibrium within a kind."""
        chosen = np.flatnonzero(self.kind == kind)
        share = self.population[chosen] / self.population[chosen].sum()
        return random.choice(chosen, size=count, p=share)


def make(folded_share: float, relaxation_ns: float, hidden: bool = False) -> Made:
    """Make a peptide with a folded share and a relaxation time.

    Parameters
    ----------
    folded_share : float
        About; the exact figures are the peptide's own.
    relaxation_ns : float
        Of the slowest motion, whose barrier is tuned to it.
    hidden : bool
        Each folded microstate is of two kinds that the beads do not show: a packed one of nine
        tenths of the population, and one through which alone it is reached and left, which
        itself unfolds within about a quarter of a nanosecond. The slow motion is the packing.
    """
    frames = CGFrames.load(EMBEDDED["chignolin"])
    distance = rmsd(frames.positions, frames.native_positions)
    projection, tics = fit_projection(frames)
    members, kind = _microstates(distance, tics)
    shares = np.array([1 - folded_share - 0.04, 0.04, folded_share])[kind + 1]
    population = shares * np.exp(0.5 * np.random.default_rng(3).normal(size=len(kind)))
    population /= population.sum()
    visible, packed = np.arange(len(kind)), np.zeros(len(kind), dtype=bool)
    if hidden:
        folded = np.flatnonzero(kind == 1)
        visible = np.append(visible, folded)
        packed = np.arange(len(visible)) >= len(kind)
        population, kind, shares = population[visible], kind[visible], shares[visible]
        population = population * np.where(packed, 0.9, np.where(kind == 1, 0.1, 1.0))
    # Flux per ns: quick within a kind, to the next kind over a barrier, none across two.
    flux = np.outer(population, population)
    apart = np.abs(kind[:, None] - kind[None, :])
    flux *= np.where(apart == 0, 1 / shares[:, None], np.where(apart == 1, 1.0, 0.0))
    barrier = (apart == 1) & (np.maximum(kind[:, None], kind[None, :]) == 1)
    flux[barrier] *= 100.0 if hidden else 1.0
    if hidden:
        barrier = packed[:, None] != packed[None, :]
        flux[barrier & (apart == 1)] = 0
        flux[(apart == 1) & (packed[:, None] | packed[None, :])] = 0
    for _ in range(30):
        matrix = _matrix(flux, population)
        slow = -STEP_NS / np.log(np.sort(np.linalg.eigvals(matrix).real)[-2])
        flux[barrier] *= slow / relaxation_ns
    return Made(
        population, matrix, kind, visible, members[visible], frames, distance,
        projection.grid.bin_index(tics), projection.grid,
    )  # fmt: skip


def _microstates(distance: FloatArray, tics: FloatArray) -> tuple[IntArray, IntArray]:
    """Return members (S, M) and kind (S,): frames by RMSD, and by TIC 1 among alike ones."""
    members, kind = [], []
    for name, low, high, number in (
        ("folded", 0.0, 1.4, 1), ("between", 1.6, 3.9, 0), ("unfolded", 4.05, 9.0, -1),
    ):  # fmt: skip
        frames = np.flatnonzero((distance > low) & (distance < high))
        frames = frames[np.argsort(tics[frames, 0])]
        for part in np.array_split(frames, COUNTS[name]):
            members.append(part[:: max(1, len(part) // MEMBERS)][:MEMBERS])
            kind.append(number)
    return np.array(members), np.array(kind)


def _matrix(flux: FloatArray, population: FloatArray) -> FloatArray:
    matrix = STEP_NS * flux / population[:, None]
    np.fill_diagonal(matrix, 0)
    stay = 1 - matrix.sum(axis=1)
    assert (stay > 0).all(), stay.min()
    return matrix + np.diag(stay)
