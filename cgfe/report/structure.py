"""Figures of the model's structures beside the sampled ones: distributions and contacts."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from cgfe.data.beads import ONE_LETTER
from cgfe.report.plots import MODEL_COLOUR
from cgfe.simulation.results import FreeEnergyResult

LABELS = (
    "bond length, Å",
    "angle, degrees",
    "dihedral, degrees",
    "radius of gyration, Å",
    "RMSD to the native structure, Å",
    "end-to-end distance, Å",
    "TIC 3",
)
"""Of `cgfe.simulation.structure.QUANTITIES`."""
MOST_LETTERS = 40
"""Residues above which numbers stand in their place."""


def plot_distributions(models: Sequence[tuple[str, FreeEnergyResult]]) -> Figure:
    """Draw the density of each quantity that the system has, sampled and of named models of it."""
    first = models[0][1]
    known = np.flatnonzero(np.isfinite(first.structure_edges).all(axis=1))
    columns = min(3, len(known))
    lines = -(-len(known) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.6 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    colours = [MODEL_COLOUR] if len(models) == 1 else [f"C{k}" for k in range(len(models))]
    for axes, row in zip(panels, known, strict=False):
        edges = first.structure_edges[row]
        sampled = first.structure_reference[row]
        axes.stairs(sampled, edges, color=mpl.rcParams["text.color"], lw=2, label="reference")
        for colour, (name, result) in zip(colours, models, strict=True):
            axes.stairs(result.structure_model[row], edges, color=colour, lw=1.5, label=name)
        axes.set(xlabel=LABELS[row], yticks=[])
        axes.set_ylim(bottom=0)
    panels[0].legend(frameon=False, fontsize=8)
    for axes in panels[len(known) :]:
        axes.set_axis_off()
    return figure


def plot_contacts(models: Sequence[tuple[str, FreeEnergyResult]]) -> Figure:
    """Draw the reference's probabilities of contacts, and each model's minus these.

    A single model's own probabilities stand between them.
    """
    first = models[0][1]
    probability: dict[str, Any] = {"cmap": "viridis", "vmin": 0, "vmax": 1}
    drawn = [("reference", first.contacts_reference, probability)]
    if len(models) == 1:
        drawn.append((models[0][0], first.contacts_model, probability))
    differences = [result.contacts_model - first.contacts_reference for _, result in models]
    reach = max(float(np.nanmax(np.abs(each), initial=0.05)) for each in differences)
    style: dict[str, Any] = {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}
    for (name, _), each in zip(models, differences, strict=True):
        drawn.append((f"{name} − reference", each, style))
    lines = -(-len(drawn) // 3)
    columns = -(-len(drawn) // lines)
    figure = Figure(figsize=(10 / 3 * columns, 3.6 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    letters = [ONE_LETTER.get(name, "X") for name in first.residue_names]
    for axes, (title, values, colours) in zip(panels, drawn, strict=False):
        image = axes.imshow(np.ma.masked_invalid(values), origin="lower", **colours)
        axes.set_title(title, fontsize=9)
        if len(letters) <= MOST_LETTERS:
            axes.set_xticks(range(len(letters)), letters, fontsize=7)
            axes.set_yticks(range(len(letters)), letters, fontsize=7)
        figure.colorbar(image, ax=axes, shrink=0.8)
    for axes in panels[len(drawn) :]:
        axes.set_axis_off()
    return figure
