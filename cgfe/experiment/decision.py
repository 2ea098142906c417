"""The verdict on a sweep's results, or why they do not allow one."""

import math
from dataclasses import dataclass

import numpy as np

from cgfe.errors import InputError
from cgfe.experiment.comparisons import Comparison
from cgfe.experiment.figures import FEWEST_SEEDS, Setting
from cgfe.experiment.intervals import SettingMean, mean_interval, setting_means
from cgfe.experiment.results import SweepResults, text_of
from cgfe.experiment.trend import Trend
from cgfe.experiment.verdict import decide
from cgfe.experiment.words import best_words, missing_words


@dataclass(frozen=True)
class Decision:
    """A verdict, or why there can be none; `means` of every setting in any case."""

    headline: str
    sentences: tuple[str, ...]
    means: tuple[SettingMean, ...]
    comparisons: tuple[Comparison, ...] = ()
    trend: Trend | None = None
    better: tuple[Setting, ...] = ()
    worse: tuple[Setting, ...] = ()


def choose_baseline(results: SweepResults, asked: str | None) -> Setting:
    """Return the setting to compare with; InputError if the one asked for has no figure."""
    settings = {text_of(setting): setting for setting in results.settings}
    if asked is None:
        return results.settings[0]
    for name, setting in settings.items():
        if asked == name or (not isinstance(setting, str) and _is_number(asked, setting)):
            return setting
    raise InputError(
        f"--baseline is {asked}; expected a setting of {results.parameter} that has a figure: "
        f"{', '.join(settings)}."
    )


def _is_number(text: str, value: float) -> bool:
    try:
        return float(text) == value
    except ValueError:
        return False


def decide_results(results: SweepResults, baseline: Setting) -> Decision:
    """Return the verdict, or say why the runs do not allow one."""
    base = f"{results.option} {text_of(baseline)}"
    statistics = results.statistics()
    empty = _empty_words(results)
    if statistics is None:
        means = tuple(
            SettingMean(
                setting, len(known), len(row) - len(known), mean_interval(known), math.nan, 0
            )
            for setting, row in zip(results.settings, results.figures, strict=True)
            for known in [row[np.isfinite(row)]]
        )
        return Decision(
            f"Nothing can be told in {results.name}: no setting has more than one seed.",
            (
                f"Differences are told from the spread over seeds, so that it takes at least "
                f"{FEWEST_SEEDS} of each setting, and more to decide.",
                *empty,
            ),
            means,
        )
    means = setting_means(statistics)
    row = results.settings.index(baseline)
    others = (*missing_words(means, statistics), best_words(means, statistics, results.floor))
    if len(results.settings) == 1:
        headline = f"Nothing can be compared: only {base} has runs with a figure."
        return Decision(headline, (*empty, *others), means)
    if means[row].seeds < FEWEST_SEEDS:
        headline = (
            f"Nothing can be compared with {base} in {results.name}: it has one seed, expected "
            f"at least {FEWEST_SEEDS}."
        )
        return Decision(headline, (*empty, *others), means)
    verdict = decide(statistics, baseline, results.floor)
    return Decision(
        verdict.headline,
        (*verdict.sentences, *empty),
        verdict.means,
        verdict.comparisons,
        verdict.trend,
        verdict.better,
        verdict.worse,
    )


def _empty_words(results: SweepResults) -> tuple[str, ...]:
    if not results.empty:
        return ()
    listed = ", ".join(map(text_of, results.empty))
    return (f"No run of {results.option} {listed} has a figure.",)
