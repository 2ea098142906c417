"""Figures of several runs on shared axes show the numbers they were given."""

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from cgfe.report.several import (
    ShownRun,
    figures_of,
    plot_curves_of,
    plot_profiles_of,
    plot_surfaces_of,
)
from cgfe.report.structure import LABELS, plot_contacts, plot_distributions
from cgfe.simulation.results import FreeEnergyResult

EDGES = (np.linspace(-3, 3, 31), np.linspace(-2, 2, 21))
ROWS = [
    {"epoch": 0.0, "step": 1.0, "train/force_mse": 90.0, "validation/force_mse": 70.0},
    {"epoch": 1.0, "step": 2.0, "validation/force_mse": 68.0, "free_energy/js": 0.3},
    {"epoch": 1.0, "step": 3.0, "validation/mean_force_mse": 4.0, "final/js": 0.2},
    {"epoch": 1.0, "step": 4.0, "validation/mean_force_mse_prior": 8.9},
]


def gaussian(first: float, second: float) -> np.ndarray:
    """Return a Gaussian density around (first, second); bins below 1e-5 are empty."""
    centres = [(edges[:-1] + edges[1:]) / 2 for edges in EDGES]
    grid = np.meshgrid(*centres, indexing="ij")
    density = np.exp(-((grid[0] - first) ** 2) / 0.5 - (grid[1] - second) ** 2 / 0.5)
    density[density < 1e-5] = 0
    return density / density.sum()


def made(first: float) -> FreeEnergyResult:
    kinds, bins = len(LABELS), 5
    shape = np.roll(np.arange(1.0, bins + 1), round(first)) / 15
    edges = np.tile(np.arange(bins + 1.0), (kinds, 1))
    edges[4] = np.nan  # no native structure
    contacts = np.full((3, 3), 0.5)
    return FreeEnergyResult(
        system="made",
        metrics={},
        floor={},
        prior={"js": 0.4, "mean_force_mse": 8.5},
        simulation={"prior_force_mse": 74.0},
        edges=EDGES,
        reference=gaussian(-1.5, 0),
        model=gaussian(first, 0.5),
        residue_names=("TYR", "GLY", "ALA"),
        structure_edges=edges,
        structure_reference=np.full((kinds, bins), 0.2),
        structure_model=np.tile(shape, (kinds, 1)),
        contacts_reference=contacts,
        contacts_model=contacts + 0.1 * first,
    )


NAMED = [("weight 0", made(-1.0)), ("weight 1", made(2.0))]
RUNS = [ShownRun(name, "3", result, ROWS, "seed_everything: 3\n") for name, result in NAMED]


def panels(figure: Figure) -> dict[str, mpl.axes.Axes]:
    figure.canvas.draw()
    return {axes.get_title(): axes for axes in figure.axes if axes.get_title()}


def test_surfaces_and_profiles() -> None:
    shown = panels(plot_surfaces_of(NAMED))
    assert list(shown) == ["reference", "weight 0", "weight 1"]
    norms = [axes.collections[0].norm for axes in shown.values()]
    assert all((norm.boundaries == norms[0].boundaries).all() for norm in norms)
    model = NAMED[1][1].model
    found = shown["weight 1"].collections[0].get_array().T
    known = model > 0
    assert (found.mask == ~known).all()
    np.testing.assert_allclose(found[known], -np.log(model[known] / model.max()))
    assert len({axes.get_xlim() for axes in shown.values()}) == 1
    first, second = plot_profiles_of(NAMED).axes
    assert [line.get_label() for line in second.lines] == ["reference", "weight 0", "weight 1"]
    along = model.sum(axis=1)
    drawn = np.asarray(first.lines[2].get_ydata())
    np.testing.assert_allclose(drawn[along > 0], -np.log(along[along > 0] / along.max()))


def test_structures_of_every_run_stand_beside_the_reference() -> None:
    shown = [axes for axes in plot_distributions(NAMED).axes if axes.axison]
    assert len(shown) == len(LABELS) - 1
    for axes in shown:
        steps = {patch.get_label(): patch.get_data().values for patch in axes.patches}
        assert list(steps) == ["reference", "weight 0", "weight 1"]
        for name, result in NAMED:
            np.testing.assert_allclose(steps[name], result.structure_model[0])
        assert len({patch.get_edgecolor() for patch in axes.patches}) == 3
    contacts = panels(plot_contacts(NAMED))
    assert list(contacts) == ["reference", "weight 0 − reference", "weight 1 − reference"]
    drawn = [axes.images[0] for axes in contacts.values()]
    np.testing.assert_allclose(drawn[1].get_array(), -0.1)
    np.testing.assert_allclose(drawn[2].get_array(), 0.2)
    assert drawn[1].get_clim() == drawn[2].get_clim() == pytest.approx((-0.2, 0.2))


def curves(*runs: ShownRun) -> list[dict[str, list[float]]]:
    """Return of each panel the heights of each line."""
    shown = panels(plot_curves_of(runs))
    return [{x.get_label(): [*x.get_ydata()] for x in axes.lines} for axes in shown.values()]


def test_curves_are_of_validation_beside_the_prior() -> None:
    force, mean, js = curves(RUNS[0], replace(RUNS[1], metrics=ROWS[:1]))
    assert force == {"weight 0": [70, 68], "weight 1": [70], "prior alone": [74, 74]}
    assert mean == {"weight 0": [4]}  # the other's prior is not known
    assert js == {"weight 0": [0.3], "prior alone": [0.4, 0.4]}
    # Not the prior's error of the last simulation's frames, where these are others.
    tested = replace(made(0.0), compared_with="test", simulation={"prior_force_mse": 75.0})
    force, mean, js = curves(RUNS[0], replace(RUNS[1], result=tested))
    assert "prior alone" not in {*force, *js}
    assert mean["prior alone"] == [8.9, 8.9]


def test_curves_are_of_the_system_that_is_shown() -> None:
    rows = [
        {"epoch": 0.0, "step": 1.0, "free_energy/js": 0.3, "free_energy/helix/js": 0.2},
        {"epoch": 0.0, "step": 1.0, "validation/force_mse": 70.0},
    ]
    force, js = curves(replace(RUNS[0], metrics=rows, system="helix"))
    assert (force["weight 0"], js["weight 0"]) == ([70], [0.2])


def test_what_runs_do_not_have_is_not_drawn() -> None:
    assert figures_of([]) == []
    assert len(figures_of(RUNS)) == 5
    assert len(figures_of([replace(run, metrics=[]) for run in RUNS])) == 4
    other = replace(NAMED[1][1], structure_edges=2 * NAMED[1][1].structure_edges)
    assert len(figures_of([RUNS[0], replace(RUNS[1], result=other)])) == 3
