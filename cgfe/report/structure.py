"""Figures of the model's structures beside the sampled ones: distributions and contacts."""

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


def plot_distributions(result: FreeEnergyResult) -> Figure:
    """Draw the density of each quantity that the system has, sampled and of the model."""
    known = np.flatnonzero(np.isfinite(result.structure_edges).all(axis=1))
    columns = min(3, len(known))
    lines = -(-len(known) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.6 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, row in zip(panels, known, strict=False):
        edges = result.structure_edges[row]
        sampled, model = result.structure_reference[row], result.structure_model[row]
        axes.stairs(sampled, edges, color=mpl.rcParams["text.color"], lw=2, label="reference")
        axes.stairs(model, edges, color=MODEL_COLOUR, lw=1.5, label="model")
        axes.set(xlabel=LABELS[row], yticks=[])
        axes.set_ylim(bottom=0)
    panels[0].legend(frameon=False, fontsize=8)
    for axes in panels[len(known) :]:
        axes.set_axis_off()
    return figure


def plot_contacts(result: FreeEnergyResult) -> Figure:
    """Draw the probabilities of contacts, and the model's minus the reference's."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    letters = [ONE_LETTER.get(name, "X") for name in result.residue_names]
    difference = result.contacts_model - result.contacts_reference
    reach = float(np.nanmax(np.abs(difference), initial=0.05))
    for axes, (title, values, style) in zip(
        panels,
        (
            ("reference", result.contacts_reference, {"cmap": "viridis", "vmin": 0, "vmax": 1}),
            ("model", result.contacts_model, {"cmap": "viridis", "vmin": 0, "vmax": 1}),
            ("model − reference", difference, {"cmap": "RdBu_r", "vmin": -reach, "vmax": reach}),
        ),
        strict=True,
    ):
        image = axes.imshow(np.ma.masked_invalid(values), origin="lower", **style)
        axes.set_title(title, fontsize=9)
        if len(letters) <= MOST_LETTERS:
            axes.set_xticks(range(len(letters)), letters, fontsize=7)
            axes.set_yticks(range(len(letters)), letters, fontsize=7)
        figure.colorbar(image, ax=axes, shrink=0.8)
    return figure
