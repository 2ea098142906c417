"""Figures of a comparison and of a training run.

Every function returns a matplotlib Figure that belongs to no window and no global state, so it
works without a display. Colours of text and frames follow matplotlib's rcParams (`DARK`).
"""

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from cgfe.array_types import RealArray
from cgfe.simulation.results import FreeEnergyResult

DARK: dict[str, Any] = {
    **{f"{part}.color": "#e4e7eb" for part in ("text", "xtick", "ytick")},
    **{f"axes.{part}color": "#e4e7eb" for part in ("edge", "label")},
    "figure.facecolor": "#171a1f",
    "savefig.facecolor": "#171a1f",
    "axes.facecolor": "#171a1f",
    "legend.facecolor": "#171a1f",
}
"""rcParams for figures on a dark page, to be used with `matplotlib.rc_context`."""

TERM_LABELS = {
    "loss": "loss",
    "force_mse": "force MSE, (kcal/mol/Å)²",
    "energy_mse": "energy MSE, (kcal/mol)²",
    "mean_energy_mse": "MSE of mean energies, (kcal/mol)²",
    "js": "JS divergence, nats",
    "js_train": "JS from the training frames, nats",
    "kl_reference_model": "KL(reference‖model), nats",
    "mse_kt2": "mean squared F error, kT²",
    "w1_tic1": "W1 along TIC 1, TIC units",
    "w1_tic2": "W1 along TIC 2, TIC units",
    "delta_f_kt": "error of F(folded) − F(unfolded), kT",
    "macrostate_error_kt": "mean error of F of macrostates, kT",
    "coverage": "coverage, share of reference",
    "outside": "outside the grid, share of frames",
    "blown_up": "blown up, share of replicas",
    "heating": "relative error of the kinetic temperature",
    "js_bonds": "JS of bond lengths, nats",
    "js_angles": "JS of angles, nats",
    "js_dihedrals": "JS of dihedrals, nats",
    "js_gyration": "JS of the radius of gyration, nats",
    "js_rmsd": "JS of the RMSD to the native structure, nats",
    "js_end_to_end": "JS of the end-to-end distance, nats",
    "js_tic3": "JS of TIC 3, nats",
    "contact_error": "mean error of contact probabilities",
    "mean_force_mse": "error of mean forces, (kcal/mol/Å)²",
    "mean_force_mse_prior": "prior's error of mean forces, (kcal/mol/Å)²",
    "split_half_js": "JS between halves of the replicas, nats",
}
"""Name and unit of each loss term and free-energy metric; a term of the user's own has its name."""

CEILING_KT = 12.0
"""Largest free energy that a colour or axis still tells apart."""
MODEL_COLOUR = "#e0701a"
PRIOR_COLOUR = "#4a8fd6"
MISSED_COLOUR = "#5f6670"
ALONE_COLOUR = "#d9b84a"
UNVISITED_COLOUR = "#8080804d"
FAINT_COLOUR = "#9a9a9a"


def plot_surfaces(result: FreeEnergyResult) -> Figure:
    """Draw reference, model, their difference, and the prior alone where there is one.

    Surfaces are -ln p in kT above their own minimum, on the same axes and colour levels. The
    difference is taken after aligning both by their mean over the bins that both visit.
    Letters mark the minima that `plot_traces` shows.
    """
    surfaces = {"reference": result.reference, "model": result.model}
    if result.prior_density is not None:
        surfaces["prior alone"] = result.prior_density
    energies = {name: free_energy_kt(density) for name, density in surfaces.items()}
    figure = Figure(figsize=(8, 6.6) if len(energies) > 2 else (11, 3.6), layout="constrained")
    panels = figure.subplots(*((2, 2) if len(energies) > 2 else (1, 3)), sharex=True, sharey=True)
    *surface_panels, difference = panels.flat
    colours = mpl.colormaps["viridis"]
    norm = BoundaryNorm(colour_levels(energies["reference"]), colours.N, extend="max")
    for axes, (name, energy) in zip(surface_panels, energies.items(), strict=True):
        mesh = draw_bins(axes, result, energy, cmap=colours, norm=norm)
        axes.set_title(name)
    figure.colorbar(mesh, ax=surface_panels[1], label="free energy, kT")
    _draw_difference(figure, difference, result, energies)
    for axes in panels.flat:
        axes.set(xlabel="TIC 1", ylabel="TIC 2")
        axes.label_outer()
        if axes is not difference:
            _mark_minima(axes, result.structure_tics)
    return figure


def plot_profiles(result: FreeEnergyResult) -> Figure:
    """Draw F along each TIC in kT above its minimum: reference, model, prior alone."""
    figure = Figure(figsize=(8, 3.3), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    lines: list[tuple[str, NDArray[np.float64] | None, dict[str, Any]]] = [
        ("prior alone", result.prior_density, {"color": PRIOR_COLOUR, "lw": 1.4, "ls": "--"}),
        ("reference", result.reference, {"color": mpl.rcParams["text.color"], "lw": 2.4}),
        ("model", result.model, {"color": MODEL_COLOUR, "lw": 1.8}),
    ]
    for tic, axes in enumerate(panels):
        centres = (result.edges[tic][:-1] + result.edges[tic][1:]) / 2
        for name, density, style in lines:
            if density is not None:
                axes.plot(centres, free_energy_kt(density.sum(axis=1 - tic)), label=name, **style)
        axes.set(xlabel=f"TIC {tic + 1}", xlim=result.edges[tic][[0, -1]])
    panels[0].set(ylabel="free energy, kT")
    panels[0].set_ylim(bottom=-0.2, top=min(panels[0].get_ylim()[1], CEILING_KT))
    panels[1].legend(frameon=False)
    return figure


def free_energy_kt(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return -ln p above its minimum; NaN where p is zero."""
    energy = np.full(probability.shape, np.nan)
    visited = probability > 0
    if visited.any():
        energy[visited] = -np.log(probability[visited] / probability[visited].max())
    return energy


def colour_levels(reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return colour levels in steps of half a kT over the reference's range."""
    top = np.nanmax(np.ceil(reference), initial=1.0)
    return np.arange(0, min(top, CEILING_KT) + 0.25, 0.5)


def draw_bins(axes: Axes, result: FreeEnergyResult, values: RealArray, **style: Any) -> Any:
    """Draw values (n1, n2) of the grid's bins, none where they are NaN; return the mesh."""
    mesh = axes.pcolormesh(*result.edges, np.ma.masked_invalid(values).T, rasterized=True, **style)
    axes.set_xlim(*result.edges[0][[0, -1]])
    axes.set_ylim(*result.edges[1][[0, -1]])
    return mesh


def _draw_difference(
    figure: Figure, axes: Axes, result: FreeEnergyResult, energies: dict[str, NDArray[np.float64]]
) -> None:
    difference = energies["model"] - energies["reference"]
    common = np.isfinite(difference)
    limit = 1.0
    if common.any():
        difference -= difference[common].mean()
        limit = float(np.clip(np.ceil(np.quantile(abs(difference[common]), 0.98)), 1, 6))
    mesh = draw_bins(axes, result, difference, cmap="RdBu_r", vmin=-limit, vmax=limit)
    figure.colorbar(mesh, ax=axes, label="model − reference, kT", extend="both")
    # A bin where the surfaces agree is white, so a bin that nobody visits must not be.
    axes.set_facecolor(UNVISITED_COLOUR)
    legend = []
    for label, colour, only in (
        ("missed by the model", MISSED_COLOUR, (result.reference > 0) & ~(result.model > 0)),
        ("model alone", ALONE_COLOUR, (result.model > 0) & ~(result.reference > 0)),
    ):
        if only.any():
            flat = ListedColormap([colour])
            draw_bins(axes, result, np.where(only, 0.0, np.nan), cmap=flat)
            legend.append(Patch(facecolor=colour, label=label))
    axes.set_title("difference")
    if legend:
        axes.legend(handles=legend, fontsize=7, loc="best")


def minimum_letter(index: int) -> str:
    """Return what the minimum with this index is called."""
    return chr(ord("A") + index)


def _mark_minima(axes: Axes, tics: RealArray) -> None:
    for index, (first, second) in enumerate(tics):
        axes.text(
            first, second, minimum_letter(index), color="white", fontsize=9, weight="bold",
            ha="center", va="center", path_effects=[withStroke(linewidth=2, foreground="black")],
        )  # fmt: skip
