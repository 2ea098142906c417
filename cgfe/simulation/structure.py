"""Distributions of bonds, angles, dihedrals, size and RMSD, and contacts: model beside sampled."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from cgfe.analysis.comparison import (
    RESAMPLES,
    floor_of,
    interval_of,
    js_of_shares,
    undercount,
)
from cgfe.analysis.ensemble import draw_trajectories
from cgfe.analysis.floor import sparseness
from cgfe.array_types import FloatArray, IntArray, RealArray
from cgfe.geometry import rmsd
from cgfe.model.prior import bond_graph_paths
from cgfe.model.prior_terms import angle_cosines, dihedral_angles, distances
from cgfe.reference.projection import Projection
from cgfe.reference.system import BeadSystem
from cgfe.simulation.results import FreeEnergyResult

QUANTITIES = ("bonds", "angles", "dihedrals", "gyration", "rmsd", "end_to_end", "tic3")
"""Å, degrees, degrees, Å, Å, Å, the TIC's own unit; rows of the arrays. Those of a kind are taken
together. TIC 3 is none of the two that labels and surfaces are of."""
CONTACTS = "contact_error"
ERRORS = (*(f"js_{name}" for name in QUANTITIES), CONTACTS)
"""Metrics of structures."""
BINS = 100
MARGIN = 0.1
"""Share of the range of the sampled frames that bins reach beyond it on each side."""
CONTACT = 8.0
"""Å between beads three or more bonds apart, up to which they are in contact."""
MOST_FRAMES = 20_000

Arrays = dict[str, NDArray[np.float64]]
Coordinate = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Distance = Callable[[FloatArray, FloatArray], FloatArray]


@dataclass(frozen=True)
class StructureFrames:
    """Frames of one system.

    Attributes
    ----------
    positions : array (F, N, 3)
        Å.
    weights : array (F,)
    trajectory : int array (F,)
        From 0 to T - 1.
    kind : int array (T,)
        Trajectories are drawn again among their own kind.
    """

    positions: RealArray
    weights: FloatArray
    trajectory: IntArray
    kind: IntArray

    @classmethod
    def of_replicas(cls, positions: RealArray, replicas: int) -> "StructureFrames | None":
        """Return at most about `MOST_FRAMES` of what was simulated, None if there is nothing.

        Parameters
        ----------
        positions : array (F, N, 3)
            All replicas at one time after those at another.
        replicas : int
        """
        if not len(positions):
            return None
        in_time = positions.reshape(-1, replicas, *positions.shape[1:])
        kept = in_time[:: max(1, -(-len(positions) // MOST_FRAMES))]
        flat = kept.reshape(-1, *positions.shape[1:])
        replica = np.tile(np.arange(replicas), len(kept))
        return cls(flat, np.ones(len(flat)), replica, np.zeros(replicas, dtype=np.int64))

    def draws(self, random: np.random.Generator) -> IntArray:
        """Return how often bootstrap samples hold each trajectory (R, T), those with any weight."""
        drawn = draw_trajectories(self.kind, RESAMPLES, random)
        return drawn[drawn @ np.bincount(self.trajectory, self.weights, len(self.kind)) > 0]


@dataclass(frozen=True)
class StructureComparison:
    """A model's structures beside the sampled ones.

    Attributes
    ----------
    metrics : dict
        `js_<quantity>`, the Jensen-Shannon divergence of its distributions in 100 bins over what
        was sampled and one more, of what is outside; `contact_error`, the mean absolute difference
        of contact probabilities. NaN of what the system lacks.
    intervals, floor, floor_high, resampled : dict
        As in `cgfe.analysis.comparison.Comparison`, of the metrics that are known.
    arrays : dict of arrays
        `structure_edges` (Q, B + 1), `structure_reference` and `structure_model` (Q, B), densities
        of `QUANTITIES`, the model's with less than 1 as its integral where it is outside; NaN where
        the system has no such quantity; `contacts_reference`, `contacts_model` (N, N),
        probabilities, NaN for near beads.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    floor: dict[str, float]
    floor_high: dict[str, float]
    resampled: Arrays
    arrays: Arrays

    @classmethod
    def unknown(cls) -> "StructureComparison":
        """Return what is known where there is nothing to compare."""
        return cls(dict.fromkeys(ERRORS, float("nan")), {}, {}, {}, {}, {})


class SampledStructures:
    """What was sampled, in bins, to compare ensembles with.

    Parameters
    ----------
    system : BeadSystem
    frames : StructureFrames
        Bins are over what these have and a tenth more on each side, so that all models are told by
        the same ones.
    projection : Projection
        Whose third TIC is looked at, if it has one.
    """

    def __init__(self, system: BeadSystem, frames: StructureFrames, projection: Projection) -> None:
        self.own = _Coordinates(system, frames, projection)
        self.system, self.projection = system, projection
        self.edges = np.full((len(QUANTITIES), BINS + 1), np.nan)
        for row, name in enumerate(QUANTITIES):
            values = self.own.values(name)
            if values.size:
                self.edges[row] = np.linspace(*_range(values), BINS + 1)
        self.masses = self.own.masses(self.edges)

    def errors(self, frames: StructureFrames) -> dict[str, float]:
        """Return the metrics of other frames, without intervals."""
        found = dict.fromkeys(ERRORS, float("nan"))
        others = self._of(frames).masses(self.edges)
        for key, mass in self.masses.items():
            found[key] = float(_distance(key)(mass.shares(), others[key].shares()))
        return found

    def compare(self, frames: StructureFrames, seed: int = 0) -> StructureComparison:
        """Return how far a model's frames are from what was sampled.

        Parameters
        ----------
        frames : StructureFrames
        seed : int
            Of the bootstrap over replicas; the sampled trajectories are drawn alike for all models.
        """
        if not self.own.frames.weights.sum() > 0:
            return StructureComparison.unknown()
        model = self._of(frames)
        others = model.masses(self.edges)
        random, own = np.random.default_rng(0), np.random.default_rng([seed, 3])
        kinds = (self.own.frames.kind, frames.kind)
        drawn = [self.own.frames.draws(random), frames.draws(own)]
        number = min(map(len, drawn))
        draws = [counts[:number] for counts in drawn]
        metrics, intervals = dict.fromkeys(ERRORS, float("nan")), {}
        floor, high, resampled = {}, {}, {}
        for key, mass in self.masses.items():
            distance = _distance(key)
            p, q = mass.shares(), others[key].shares()
            p_drawn, q_drawn = mass.shares(draws[0]), others[key].shares(draws[1])
            metrics[key] = float(distance(p, q))
            parts = [(distance(p_drawn, q), len(kinds[0])), (distance(p, q_drawn), len(kinds[1]))]
            intervals[key] = interval_of(metrics[key], parts)
            resampled[key] = distance(p_drawn, q_drawn)
            scales = [undercount(len(kind)) for kind in kinds]
            if key != CONTACTS:
                scales[0] *= sparseness(csr_matrix(mass.summed), draws[0], random, kinds[0])
            apart = [(distance(p_drawn, p), scales[0]), (distance(q_drawn, q), scales[1])]
            floor[key], high[key] = floor_of(apart, key != CONTACTS, random)
        drawn_beside = self._drawn(model, others)
        return StructureComparison(metrics, intervals, floor, high, resampled, drawn_beside)

    def _of(self, frames: StructureFrames) -> "_Coordinates":
        return _Coordinates(self.system, frames, self.projection)

    def _drawn(self, model: "_Coordinates", others: "dict[str, _Mass]") -> Arrays:
        """Return what a report draws."""
        shape = (len(QUANTITIES), BINS)
        densities = {name: np.full(shape, np.nan) for name in ("reference", "model")}
        for row, name in enumerate(QUANTITIES):
            width = self.edges[row][1] - self.edges[row][0]
            for kind, masses in (("reference", self.masses), ("model", others)):
                if f"js_{name}" in masses:
                    densities[kind][row] = masses[f"js_{name}"].shares()[:-1] / width
        return {
            "structure_edges": self.edges,
            **{f"structure_{kind}": density for kind, density in densities.items()},
            "contacts_reference": self.own.spread(self.masses),
            "contacts_model": model.spread(others),
        }


def with_structures(
    result: FreeEnergyResult, model: StructureComparison, training: dict[str, float]
) -> FreeEnergyResult:
    """Return a result with distributions and contacts, and the errors of these.

    Parameters
    ----------
    result : FreeEnergyResult
    model : StructureComparison
    training : dict
        The metrics of the training frames; empty where the model was judged against these.
    """
    drawn: dict[str, Any] = {**model.arrays}
    return replace(
        result,
        metrics=result.metrics | model.metrics,
        intervals=result.intervals | model.intervals,
        floor=result.floor | model.floor,
        floor_high=result.floor_high | model.floor_high,
        resampled=result.resampled | model.resampled,
        training=result.training | training,
        **drawn,
    )


@dataclass(frozen=True)
class _Mass:
    """What each trajectory adds to shares: `summed` (T, B) of the weights `total` (T,)."""

    summed: FloatArray
    total: FloatArray

    def shares(self, draws: IntArray | None = None) -> FloatArray:
        """Return the shares (B,) of all, or (R, B) of bootstrap samples."""
        chosen = np.ones((1, len(self.total))) if draws is None else draws
        total = (chosen @ self.total)[:, None]
        with np.errstate(invalid="ignore"):  # of frames without weight: NaN
            shares: FloatArray = chosen @ self.summed / total
        return shares[0] if draws is None else shares


def _distance(key: str) -> Distance:
    return _mean_difference if key == CONTACTS else js_of_shares


def _mean_difference(p: FloatArray, q: FloatArray) -> FloatArray:
    mean: FloatArray = np.abs(p - q).mean(-1)
    return mean


def _range(values: FloatArray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    margin = MARGIN * (high - low) if high > low else 0.5
    return low - margin, high + margin


class _Coordinates:
    """Quantities and contacts of some frames."""

    def __init__(self, system: BeadSystem, frames: StructureFrames, projection: Projection) -> None:
        self.system, self.frames, self.third = system, frames, projection.third
        self.paths = bond_graph_paths(system.bonds, frames.positions.shape[1])

    def masses(self, edges: FloatArray) -> dict[str, _Mass]:
        """Return the mass in each bin, and what is outside in one more, of what there are bins of.

        Of contacts the mass that has each.
        """
        frames, number = self.frames, len(self.frames.kind)

        def summed(place: IntArray, weights: FloatArray, width: int) -> FloatArray:
            found = np.bincount(place.ravel(), weights, number * width)
            return np.asarray(found, dtype=np.float64).reshape(number, width)

        total = summed(frames.trajectory, frames.weights, 1)[:, 0]
        found = {}
        for row, name in enumerate(QUANTITIES):
            if not np.isfinite(edges[row]).all():
                continue
            values = self.values(name)
            bins = np.searchsorted(edges[row], values, side="right") - 1
            bins[(bins < 0) | (bins >= BINS)] = BINS
            place = frames.trajectory[:, None] * (BINS + 1) + bins
            weights = np.repeat(frames.weights / values.shape[1], values.shape[1])
            found[f"js_{name}"] = _Mass(summed(place, weights, BINS + 1), total)
        if len(self.pairs):
            near = self._of(distances, self.pairs) <= CONTACT
            places = (frames.trajectory, np.arange(len(near)))
            mass = csr_matrix((frames.weights, places), shape=(number, len(near)))
            found[CONTACTS] = _Mass(mass @ near.astype(np.float64), total)
        return found

    @property
    def pairs(self) -> IntArray:
        """Beads that may be in contact (P, 2)."""
        return self.paths["repulsion"]

    def spread(self, masses: dict[str, _Mass]) -> FloatArray:
        """Return the probability (N, N) of each pair's contact."""
        beads, pairs = self.frames.positions.shape[1], self.pairs
        found = np.full((beads, beads), np.nan)
        if CONTACTS in masses:
            share = masses[CONTACTS].shares()
            found[pairs[:, 0], pairs[:, 1]] = found[pairs[:, 1], pairs[:, 0]] = share
        return found

    def values(self, name: str) -> FloatArray:
        """Return a quantity (F, K) of each frame, K = 0 of what the system lacks."""
        positions = self.frames.positions
        if name == "gyration":
            centred = positions - positions.mean(axis=1, keepdims=True)
            return np.sqrt((centred.astype(np.float64) ** 2).sum(axis=2).mean(axis=1))[:, None]
        if name == "end_to_end":
            ends = positions[:, -1] - positions[:, 0]
            return np.linalg.norm(ends.astype(np.float64), axis=1)[:, None]
        if name == "rmsd":
            native = self.system.native_positions
            return self._none if native is None else rmsd(positions, native)[:, None]
        if name == "tic3":
            return self._none if self.third is None else self.third.project(positions)
        found = self._of(_COORDINATES[name], self.paths[name])
        if name == "angles":
            return np.degrees(np.arccos(np.clip(found, -1, 1)))
        return np.degrees(found) if name == "dihedrals" else found

    @property
    def _none(self) -> FloatArray:
        return np.zeros((len(self.frames.positions), 0))

    def _of(self, coordinate: Coordinate, index: IntArray) -> FloatArray:
        if not len(index):
            return self._none
        with torch.no_grad():
            positions = torch.from_numpy(np.ascontiguousarray(self.frames.positions))
            return coordinate(positions, torch.from_numpy(index)).double().numpy()


_COORDINATES: dict[str, Coordinate] = {
    "bonds": distances,
    "angles": angle_cosines,
    "dihedrals": dihedral_angles,
}
