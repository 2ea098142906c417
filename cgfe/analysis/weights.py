"""Equilibrium weights of frames from biased and unbiased trajectories of one system.

Counts are only right for equilibrium sampling. Two ways to the populations of small regions,
k-means states on the TICs, check each other: an MSM of the unbiased trajectories, and the bias of
biased ones, which gives each of their frames a weight. Where both know a state, its free energy
is the mean of both, weighted by the inverse variance of each; then all frames of a state share
its population. Errors are known from walkers drawn anew, whole trajectories of each kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from cgfe.analysis.msm import (
    States,
    estimate_from_counts,
    msm_lag_ps,
    populations,
    transition_counts,
)
from cgfe.array_types import FloatArray, IntArray
from cgfe.errors import InputError

BOOTSTRAPS = 40
MISSING = 1e-6
"""Population of a state that a bootstrap sample does not know, in its logarithm's variance."""


@dataclass(frozen=True)
class Walkers:
    """Whole trajectories in common states.

    What is asked of some of them, or of a bootstrap sample, is asked with `draws` (W,): how often
    each walker counts. Without it each counts once.

    Attributes
    ----------
    states : int array (F,)
    walker : int array (F,)
        Number of each frame's walker, from 0; frames of one are contiguous.
    biased : bool array (W,)
    own : array (F,)
        Weight by the bias alone, comparable between biased walkers; 1 for unbiased frames.
    count : int
        Number of states K.
    lag : int
        Of the MSM, frames.
    transitions : sparse array (W, K²)
        At the lag; those of biased walkers are no kinetics and are never summed.
    """

    states: IntArray
    walker: IntArray
    biased: NDArray[np.bool_]
    own: FloatArray
    count: int
    lag: int
    transitions: csr_matrix

    @classmethod
    def of(
        cls,
        states: Sequence[IntArray],
        log_weights: Sequence[FloatArray | None],
        count: int,
        lag: int,
    ) -> "Walkers":
        """Take each trajectory's states (f,), and its log weights, None if it is unbiased."""
        walker = np.repeat(np.arange(len(states)), [len(x) for x in states])
        biased = np.array([log is not None for log in log_weights])
        largest = max((float(log.max()) for log in log_weights if log is not None), default=0.0)
        own = [
            np.ones(len(x)) if log is None else np.exp(log - largest)
            for x, log in zip(states, log_weights, strict=True)
        ]
        joined = np.concatenate(states)
        transitions = transition_counts(joined, walker, lag, count)
        return cls(joined, walker, biased, np.concatenate(own), count, lag, transitions)

    def __len__(self) -> int:
        return len(self.biased)

    def at_lag(self, lag: int) -> csr_matrix:
        """Return the transitions (W, K²) at another lag, in frames."""
        return transition_counts(self.states, self.walker, lag, self.count)

    def select(self, frames: NDArray[np.bool_]) -> "Walkers":
        """Return the same walkers with some of their frames alone, contiguous ones of each."""
        states, walker = self.states[frames], self.walker[frames]
        counts = transition_counts(states, walker, self.lag, self.count)
        if counts.shape[0] < len(self):
            counts.resize(len(self), counts.shape[1])
        return Walkers(states, walker, self.biased, self.own[frames], self.count, self.lag, counts)

    def draw(self, random: np.random.Generator) -> IntArray:
        """Return a bootstrap sample (W,): walkers of each kind drawn with replacement."""
        draws = np.zeros(len(self), dtype=np.int64)
        for kind in (self.biased, ~self.biased):
            if number := int(kind.sum()):
                draws[kind] = random.multinomial(number, np.full(number, 1 / number))
        return draws

    def msm_populations(self, draws: IntArray | None = None) -> FloatArray | None:
        """Return populations (K,) from the MSM of the unbiased walkers, None if there is none."""
        chosen = ~self.biased * (1 if draws is None else draws)
        counts = (chosen @ self.transitions).reshape(self.count, self.count)
        try:
            return populations(estimate_from_counts(counts), self.count)
        except InputError:
            return None

    def bias_populations(self, draws: IntArray | None = None) -> FloatArray | None:
        """Return populations (K,) from the weights of the biased walkers, None without any."""
        chosen = self.biased * (1 if draws is None else draws)
        if not chosen.any():
            return None
        mass = np.bincount(self.states, chosen[self.walker] * self.own, minlength=self.count)
        return mass / mass.sum()

    def frame_weights(self, population: FloatArray, draws: IntArray | None = None) -> FloatArray:
        """Return a weight per frame (F,), mean 1, given the states' populations (K,).

        Within a state the biased and unbiased frames share the population as their effective
        sample sizes; biased ones keep their own weights among themselves. Frames that are drawn
        twice weigh twice.
        """
        times = 1.0 if draws is None else draws[self.walker]
        # One cell for each state and kind of frame.
        count = self.count
        cell = self.states + count * self.biased[self.walker]
        mass, squares = (
            np.bincount(cell, times * x, minlength=2 * count) for x in (self.own, self.own**2)
        )
        sizes = np.divide(mass**2, squares, out=np.zeros(2 * count), where=squares > 0)
        both = np.tile(sizes[:count] + sizes[count:], 2)
        share = np.divide(sizes, both, out=np.zeros(2 * count), where=both > 0)
        each = np.tile(population, 2) * share
        each = np.divide(each, mass, out=np.zeros(2 * count), where=mass > 0)
        weights = each[cell] * self.own * times
        return np.asarray(weights / weights.mean())


@dataclass(frozen=True)
class StateWeights:
    """Walkers in common states, and how much each way is trusted in each state.

    Attributes
    ----------
    walkers : Walkers
    states : States
    msm_share : array (K,)
        Weight of the MSM's free energy in the mean, 0 to 1.
    """

    walkers: Walkers
    states: States
    msm_share: FloatArray

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
        lag_ps = msm_lag_ps([len(x) * frame_interval_ps for x in unbiased])
        lag = max(1, round(lag_ps / frame_interval_ps))
        assigned = [states.assign(x) for x in positions]
        walkers = Walkers.of(assigned, log_weights, len(states), lag)
        return cls(walkers, states, inverse_variance_share(walkers, np.random.default_rng(seed)))

    def populations(self) -> FloatArray:
        """Return the population (K,) of each state by both ways.

        Raises
        ------
        InputError
            If neither way gives any.
        """
        return both_ways(self.walkers, self.msm_share)


def both_ways(walkers: Walkers, msm_share: FloatArray, draws: IntArray | None = None) -> FloatArray:
    """Return the population (K,) of each state by the MSM and the bias together.

    Raises
    ------
    InputError
        If neither way gives any.
    """
    by_msm, by_bias = walkers.msm_populations(draws), walkers.bias_populations(draws)
    return mixed_populations(by_msm, by_bias, msm_share)


def combined_weights(
    positions: Sequence[NDArray[np.floating]],
    log_weights: Sequence[FloatArray | None],
    frame_interval_ps: float,
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
        logs = np.concatenate([log for log in log_weights if log is not None])
        own = np.exp(logs - logs.max())
        return np.asarray(own / own.mean())
    model = StateWeights.fit(positions, log_weights, frame_interval_ps)
    return model.walkers.frame_weights(model.populations())


def mixed_populations(
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


def inverse_variance_share(walkers: Walkers, random: np.random.Generator) -> FloatArray:
    """Return the inverse-variance weight (K,) of the MSM's ln p against the bias's."""
    if walkers.biased.all() or not walkers.biased.any():
        return np.full(walkers.count, float(not walkers.biased.any()))
    logs: list[list[FloatArray]] = [[], []]
    for _ in range(BOOTSTRAPS):
        draws = walkers.draw(random)
        found = (walkers.msm_populations(draws), walkers.bias_populations(draws))
        for series, population in zip(logs, found, strict=True):
            if population is not None:
                series.append(np.log(np.maximum(population, MISSING)))
    if not logs[0]:
        return np.zeros(walkers.count)
    of_msm, of_bias = (np.var(series, axis=0) + 1e-6 for series in logs)
    return np.asarray(of_bias / (of_msm + of_bias))
