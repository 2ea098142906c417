"""Figures of a sweep show the numbers they were given."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection

from cgfe.analysis.floor import Floor
from cgfe.analysis.intervals import Interval
from cgfe.report.sweep import SweepAxis, SweepPage, plot_differences, plot_errors

VALUES = np.array([[0.10, 0.12], [0.11, np.nan], [0.30, 0.34]])


def page(floor: Floor | None = None) -> SweepPage:
    return SweepPage(
        name="sweep-made",
        headline="",
        tone="fair",
        sentences=(),
        option="energy weight",
        figure="JS",
        unit="nats",
        settings=("0", "0.001", "10"),
        axis=SweepAxis("energy weight", ("0", "0.001", "10"), ("", "", "")),
        seeds=("0", "1"),
        values=VALUES,
        means=(Interval(0.11, 0.05, 0.17), Interval(0.11, -np.inf, np.inf), Interval(0.32, 0, 0.6)),
        differences=VALUES - VALUES[0],
        difference_intervals=(None, Interval(0.01, -np.inf, np.inf), Interval(0.21, 0.1, 0.32)),
        baseline="0",
        floor=floor,
        mean_rows=(),
        comparison_rows=(),
        shown=(),
        tables=(),
        facts=(),
        troubles=(),
        sweep_file="",
    )


def points(axes: Axes) -> np.ndarray:
    (found,) = (c for c in axes.collections if c.get_label() == "a seed")
    return np.asarray(found.get_offsets())


def test_every_run_is_a_point_at_its_settings_place() -> None:
    (axes,) = plot_errors(page()).axes
    drawn = points(axes)
    assert drawn[:, 1] == pytest.approx([0.10, 0.12, 0.11, 0.30, 0.34])
    assert drawn[:, 0].round() == pytest.approx([0, 0, 1, 2, 2])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "0.001", "10"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("energy weight", "JS, nats")


def test_settings_of_two_parameters_share_places_and_have_colours() -> None:
    axis = SweepAxis("stride", ("1", "10", "1"), ("forces", "forces", "labels"))
    assert axis.places() == pytest.approx([-0.2, 0.8, 0.2])
    (axes,) = plot_errors(replace(page(), axis=axis)).axes
    first, second = (c for c in axes.collections if isinstance(c, PathCollection))
    assert np.asarray(first.get_offsets()) == pytest.approx(
        np.array([[-0.308, 0.10], [-0.092, 0.12], [0.692, 0.11]])
    )
    assert np.asarray(second.get_offsets())[:, 1] == pytest.approx([0.30, 0.34])
    assert not np.array_equal(first.get_facecolor(), second.get_facecolor())
    means = [float(bar.lines[0].get_xdata()[0]) for bar in axes.containers]
    assert means == pytest.approx([-0.2, 0.8, 0.2])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "10"]
    assert axes.get_xlabel() == "stride"
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["forces", "labels"]


def test_means_and_intervals() -> None:
    (axes,) = plot_errors(page()).axes
    ends = [bar.lines[2][0].get_segments()[0][:, 1] for bar in axes.containers]
    assert np.concatenate(ends) == pytest.approx([0.05, 0.17, 0.11, 0.11, 0, 0.6])


def test_the_floor_is_a_band() -> None:
    (axes,) = plot_errors(page(Floor(0.03, 0.05, 16))).axes
    (band,) = axes.patches
    low, high = band.get_window_extent().transformed(axes.transData.inverted()).intervaly
    assert (low, high) == pytest.approx((0.03, 0.05))
    assert not plot_errors(page()).axes[0].patches


def test_differences_are_from_the_baseline() -> None:
    (axes,) = plot_differences(page()).axes
    assert points(axes)[:, 1] == pytest.approx([0.01, 0.20, 0.22])
    assert len(axes.containers) == 2
