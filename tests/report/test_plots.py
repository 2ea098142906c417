"""Figures show the numbers they were given: values, axes, levels, and what is missing."""

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from cgfe.model.prior import PriorEnergy
from cgfe.report.curves import plot_curves
from cgfe.report.plots import (
    DARK,
    plot_profiles,
    plot_surfaces,
)
from cgfe.report.prior_plots import plot_prior_fit
from cgfe.report.traces import plot_traces
from cgfe.simulation.results import FreeEnergyResult

EDGES = (np.linspace(-3, 3, 31), np.linspace(-2, 2, 21))
CENTRES = tuple((edges[:-1] + edges[1:]) / 2 for edges in EDGES)
SEQUENCE = ("TYR", "TYR", "ASP", "PRO", "GLU", "THR", "GLY", "THR", "TRP", "XYZ")
HAIRPIN = np.array(
    [[3.3 * min(i, 9 - i), 5.0 * (i > 4), 1.5 * np.sin(i)] for i in range(10)], np.float32
)


def gaussian(first: float, second: float, cut: float = 1e-5) -> np.ndarray:
    """Return a Gaussian density around (first, second); bins below `cut` are empty."""
    grid = np.meshgrid(*CENTRES, indexing="ij")
    density = np.exp(-((grid[0] - first) ** 2) / 0.5 - (grid[1] - second) ** 2 / 0.5)
    density[density < cut] = 0
    return density / density.sum()


@pytest.fixture
def result() -> FreeEnergyResult:
    missing = np.full_like(HAIRPIN, np.nan)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    return FreeEnergyResult(
        system="chignolin",
        metrics={},
        floor={},
        prior={},
        simulation={},
        edges=EDGES,
        reference=0.6 * gaussian(-1.5, 0) + 0.4 * gaussian(1.5, 0.5),
        model=gaussian(-1.5, 0),
        prior_density=gaussian(0, 0, cut=1e-9),
        residue_names=SEQUENCE,
        structure_tics=np.array([[-1.5, 0], [1.5, 0.5], [0, 0]]),
        reference_structures=np.stack([HAIRPIN, HAIRPIN, missing]),
        model_structures=np.stack([(HAIRPIN @ turn + 20).astype(np.float32), missing, missing]),
    )


def panels(figure: Figure) -> dict[str, mpl.axes.Axes]:
    figure.canvas.draw()
    return {axes.get_title(): axes for axes in figure.axes if axes.get_title()}


def mesh(axes: mpl.axes.Axes) -> np.ma.MaskedArray:
    """Return the first colour mesh's values as (n1, n2)."""
    return axes.collections[0].get_array().T


def test_surfaces_share_axes_and_levels_and_show_minus_ln_p(result: FreeEnergyResult) -> None:
    shown = panels(plot_surfaces(result))
    assert list(shown) == ["reference", "model", "prior alone", "difference"]
    meshes = [shown[name].collections[0] for name in ("reference", "model", "prior alone")]
    assert len({tuple(m.norm.boundaries) for m in meshes}) == 1
    for axes in shown.values():
        assert axes.get_xlim() == (-3, 3)
        assert axes.get_ylim() == (-2, 2)
    values = mesh(shown["reference"])
    assert (values.mask == (result.reference == 0)).all()
    ratio = result.reference[5, 10] / result.reference.max()
    assert values[5, 10] == pytest.approx(-np.log(ratio))
    assert values.min() == 0


def test_difference_is_aligned_over_common_bins_and_names_missed_ones(
    result: FreeEnergyResult,
) -> None:
    shown = panels(plot_surfaces(replace(result, prior_density=None)))
    assert list(shown) == ["reference", "model", "difference"]
    values = mesh(shown["difference"])
    common = (result.reference > 0) & (result.model > 0)
    assert (values.mask == ~common).all()
    expected = -np.log(result.model[common] / result.reference[common])
    np.testing.assert_allclose(values[common], expected - expected.mean(), atol=1e-12)
    labels = [text.get_text() for text in shown["difference"].get_legend().get_texts()]
    assert labels == ["missed by the model"]
    same = panels(plot_surfaces(replace(result, model=result.reference)))["difference"]
    assert same.get_legend() is None
    assert abs(mesh(same)).max() < 1e-12


@pytest.mark.parametrize("density", [np.zeros((30, 20)), np.full((30, 20), np.nan)])
def test_a_model_without_frames_still_gives_figures(
    result: FreeEnergyResult, density: np.ndarray
) -> None:
    empty = replace(result, model=density)
    assert mesh(panels(plot_surfaces(empty))["model"]).mask.all()
    plot_profiles(empty).canvas.draw()


def test_profiles_are_marginal_free_energies(result: FreeEnergyResult) -> None:
    figure = plot_profiles(result)
    for tic, axes in enumerate(figure.axes):
        lines = {line.get_label(): line for line in axes.lines}
        assert set(lines) == {"reference", "model", "prior alone"}
        marginal = result.model.sum(axis=1 - tic)
        np.testing.assert_allclose(lines["model"].get_xdata(), CENTRES[tic])
        finite = marginal > 0
        drawn = lines["model"].get_ydata()
        np.testing.assert_allclose(drawn[finite], -np.log(marginal[finite] / marginal.max()))
        assert np.isnan(drawn[~finite]).all()
    assert len(plot_profiles(replace(result, prior_density=None)).axes[0].lines) == 2


def test_structures_are_superposed_and_missing_ones_are_named(result: FreeEnergyResult) -> None:
    figure = plot_traces(result)
    top, bottom = figure.axes[:3], figure.axes[3:]
    # The model's frame is the reference's, turned and moved: superposed they are the same.
    assert bottom[0].get_title() == "model, RMSD 0.0 Å"
    beads = [np.sort(axes.collections[0].get_offsets(), axis=0) for axes in (top[0], bottom[0])]
    np.testing.assert_allclose(*beads, atol=1e-3)
    letters = [text.get_text() for text in top[0].texts]
    assert "".join(letters) == "YYDPETGTWX"
    said = [axes.texts[0].get_text() for axes in (bottom[1], top[2], bottom[2])]
    assert [text.split()[1] for text in said] == ["model", "reference", "model"]
    assert top[0].get_xlim() == bottom[0].get_xlim()
    assert top[0].get_title() == "reference, A (-1.5, 0)"
    # A mirror image is another structure, not a superposition.
    mirror = result.model_structures * np.array([-1, 1, 1], np.float32)
    title = plot_traces(replace(result, model_structures=mirror)).axes[3].get_title()
    assert float(title.split()[2]) > 0.5


def test_structures_are_seen_along_their_shortest_axis(result: FreeEnergyResult) -> None:
    """Seen along the shortest axis, the plane holds the two largest principal variances."""
    beads = plot_traces(result).axes[0].collections[0].get_offsets()
    variances = np.linalg.eigvalsh(np.cov(HAIRPIN.T))[::-1]
    np.testing.assert_allclose(beads.var(axis=0, ddof=1), variances[:2], rtol=1e-4)


def test_curves_sort_columns_into_panels() -> None:
    rows = [
        {"epoch": 0.0, "step": 9.0, "train/force_mse": 900.0, "validation/force_mse": 920.0,
         "free_energy/js": 0.5, "free_energy/ww/js": 0.6, "free_energy/seconds": 3.0, "lr": 1e-3},
        {"epoch": 1.0, "step": 19.0, "train/force_mse": 10.0, "free_energy/js": 0.3,
         "free_energy/delta_f_kt": float("nan")},
    ]  # fmt: skip
    shown = panels(plot_curves(rows))
    assert list(shown) == ["force MSE, (kcal/mol/Å)²", "JS divergence, nats"]
    force, js = shown.values()
    assert {line.get_label() for line in force.lines} == {"train", "validation"}
    train = next(line for line in force.lines if line.get_label() == "train")
    np.testing.assert_array_equal(train.get_xydata(), [[0, 900], [1, 10]])
    assert force.get_yscale() == "log"
    assert js.get_yscale() == "linear"
    assert {line.get_label(): len(line.get_xdata()) for line in js.lines} == {
        "first system": 2,
        "ww": 1,
    }
    assert not panels(plot_curves([]))


def test_curves_have_the_priors_level_beside_them() -> None:
    rows = [
        {"epoch": float(n), "step": float(n), "validation/force_mse": 70.0 - n,
         "validation/mean_force_mse": 5.0 - n, "validation/mean_force_mse_prior": 8.5}
        for n in range(3)
    ]  # fmt: skip
    shown = panels(plot_curves(rows, {"force_mse": 74.0}))
    assert list(shown) == ["force MSE, (kcal/mol/Å)²", "error of mean forces, (kcal/mol/Å)²"]
    for axes, level in zip(shown.values(), (74.0, 8.5), strict=True):
        (prior,) = (line for line in axes.lines if line.get_label() == "prior alone")
        assert set(prior.get_ydata()) == {level}


def test_dark_style_changes_only_colours(result: FreeEnergyResult) -> None:
    light = plot_profiles(result)
    with mpl.rc_context(DARK):
        dark = plot_profiles(result)
    assert dark.get_facecolor() != light.get_facecolor()
    by_style = [figure.axes[0].lines[1] for figure in (light, dark)]
    assert by_style[0].get_color() != by_style[1].get_color()
    np.testing.assert_array_equal(by_style[0].get_xydata(), by_style[1].get_xydata())


def chains(frames: int, beads: int) -> np.ndarray:
    """Return chains with r ~ N(3.8, 0.1) Å, cos θ ~ N(-0.1, 0.1) and uniform dihedrals."""
    random = np.random.default_rng(0)
    direction, side = np.tile([[1.0, 0, 0]], (frames, 1)), np.tile([[0, 1.0, 0]], (frames, 1))
    positions = [np.zeros((frames, 3))]
    for _ in range(beads - 1):
        positions.append(positions[-1] + random.normal(3.8, 0.1, (frames, 1)) * direction)
        turn = random.uniform(-np.pi, np.pi, (frames, 1))
        normal = np.cos(turn) * side + np.sin(turn) * np.cross(direction, side)
        cosine = random.normal(-0.1, 0.1, (frames, 1))
        sine = np.sqrt(1 - cosine**2)
        direction, side = -cosine * direction + sine * normal, sine * direction + cosine * normal
    return np.stack(positions, axis=1).astype(np.float32)


def bonds_of(beads: int) -> np.ndarray:
    return np.stack([np.arange(beads - 1), np.arange(1, beads)], axis=1)


def test_prior_fit_draws_the_normalised_boltzmann_density() -> None:
    frames = chains(4000, 5)
    weights = np.random.default_rng(1).uniform(0.5, 1.5, len(frames))
    prior = PriorEnergy.fit(frames, bonds_of(5), 300.0, weights)
    shown = panels(plot_prior_fit(prior, frames, 300.0, weights))
    assert [title.count("–") for title in shown] == [1, 1, 1, 1, 2, 2, 2, 3, 3]

    def normal(x: np.ndarray, mean: float) -> np.ndarray:
        return np.exp(-(((x - mean) / 0.1) ** 2) / 2) / 0.1 / np.sqrt(2 * np.pi)

    for title, axes in shown.items():
        grid, density = axes.lines[0].get_data()
        assert np.trapezoid(density, grid) == pytest.approx(1)
        assert sum(bar.get_width() * bar.get_height() for bar in axes.patches) == pytest.approx(1)
        known = [normal(grid, 3.8), normal(grid, -0.1), 1 / (2 * np.pi)][title.count("–") - 1]
        # 3700 effective frames: standard errors of a mean 1.6 % of sigma, of a width 1.2 %, of a
        # Fourier component 2.3 %; three of each together move less than 0.1 of the area.
        assert np.trapezoid(abs(density - known), grid) < 0.1


def test_prior_fit_of_a_long_chain_says_how_many_it_shows() -> None:
    frames = chains(500, 20)
    figure = plot_prior_fit(PriorEnergy.fit(frames, bonds_of(20), 300.0), frames, 300.0)
    assert len(figure.axes) == 30
    assert figure.axes[0].get_ylabel() == "bonds: 10 of 19"
