"""What a comparison with so many seeds could have shown.

The power of the very test that decides (`cgfe.experiment.sign_flips`), on made differences of
normal noise. With few seeds p takes few values, so that the non-central t promises too much: of
one setting it would show 1.43, 1.16 and 1.00 standard deviations with 6, 8 and 10 seeds, the test
shows 1.81, 1.16 and 1.01. Of ten settings the joint test shows 3.2, 1.8 and 1.5, Holm's correction
nothing with 6 or 8 and 1.7 with 10. The spread itself is known from as few seeds: with 5, 8 and 12
its 95 % interval reaches from 0.60, 0.66 and 0.71 to 2.9, 2.0 and 1.7 times what was found, and
so does the difference that is told.
"""

from functools import lru_cache
from typing import Literal

import numpy as np
from scipy import stats

from cgfe.experiment.figures import FloatArray
from cgfe.experiment.sign_flips import ROUNDING, sign_flips

Correction = Literal["joint", "holm"]

POWER = 0.8
SIGNIFICANCE = 0.05
EXPERIMENTS = 2000
LARGEST_EFFECT = 30.0
"""Standard deviations; what this does not show, nothing does."""


@lru_cache
def detectable_effect(seeds: int, comparisons: int, correction: Correction) -> float:
    """Return the mean, in standard deviations of the differences, that is shown at 80 % power.

    Parameters
    ----------
    seeds : int
    comparisons : int
        Settings that are compared with one baseline, the others of them not differing.
    correction : "joint" or "holm"
        With Holm's, the level of its first step, significance over comparisons.

    Returns
    -------
    float
        Known to about 2 %; infinite if so many seeds cannot give a p that is small enough.
    """
    if seeds < fewest_seeds(comparisons, correction):
        return float("inf")
    made = _Made(seeds, comparisons if correction == "joint" else 1)
    level = SIGNIFICANCE if correction == "joint" else SIGNIFICANCE / comparisons
    if made.power(LARGEST_EFFECT, level) < POWER:
        return float("inf")
    low, high = 0.0, LARGEST_EFFECT
    while high - low > 0.005 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if made.power(middle, level) >= POWER else (middle, high)
    return high


class _Made:
    """Made differences of one setting, and what others reach by the same flips.

    Settings and baseline have the same noise, so that differences correlate by one half.
    """

    def __init__(self, seeds: int, comparisons: int) -> None:
        random = np.random.default_rng(0)
        noise = random.normal(size=(EXPERIMENTS, comparisons + 1, seeds)) / 2**0.5
        differences = noise[:, 1:] - noise[:, :1]
        self.own = differences[:, 0]
        self.flips = sign_flips(seeds)
        self.others = np.zeros((EXPERIMENTS, len(self.flips)))
        for k in range(1, comparisons):
            np.maximum(self.others, self._statistic(differences[:, k]), out=self.others)

    def _statistic(self, differences: FloatArray) -> FloatArray:
        scale = np.sqrt((differences**2).sum(axis=1, keepdims=True))
        return np.abs(differences @ self.flips.T) / scale

    def power(self, effect: float, level: float) -> float:
        """Return the share of experiments in which a setting that differs is found."""
        own = self._statistic(self.own + effect)
        # Where another setting reaches more by chance, step-down decides that one first.
        p = (np.maximum(own, self.others) >= own[:, :1] - ROUNDING).mean(axis=1)
        return float((p <= level + ROUNDING).mean())


def detectable_difference(
    spread: float,
    seeds: int,
    comparisons: int,
    correction: Correction,
    shared_variance: float = 0.0,
    walkers: int | None = None,
) -> float:
    """Return the smallest difference that is shown at 80 % power, in the figure's unit.

    Parameters
    ----------
    spread : float
        Standard deviation of the differences over seeds.
    seeds, comparisons, correction
        As for `detectable_effect`.
    shared_variance : float
        Of the mean difference from the reference's walkers. Its part is t(1 - α/2m) + t(0.8)
        times its root, at W - 1 degrees of freedom, added in squares.
    walkers : int, optional
        W that the shared variance is known from.
    """
    effect = detectable_effect(seeds, comparisons, correction)
    if not np.isfinite(effect):
        return float("inf")
    if walkers is None or shared_variance == 0:
        return effect * spread
    shares = [1 - SIGNIFICANCE / 2 / comparisons, POWER]
    quantiles = float(stats.t.ppf(shares, walkers - 1).sum())
    return float(np.hypot(effect * spread, quantiles * shared_variance**0.5))


def fewest_seeds(comparisons: int, correction: Correction) -> int:
    """Return how many seeds it takes until the smallest p, 2 / 2ⁿ, is small enough.

    With Holm's correction over 10 settings 9, over 3 settings 7; with the joint test always 6.
    Beyond 12 seeds, where flips are drawn, p is not told below 2 / 2^12.
    """
    factor = comparisons if correction == "holm" else 1
    return int(np.ceil(np.log2(2 * factor / SIGNIFICANCE)))
