"""Equilibrium weights of frames from biased and unbiased trajectories of one system.

Counts are only right for equilibrium sampling. Two ways to the populations of small regions,
k-means states on the TICs, check each other: an MSM of the unbiased trajectories, and the bias of
biased ones, which gives each of their frames a weight. Where both know a state, its free energy
is the mean of both, weighted by the inverse variance of each; then all frames of a state share
its population.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cgfe.errors import InputError
from cgfe.msm import MSM_LAG_PS, States, estimate, populations

BOOTSTRAPS = 40
BLOCK_PS = 1000.0
"""Stretches of a biased trajectory that are resampled: their bias carries them all over the map."""
MISSING = 1e-6
"""Population of a state that a bootstrap sample does not know, in its logarithm's variance."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Piece:
    """One unbiased trajectory, or a stretch of a biased one.

    Attributes
    ----------
    states : int array (f,)
    log_weights : array (f,) or None
        From the bias, comparable between pieces; None for an unbiased trajectory.
    trajectory : int
        Its number among the trajectories.
    first_frame : int
        Number of its first frame among all frames.
    """

    states: NDArray[np.int64]
    log_weights: FloatArray | None = None
    trajectory: int = 0
    first_frame: int = 0

    @property
    def frames(self) -> slice:
        """Its frames among all frames."""
        return slice(self.first_frame, self.first_frame + len(self.states))

    def cut(self, start: int, stop: int) -> "Piece":
        """Return the frames from `start` to before `stop`, counted from its first one."""
        logs = None if self.log_weights is None else self.log_weights[start:stop]
        return Piece(self.states[start:stop], logs, self.trajectory, self.first_frame + start)


@dataclass(frozen=True)
class StateWeights:
    """Pieces of sampling in common states, and how much each way is trusted in each state.

    Attributes
    ----------
    pieces : list of Piece
        In the order of the frames.
    states : States
    lag : int
        Of the MSM, frames.
    msm_share : array (K,)
        Weight of the MSM's free energy in the mean, 0 to 1.
    """

    pieces: list[Piece]
    states: States
    lag: int
    msm_share: FloatArray

    @property
    def count(self) -> int:
        """Number of states K."""
        return len(self.states)

    @classmethod
    def fit(
        cls,
        positions: Sequence[NDArray[np.floating]],
        log_weights: Sequence[FloatArray | None],
        frame_interval_ps: float,
        seed: int = 0,
    ) -> "StateWeights":
        """Fit states to trajectories (f, N, 3) in Å; log weights are None for unbiased ones.

        Raises
        ------
        InputError
            As `TICAProjection.fit`, on the unbiased trajectories (all, if all are biased).
        """
        unbiased = [x for x, log in zip(positions, log_weights, strict=True) if log is None]
        rest = [x for x, log in zip(positions, log_weights, strict=True) if log is not None]
        states = States.fit(unbiased or rest, rest if unbiased else [], frame_interval_ps, seed)
        block = max(1, round(BLOCK_PS / frame_interval_ps))
        pieces: list[Piece] = []
        first = 0
        for number, (frames, logs) in enumerate(zip(positions, log_weights, strict=True)):
            whole = Piece(states.assign(frames), logs, number, first)
            length = len(frames) if logs is None else block
            pieces += [whole.cut(a, a + length) for a in range(0, len(frames), length)]
            first += len(frames)
        lag = max(1, round(MSM_LAG_PS / frame_interval_ps))
        share = _msm_share(pieces, len(states), lag, np.random.default_rng(seed))
        return cls(pieces, states, lag, share)

    def populations(self, pieces: Sequence[Piece] | None = None) -> FloatArray:
        """Return the population (K,) of each state by both ways, from some pieces or all.

        Raises
        ------
        InputError
            If neither way gives any.
        """
        chosen = self.pieces if pieces is None else pieces
        return _mixed(
            msm_populations(chosen, self.count, self.lag),
            bias_populations(chosen, self.count),
            self.msm_share,
        )


def msm_populations(pieces: Sequence[Piece], states: int, lag: int) -> FloatArray | None:
    """Return populations (K,) from the MSM of the unbiased pieces, None if there is none."""
    unbiased = [piece.states for piece in pieces if piece.log_weights is None]
    try:
        return populations(estimate(unbiased, lag), states)
    except InputError:
        return None


def bias_populations(pieces: Sequence[Piece], states: int) -> FloatArray | None:
    """Return populations (K,) from the weights of the biased pieces, None if there are none."""
    biased = [piece for piece in pieces if piece.log_weights is not None]
    if not biased:
        return None
    mass = np.bincount(
        np.concatenate([piece.states for piece in biased]), _own(biased), minlength=states
    )
    return mass / mass.sum()


def frame_weights(pieces: Sequence[Piece], population: FloatArray) -> FloatArray:
    """Return a weight per frame of all pieces in order, mean 1, given the states' populations.

    Within a state the biased and unbiased frames share the population as their effective sample
    sizes; biased ones keep their own weights among themselves.
    """
    biased = np.concatenate([np.full(len(p.states), p.log_weights is not None) for p in pieces])
    own = np.ones(len(biased))
    if biased.any():
        own[biased] = _own([piece for piece in pieces if piece.log_weights is not None])
    # One cell for each state and kind of frame.
    count = len(population)
    cell = np.concatenate([piece.states for piece in pieces]) + count * biased
    mass, squares = (np.bincount(cell, x, minlength=2 * count) for x in (own, own**2))
    sizes = np.divide(mass**2, squares, out=np.zeros(2 * count), where=squares > 0)
    both = np.tile(sizes[:count] + sizes[count:], 2)
    share = np.divide(sizes, both, out=np.zeros(2 * count), where=both > 0)
    each = np.divide(np.tile(population, 2) * share, mass, out=np.zeros(2 * count), where=mass > 0)
    weights = each[cell] * own
    return weights / weights.mean()


def resampled(pieces: Sequence[Piece], random: np.random.Generator) -> list[Piece]:
    """Return a bootstrap sample: unbiased and biased pieces drawn with replacement, each kind."""
    chosen: list[Piece] = []
    for biased in (False, True):
        kind = [piece for piece in pieces if (piece.log_weights is not None) == biased]
        if kind:
            chosen += [kind[k] for k in random.integers(len(kind), size=len(kind))]
    return chosen


def combined_weights(
    positions: Sequence[NDArray[np.floating]],
    log_weights: Sequence[FloatArray | None],
    frame_interval_ps: float,
    seed: int = 0,
) -> FloatArray:
    """Return one weight per frame, mean 1, for all trajectories in order.

    With biased trajectories alone these are their own weights.

    Parameters
    ----------
    positions : sequence of array (f, N, 3)
        One per trajectory, Å.
    log_weights : sequence of array (f,) or None
        Log weights of a biased trajectory's frames, comparable between trajectories; None for
        an unbiased one.

    Raises
    ------
    InputError
        If the unbiased trajectories are too short for TICA, or no way gives populations.
    """
    if all(log is not None for log in log_weights):
        own = _own([Piece(np.zeros(0, dtype=np.int64), log) for log in log_weights])
        return own / own.mean()
    model = StateWeights.fit(positions, log_weights, frame_interval_ps, seed)
    return frame_weights(model.pieces, model.populations())


def _own(biased: Sequence[Piece]) -> FloatArray:
    logs = np.concatenate([piece.log_weights for piece in biased if piece.log_weights is not None])
    return np.exp(logs - logs.max())


def _mixed(
    by_msm: FloatArray | None, by_bias: FloatArray | None, msm_share: FloatArray
) -> FloatArray:
    """Return the populations with ln p = a ln p_msm + (1 - a) ln p_bias, where both know p."""
    if by_msm is None or by_bias is None:
        known = by_bias if by_msm is None else by_msm
        if known is None:
            raise InputError(
                "populations need a biased trajectory, or unbiased ones longer than the MSM's lag "
                "that connect two states."
            )
        return known
    common = (by_msm > 0) & (by_bias > 0)
    if not common.any():
        return by_bias
    # Each is only known up to a factor where the other knows nothing: they agree on the common.
    msm, bias = by_msm / by_msm[common].sum(), by_bias / by_bias[common].sum()
    mixed = np.where(msm > 0, msm, bias)
    share = msm_share[common]
    mixed[common] = msm[common] ** share * bias[common] ** (1 - share)
    return mixed / mixed.sum()


def _msm_share(
    pieces: Sequence[Piece], states: int, lag: int, random: np.random.Generator
) -> FloatArray:
    """Return the inverse-variance weight (K,) of the MSM's ln p against the bias's."""
    kinds = {piece.log_weights is None for piece in pieces}
    if len(kinds) == 1:
        return np.full(states, float(kinds.pop()))
    logs: list[list[FloatArray]] = [[], []]
    for _ in range(BOOTSTRAPS):
        sample = resampled(pieces, random)
        found = (msm_populations(sample, states, lag), bias_populations(sample, states))
        for series, population in zip(logs, found, strict=True):
            if population is not None:
                series.append(np.log(np.maximum(population, MISSING)))
    if not logs[0]:
        return np.zeros(states)
    of_msm, of_bias = (np.var(series, axis=0) + 1e-6 for series in logs)
    return np.asarray(of_bias / (of_msm + of_bias))
