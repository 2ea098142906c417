"""The page of a sweep: error against what was varied, every seed, intervals, the verdict."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cgfe.analysis.floor import Floor
from cgfe.analysis.intervals import Interval
from cgfe.report.pages import figure, write_page
from cgfe.report.plots import MODEL_COLOUR, PRIOR_COLOUR
from cgfe.report.several import ShownRun, figures_of

PAGE = "sweep_report.html.j2"
FLOOR_COLOUR = "#4cc38a"
LONGEST_LEVEL = 8
"""Letters of a setting's name above which all stand upright."""
SPREAD = 0.27
"""To each side of a setting's place, of its width; its seeds stand in their order within."""


@dataclass(frozen=True)
class FigureTable:
    """Means of further figures over seeds, starred where they differ from the baseline's.

    Attributes
    ----------
    name, title : str
        `name` in the page's attributes.
    heads : sequence of str
        Names of the figures.
    cells : sequence of sequence of (Interval, bool)
        Of each setting, for each head: the mean, and whether it is starred.
    note : str
        What the figures are.
    """

    name: str
    title: str
    heads: Sequence[str]
    cells: Sequence[Sequence[tuple[Interval, bool]]]
    note: str


@dataclass(frozen=True)
class SweepAxis:
    """Where the settings of a sweep stand in its figures.

    Attributes
    ----------
    option : str
        The parameter along the axis, as in a sentence.
    levels : sequence of str (K,)
        Its value of each setting; settings of one value share a place.
    groups : sequence of str (K,)
        The values of all other parameters; settings of one group share a colour. Empty texts
        where there are none.
    """

    option: str
    levels: Sequence[str]
    groups: Sequence[str]

    @property
    def ticks(self) -> list[str]:
        """The levels, each once, as they stand along the axis."""
        return list(dict.fromkeys(self.levels))

    @property
    def names(self) -> list[str]:
        """The groups, each once."""
        return list(dict.fromkeys(self.groups))

    def places(self) -> NDArray[np.float64]:
        """Return where each setting stands: at its level, the groups beside one another."""
        aside = (np.arange(len(self.names)) - (len(self.names) - 1) / 2) * self.width
        groups = [self.names.index(group) for group in self.groups]
        levels = [self.ticks.index(level) for level in self.levels]
        return np.array(levels) + aside[groups]

    @property
    def width(self) -> float:
        """Of a group's place; between levels half as much is left free."""
        return 1 / (len(self.names) + 0.5)


@dataclass(frozen=True)
class SweepPage:
    """What the page of a sweep shows.

    Attributes
    ----------
    name : str
        Of the sweep.
    headline, tone, sentences
        The verdict; `tone` is `good`, `fair` or `bad`.
    option, figure, unit : str
        What was varied and what is told of it, as in a sentence.
    settings, seeds : sequence of str
        K and S of them.
    axis : SweepAxis
        Of the K settings.
    values : array (K, S)
        NaN where a run has no figure.
    means : sequence of Interval or None
        Of each setting; ends may be infinite.
    differences : array (K, S)
        From the baseline, of the same seed.
    difference_intervals : sequence of Interval or None
        None for the baseline.
    baseline : str
    floor : Floor, optional
    mean_rows, comparison_rows : sequence of dict
        The tables' rows.
    shown : sequence of ShownRun
        Some runs, of the same reference, whose figures are shown; may be none.
    tables : sequence of FigureTable
        Further figures; may be none.
    facts : sequence of (name, text)
        About the runs.
    troubles : sequence of (run, words)
        Runs without a figure, and why.
    sweep_file : str
        Its text; empty where there is none.
    """

    name: str
    headline: str
    tone: str
    sentences: Sequence[str]
    option: str
    figure: str
    unit: str
    settings: Sequence[str]
    axis: SweepAxis
    seeds: Sequence[str]
    values: NDArray[np.float64]
    means: Sequence[Interval | None]
    differences: NDArray[np.float64]
    difference_intervals: Sequence[Interval | None]
    baseline: str
    floor: Floor | None
    mean_rows: Sequence[dict[str, Any]]
    comparison_rows: Sequence[dict[str, Any]]
    shown: Sequence[ShownRun]
    tables: Sequence[FigureTable]
    facts: Sequence[tuple[str, str]]
    troubles: Sequence[tuple[str, str]]
    sweep_file: str


def write_sweep_page(page: SweepPage, output: Path) -> Path:
    """Write the page; nothing on it is loaded from elsewhere.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    drawn: list[tuple[Callable[[SweepPage], Figure], str]] = [(plot_errors, _error_caption(page))]
    if page.comparison_rows:
        caption = (
            f"Difference from {page.option} {page.baseline}, each seed paired, with mean and 95 % "
            "interval of each setting alone; below zero is better"
        )
        drawn.append((plot_differences, caption))
    write_page(
        output,
        PAGE,
        page=page,
        name=page.name,
        figures=[figure(partial(draw, page), caption) for draw, caption in drawn],
        shown=figures_of(page.shown),
    )
    return output


def plot_errors(page: SweepPage) -> Figure:
    """Draw every run's error against its setting, means with 95 % intervals, and the floor."""
    drawing, axes = _axes(page)
    if page.floor is not None:
        band: dict[str, Any] = {"color": FLOOR_COLOUR, "alpha": 0.3, "lw": 0}
        axes.axhspan(page.floor.mean, page.floor.high, label="a perfect model, to 95 %", **band)
    _draw_settings(axes, page.axis, page.values, page.means)
    axes.set(ylabel=_with_unit(page.figure, page.unit))
    if np.nanmin(page.values) >= 0:
        axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    return drawing


def plot_differences(page: SweepPage) -> Figure:
    """Draw every seed's difference from the baseline, and their means with 95 % intervals."""
    drawing, axes = _axes(page)
    axes.axhline(0, color=mpl.rcParams["text.color"], lw=0.8)
    compared = np.array([interval is not None for interval in page.difference_intervals])
    differences = np.where(compared[:, None], page.differences, np.nan)
    _draw_settings(axes, page.axis, differences, page.difference_intervals)
    axes.set(ylabel=_with_unit(f"{page.figure} minus the baseline's", page.unit))
    axes.legend(frameon=False, fontsize=8)
    return drawing


def _axes(page: SweepPage) -> tuple[Figure, Axes]:
    """Return axes with the levels side by side: they may be words, or 0 and powers of ten."""
    ticks = page.axis.ticks
    across = max(0.7 * len(ticks), 0.4 * len(page.settings))
    drawing = Figure(figsize=(max(6.0, across + 1.5), 4.2), layout="constrained")
    axes = drawing.subplots()
    axes.set_xticks(range(len(ticks)), ticks)
    if max(map(len, ticks)) > LONGEST_LEVEL:
        axes.tick_params("x", rotation=90)
    axes.set(xlabel=page.axis.option, xlim=(-0.6, len(ticks) - 0.4))
    return drawing, axes


def _draw_settings(
    axes: Axes,
    axis: SweepAxis,
    values: NDArray[np.float64],
    means: Sequence[Interval | None],
) -> None:
    """Draw each group's runs and means, in two colours where it is alone, else in its own."""
    places = axis.places()
    several = len(axis.names) > 1
    for number, group in enumerate(axis.names):
        rows = [row for row, name in enumerate(axis.groups) if name == group]
        own = mpl.colormaps["tab10"](number % 10)
        point, mean = (own, own) if several else (PRIOR_COLOUR, MODEL_COLOUR)
        labels = ("", group) if several else ("a seed", "mean, 95 % interval")
        across = places[rows][:, None] + SPREAD * axis.width * _aside(values.shape[1])
        known = np.isfinite(values[rows])
        style: dict[str, Any] = {"s": 16, "color": point, "alpha": 0.5 if several else 0.8}
        axes.scatter(across[known], values[rows][known], label=labels[0], **style)
        _draw_means(axes, places[rows], [means[row] for row in rows], mean, labels[1])


def _aside(seeds: int) -> NDArray[np.float64]:
    """Return from -1 to 1 where each seed stands beside its setting's place."""
    return np.linspace(-1, 1, seeds) if seeds > 1 else np.zeros(1)


def _draw_means(
    axes: Axes,
    places: NDArray[np.float64],
    intervals: Sequence[Interval | None],
    colour: Any,
    label: str | None,
) -> None:
    """Draw means and intervals; of an endless interval the mean alone."""
    style: dict[str, Any] = {"fmt": "D", "ms": 5, "capsize": 4, "lw": 1.6, "zorder": 3}
    for place, interval in zip(places, intervals, strict=True):
        if interval is None or not np.isfinite(interval.value):
            continue
        ends = np.abs(np.array([[interval.low], [interval.high]]) - interval.value)
        ends[~np.isfinite(ends)] = 0
        axes.errorbar(place, interval.value, ends, color=colour, label=label, **style)
        label = None


def _with_unit(name: str, unit: str) -> str:
    return f"{name}, {unit}" if unit else name


def _error_caption(page: SweepPage) -> str:
    caption = (
        f"{page.figure} against {page.option}: every run, and the mean over seeds with its 95 % "
        "interval"
    )
    if page.floor is not None:
        caption += "; the band is what a perfect model would score, from its mean to 95 %"
    return caption
