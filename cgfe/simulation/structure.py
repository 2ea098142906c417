"""Distributions of bonds, angles, dihedrals, size and RMSD, and contacts: model beside sampled."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cgfe.analysis.metrics import js_divergence
from cgfe.array_types import FloatArray, IntArray, RealArray
from cgfe.geometry import rmsd
from cgfe.model.prior import bond_graph_paths
from cgfe.model.prior_terms import angle_cosines, dihedral_angles, distances
from cgfe.reference.system import BeadSystem
from cgfe.simulation.results import FreeEnergyResult

QUANTITIES = ("bonds", "angles", "dihedrals", "gyration", "rmsd", "end_to_end")
"""Å, degrees, degrees, Å, Å, Å; rows of the arrays. Those of a kind are taken together."""
ERRORS = (*(f"js_{name}" for name in QUANTITIES), "contact_error")
"""Metrics of `structure_errors`."""
BINS = 100
MARGIN = 0.1
"""Share of the range of the sampled frames that bins reach beyond it on each side."""
CONTACT = 8.0
"""Å between beads three or more bonds apart, up to which they are in contact."""
MOST_FRAMES = 20_000

Arrays = dict[str, NDArray[np.float64]]
Coordinate = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def compare_structure(
    system: BeadSystem,
    sampled: RealArray,
    weights: FloatArray,
    model: RealArray,
    model_weights: FloatArray | None = None,
) -> Arrays:
    """Return what a report draws of the structures of two ensembles.

    Parameters
    ----------
    system : BeadSystem
    sampled : array (F, N, 3)
        Å.
    weights : array (F,)
        Of the sampled frames.
    model : array (M, N, 3)
        At most 20,000 of these, evenly spaced, are looked at.
    model_weights : array (M,), optional
        1 each by default.

    Returns
    -------
    dict of arrays
        `structure_edges` (6, B + 1), over what the sampled frames have and a tenth more on each
        side, so that all models are told by the same bins; `structure_reference` and
        `structure_model` (6, B), densities of `QUANTITIES`, the model's with less than 1 as its
        integral where it is outside; NaN where the system has no such quantity;
        `contacts_reference`, `contacts_model` (N, N), probabilities, NaN for near beads. Empty
        where either ensemble has no frame.
    """
    step = max(1, -(-len(model) // MOST_FRAMES))
    own = model[::step]
    own_weights = np.ones(len(own)) if model_weights is None else model_weights[::step]
    if not (len(own) and weights.sum() > 0 and own_weights.sum() > 0):
        return {}
    both = (_Frames(system, sampled, weights), _Frames(system, own, own_weights))
    shape = (len(QUANTITIES), BINS)
    edges = np.full((shape[0], BINS + 1), np.nan)
    densities = [np.full(shape, np.nan) for _ in both]
    for row, name in enumerate(QUANTITIES):
        values = [frames.values(name) for frames in both]
        if values[0].size == 0:
            continue
        edges[row] = np.linspace(*_range(values[0]), BINS + 1)
        for density, found, frames in zip(densities, values, both, strict=True):
            repeated = np.repeat(frames.weights, found.shape[1])
            density[row] = np.histogram(found.ravel(), edges[row], weights=repeated)[0]
            density[row] /= repeated.sum() * (edges[row][1] - edges[row][0])
    return {
        "structure_edges": edges,
        "structure_reference": densities[0],
        "structure_model": densities[1],
        "contacts_reference": both[0].contacts(),
        "contacts_model": both[1].contacts(),
    }


def structure_errors(arrays: Arrays) -> dict[str, float]:
    """Return how far the structures of two ensembles are apart, of what `compare_structure` found.

    Returns
    -------
    dict
        `js_<quantity>`, the Jensen-Shannon divergence of its distributions in the bins of
        `compare_structure` and one more, of what is outside; `contact_error`, the mean absolute
        difference of contact probabilities. NaN of what the system lacks, and of all where an
        ensemble has no frame.
    """
    errors = dict.fromkeys(ERRORS, float("nan"))
    if not arrays:
        return errors
    widths = np.diff(arrays["structure_edges"], axis=1)
    sampled, model = (_shares(arrays[f"structure_{x}"] * widths) for x in ("reference", "model"))
    for row, name in enumerate(QUANTITIES):
        errors[f"js_{name}"] = js_divergence(sampled[row], model[row])
    apart = abs(arrays["contacts_model"] - arrays["contacts_reference"])
    if (known := np.isfinite(apart)).any():
        errors["contact_error"] = float(apart[known].mean())
    return errors


def with_structures(
    result: FreeEnergyResult, model: Arrays, training: Arrays | None
) -> FreeEnergyResult:
    """Return a result with distributions and contacts, and the errors of these.

    Parameters
    ----------
    result : FreeEnergyResult
    model, training : dict of arrays
        The model's structures and those of the training frames, beside the same frames.
    """
    drawn: dict[str, Any] = {**model}
    return replace(
        result,
        metrics=result.metrics | structure_errors(model),
        training=result.training | ({} if training is None else structure_errors(training)),
        **drawn,
    )


def _shares(inside: FloatArray) -> FloatArray:
    """Return shares (Q, B) of bins with what is outside of them as one more."""
    outside = (1 - inside.sum(axis=1, keepdims=True)).clip(min=0)
    return np.concatenate([inside, outside], axis=1)


def _range(values: FloatArray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = MARGIN * (high - low) if high > low else 0.5
    return low - margin, high + margin


class _Frames:
    """Frames (F, N, 3) of a system, with weights (F,)."""

    def __init__(self, system: BeadSystem, positions: RealArray, weights: FloatArray) -> None:
        self.system, self.positions, self.weights = system, positions, weights
        self.paths = bond_graph_paths(system.bonds, positions.shape[1])

    def values(self, name: str) -> FloatArray:
        """Return a quantity (F, K) of each frame."""
        if name == "gyration":
            centred = self.positions - self.positions.mean(axis=1, keepdims=True)
            return np.sqrt((centred.astype(np.float64) ** 2).sum(axis=2).mean(axis=1))[:, None]
        if name == "end_to_end":
            ends = self.positions[:, -1] - self.positions[:, 0]
            return np.linalg.norm(ends.astype(np.float64), axis=1)[:, None]
        if name == "rmsd":
            native = self.system.native_positions
            frames = len(self.positions)
            return (
                np.zeros((frames, 0)) if native is None else rmsd(self.positions, native)[:, None]
            )
        found = self._of(_COORDINATES[name], self.paths[name])
        if name == "angles":
            return np.degrees(np.arccos(np.clip(found, -1, 1)))
        return np.degrees(found) if name == "dihedrals" else found

    def contacts(self) -> FloatArray:
        """Return the probability (N, N) of each pair's contact."""
        beads = self.positions.shape[1]
        found, pairs = np.full((beads, beads), np.nan), self.paths["repulsion"]
        if len(pairs):
            near = self._of(distances, pairs) <= CONTACT
            share = self.weights @ near / self.weights.sum()
            found[pairs[:, 0], pairs[:, 1]] = found[pairs[:, 1], pairs[:, 0]] = share
        return found

    def _of(self, coordinate: Coordinate, index: IntArray) -> FloatArray:
        if not len(index):
            return np.zeros((len(self.positions), 0))
        with torch.no_grad():
            positions = torch.from_numpy(np.ascontiguousarray(self.positions))
            return coordinate(positions, torch.from_numpy(index)).double().numpy()


_COORDINATES: dict[str, Coordinate] = {
    "bonds": distances,
    "angles": angle_cosines,
    "dihedrals": dihedral_angles,
}
