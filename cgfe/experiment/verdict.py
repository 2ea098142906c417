"""What a sweep has decided, in words that stand on its own numbers."""

from dataclasses import dataclass

from cgfe.analysis.floor import Floor
from cgfe.experiment.comparisons import Comparison, baseline_row, compare
from cgfe.experiment.figures import Setting, SweepFigures
from cgfe.experiment.intervals import SettingMean, setting_means
from cgfe.experiment.power import SIGNIFICANCE
from cgfe.experiment.trend import Trend, trend
from cgfe.experiment.words import (
    best_words,
    difference_words,
    headline_words,
    labels,
    missing_words,
    not_told_words,
    number,
    trend_words,
)


@dataclass(frozen=True)
class SweepVerdict:
    """The statistics of a sweep and what they say.

    Attributes
    ----------
    means : tuple of SettingMean
        Of every setting, in the sweep's order.
    comparisons : tuple of Comparison
        Of every setting but the baseline.
    trend : Trend, optional
        None where settings are not numbers, or too few.
    better, worse, same : tuple
        Settings called better or worse than the baseline, family-wise error 5 %, and settings
        shown to be the same within the resolution.
    headline : str
        The answer in one sentence.
    sentences : tuple of str
        What it stands on: each difference, what could not be told, trend, best and floor.
    """

    means: tuple[SettingMean, ...]
    comparisons: tuple[Comparison, ...]
    trend: Trend | None
    better: tuple[Setting, ...]
    worse: tuple[Setting, ...]
    same: tuple[Setting, ...]
    headline: str
    sentences: tuple[str, ...]


def decide(
    sweep: SweepFigures,
    baseline: Setting,
    floor: Floor | None = None,
    resolution: float | None = None,
) -> SweepVerdict:
    """Return the verdict on a sweep.

    Parameters
    ----------
    sweep : SweepFigures
    baseline : float or str
        The setting that others are compared with.
    floor : Floor, optional
        What a perfect model would score.
    resolution : float, optional
        Differences up to this do not matter. A setting whose 95 % interval lies within it on
        both sides, and that the test does not call different, is the same.

    Raises
    ------
    InputError
        If there is no such baseline, or too few runs of it.
    """
    base = sweep.label(baseline_row(sweep, baseline))
    means, found, slope = setting_means(sweep), compare(sweep, baseline), trend(sweep)
    shown = [c for c in found if c.p_joint <= SIGNIFICANCE]
    better = [c for c in shown if c.difference.value < 0]
    worse = [c for c in shown if c.difference.value > 0]
    open_ = [c for c in found if c not in shown]
    same = [c for c in open_ if resolution is not None and _within(c, resolution)]
    sentences = [difference_words(c, sweep) for c in better + worse]
    if same:
        sentences.append(
            f"Within {number(resolution)} {sweep.unit} of {base}, each by its own 95 % interval: "
            f"{labels(same, sweep)}."
        )
    sentences += not_told_words([c for c in open_ if c not in same], base, sweep)
    sentences += missing_words(means, sweep)
    if slope is not None:
        sentences.append(trend_words(slope, sweep))
    sentences.append(best_words(means, sweep, floor))
    return SweepVerdict(
        means=means,
        comparisons=found,
        trend=slope,
        better=tuple(c.setting for c in better),
        worse=tuple(c.setting for c in worse),
        same=tuple(c.setting for c in same),
        headline=headline_words((better, worse, same), found, base, sweep),
        sentences=tuple(sentences),
    )


def _within(comparison: Comparison, resolution: float) -> bool:
    interval = comparison.difference
    return -resolution <= interval.low and interval.high <= resolution
