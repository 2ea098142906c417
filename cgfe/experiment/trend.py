"""Whether a sweep's figure rises or falls with the option that was swept."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from cgfe.analysis.intervals import Interval
from cgfe.experiment.figures import FEWEST_SEEDS, FloatArray, SweepFigures
from cgfe.experiment.intervals import mean_interval, shared_covariance
from cgfe.experiment.sign_flips import flip_test, smallest_p

FEWEST_SETTINGS = 3
"""That a seed must have for a rank correlation."""


@dataclass(frozen=True)
class Trend:
    """Rank correlation of figure and setting, above zero where larger settings are worse.

    Attributes
    ----------
    correlation : Interval
        Mean over seeds of Spearman's, and its 95 % interval.
    p, smallest_p : float
        By sign flips over seeds.
    seeds : int
    """

    correlation: Interval
    p: float
    smallest_p: float
    seeds: int


def trend(sweep: SweepFigures) -> Trend | None:
    """Return whether figures rise or fall with the setting; None where that cannot be asked.

    Each seed gives one Spearman correlation over the settings that it has (at least three,
    numbers); the seeds' mean is tested by sign flips. That is exact where a seed's figures do not
    depend on the setting, whatever their distribution: the reverse order is as likely. Page's
    test asks the same of complete seeds only and supposes in addition that all of a seed's
    figures vary alike.
    """
    if any(isinstance(setting, str) for setting in sweep.settings):
        return None
    settings = np.array([float(setting) for setting in sweep.settings])
    seeds = np.flatnonzero(sweep.present.sum(axis=0) >= FEWEST_SETTINGS)
    if len(seeds) < FEWEST_SEEDS:
        return None
    values = np.array([_rank_correlation(settings, sweep.figures[:, s])[()] for s in seeds])
    covariance = np.zeros((1, 1))
    if sweep.resampled is not None and sweep.walkers is not None:
        resampled = [_rank_correlation(settings, sweep.resampled[:, s]) for s in seeds]
        covariance = shared_covariance(np.array([resampled]), sweep.walkers)
    p, _ = flip_test(values[None, :], covariance, sweep.walkers)
    mean = mean_interval(values, float(covariance[0, 0]), sweep.walkers)
    bounded = Interval(mean.value, max(mean.low, -1.0), min(mean.high, 1.0))
    return Trend(bounded, float(p[0]), smallest_p(len(seeds)), len(seeds))


def _rank_correlation(settings: FloatArray, figures: FloatArray) -> FloatArray:
    """Return Spearman's ρ (...) of settings (K,) and figures (K, ...), missing rows left out."""
    known = np.isfinite(figures.reshape(len(figures), -1)[:, 0])
    x = stats.rankdata(settings[known])
    y = stats.rankdata(figures[known], axis=0)
    x, y = x - x.mean(), y - y.mean(axis=0)
    scale = np.sqrt((x**2).sum() * (y**2).sum(axis=0))
    return np.tensordot(x, y, axes=1) / np.where(scale > 0, scale, 1.0)
