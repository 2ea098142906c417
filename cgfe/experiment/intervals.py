"""95 % intervals over few seeds, with the error that all runs share.

Seeds are few (5 to 8), so the interval of their mean was chosen by how often it held the truth in
4,000 made experiments (binomial error 0.004; tests/experiment/coverage_study.py) of 5 and 8 seeds:

    noise of a seed              Student's t    percentiles    BCa            bootstrap-t
    normal                       0.952  0.944   0.821  0.882   0.826  0.881   0.940  0.939
    heavy tails (t, 3 d.o.f.)    0.965  0.956   0.824  0.864   0.809  0.838   0.943  0.917
    log-normal, σ = 0.5          0.924  0.917   0.819  0.851   0.825  0.857   0.935  0.929
    log-normal, σ = 1            0.817  0.825   0.713  0.767   0.728  0.798   0.889  0.892
    one run in ten fails (5 σ)   0.913  0.895   0.771  0.805   0.766  0.803   0.919  0.889
    difference of log-normals    0.974  0.971   0.817  0.867   0.786  0.819   0.950  0.924

The percentile and BCa bootstraps are far too narrow. The bootstrap-t is often infinite with 3
seeds, 30 to 70 % wider with 5, and no better for differences, which decide; Student's t is used.
It fails for the mean of one setting whose seeds are strongly skewed, the more so as the one run in
ten that fails is often not seen at all; of paired differences much of the skew cancels. With 3
seeds it holds the truth as often (0.954, 0.958, 0.923, 0.842, 0.937, 0.979), but reaches 2.5
standard deviations to each side.

What the reference's walkers add is the covariance of *different* runs on the same bootstrap
samples, C. What is in a run alone (replicas, and its own response to the reference) varies among
seeds too and is part of their spread s already, so that the variance of the mean over n seeds is
s² / n + C. Both parts' half widths, t(n - 1) · s / n^½ and t(W - 1) · C^½, are added in squares
(Zou & Donner 2008, doi 10.1002/sim.3095).

JS and its kin are raised by the reference's sampling error (by its floor, `cgfe.analysis.floor`,
for a perfect model). The mean of a setting is that of the figure against this kind of reference,
floor included; in differences of settings it cancels to first order.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from cgfe.analysis.intervals import LEVEL, Interval
from cgfe.experiment.figures import FloatArray, Setting, SweepFigures


def shared_covariance(resampled: FloatArray, walkers: int) -> FloatArray:
    """Return the covariance (K, K) that settings' means over seeds have from shared walkers.

    Parameters
    ----------
    resampled : array (K, S, R)
        NaN for missing runs; rows may be differences from a baseline.
    walkers : int
        W that were drawn from; draws with replacement have (W - 1) / W of the variance.

    Returns
    -------
    array (K, K)
        Mean over pairs of different seeds of the covariance over samples, its negative
        eigenvalues, which are chance, set to zero. Zero where there are no such pairs.
    """
    present = np.isfinite(resampled[:, :, 0]).astype(float)
    with np.errstate(invalid="ignore"):
        centred = np.nan_to_num(resampled - resampled.mean(axis=2, keepdims=True))
    samples = resampled.shape[2]
    sums = centred.sum(axis=1)
    own = np.einsum("ksr,lsr->kl", centred, centred, optimize=True)
    count = present.sum(axis=1)
    pairs = np.outer(count, count) - present @ present.T
    covariance = np.where(pairs > 0, (sums @ sums.T - own) / np.maximum(pairs, 1), 0.0)
    values, vectors = np.linalg.eigh(covariance / (samples - 1) * walkers / (walkers - 1))
    return (vectors * np.maximum(values, 0)) @ vectors.T


def mean_interval(
    values: FloatArray, shared_variance: float = 0.0, walkers: int | None = None
) -> Interval:
    """Return mean and 95 % interval over seeds (n,); infinite for fewer than two.

    Parameters
    ----------
    values : array (n,)
    shared_variance : float
        Of the mean, from what all seeds share.
    walkers : int, optional
        That the shared variance is known from.
    """
    if len(values) == 0:
        return Interval(np.nan, -np.inf, np.inf)
    mean = float(values.mean())
    half = np.inf
    if len(values) > 1:
        half = quantile(len(values)) * float(values.std(ddof=1)) / len(values) ** 0.5
    half = float(np.hypot(half, shared_half_width(shared_variance, walkers)))
    return Interval(mean, mean - half, mean + half)


def shared_half_width(shared_variance: float, walkers: int | None) -> float:
    """Return half of the 95 % interval that the shared error alone would give."""
    if walkers is None or shared_variance == 0:
        return 0.0
    return quantile(walkers) * float(shared_variance) ** 0.5


def quantile(number: int) -> float:
    """Return Student's 97.5 % quantile at n - 1 degrees of freedom."""
    return float(stats.t.ppf((1 + LEVEL) / 2, number - 1))


@dataclass(frozen=True)
class SettingMean:
    """Mean of a setting over its seeds.

    Attributes
    ----------
    setting : float or str
    seeds, missing : int
        Runs that have a figure, and that have none.
    mean : Interval
    spread : float
        Standard deviation over seeds; NaN for one.
    shared : float
        Standard error that all runs have in common from the reference's walkers.
    """

    setting: Setting
    seeds: int
    missing: int
    mean: Interval
    spread: float
    shared: float


def setting_means(sweep: SweepFigures) -> tuple[SettingMean, ...]:
    """Return mean and interval of every setting."""
    shared = np.zeros(len(sweep.settings))
    if sweep.resampled is not None and sweep.walkers is not None:
        shared = np.diag(shared_covariance(sweep.resampled, sweep.walkers))
    found = []
    for setting, row, present, variance in zip(
        sweep.settings, sweep.figures, sweep.present, shared, strict=True
    ):
        values = row[present]
        spread = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
        interval = mean_interval(values, variance, sweep.walkers)
        missing = int((~present).sum())
        found.append(
            SettingMean(setting, len(values), missing, interval, spread, float(variance**0.5))
        )
    return tuple(found)
