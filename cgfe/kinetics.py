"""Tests of a Markov state model: implied timescales against lag, and Chapman-Kolmogorov."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from deeptime.markov.msm import MarkovStateModel
from numpy.typing import NDArray

from cgfe.errors import InputError
from cgfe.msm import estimate, implied_timescales_ps

LAGS_PS = (5.0, 10.0, 20.0, 50.0, 100.0, 200.0)
MODES = 3
CHAPMAN_STEPS = (1, 2, 3, 4, 6)
BOOTSTRAPS = 20

FloatArray = NDArray[np.float64]
Trajectories = Sequence[NDArray[np.int64]]


@dataclass(frozen=True)
class Timescales:
    """Implied timescales of MSMs: a good lag is where they level off.

    Attributes
    ----------
    lags_ps : array (L,)
    value, low, high : array (L, M)
        ps, slowest first, with the 95 % interval of a bootstrap over trajectories; NaN where a
        model has fewer.
    """

    lags_ps: FloatArray
    value: FloatArray
    low: FloatArray
    high: FloatArray


@dataclass(frozen=True)
class ChapmanKolmogorov:
    """Probability of being in a set again after some time, predicted and observed.

    Attributes
    ----------
    name : str
    times_ps : array (T,)
    predicted : array (T,)
        By powers of the MSM's matrix at the shortest time.
    observed : array (3, T)
        By an MSM at each time itself, with its 95 % interval.
    """

    name: str
    times_ps: FloatArray
    predicted: FloatArray
    observed: FloatArray


def timescales(
    trajectories: Trajectories, frame_interval_ps: float, random: np.random.Generator
) -> Timescales:
    """Return the implied timescales of unbiased trajectories' states (f,) at several lags."""
    longest = max(map(len, trajectories), default=0) * frame_interval_ps
    lags = [lag for lag in LAGS_PS if frame_interval_ps <= lag <= longest / 3]
    value, low, high = (np.full((len(lags), MODES), np.nan) for _ in range(3))
    for row, lag in enumerate(lags):
        steps = round(lag / frame_interval_ps)
        value[row] = implied_timescales_ps(trajectories, steps, frame_interval_ps, MODES)
        samples = np.array([
            implied_timescales_ps(resampled(trajectories, random), steps, frame_interval_ps, MODES)
            for _ in range(BOOTSTRAPS)
        ])  # fmt: skip
        known = ~np.isnan(samples).all(axis=0)
        low[row, known], high[row, known] = np.nanpercentile(samples[:, known], [2.5, 97.5], axis=0)
    return Timescales(np.array(lags), value, low, high)


def chapman_kolmogorov(
    trajectories: Trajectories, lag: int, frame_interval_ps: float, random: np.random.Generator
) -> list[ChapmanKolmogorov]:
    """Compare T(τ)^k with T(kτ) for the two sides of the slowest motion.

    None where the trajectories are too short or nothing is connected.

    Parameters
    ----------
    lag : int
        τ in frames.
    """
    longest = max(map(len, trajectories), default=0)
    steps = [k for k in CHAPMAN_STEPS if k * lag < longest / 2]
    try:
        base = estimate(trajectories, lag)
        at_once = [estimate(trajectories, k * lag) for k in steps]
    except InputError:
        return []
    slow = dict(zip(base.count_model.state_symbols, base.eigenvectors_right(2)[:, 1], strict=True))
    tests = []
    for name, sign in (("slow mode above 0", 1), ("slow mode below 0", -1)):
        members = {state for state, value in slow.items() if sign * value > 0}
        powers = [np.linalg.matrix_power(base.transition_matrix, k) for k in steps]
        observed = np.full((3, len(steps)), np.nan)
        for column, k in enumerate(steps):
            observed[0, column] = _staying(at_once[column], members)
            samples = _bootstrap(trajectories, k * lag, members, random)
            if samples:
                observed[1:, column] = np.percentile(samples, [2.5, 97.5])
        predicted = np.array([_staying(base, members, power) for power in powers])
        times = np.array(steps) * lag * frame_interval_ps
        tests.append(ChapmanKolmogorov(name, times, predicted, observed))
    return tests


def resampled(trajectories: Trajectories, random: np.random.Generator) -> list[NDArray[np.int64]]:
    """Return a bootstrap sample: whole trajectories, drawn with replacement."""
    return [trajectories[k] for k in random.integers(len(trajectories), size=len(trajectories))]


def _bootstrap(
    trajectories: Trajectories, lag: int, members: set[int], random: np.random.Generator
) -> list[float]:
    values = []
    for _ in range(BOOTSTRAPS):
        try:
            values.append(_staying(estimate(resampled(trajectories, random), lag), members))
        except InputError:
            continue
    return [value for value in values if np.isfinite(value)]


def _staying(model: MarkovStateModel, members: set[int], matrix: FloatArray | None = None) -> float:
    """Return the probability that a member of a set is in it again after a step."""
    matrix = model.transition_matrix if matrix is None else matrix
    inside = np.array([state in members for state in model.count_model.state_symbols])
    stationary = model.stationary_distribution[inside]
    if not inside.any():
        return float("nan")
    return float(stationary @ matrix[np.ix_(inside, inside)].sum(axis=1) / stationary.sum())
