"""Mean forces: forces of the beads, averaged over the other atoms while the beads keep their place.

With the beads fixed (Cα of infinite mass) the mean of the mapped force is the gradient of the
potential of mean force there (arXiv 2602.14531), up to an error. Configurations that are frames of
an equilibrium run need no settling: their other atoms are a sample of what is averaged over
already, slow side chains included, which are then right in the mean over configurations though a
short average does not turn them. What the two halves of the time tell of the error is the part of
what turns within them: of chignolin means over 50 ps that follow each other differ by 0.47
kcal/mol/Å (standard error), their halves tell 0.36.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cgfe.all_atom.batched import BatchedSystem, Dynamics, Walkers
from cgfe.all_atom.progress import advance_in_pieces
from cgfe.data.force_mapping import CarbonAlphaMapping
from cgfe.errors import InputError
from cgfe.geometry import rmsd, superpose
from cgfe.units import ANGSTROM_PER_NM, KCAL_PER_KJ

EVERY_STEPS = 5
"""Steps between two forces that are averaged."""
STEER_STEPS = 5
"""Steps of dynamics between two small moves of the beads."""
STEER_FRICTION_PER_PS = 5.0


@dataclass(frozen=True)
class Averaging:
    """How the forces at one configuration are averaged.

    Attributes
    ----------
    kernel : BatchedSystem
        With the beads fixed.
    mapping : CarbonAlphaMapping
    temperature_kelvin, time_step_ps, friction_per_ps : float
    settle_ps, average_ps, steer_ps : float
    threads : int
    """

    kernel: BatchedSystem
    mapping: CarbonAlphaMapping
    temperature_kelvin: float
    time_step_ps: float
    friction_per_ps: float
    settle_ps: float
    average_ps: float
    steer_ps: float = 0.0
    threads: int = 0

    def forces(
        self,
        positions: NDArray[np.floating],
        streams: NDArray[np.uint64],
        targets: NDArray[np.floating] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean forces (C, N, 3) and their standard errors (C, N, 3), kcal/mol/Å.

        With h₁ and h₂ the means of the two halves of the time, the mean is (h₁ + h₂) / 2 and the
        standard error |h₁ - h₂| / 2, component by component: of one degree of freedom, so that
        only its mean square over many components is sharp, and of what turns within half the time.
        The product of the halves is then mean² - error², by which a squared error is told without
        the noise of that. A configuration that blows up has NaN.

        Parameters
        ----------
        positions : array (C, A, 3)
            Å.
        streams : array (2, C), uint64
            Where each configuration's random numbers start: of its velocities, and of the noise.
        targets : array (C, N, 3), optional
            Å; bead positions to steer to first.
        """
        walkers = self.kernel.walkers(positions / ANGSTROM_PER_NM)
        walkers.temperatures = np.full(len(positions), self.temperature_kelvin)
        walkers.thermalise(streams[0], self.kernel.masses)
        walkers.seed(streams[1])
        self.kernel.evaluate(walkers, self.threads)
        if targets is not None:
            self._steer(walkers, targets / ANGSTROM_PER_NM)
        self._advance(walkers, self._steps(self.settle_ps))
        samples = max(1, round(self._steps(self.average_ps) / EVERY_STEPS / 2))
        halves = []
        for _ in range(2):
            walkers.force_sums = np.zeros(positions.shape)
            self._advance(walkers, samples * EVERY_STEPS, EVERY_STEPS)
            halves.append(self.mapping.map_forces(walkers.force_sums / samples))
        # A short average can stay finite though the walker is about to leave.
        lost = ~np.isfinite(walkers.energies) | ~np.isfinite(walkers.positions).all(axis=(1, 2))
        for half in halves:
            half[lost] = np.nan
        unit = KCAL_PER_KJ / ANGSTROM_PER_NM
        return (halves[0] + halves[1]) / 2 * unit, np.abs(halves[0] - halves[1]) / 2 * unit

    def _steps(self, time_ps: float) -> int:
        return round(time_ps / self.time_step_ps)

    def _advance(self, walkers: Walkers, steps: int, average_every: int = 0) -> None:
        dynamics = Dynamics(steps, self.time_step_ps, self.friction_per_ps, average_every)
        advance_in_pieces(self.kernel, walkers, dynamics, self.threads)

    def _steer(self, walkers: Walkers, targets: NDArray[np.floating]) -> None:
        """Move the beads on straight lines to their targets while the other atoms follow."""
        beads = self.mapping.beads
        start = np.array(walkers.positions[:, beads], dtype=np.float64)
        moves = max(1, self._steps(self.steer_ps) // STEER_STEPS)
        dynamics = Dynamics(STEER_STEPS, self.time_step_ps / 2, STEER_FRICTION_PER_PS)
        for move in range(1, moves + 1):
            positions = np.array(walkers.positions)
            positions[:, beads] = start + (targets - start) * (move / moves)
            walkers.positions = positions
            self.kernel.evaluate(walkers, self.threads)
            advance_in_pieces(self.kernel, walkers, dynamics, self.threads)


@dataclass(frozen=True)
class Choice:
    """Frames chosen among many.

    Attributes
    ----------
    rows : int array (C,)
        Ascending.
    weights : array (C,)
        Inverse chance of each to be chosen, mean 1: weighted means over the choice are means over
        all frames.
    """

    rows: NDArray[np.int64]
    weights: NDArray[np.float64]


def spread_choice(bins: NDArray[np.integer], count: int, thin_share: float, seed: int) -> Choice:
    """Choose frames by their bins: some at random, some spread over all visited bins.

    Parameters
    ----------
    bins : int array (F,)
        Bin of each frame.
    count : int
    thin_share : float
        Share of the choice that takes every visited bin as often, as far as its frames go.
    seed : int

    Raises
    ------
    InputError
        If there are fewer frames than `count`.
    """
    if count > len(bins):
        raise InputError(
            f"mean_forces: {count} configurations are asked of {len(bins)} frames; ask for fewer "
            "or sample longer."
        )
    random = np.random.default_rng(seed)
    order = random.permutation(len(bins))
    # A frame's turn: how many of its bin come before it. First turns of all bins go first.
    by_bin = np.argsort(bins[order], kind="stable")
    in_order = bins[order][by_bin]
    turn = np.empty(len(bins), dtype=np.int64)
    turn[by_bin] = np.arange(len(bins)) - np.searchsorted(in_order, in_order)
    thin = order[np.argsort(turn, kind="stable")][: round(thin_share * count)]
    rest = np.setdiff1d(np.arange(len(bins)), thin)
    rows = np.concatenate([thin, random.choice(rest, size=count - len(thin), replace=False)])
    rows.sort()
    most = int(bins.max()) + 1
    by_turn = np.bincount(bins[thin], minlength=most) / np.bincount(bins, minlength=most).clip(1)
    at_random = (count - len(thin)) / max(1, len(rest))
    chance = by_turn[bins[rows]] + (1 - by_turn[bins[rows]]) * at_random
    return Choice(rows, (1 / chance) / np.mean(1 / chance))


def nearest_frames(
    targets: NDArray[np.floating], beads: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the frame that each bead configuration is steered to from.

    Parameters
    ----------
    targets : array (C, N, 3)
    beads : array (F, N, 3)
        Of the frames to start from.

    Returns
    -------
    rows : int array (C,)
        The nearest frame by RMSD.
    turned : array (C, N, 3)
        The targets, superposed on those frames.
    """
    rows = [int(rmsd(beads, target).argmin()) for target in targets]
    turned = [
        superpose(target[None], beads[row])[0] + beads[row].mean(axis=0)
        for target, row in zip(targets, rows, strict=True)
    ]
    return np.array(rows, dtype=np.int64), np.array(turned)


def summary(means: NDArray[np.floating], errors: NDArray[np.floating]) -> dict[str, float]:
    """Return root mean squares (kcal/mol/Å): of the means, of their errors, without noise."""
    square, noise = float(np.mean(means**2)), float(np.mean(errors**2))
    return {
        "rms": square**0.5,
        "standard_error": noise**0.5,
        "rms_without_noise": max(square - noise, 0.0) ** 0.5,
    }
