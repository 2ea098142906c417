"""Every setting of a sweep against a baseline, seed by seed.

Runs of one seed share their initial weights and the order of their batches, and all runs share the
reference, so that differences of a seed are known better than the runs themselves. A run that
failed takes its pair along: each setting is compared over the seeds that both have, and how many
is told.

Which settings differ is decided by the joint test of `cgfe.experiment.sign_flips`. Of 1,500 made
experiments where no setting differs (binomial error 0.006; tests/experiment/coverage_study.py),
the share in which any of K settings was called different at 5 %, seeds normal / heavy-tailed (t, 3
d.o.f.) / log-normal (σ = 1):

    seeds  K     Holm                     joint
    6      10    0      0      0          0.029  0.026  0.027
    8      10    0      0      0          0.043  0.049  0.039
    8      3     0.045  0.045  0.047      0.047  0.048  0.043
    10     10    0.038  0.027  0.032      0.059  0.047  0.041

Holm's correction of an exact test is blind with ten settings and 8 seeds: the smallest p of
2 / 2⁸ times ten is 0.078. From 6 seeds on the joint test can decide (2 / 2⁶ is 3 %); with 5 or 3
no test of signs can reach 5 %, and only intervals speak. Settings of so few seeds can decide
nothing and are left out of the joint test (Tarone 1990, doi 10.2307/2531456), unless all are such:
the mean of two seeds can be many times their spread by chance, so that beside them no difference
of eight seeds would be shown. The joint test errs no more often where
half of the settings do differ. What fails: equal means with *unequal* skewed noise have
differences that are not symmetric; where the baseline's noise was three times as wide as the
others', 8 seeds called one of ten different in 15 % (log-normal) or 11 % (exponential), one
setting tested alone in 11 and 9 %.
"""

from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from cgfe.analysis.intervals import LEVEL, Interval
from cgfe.errors import InputError
from cgfe.experiment.figures import FEWEST_SEEDS, FloatArray, Setting, SweepFigures
from cgfe.experiment.intervals import mean_interval, shared_covariance, shared_half_width
from cgfe.experiment.power import Correction, detectable_difference, fewest_seeds
from cgfe.experiment.sign_flips import flip_test, holm, smallest_p


@dataclass(frozen=True)
class Comparison:
    """A setting minus the baseline; below zero is better.

    Attributes
    ----------
    setting : float or str
    row : int
        Of the setting in the sweep.
    seeds, missing : int
        Seeds that both have, and that either lacks.
    difference : Interval
        Mean over seeds, in the figure's unit, its 95 % interval for this setting alone.
    effect : Interval
        Mean over standard deviation of the differences (Hedges' g and its interval).
    p, p_holm, p_joint : float
        Two-sided, of this setting alone, by Holm's correction over the settings, and by the joint
        test, which decides; NaN where the setting is not in it.
    smallest_p : float
        That so many seeds can give, 2 / 2ⁿ.
    detectable, detectable_holm : float
        Smallest difference that the joint test, or Holm's, had shown with 80 % probability at
        the spread that was found; infinite where the number of seeds rules it out.
    """

    setting: Setting
    row: int
    seeds: int
    missing: int
    difference: Interval
    effect: Interval
    p: float
    p_holm: float
    p_joint: float
    smallest_p: float
    detectable: float
    detectable_holm: float


def baseline_row(sweep: SweepFigures, baseline: Setting) -> int:
    """Return the baseline's row; InputError if there is none, or too few runs of it."""
    settings = list(sweep.settings)
    if baseline not in settings:
        raise InputError(f"the baseline must be one of the settings {settings}, found {baseline}.")
    row = settings.index(baseline)
    runs = int(sweep.present[row].sum())
    if runs < FEWEST_SEEDS:
        raise InputError(
            f"the baseline {sweep.label(row)} needs at least {FEWEST_SEEDS} finished runs to be "
            f"compared with, found {runs}."
        )
    return row


def compare(sweep: SweepFigures, baseline: Setting) -> tuple[Comparison, ...]:
    """Return every other setting's comparison with the baseline, in the settings' order."""
    base = baseline_row(sweep, baseline)
    others = [row for row in range(len(sweep.settings)) if row != base]
    differences = sweep.figures[others] - sweep.figures[base]
    covariance = np.zeros((len(others), len(others)))
    if sweep.resampled is not None and sweep.walkers is not None:
        departures = sweep.resampled[others] - sweep.resampled[base]
        departures[~np.isfinite(differences)] = np.nan
        covariance = shared_covariance(departures, sweep.walkers)
    seeds = np.isfinite(differences).sum(axis=1)
    family = seeds >= fewest_seeds(1, "joint")
    family = family if family.any() else ~family
    p, together = flip_test(differences, covariance, sweep.walkers, family=family)
    corrected = holm(p)
    found = []
    for k, row in enumerate(others):
        values = differences[k][np.isfinite(differences[k])]
        variance, spread = float(covariance[k, k]), _spread(values)
        sizes: dict[Correction, int] = {"joint": int(family.sum()), "holm": len(others)}
        joint, by_holm = (
            detectable_difference(spread, len(values), number, way, variance, sweep.walkers)
            for way, number in sizes.items()
        )
        found.append(
            Comparison(
                setting=sweep.settings[row],
                row=row,
                seeds=len(values),
                missing=differences.shape[1] - len(values),
                difference=mean_interval(values, variance, sweep.walkers),
                effect=paired_effect(values, variance, sweep.walkers),
                p=float(p[k]),
                p_holm=float(corrected[k]),
                p_joint=float(together[k]),
                smallest_p=smallest_p(len(values)),
                detectable=joint,
                detectable_holm=by_holm,
            )
        )
    return tuple(found)


def _spread(values: FloatArray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def paired_effect(
    differences: FloatArray, shared_variance: float = 0.0, walkers: int | None = None
) -> Interval:
    """Return the standardised mean difference of pairs and its 95 % interval.

    Hedges' g = J d̄ / s with J = Γ(m/2) / ((m/2)^½ Γ((m-1)/2)), m = n - 1, which has no bias for
    normal differences (Hedges 1981, doi 10.3102/10769986006002107). The interval is that of the
    population's mean over standard deviation: the non-centralities λ at which t = n^½ d̄ / s is
    the 97.5 or 2.5 % quantile, over n^½, widened in squares by the shared error's. Unknown (NaN,
    infinite interval) for fewer than three pairs or where all differences are the same.

    Parameters
    ----------
    differences : array (n,)
    shared_variance, walkers
        As for `mean_interval`.
    """
    number, spread = len(differences), _spread(differences)
    if number < 3 or spread == 0:
        return Interval(float("nan"), -np.inf, np.inf)
    freedom = number - 1
    unbiased = np.exp(special.gammaln(freedom / 2) - special.gammaln((freedom - 1) / 2))
    effect = float(differences.mean()) / spread
    value = float(unbiased * (2 / freedom) ** 0.5 * effect)
    t = effect * number**0.5
    low, high = (
        _noncentrality(abs(t), freedom, share) / number**0.5
        for share in ((1 + LEVEL) / 2, (1 - LEVEL) / 2)
    )
    if t < 0:
        low, high = -high, -low
    shared = shared_half_width(shared_variance, walkers) / spread
    low, high = effect - np.hypot(effect - low, shared), effect + np.hypot(high - effect, shared)
    return Interval(value, float(low), float(high))


_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(200)


def _noncentrality(t: float, freedom: int, share: float) -> float:
    """Return the λ at which a non-central t variable is below `t` >= 0 with a probability.

    P(T < t) is the mean of Φ(t (χ² / m)^½ - λ) over the quantiles of χ²; scipy's own is NaN in
    the tails.
    """
    scaled = t * np.sqrt(stats.chi2.ppf((_NODES + 1) / 2, freedom) / freedom)

    def excess(noncentrality: float) -> float:
        return float(_NODE_WEIGHTS @ special.ndtr(scaled - noncentrality)) / 2 - share

    return float(optimize.brentq(excess, -10.0, 4 * t + 10))
