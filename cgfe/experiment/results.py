"""A sweep's runs as one figure of each setting and seed, with floor and the reference's error."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cgfe.analysis.floor import Floor
from cgfe.errors import InputError
from cgfe.experiment.figures import FEWEST_SEEDS, FloatArray, Setting, SweepFigures
from cgfe.experiment.runs import SEED, Run, SweepRuns, setting
from cgfe.experiment.saved import (
    common_samples,
    is_simulated,
    key_of,
    mean_floor,
    read_saved,
)
from cgfe.experiment.soundness import soundness_figures
from cgfe.experiment.sweep_file import TOLD_BY_NAME
from cgfe.experiment.trapping import trapping_figures
from cgfe.report.plots import TERM_LABELS
from cgfe.report.run import BETTER

FINAL, VALIDATION = "final/js", "free_energy/js"
"""Metrics that are told unless another is asked for: the first one that a finished run logged."""
SECONDS = "seconds"
"""Wall time, as `cgfe sweep` notes it."""


@dataclass(frozen=True)
class SweepResults:
    """One figure of every finished run, by setting and seed.

    Attributes
    ----------
    parameter, metric : str
        As the runs have them; several parameters with commas between.
    option, name, unit : str
        The same in a sentence, and the figure's unit.
    settings : tuple
        K values of the parameter, ascending; of several parameters each is a text.
    values : tuple of tuple
        Of each setting the values of all parameters.
    seeds : tuple
        S of them.
    figures : array (K, S)
        Lower is better; NaN where there is none.
    empty : tuple
        Settings of which no run has a figure.
    without : tuple of str
        Finished runs without a figure.
    floor : Floor, optional
        What a perfect model would score, the mean over runs.
    resampled : array (K, S, R), optional
        `SweepFigures.resampled`.
    walkers : int, optional
        Of the reference, that the samples were drawn from.
    runs : dict
        The run of each (row, column) that has a figure and a saved result of it.
    trapping : dict
        Arrays (K, S) of `cgfe.experiment.trapping`.
    soundness : dict
        Arrays (K, S) of `cgfe.experiment.soundness`.
    further : dict
        Arrays (K, S) of the other figures of the same simulation, and `seconds`, the wall time.
    """

    parameter: str
    metric: str
    option: str
    name: str
    unit: str
    settings: tuple[Setting, ...]
    values: tuple[tuple[Setting, ...], ...]
    seeds: tuple[Setting, ...]
    figures: FloatArray
    empty: tuple[Setting, ...]
    without: tuple[str, ...]
    floor: Floor | None
    resampled: FloatArray | None
    walkers: int | None
    runs: dict[tuple[int, int], Run]
    trapping: dict[str, FloatArray]
    soundness: dict[str, FloatArray]
    further: dict[str, FloatArray]

    def statistics(self) -> SweepFigures | None:
        """Return what statistics take; None if no setting has two seeds."""
        if np.isfinite(self.figures).sum(axis=1).max() < FEWEST_SEEDS:
            return None
        return SweepFigures(
            self.settings,
            self.figures,
            self.resampled,
            self.walkers,
            self.option,
            self.name,
            self.unit,
        )


def gather(
    sweep: SweepRuns,
    metric: str | None = None,
    parameter: str | None = None,
    where: Mapping[str, Setting] | None = None,
) -> SweepResults:
    """Return the figures of a sweep's finished runs.

    Parameters
    ----------
    sweep : SweepRuns
    metric : str, optional
        `final/js` where runs have it, else `free_energy/js`.
    parameter : str, optional
        The one that is varied beside the seed; several, with commas between, are told together, by
        default all that are varied.
    where : mapping, optional
        Values of other parameters; runs of other values are left out.

    Raises
    ------
    InputError
        If the metric or a parameter is unknown, runs differ in another one too, two runs have the
        same setting and seed, or no run has a figure.
    """
    chosen = _where(sweep, where or {})
    names = _parameters(sweep, chosen, parameter, where or {})
    metric = _metric(sweep, chosen, metric)
    figure = {run.name: _figure(run, metric) for run in chosen}
    placed = _placed(chosen, names)
    with_figure = {place: run for place, run in placed.items() if math.isfinite(figure[run.name])}
    if not with_figure:
        raise InputError(f"{sweep.folder}: no finished run has a finite {metric}.")
    values = {_setting(run, names): _values(run, names) for run in sweep.runs}
    in_order = sorted(values, key=lambda setting: [_order(value) for value in values[setting]])
    settings = tuple(row for row in in_order if row in {row for row, _ in with_figure})
    seeds = tuple(sorted({column for _, column in with_figure}, key=_order))
    grid = {(settings.index(r), seeds.index(c)): run for (r, c), run in with_figure.items()}
    figures = np.full((len(settings), len(seeds)), np.nan)
    for place, run in grid.items():
        figures[place] = figure[run.name]
    saved = {place: read_saved(run, metric) for place, run in grid.items()}
    resampled, walkers = common_samples(figures.shape, saved)
    name, unit = _words(metric)
    tried = {
        _setting(run, names)
        for run in sweep.runs
        if set(names) <= run.parameters.keys() and _has(run, where or {})
    }
    return SweepResults(
        parameter=", ".join(names),
        metric=metric,
        option=", ".join(map(option_of, names)),
        name=name,
        unit=unit,
        settings=settings,
        values=tuple(values[row] for row in settings),
        seeds=seeds,
        figures=figures,
        empty=tuple(row for row in in_order if row in tried - set(settings)),
        without=tuple(run.name for run in chosen if not math.isfinite(figure[run.name])),
        floor=mean_floor(saved, metric, walkers),
        resampled=resampled,
        walkers=walkers,
        runs={place: run for place, run in grid.items() if saved[place] is not None},
        trapping=trapping_figures((len(settings), len(seeds)), saved),
        soundness=soundness_figures((len(settings), len(seeds)), saved),
        further=_further(figures.shape, grid, metric),
    )


def _further(
    shape: tuple[int, ...], runs: Mapping[tuple[int, int], Run], told: str
) -> dict[str, FloatArray]:
    """Return the other figures (K, S) of the simulation that is told, where they vary at all."""
    prefix = told.rpartition("/")[0]
    found = {}
    for metric in (*(f"{prefix}/{key}" for key in BETTER), SECONDS):
        values = np.full(shape, np.nan)
        for place, run in runs.items():
            values[place] = _figure(run, metric)
        known = values[np.isfinite(values)]
        if metric != told and len(known) and np.ptp(known) > 0:
            found[key_of(metric)] = values
    return found


def further_labels(keys: Iterable[str]) -> dict[str, str]:
    """Return the heads of further figures, as they are made such that lower is better."""
    found = {}
    for key in keys:
        name, unit = ("wall time", "s") if key == SECONDS else _words(f"final/{key}")
        found[key] = f"{name}, {unit}" if unit else name
    return found


def _where(sweep: SweepRuns, where: Mapping[str, Setting]) -> list[Run]:
    for name, value in where.items():
        found = {run.parameters[name] for run in sweep.finished if name in run.parameters}
        known = {shown(name, value) for value in found}
        if shown(name, value) not in known:
            raise InputError(
                f"--where: no finished run has {name} {text_of(value)}; expected one of "
                f"{_listed(known) or _listed(sweep.varied)}."
            )
    return [run for run in sweep.finished if _has(run, where)]


def _has(run: Run, where: Mapping[str, Setting]) -> bool:
    return all(
        name in run.parameters and _shown(run, name) == shown(name, value)
        for name, value in where.items()
    )


def _parameters(
    sweep: SweepRuns, runs: Sequence[Run], asked: str | None, where: Mapping[str, Setting]
) -> tuple[str, ...]:
    """Return the parameters to tell the figure against, if runs differ in them alone."""
    varied = [name for name in sweep.varied if name not in where]
    names = tuple(varied) if asked is None else tuple(map(str.strip, asked.split(",")))
    for name in names:
        if name not in varied:
            raise InputError(
                f"--parameter is {name}, which the sweep in {sweep.folder} does not vary; expected "
                f"{_listed(varied) or 'a sweep that varies something beside the seed'}."
            )
    if not varied:
        raise InputError(f"{sweep.folder}: the sweep varies nothing beside {SEED}.")
    for other in varied:
        found = {run.parameters.get(other, "null") for run in runs}
        if other not in names and len(found) > 1:
            raise InputError(
                f"{sweep.folder}: the runs differ in {other} too ({_listed(found)}); choose one of "
                f"these by --where {other}=VALUE."
            )
    if (
        asked is None
        and len(names) > 1
        and len({_setting(run, names) for run in runs}) == len(runs)
    ):
        raise InputError(
            f"{sweep.folder}: the sweep varies {_listed(names)}, and no two runs have the same of "
            "these; choose one by --parameter, and give the others by --where NAME=VALUE."
        )
    return names


def _setting(run: Run, names: Sequence[str]) -> Setting:
    """Return a run's value of a parameter, or its values of several as one text."""
    values = _values(run, names)
    return values[0] if len(values) == 1 else ", ".join(map(text_of, values))


def _values(run: Run, names: Sequence[str]) -> tuple[Setting, ...]:
    return tuple(_shown(run, name) for name in names)


def _shown(run: Run, name: str) -> Setting:
    return shown(name, run.parameters.get(name, "null"))


def shown(name: str, value: Setting) -> Setting:
    """Return a parameter's value as it is told: of a file its name alone."""
    return Path(value).stem if name in TOLD_BY_NAME and isinstance(value, str) else value


def _metric(sweep: SweepRuns, runs: Sequence[Run], asked: str | None) -> str:
    # Of the seconds and the speed of a simulation it is not said which way is better.
    known = {
        name
        for run in runs
        for name in run.metrics
        if not is_simulated(name) or key_of(name) in BETTER
    }
    metric = asked or (FINAL if FINAL in known else VALIDATION)
    if metric not in known:
        simulated = [name for name in known if is_simulated(name)]
        raise InputError(
            f"no finished run in {sweep.folder} has the metric {metric}; expected one of "
            f"{_listed(simulated or known)}."
        )
    return metric


def _figure(run: Run, metric: str) -> float:
    """Return a run's figure, made such that lower is better."""
    value = run.metrics.get(metric, math.nan)
    match BETTER.get(key_of(metric)) if is_simulated(metric) else None:
        case "higher":
            return 1 - value
        case "near 0":
            return abs(value)
    return value


def _words(metric: str) -> tuple[str, str]:
    """Return name and unit of a figure as they stand in a sentence."""
    key = key_of(metric)
    name, _, unit = TERM_LABELS.get(key, metric).partition(", ")
    if is_simulated(metric):
        name = "JS" if key == "js" else name
        prefix = {"higher": "missing ", "near 0": "absolute "}.get(BETTER.get(key, ""), "")
        return prefix + name, unit
    return metric, unit


def _placed(runs: Sequence[Run], names: Sequence[str]) -> dict[tuple[Setting, Setting], Run]:
    """Return each run by its setting and seed."""
    placed: dict[tuple[Setting, Setting], Run] = {}
    for run in runs:
        place = (_setting(run, names), run.parameters.get(SEED, "default"))
        if place in placed:
            raise InputError(
                f"{run.folder.parent}: {placed[place].name} and {run.name} are of the same "
                f"{', '.join(names)} {text_of(place[0])} and {SEED} {text_of(place[1])}; "
                "remove one of them."
            )
        placed[place] = run
    return placed


def _order(value: Setting) -> tuple[bool, float, str]:
    return (True, 0.0, value) if isinstance(value, str) else (False, value, "")


def option_of(parameter: str) -> str:
    """Return a parameter's name as it stands in a sentence."""
    return parameter.rpartition(".")[2].replace("_", " ")


def text_of(value: Setting) -> str:
    """Return a setting as it stands in a sentence."""
    return value if isinstance(value, str) else format(value, "g")


def _listed(values: Any) -> str:
    return ", ".join(text_of(value) for value in sorted(values, key=_order))


def parse_where(words: Sequence[str]) -> dict[str, Setting]:
    """Return {name: value} of words NAME=VALUE."""
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals):
            raise InputError(f"--where is {word!r}, expected NAME=VALUE.")
        found[name] = setting(value)
    return found
