"""Figures of single structures: the reference's and the model's at the minima, as Cα traces."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cgfe.array_types import RealArray
from cgfe.data.beads import ONE_LETTER
from cgfe.geometry import superpose
from cgfe.report.plots import FAINT_COLOUR, minimum_letter
from cgfe.simulation.results import FreeEnergyResult

LONGEST_BOND = 5.0
"""Å; consecutive Cα further apart in the reference belong to different chains."""


def plot_traces(result: FreeEnergyResult) -> Figure:
    """Draw reference and model structures at the reference's minima as Cα traces.

    The model's structure is superposed onto the reference's (drawn faintly behind it), and both
    are seen along the axis in which the reference extends least. Colour runs from the first
    residue to the last.
    """
    count = len(result.structure_tics)
    letters = [ONE_LETTER.get(name, "X") for name in result.residue_names]
    figure = Figure(figsize=(max(2.6 * count, 3.0), 5.4), layout="constrained")
    panels = figure.subplots(2, count, squeeze=False)
    for column in range(count):
        top, bottom = panels[:, column]
        place = ", ".join(f"{tic:.2g}" for tic in result.structure_tics[column])
        reference, model = _in_view(
            result.reference_structures[column], result.model_structures[column]
        )
        bonded = _bonded(reference if reference is not None else model)
        top.set_title(f"reference, {minimum_letter(column)} ({place})", fontsize=9)
        if reference is None:
            _say(top, "no reference frame\nkept near this minimum")
        else:
            _draw_trace(top, reference, bonded, letters)
        bottom.set_title("model", fontsize=9)
        if model is None:
            _say(bottom, "no model frame\nnear this minimum")
        else:
            if reference is not None:
                deviation = np.sqrt(((model - reference) ** 2).sum(-1).mean())
                bottom.set_title(f"model, RMSD {deviation:.1f} Å", fontsize=9)
                _draw_bonds(bottom, reference, bonded, color=FAINT_COLOUR, alpha=0.35, lw=4)
            _draw_trace(bottom, model, bonded, letters)
        _share_window(top, bottom, [x for x in (reference, model) if x is not None])
    return figure


def _in_view(
    reference: RealArray, model: RealArray
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Superpose the model onto the reference and turn both so that depth is the last axis.

    A structure with NaN, one that was not found, becomes None.
    """
    bodies = [
        None if np.isnan(body).any() else (body - body.mean(axis=0)).astype(np.float64)
        for body in (reference, model)
    ]
    shown = [body for body in bodies if body is not None]
    if not shown:
        return None, None
    target = shown[0]
    axes = np.linalg.svd(target)[2].T
    axes[:, 2] *= np.sign(np.linalg.det(axes))  # no mirror image
    first, second = (b if b is None else superpose(b[None], target)[0] @ axes for b in bodies)
    return first, second


def _bonded(structure: RealArray | None) -> NDArray[np.bool_]:
    if structure is None:
        return np.zeros(0, bool)
    return np.linalg.norm(np.diff(structure, axis=0), axis=1) < LONGEST_BOND


def _draw_bonds(axes: Axes, structure: RealArray, bonded: NDArray[np.bool_], **style: Any) -> None:
    for bead in np.flatnonzero(bonded):
        axes.plot(*structure[bead : bead + 2, :2].T, solid_capstyle="round", zorder=1, **style)


def _draw_trace(
    axes: Axes, structure: RealArray, bonded: NDArray[np.bool_], letters: Sequence[str]
) -> None:
    _draw_bonds(axes, structure, bonded, color=mpl.rcParams["text.color"], lw=1.2)
    order = np.argsort(structure[:, 2])  # nearest beads last, so that they cover the others
    colours = mpl.colormaps["turbo"](np.linspace(0.08, 0.92, len(structure)))
    x, y = structure[order, :2].T
    axes.scatter(x, y, 110, colours[order], edgecolors="white", lw=0.7, zorder=2)
    for (x, y, _), letter in zip(structure, letters, strict=False):
        axes.text(x, y, letter, fontsize=7, color="black", ha="center", va="center", zorder=3)


def _share_window(top: Axes, bottom: Axes, structures: list[NDArray[np.float64]]) -> None:
    reach = max((abs(body[:, :2]).max() for body in structures), default=1.0) + 1.5
    for axes in (top, bottom):
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
        axes.spines[:].set_visible(False)


def _say(axes: Axes, sentence: str) -> None:
    axes.text(0.5, 0.5, sentence, transform=axes.transAxes, ha="center", va="center", fontsize=9)
