"""The figure that shows how well the prior fits the frames."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from cgfe.array_types import RealArray
from cgfe.model.prior import PriorEnergy
from cgfe.report.plots import FAINT_COLOUR, MODEL_COLOUR
from cgfe.units import thermal_energy

MAX_COORDINATES = 10
MAX_FRAMES = 50_000


_COORDINATES: dict[
    str, tuple[str, tuple[float, float] | None, Callable[[RealArray], RealArray]]
] = {
    "bonds": ("r, Å", None, np.square),
    "angles": ("cos θ", (-1.0, 1.0), np.ones_like),
    "dihedrals": ("φ, rad", (-np.pi, np.pi), np.ones_like),
}
"""Axis label, range (None: that of the data) and volume element of each term's coordinate."""


def plot_prior_fit(
    prior: PriorEnergy,
    positions: RealArray,
    temperature: float,
    weights: RealArray | None = None,
) -> Figure:
    """Draw the density of each bond, angle and dihedral beside its fitted Boltzmann density.

    The fitted density is J(q) exp(-V(q) / kT), normalised, with the volume element J = r² for
    bonds and 1 for cos θ and φ. Of more than ten coordinates, ten spread evenly are shown.

    Parameters
    ----------
    prior : PriorEnergy
    positions : array (F, N, 3)
        Å.
    temperature : float
        K.
    weights : array (F,), optional
        Frame weights.
    """
    stride = max(1, len(positions) // MAX_FRAMES)
    frames = torch.as_tensor(np.ascontiguousarray(positions[::stride]), dtype=torch.float32)
    shares = None if weights is None else weights[::stride]
    terms: dict[str, Any] = {
        name: prior.terms[name] for name in _COORDINATES if name in prior.terms
    }
    columns = min(max(len(term.index) for term in terms.values()), MAX_COORDINATES)
    figure = Figure(figsize=(1.45 * columns + 0.6, 1.9 * len(terms)), layout="constrained")
    panels = figure.subplots(len(terms), columns, squeeze=False)
    for line, (name, term) in zip(panels, terms.items(), strict=True):
        with torch.no_grad():
            values = term.coordinate(frames).double().numpy()
        number = values.shape[1]
        shown = np.linspace(0, number - 1, min(number, MAX_COORDINATES)).round().astype(int)
        for axes, which in zip(line, shown, strict=False):
            label, limits, volume = _COORDINATES[name]
            low, high = limits or _padded(values[:, which])
            grid = np.linspace(low, high, 400)
            with torch.no_grad():
                every = torch.from_numpy(grid)[:, None].expand(-1, number)
                energy = term.potential(every)[:, which].double().numpy()
            density = volume(grid) * np.exp(-(energy - energy.min()) / thermal_energy(temperature))
            density /= np.trapezoid(density, grid)
            axes.hist(values[:, which], bins=60, range=(low, high), weights=shares, density=True,
                      color=FAINT_COLOUR)  # fmt: skip
            axes.plot(grid, density, color=MODEL_COLOUR, lw=1.5)
            beads = "–".join(str(int(bead) + 1) for bead in term.index[which])
            axes.set_title(beads, fontsize=8)
            axes.set_yticks([])
            axes.set_xlabel(label, fontsize=8)
            axes.tick_params(labelsize=7)
        for axes in line[len(shown) :]:
            axes.set_axis_off()
        line[0].set_ylabel(name if len(shown) == number else f"{name}: {len(shown)} of {number}")
    figure.suptitle("prior: frames (grey) and fitted Boltzmann density (line)", fontsize=10)
    return figure


def _padded(values: RealArray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return low - 0.25 * (high - low), high + 0.25 * (high - low)
