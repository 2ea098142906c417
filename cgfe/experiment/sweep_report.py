"""The report of a sweep: its statistics as a page, as numbers, and in words."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cgfe.analysis.intervals import Interval
from cgfe.errors import InputError
from cgfe.experiment.decision import Decision, choose_baseline, decide_results
from cgfe.experiment.figures import Setting
from cgfe.experiment.further import FurtherFigure, compare_figures
from cgfe.experiment.intervals import SettingMean
from cgfe.experiment.results import (
    SweepResults,
    further_labels,
    gather,
    option_of,
    text_of,
)
from cgfe.experiment.runs import FINISHED, SWEEP_COPY, SweepRuns, read_runs
from cgfe.experiment.soundness import soundness_words
from cgfe.experiment.trapping import LABELS, NOTE, trapping_words
from cgfe.files import replacing
from cgfe.report.run import read_metrics
from cgfe.report.several import ShownRun
from cgfe.report.sweep import FigureTable, SweepAxis, SweepPage, write_sweep_page
from cgfe.simulation.results import FreeEnergyResult

PAGE, NUMBERS = "sweep.html", "sweep.json"


@dataclass(frozen=True)
class SweepReport:
    """Where a report was written, what it says, and what its page shows."""

    page: Path
    numbers: Path
    headline: str
    sentences: tuple[str, ...]
    drawn: SweepPage


def write_sweep_report(
    folder: str | Path,
    output: str | Path | None = None,
    metric: str | None = None,
    parameter: str | None = None,
    baseline: str | None = None,
    where: Mapping[str, Setting] | None = None,
) -> SweepReport:
    """Write sweep.html and sweep.json of a sweep's folder.

    Parameters
    ----------
    folder : path
        Of `cgfe sweep`, or of the runs of W&B's agents.
    output : path, optional
        The page; `folder`/sweep.html by default. The numbers stand beside it, as .json.
    metric, parameter, where
        As for `cgfe.experiment.results.gather`.
    baseline : str, optional
        Setting that others are compared with; the smallest one by default.

    Raises
    ------
    InputError
        If the folder is no sweep's, no run has finished, or metric, parameter or baseline is not
        there.
    """
    runs = read_runs(folder)
    results = gather(runs, metric, parameter, where)
    base = choose_baseline(results, baseline)
    found = decide_results(results, base)
    if baseline is not None and not found.comparisons:  # statistics were asked for
        raise InputError(f"--baseline is {baseline}: {found.headline}")
    row = results.settings.index(base)
    trapping = compare_figures(results.trapping, LABELS, row)
    further = compare_figures(results.further, further_labels(results.further), row)
    names = [text_of(setting) for setting in results.settings]
    words = (
        *soundness_words(results.soundness, names, results.option),
        *trapping_words(trapping, names, f"{results.option} {text_of(base)}"),
    )
    found = replace(found, sentences=(*found.sentences, *words))
    page = Path(output) if output is not None else Path(folder) / PAGE
    numbers = page.with_suffix(".json")
    troubles = _troubles(runs, results)
    tables = [
        _table("trapping", "Are replicas trapped?", trapping, NOTE),
        _table("further", "Further figures", further, "Lower is better."),
    ]
    drawn = _page(runs, results, base, found, [t for t in tables if t.heads], troubles)
    write_sweep_page(drawn, page)
    with replacing(numbers) as temporary:
        content = _numbers(runs, results, base, found, troubles)
        content |= {"trapping": _entries(results, trapping), "further": _entries(results, further)}
        temporary.write_text(json.dumps(_finite(content), indent=2) + "\n", encoding="utf-8")
    return SweepReport(page, numbers, found.headline, found.sentences, drawn)


def _troubles(runs: SweepRuns, results: SweepResults) -> list[tuple[str, str]]:
    """Return every run without a figure, and why."""
    found = []
    for run in runs.runs:
        words = f"{run.state}: {run.error}" if run.error else run.state
        if run.name in results.without:
            words = f"{run.state}, but without a finite {results.metric}"
        elif run.state == FINISHED:
            continue
        point = ", ".join(f"{key} {text_of(value)}" for key, value in run.parameters.items())
        found.append((run.name, f"{words} ({point})" if point else words))
    return found


def _page(
    runs: SweepRuns,
    results: SweepResults,
    baseline: Setting,
    found: Decision,
    tables: list[FigureTable],
    troubles: list[tuple[str, str]],
) -> SweepPage:
    by_row = {comparison.row: comparison for comparison in found.comparisons}
    base = results.settings.index(baseline)
    compared = [by_row.get(row) for row in range(len(results.settings))]
    return SweepPage(
        name=runs.folder.resolve().name,
        headline=found.headline,
        tone="good" if found.better else "bad" if found.worse else "fair",
        sentences=found.sentences,
        option=results.option,
        figure=results.name,
        unit=results.unit,
        settings=[text_of(setting) for setting in results.settings],
        axis=_axis(results),
        seeds=[text_of(seed) for seed in results.seeds],
        values=results.figures,
        means=[mean.mean for mean in found.means],
        differences=results.figures - results.figures[base],
        difference_intervals=[None if c is None else c.difference for c in compared],
        baseline=text_of(baseline),
        floor=results.floor,
        mean_rows=[
            {**_mean_row(mean, results.figures[row]), "mean": mean.mean}
            for row, mean in enumerate(found.means)
        ],
        comparison_rows=[
            {
                "setting": text_of(c.setting),
                "seeds": c.seeds,
                "difference": c.difference,
                "p_joint": c.p_joint,
                "p_holm": c.p_holm,
                "smallest_p": c.smallest_p,
                "effect": c.effect,
                "detectable": c.detectable if math.isfinite(c.detectable) else math.nan,
            }
            for c in found.comparisons
        ],
        shown=_shown(results, base, found),
        tables=tables,
        facts=_facts(runs, results),
        troubles=troubles,
        sweep_file=_text(runs.folder / SWEEP_COPY),
    )


def _axis(results: SweepResults) -> SweepAxis:
    """Return along which parameter the figures show the settings: that of the most values."""
    names = results.parameter.split(", ")
    columns = list(zip(*results.values, strict=True))
    along = max(range(len(names)), key=lambda column: (len(set(columns[column])), column))
    return SweepAxis(
        option=option_of(names[along]),
        levels=[text_of(value) for value in columns[along]],
        groups=[
            ", ".join(text_of(value) for column, value in enumerate(row) if column != along)
            for row in results.values
        ],
    )


def _shown(results: SweepResults, base: int, found: Decision) -> list[ShownRun]:
    """Return the run in the middle of its seeds of the baseline, the lowest and highest mean.

    And of the last setting, on an axis the other end. Those of another grid than the first's, or
    another reference, cannot stand on its axes.
    """
    means = [mean.mean.value for mean in found.means]
    best, worst = int(np.nanargmin(means)), int(np.nanargmax(means))
    shown: list[ShownRun] = []
    for row in dict.fromkeys((base, best, worst, len(results.settings) - 1)):
        columns = [column for place, column in results.runs if place == row]
        if not columns:
            continue
        order = sorted(columns, key=lambda column: results.figures[row, column])
        middle = order[len(order) // 2]
        folder = results.runs[row, middle].folder
        system = "/".join(results.metric.split("/")[1:-1])
        try:
            loaded = FreeEnergyResult.load(folder, f"-{system}" if system else "")
        except InputError:
            continue  # the figures need its .json alone
        if shown and not _same_reference(loaded, shown[0].result):
            continue
        shown.append(
            ShownRun(
                f"{results.option} {text_of(results.settings[row])}",
                text_of(results.seeds[middle]),
                loaded,
                read_metrics(folder / "metrics.csv"),
                _text(folder / "config.yaml"),
                system,
            )
        )
    return shown


def _text(path: Path) -> str:
    """Return what a file says, nothing where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _same_reference(one: FreeEnergyResult, other: FreeEnergyResult) -> bool:
    pairs = [*zip(one.edges, other.edges, strict=True), (one.reference, other.reference)]
    return all(np.array_equal(a, b) for a, b in pairs)


def _mean_row(mean: SettingMean, figures: Any) -> dict[str, Any]:
    return {
        "setting": text_of(mean.setting),
        "seeds": mean.seeds,
        "spread": mean.spread,
        "figures": [float(value) for value in figures],
    }


def _facts(runs: SweepRuns, results: SweepResults) -> list[tuple[str, str]]:
    facts = [(f"{state} runs", str(number)) for state, number in runs.states().items()]
    seconds = [run.metrics["seconds"] for run in runs.finished if "seconds" in run.metrics]
    if seconds:
        facts.append(("wall time of a run, median", f"{np.median(seconds):.0f} s"))
        facts.append(("wall time of finished runs", f"{sum(seconds) / 3600:.1f} h"))
    facts += [("metric", results.metric), ("parameter", results.parameter)]
    if results.floor is not None:
        floor = f"{results.floor.mean:.3g}, 95 % below {results.floor.high:.3g} {results.unit}"
        facts.append(("a perfect model", floor))
    shared = "not known, taken as none"
    if results.walkers is not None:
        shared = f"bootstrap over its {results.walkers} trajectories, common to all runs"
    return [*facts, ("the reference’s own error", shared)]


def _numbers(
    runs: SweepRuns,
    results: SweepResults,
    baseline: Setting,
    found: Decision,
    troubles: list[tuple[str, str]],
) -> dict[str, Any]:
    """Return what sweep.json holds."""
    seeds = [text_of(seed) for seed in results.seeds]
    return {
        "sweep": runs.folder.resolve().name,
        "metric": results.metric,
        "parameter": results.parameter,
        "baseline": baseline,
        "unit": results.unit,
        "runs": runs.states(),
        "without_figure": [{"run": run, "why": words} for run, words in troubles],
        "reference_trajectories": results.walkers,
        "floor": None
        if results.floor is None
        else {"mean": results.floor.mean, "high": results.floor.high},
        "settings": [
            {
                "setting": mean.setting,
                "seeds": mean.seeds,
                "missing": mean.missing,
                **_ends(mean.mean),
                "spread": mean.spread,
                "shared": mean.shared,
                "figures": dict(zip(seeds, map(float, results.figures[row]), strict=True)),
            }
            for row, mean in enumerate(found.means)
        ],
        "comparisons": [
            {key: value for key, value in asdict(c).items() if key != "row"}
            for c in found.comparisons
        ],
        "trend": None if found.trend is None else asdict(found.trend),
        "better": found.better,
        "worse": found.worse,
        "headline": found.headline,
        "sentences": found.sentences,
    }


def _table(name: str, title: str, figures: Sequence[FurtherFigure], note: str) -> FigureTable:
    heads = [figure.label for figure in figures]
    rows = zip(*(zip(f.means, f.apart, strict=True) for f in figures), strict=True)
    return FigureTable(name, title, heads, [*rows], note)


def _entries(results: SweepResults, figures: Sequence[FurtherFigure]) -> dict[str, Any]:
    """Return what sweep.json holds of further figures."""
    seeds = [text_of(seed) for seed in results.seeds]
    return {
        figure.key: [
            {
                "setting": setting,
                **_ends(figure.means[row]),
                "differs_from_baseline": figure.apart[row],
                "figures": dict(zip(seeds, map(float, figure.values[row]), strict=True)),
            }
            for row, setting in enumerate(results.settings)
        ]
        for figure in figures
    }


def _ends(interval: Interval) -> dict[str, float]:
    return {"mean": interval.value, "low": interval.low, "high": interval.high}


def _finite(value: Any) -> Any:
    """Return a value with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
