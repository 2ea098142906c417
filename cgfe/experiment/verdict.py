"""What a sweep has decided, in words that stand on its own numbers."""

from dataclasses import dataclass

import numpy as np

from cgfe.analysis.floor import Floor
from cgfe.experiment.comparisons import Comparison, baseline_row, compare
from cgfe.experiment.figures import Setting, SweepFigures
from cgfe.experiment.intervals import SettingMean, setting_means
from cgfe.experiment.power import POWER, SIGNIFICANCE, fewest_seeds
from cgfe.experiment.trend import Trend, trend


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
    sentences = [_difference(c, sweep) for c in better + worse]
    if same:
        sentences.append(
            f"Within {_number(resolution)} {sweep.unit} of {base}, each by its own 95 % interval: "
            f"{_labels(same, sweep)}."
        )
    sentences += _not_told([c for c in open_ if c not in same], base, sweep)
    sentences += _missing(means, sweep)
    if slope is not None:
        sentences.append(_trend(slope, sweep))
    sentences.append(_best(means, sweep, floor))
    return SweepVerdict(
        means=means,
        comparisons=found,
        trend=slope,
        better=tuple(c.setting for c in better),
        worse=tuple(c.setting for c in worse),
        same=tuple(c.setting for c in same),
        headline=_headline((better, worse, same), found, base, sweep),
        sentences=tuple(sentences),
    )


def _within(comparison: Comparison, resolution: float) -> bool:
    interval = comparison.difference
    return -resolution <= interval.low and interval.high <= resolution


def _headline(
    groups: tuple[list[Comparison], ...],
    found: tuple[Comparison, ...],
    base: str,
    sweep: SweepFigures,
) -> str:
    parts = [
        f"{len(group)} {'is' if len(group) == 1 else 'are'} {word} {base}"
        for group, word in zip(groups, ("better than", "worse than", "the same as"), strict=True)
        if group
    ]
    if parts:
        told = len(found) - sum(map(len, groups))
        parts += [f"{told} cannot be told from it"] if told else []
        return f"In {sweep.name}, of {len(found)} settings {', '.join(parts)}."
    need = fewest_seeds(len(found), "joint")
    most = max((c.seeds for c in found), default=0)
    if most < need:
        return (
            f"Nothing can be told in {sweep.name}: a test of {most} seeds cannot reach "
            f"{_percent(SIGNIFICANCE)}, it takes {need}."
        )
    return f"No setting can be told from {base} in {sweep.name}."


def _difference(c: Comparison, sweep: SweepFigures) -> str:
    word = "better" if c.difference.value < 0 else "worse"
    interval = c.difference
    size = sorted(abs(end) for end in (interval.low, interval.high))
    ends = f"{_number(size[0])} to {_number(size[1])}"
    if not interval.low * interval.high > 0:
        ends = f"{_number(interval.low)} to {_number(interval.high)} as a change"
    return (
        f"{_capital(sweep.label(c.row))} is {word} by {_number(abs(interval.value))} {sweep.unit} "
        f"(95 % interval {ends}; {_number(abs(c.effect.value))} standard deviations; {c.seeds} paired "
        f"seeds, p = {c.p_joint:.2g} for all settings together, {c.p_holm:.2g} by Holm's "
        f"correction, smallest possible {c.smallest_p:.2g})."
    )


def _not_told(open_: list[Comparison], base: str, sweep: SweepFigures) -> list[str]:
    """Say what was not told from the baseline, and how large it would have had to be."""
    if not open_:
        return []
    known = [c.difference for c in open_ if np.isfinite(c.difference.low)]
    reach = "their differences have no intervals"
    if known:
        low, high = min(d.low for d in known), max(d.high for d in known)
        reach = (
            f"the 95 % intervals of the differences reach from {_number(low)} to {_number(high)} "
            f"{sweep.unit}"
        )
    sentences = [f"Not told from {base}: {_labels(open_, sweep)}; {reach}."]
    apart = [c for c in open_ if c.difference.low * c.difference.high > 0]
    if apart:
        sentences.append(
            f"Of these {_labels(apart, sweep)} {'has an interval' if len(apart) == 1 else 'have'} "
            f"{'' if len(apart) == 1 else 'intervals '}without zero, each on its own, which is no "
            f"finding among {len(sweep.settings) - 1} comparisons."
        )
    return sentences + _could_be_told(open_, sweep)


def _could_be_told(open_: list[Comparison], sweep: SweepFigures) -> list[str]:
    sentences = []
    seeing = [c for c in open_ if np.isfinite(c.detectable)]
    blind = [c for c in open_ if c not in seeing]
    if seeing:
        sentences.append(
            f"To be shown with {_percent(POWER)} probability a difference of these would have had "
            f"to be {_range([c.detectable for c in seeing])} {sweep.unit}."
        )
    if blind:
        need = max(fewest_seeds(len(open_), "joint"), max(c.seeds for c in blind) + 1)
        which = f"of {_labels(blind, sweep)} " if seeing else ""
        sentences.append(
            f"However large, no difference {which}could have been shown: "
            f"the smallest p of {_range([c.seeds for c in blind])} paired seeds is "
            f"{_range([c.smallest_p for c in blind])}; it takes at least {need} seeds."
        )
    holm = [c for c in seeing if not np.isfinite(c.detectable_holm)]
    if holm:
        comparisons = len(sweep.settings) - 1
        sentences.append(
            f"Holm's correction could have shown none of these, as the smallest p of "
            f"{_range([c.seeds for c in holm])} seeds, {_range([c.smallest_p for c in holm])}, "
            f"is too large for {comparisons} comparisons; it takes "
            f"{fewest_seeds(comparisons, 'holm')} seeds."
        )
    return sentences


def _missing(means: tuple[SettingMean, ...], sweep: SweepFigures) -> list[str]:
    missing = [(sweep.label(k), mean) for k, mean in enumerate(means) if mean.missing]
    if not missing:
        return []
    listed = ", ".join(f"{mean.missing} of {label}" for label, mean in missing)
    return [f"Runs without a figure: {listed}; pairs are of seeds that both settings have."]


def _trend(slope: Trend, sweep: SweepFigures) -> str:
    words = (
        f"rank correlation {_number(slope.correlation.value)}, 95 % interval "
        f"{_number(slope.correlation.low)} to {_number(slope.correlation.high)}, p = {slope.p:.2g} "
        f"with {slope.seeds} seeds, smallest possible {slope.smallest_p:.2g}"
    )
    if slope.p > SIGNIFICANCE:
        return f"No trend of {sweep.name} with {sweep.option} can be told ({words})."
    way = "rises" if slope.correlation.value > 0 else "falls"
    return f"{sweep.name} {way} with {sweep.option} ({words})."


def _best(means: tuple[SettingMean, ...], sweep: SweepFigures, floor: Floor | None) -> str:
    row = min(
        (k for k, mean in enumerate(means) if mean.seeds > 1), key=lambda k: means[k].mean.value
    )
    best = means[row].mean
    words = (
        f"Lowest mean: {sweep.label(row)} with {sweep.name} {_number(best.value)} {sweep.unit} "
        f"(95 % interval {_number(best.low)} to {_number(best.high)}, not corrected for having been "
        f"chosen among {len(means)})"
    )
    if floor is None:
        return words + "."
    perfect = f"a perfect model's {_number(floor.mean)} (95 % below {_number(floor.high)})"
    if best.value <= floor.high:
        return f"{words}, at the floor: it cannot be told from {perfect}, nor can a better one."
    if best.low <= floor.high:
        return f"{words}, perhaps at the floor: its interval reaches {perfect}."
    return f"{words}, above the floor, {perfect}."


def _labels(group: list[Comparison], sweep: SweepFigures) -> str:
    return sweep.label(*(c.row for c in group))


def _range(values: list[float] | list[int]) -> str:
    low, high = _number(min(values)), _number(max(values))
    return low if low == high else f"{low} to {high}"


def _number(value: float | None) -> str:
    return "unknown" if value is None or np.isnan(value) else f"{value:.2g}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
