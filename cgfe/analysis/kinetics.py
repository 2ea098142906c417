"""Tests of a Markov state model: implied timescales against lag, and Chapman-Kolmogorov.

Both compare figures of one set of walkers, so their difference is judged on the same bootstrap
samples of walkers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from deeptime.markov.msm import MarkovStateModel
from deeptime.util.validation import ck_test
from numpy.typing import NDArray

from cgfe.analysis.intervals import half_width
from cgfe.analysis.msm import estimate_from_counts, implied_timescales_ps
from cgfe.analysis.weights import Walkers
from cgfe.array_types import FloatArray, IntArray
from cgfe.errors import InputError

LAGS_PS = (5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4)
LAGS_PER_WALKER = 5
"""The longest lag is a fifth of the longest walker."""
MODES = 3
CHAPMAN_STEPS = (1, 2, 3, 4, 6)
BOOTSTRAPS = 30


@dataclass(frozen=True)
class Timescales:
    """Implied timescales of MSMs: a good lag is where they level off.

    Attributes
    ----------
    lags_ps : array (L,)
    value, low, high : array (L, M)
        ps, slowest first, with 95 % intervals; NaN where a model has fewer.
    msm_lag_ps : float
        The lag of the MSM that gives the populations; one of `lags_ps`.
    growth, growth_half : array (G,)
        ln of the slowest timescale at each lag beyond the MSM's over the one at it, and half of
        the 95 % interval, all at once.
    """

    lags_ps: FloatArray
    value: FloatArray
    low: FloatArray
    high: FloatArray
    msm_lag_ps: float
    growth: FloatArray
    growth_half: FloatArray


@dataclass(frozen=True)
class ChapmanKolmogorov:
    """Probability of being in a set again after some time, predicted and observed.

    Attributes
    ----------
    name : str
    times_ps : array (T,)
    predicted, observed : array (T,)
        By powers of the MSM's matrix at the shortest time, and by an MSM at each time itself.
    predicted_half, observed_half, difference_half : array (T,)
        Half of the 95 % intervals; of the difference for all times at once.
    """

    name: str
    times_ps: FloatArray
    predicted: FloatArray
    observed: FloatArray
    predicted_half: FloatArray
    observed_half: FloatArray
    difference_half: FloatArray


def timescales(
    walkers: Walkers, frame_interval_ps: float, random: np.random.Generator
) -> Timescales:
    """Return the implied timescales of the unbiased walkers at several lags."""
    own = walkers.lag
    lengths = np.bincount(walkers.walker, minlength=len(walkers))[~walkers.biased]
    longest = lengths.max(initial=0) * frame_interval_ps / LAGS_PER_WALKER
    chosen = [lag for lag in LAGS_PS if frame_interval_ps <= lag <= longest]
    lags = sorted({own, *(round(lag / frame_interval_ps) for lag in chosen)})
    draws = _draws(walkers, random)
    value = np.empty((len(lags), MODES))
    samples = np.empty((BOOTSTRAPS, len(lags), MODES))
    for row, lag in enumerate(lags):
        counts = _counts(walkers, draws, lag)
        found = [implied_timescales_ps(c, lag, frame_interval_ps, MODES) for c in counts]
        value[row], samples[:, row] = found[0], found[1:]
    number, log = int((~walkers.biased).sum()), np.log(samples)
    factor = np.exp(half_width(log, number))
    factor[np.isnan(value) | np.isinf(factor)] = np.nan
    base = lags.index(own)
    growth = np.log(value[base + 1 :, 0] / value[base, 0])
    half = half_width(
        log[:, base + 1 :, 0] - log[:, base : base + 1, 0], number, max(1, len(growth))
    )
    lags_ps = np.array(lags) * frame_interval_ps
    low, high = value / factor, value * factor
    return Timescales(lags_ps, value, low, high, float(lags_ps[base]), growth, half)


def chapman_kolmogorov(
    walkers: Walkers, frame_interval_ps: float, random: np.random.Generator
) -> list[ChapmanKolmogorov]:
    """Compare T(τ)^k with T(kτ) for the two sides of the slowest motion, τ the walkers' lag.

    None where the walkers are too short or nothing is connected.
    """
    lengths = np.bincount(walkers.walker, minlength=len(walkers))[~walkers.biased]
    steps = [k for k in CHAPMAN_STEPS if k * walkers.lag < lengths.max(initial=0) / 2]
    if len(steps) < 2:
        return []
    lags = [k * walkers.lag for k in steps]
    draws = _draws(walkers, random)
    counts = [_counts(walkers, draws, lag) for lag in lags]
    try:
        base = estimate_from_counts(counts[0][0])
    except InputError:
        return []
    slow = np.full(walkers.count, np.nan)
    slow[base.count_model.state_symbols] = base.eigenvectors_right(2)[:, 1]
    sides = np.stack([slow > 0, slow < 0])
    # (sample, predicted or observed, side, time); sample 0 is all walkers.
    found = np.array([_both_ways(x, lags, sides) for x in zip(*counts, strict=True)])
    number = int((~walkers.biased).sum())
    half = half_width(found[1:], number)
    differences = found[1:, 0] - found[1:, 1]
    between = half_width(differences, number, 2 * len(steps) - 2)
    return [
        ChapmanKolmogorov(
            name=name,
            times_ps=np.array(lags) * frame_interval_ps,
            predicted=found[0, 0, side],
            observed=found[0, 1, side],
            predicted_half=half[0, side],
            observed_half=half[1, side],
            difference_half=between[side],
        )
        for side, name in enumerate(("slow mode above 0", "slow mode below 0"))
    ]


def _draws(walkers: Walkers, random: np.random.Generator) -> list[IntArray]:
    """Return all walkers, and then the bootstrap samples."""
    once = np.ones(len(walkers), dtype=np.int64)
    return [once, *(walkers.draw(random) for _ in range(BOOTSTRAPS))]


def _counts(walkers: Walkers, draws: list[IntArray], lag: int) -> FloatArray:
    """Return the transitions (S, K, K) of the unbiased walkers in each sample."""
    chosen = np.array(draws) * ~walkers.biased
    shape = (len(draws), walkers.count, walkers.count)
    # Sums of rows of a sparse array are dense here.
    return np.asarray(chosen @ walkers.at_lag(lag)).reshape(shape)


def _both_ways(
    counts: Sequence[FloatArray], lags: list[int], sides: NDArray[np.bool_]
) -> FloatArray:
    """Return the predicted and observed probabilities (2, sides, T) of one sample."""
    try:
        models = [estimate_from_counts(c, lag) for c, lag in zip(counts, lags, strict=True)]
    except InputError:
        return np.full((2, len(sides), len(lags)), np.nan)
    test = ck_test(models, partial(_staying, sides), include_lag0=False)
    return np.stack([test.predictions.T, test.estimates.T])


def _staying(sides: NDArray[np.bool_], model: MarkovStateModel, mlag: float) -> FloatArray:
    """Return the probability (sides,) that a member is in its set again after so many lags."""
    matrix = np.linalg.matrix_power(model.transition_matrix, round(mlag))
    members = sides[:, model.count_model.state_symbols]
    stationary = members * model.stationary_distribution
    again = ((stationary @ matrix) * members).sum(axis=1)
    share = stationary.sum(axis=1)
    return np.divide(again, share, out=np.full(len(sides), np.nan), where=share > 0)
