"""Some runs of a sweep on shared axes: surfaces, structures, training."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cgfe.report.curves import curves_of
from cgfe.report.pages import figure
from cgfe.report.plots import (
    CEILING_KT,
    PRIOR_COLOUR,
    TERM_LABELS,
    colour_levels,
    draw_bins,
    free_energy_kt,
)
from cgfe.report.structure import plot_contacts, plot_distributions
from cgfe.simulation.results import FreeEnergyResult
from cgfe.simulation.structure import CONTACT

Named = Sequence[tuple[str, FreeEnergyResult]]
CURVES = ("force_mse", "mean_force_mse", "js")
PRIOR_MEAN_FORCES = "mean_force_mse_prior"
SAME = 1e-4
"""Relative; metrics are logged in single precision."""


@dataclass(frozen=True)
class ShownRun:
    """A run whose figures are shown.

    Attributes
    ----------
    name : str
        Its setting.
    seed : str
    result : FreeEnergyResult
        Of the same reference as those beside it.
    metrics : sequence of mapping
        Rows of metrics.csv; may be none.
    config : str
        Text of config.yaml; may be empty.
    system : str
        As its metrics name it; empty of the first one.
    """

    name: str
    seed: str
    result: FreeEnergyResult
    metrics: Sequence[Mapping[str, float]]
    config: str
    system: str = ""


def figures_of(runs: Sequence[ShownRun]) -> list[dict[str, str]]:
    """Return all figures of some runs, for a page; none of no runs."""
    if not runs:
        return []
    named = [(run.name, run.result) for run in runs]
    drawn: list[tuple[Callable[[], Figure], str]] = [
        (
            lambda: plot_surfaces_of(named),
            "Free-energy surfaces on the same axes and colours: the reference, and of each setting "
            "the run in the middle of its seeds",
        ),
        (lambda: plot_profiles_of(named), "Free energy along each TIC, of the same runs"),
    ]
    first = runs[0].result.structure_edges
    if len(first) and all(np.array_equal(r.structure_edges, first, True) for _, r in named):
        kinds = "all bonds, angles and dihedrals of a kind together"
        contacts = (
            f"Probability that beads three or more bonds apart are within {CONTACT:g} Å, and "
        )
        drawn += [
            (lambda: plot_distributions(named), f"Distributions of their structures, {kinds}"),
            (
                lambda: plot_contacts(named),
                f"{contacts}the runs’ differences (red: in contact too often)",
            ),
        ]
    if any(run.metrics for run in runs):
        noise = (
            "Training of the same runs, against the validation frames. The force MSE is of single "
            "frames’ forces, mostly thermal noise that no model can remove, so that a good one "
            "lies little below the line of the prior; the error of mean forces has no such noise."
        )
        drawn.append((lambda: plot_curves_of(runs), noise))
    return [figure(draw, caption) for draw, caption in drawn]


def plot_surfaces_of(runs: Named) -> Figure:
    """Draw the reference and the surfaces of named runs on the same axes and colour levels."""
    first = runs[0][1]
    named = [("reference", first.reference), *((name, run.model) for name, run in runs)]
    columns = min(len(named), 3)
    lines = -(-len(named) // columns)
    drawing = Figure(figsize=(3.4 * columns, 3.1 * lines), layout="constrained")
    panels = drawing.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    colours = mpl.colormaps["viridis"]
    norm = BoundaryNorm(colour_levels(free_energy_kt(first.reference)), colours.N, extend="max")
    for axes, (name, density) in zip(panels.flat, named, strict=False):
        mesh = draw_bins(axes, first, free_energy_kt(density), cmap=colours, norm=norm)
        axes.set_title(name, fontsize=9)
        axes.set(xlabel="TIC 1", ylabel="TIC 2")
    for axes in panels.flat[len(named) :]:
        axes.set_axis_off()
    drawing.colorbar(mesh, ax=panels, label="free energy, kT")
    return drawing


def plot_profiles_of(runs: Named) -> Figure:
    """Draw F along each TIC in kT above its minimum: the reference and named runs."""
    drawing = Figure(figsize=(8, 3.3), layout="constrained")
    panels = drawing.subplots(1, 2, sharey=True)
    first = runs[0][1]
    for tic, axes in enumerate(panels):
        centres = (first.edges[tic][:-1] + first.edges[tic][1:]) / 2
        reference = free_energy_kt(first.reference.sum(axis=1 - tic))
        colour = mpl.rcParams["text.color"]
        axes.plot(centres, reference, color=colour, lw=2.4, label="reference")
        for name, run in runs:
            axes.plot(centres, free_energy_kt(run.model.sum(axis=1 - tic)), lw=1.6, label=name)
        axes.set(xlabel=f"TIC {tic + 1}", xlim=first.edges[tic][[0, -1]])
    panels[0].set(ylabel="free energy, kT")
    panels[0].set_ylim(bottom=-0.2, top=min(panels[0].get_ylim()[1], CEILING_KT))
    panels[1].legend(frameon=False, fontsize=8)
    return drawing


def plot_curves_of(runs: Sequence[ShownRun]) -> Figure:
    """Draw force loss, error of mean forces and JS of each run against the epoch.

    The prior's line is drawn where it is known, and the same for all runs.
    """
    told = [_held_out(run) for run in runs]
    terms = [term for term in CURVES if any(term in curves for curves in told)]
    drawing = Figure(figsize=(3.6 * max(len(terms), 1), 2.9), layout="constrained")
    panels = drawing.subplots(1, max(len(terms), 1), squeeze=False).ravel()
    for axes, term in zip(panels, terms, strict=False):
        for number, (run, curves) in enumerate(zip(runs, told, strict=True)):
            if term in curves:
                epochs, values = np.array(curves[term]).T
                axes.plot(
                    epochs, values, label=run.name, color=f"C{number}", lw=1.5, marker="o", ms=3.5
                )
        priors = [_prior(run, curves, term) for run, curves in zip(runs, told, strict=True)]
        if np.ptp(priors) <= SAME * abs(priors[0]):
            axes.axhline(priors[0], color=PRIOR_COLOUR, ls="--", lw=1.2, label="prior alone")
        axes.set_title(TERM_LABELS[term], fontsize=9)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].legend(frameon=False, fontsize=8)
    return drawing


Curves = Mapping[str, Sequence[tuple[float, float]]]


def _held_out(run: ShownRun) -> Curves:
    """Return the curves of the validation frames, of the shown system where each has its own."""
    found = {}
    for term, series in curves_of(run.metrics).items():
        own = (run.system,) if run.system else ("validation", "first system")
        names = (*own, "validation") if term == "force_mse" else own
        points = next((series[name] for name in names if name in series), None)
        if points:
            found[term] = points
    return found


def _prior(run: ShownRun, curves: Curves, term: str) -> float:
    """Return what the prior alone has of a term, of the frames of its curve; NaN if not known."""
    if term == "force_mse":
        told = run.result.simulation.get("prior_force_mse")
        return math.nan if told is None else float(told)
    if term == "mean_force_mse" and PRIOR_MEAN_FORCES in curves:
        return curves[PRIOR_MEAN_FORCES][-1][1]
    if term == "js" and run.result.compared_with == "validation":
        return float(run.result.prior.get(term, math.nan))
    return math.nan
