"""The sentences of a verdict: each says one thing and the numbers that it stands on."""

import numpy as np

from cgfe.analysis.floor import Floor
from cgfe.experiment.comparisons import Comparison
from cgfe.experiment.figures import SweepFigures
from cgfe.experiment.intervals import SettingMean
from cgfe.experiment.power import POWER, SIGNIFICANCE, fewest_seeds
from cgfe.experiment.trend import Trend


def headline_words(
    groups: tuple[list[Comparison], ...],
    found: tuple[Comparison, ...],
    base: str,
    sweep: SweepFigures,
) -> str:
    """Say how many settings are better, worse or the same, or that none can be told."""
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


def difference_words(c: Comparison, sweep: SweepFigures) -> str:
    """Say by how much a setting is better or worse, and by which p."""
    word = "better" if c.difference.value < 0 else "worse"
    interval = c.difference
    size = sorted(abs(end) for end in (interval.low, interval.high))
    ends = f"{number(size[0])} to {number(size[1])}"
    if not interval.low * interval.high > 0:
        ends = f"{number(interval.low)} to {number(interval.high)} as a change"
    return (
        f"{_capital(sweep.label(c.row))} is {word} by {number(abs(interval.value))} {sweep.unit} "
        f"(95 % interval {ends}; {number(abs(c.effect.value))} standard deviations; {c.seeds} "
        f"paired seeds, p = {c.p_joint:.2g} for all settings together, {c.p_holm:.2g} by Holm's "
        f"correction, smallest possible {c.smallest_p:.2g})."
    )


def not_told_words(open_: list[Comparison], base: str, sweep: SweepFigures) -> list[str]:
    """Say what was not told from the baseline, and how large it would have had to be."""
    if not open_:
        return []
    known = [c.difference for c in open_ if np.isfinite(c.difference.low)]
    reach = "their differences have no intervals"
    if known:
        low, high = min(d.low for d in known), max(d.high for d in known)
        reach = (
            f"the 95 % intervals of the differences reach from {number(low)} to {number(high)} "
            f"{sweep.unit}"
        )
    sentences = [f"Not told from {base}: {labels(open_, sweep)}; {reach}."]
    apart = [c for c in open_ if c.difference.low * c.difference.high > 0]
    if apart:
        sentences.append(
            f"Of these {labels(apart, sweep)} {'has an interval' if len(apart) == 1 else 'have'} "
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
        which = f"of {labels(blind, sweep)} " if seeing else ""
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


def missing_words(means: tuple[SettingMean, ...], sweep: SweepFigures) -> list[str]:
    """Say which runs have no figure."""
    missing = [(sweep.label(k), mean) for k, mean in enumerate(means) if mean.missing]
    if not missing:
        return []
    listed = ", ".join(f"{mean.missing} of {label}" for label, mean in missing)
    return [f"Runs without a figure: {listed}; pairs are of seeds that both settings have."]


def trend_words(slope: Trend, sweep: SweepFigures) -> str:
    """Say whether the figure rises or falls with the setting."""
    words = (
        f"rank correlation {number(slope.correlation.value)}, 95 % interval "
        f"{number(slope.correlation.low)} to {number(slope.correlation.high)}, p = {slope.p:.2g} "
        f"with {slope.seeds} seeds, smallest possible {slope.smallest_p:.2g}"
    )
    if slope.p > SIGNIFICANCE:
        return f"No trend of {sweep.name} with {sweep.option} can be told ({words})."
    way = "rises" if slope.correlation.value > 0 else "falls"
    return f"{sweep.name} {way} with {sweep.option} ({words})."


def best_words(means: tuple[SettingMean, ...], sweep: SweepFigures, floor: Floor | None) -> str:
    """Say which mean is lowest, and where it stands to the floor."""
    row = min(
        (k for k, mean in enumerate(means) if mean.seeds > 1), key=lambda k: means[k].mean.value
    )
    best = means[row].mean
    words = (
        f"Lowest mean: {sweep.label(row)} with {sweep.name} {number(best.value)} {sweep.unit} "
        f"(95 % interval {number(best.low)} to {number(best.high)}, not corrected for having "
        f"been chosen among {len(means)})"
    )
    if floor is None:
        return words + "."
    perfect = f"a perfect model's {number(floor.mean)} (95 % below {number(floor.high)})"
    if best.value <= floor.high:
        return f"{words}, at the floor: it cannot be told from {perfect}, nor can a better one."
    if best.low <= floor.high:
        return f"{words}, perhaps at the floor: its interval reaches {perfect}."
    return f"{words}, above the floor, {perfect}."


def labels(group: list[Comparison], sweep: SweepFigures) -> str:
    """Return the names of compared settings."""
    return sweep.label(*(c.row for c in group))


def _range(values: list[float] | list[int]) -> str:
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


def number(value: float | None) -> str:
    """Return a number in two digits."""
    return "unknown" if value is None or np.isnan(value) else f"{value:.2g}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
