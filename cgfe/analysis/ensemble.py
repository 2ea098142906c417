"""Ensemble: how much weight each trajectory has in every bin, all that comparing ensembles takes.

Trajectories are what a bootstrap draws again, since the frames of one are correlated, so the mass
of each is kept by itself: the figures of a bootstrap sample are those of a weighted sum of rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from cgfe.analysis.free_energy import TICGrid
from cgfe.array_types import FloatArray, IntArray
from cgfe.errors import InputError

PROFILE_BINS = 800
"""Of each TIC's own histogram. A Wasserstein distance by it is off by a bin's width at most, an
800th of the grid's range widened to twice its length, 1/400 of the grid's."""


@dataclass(frozen=True)
class Totals:
    """Shares of an ensemble, or of each of R bootstrap samples of it (a leading axis R).

    Attributes
    ----------
    joint : array (..., 1 + B)
        Outside the grid, then in each of its bins; 1 in all.
    profiles : two arrays (..., P)
        Along each TIC, 1 in all; what lies beyond counts in the first or last bin.
    folded : array (...), optional
        Share of the folded frames.
    """

    joint: FloatArray
    profiles: tuple[FloatArray, FloatArray]
    folded: FloatArray | None


@dataclass(frozen=True)
class Ensemble:
    """Mass of each of T trajectories on a grid.

    Attributes
    ----------
    grid : TICGrid
    joint : sparse array (T, 1 + B)
        Outside the grid, then in each of its B bins.
    profiles : two sparse arrays (T, P)
        On `profile_edges`.
    folded : array (T, 2), optional
        Mass that is folded and that is not; None without a native structure.
    kind : int array (T,)
        Trajectories are drawn again among those of their own kind (biased, or not).
    """

    grid: TICGrid
    joint: csr_matrix
    profiles: tuple[csr_matrix, csr_matrix]
    folded: FloatArray | None
    kind: IntArray

    @classmethod
    def from_samples(
        cls,
        grid: TICGrid,
        tics: FloatArray,
        trajectory: NDArray[np.integer],
        weights: FloatArray | None = None,
        folded: NDArray[np.bool_] | None = None,
        kind: NDArray[np.integer] | None = None,
    ) -> "Ensemble":
        """Sum up frames.

        Parameters
        ----------
        grid : TICGrid
        tics : array (F, 2 or more)
        trajectory : int array (F,)
            Numbers from 0 to T - 1, each of which occurs.
        weights : array (F,), optional
            None: all equal.
        folded : bool array (F,), optional
        kind : int array (T,), optional
            None: all of one kind.

        Raises
        ------
        InputError
            If there is no frame, or no frame of any weight.
        """
        mass = np.ones(len(tics)) if weights is None else np.asarray(weights, dtype=np.float64)
        if not mass.sum() > 0:
            raise InputError(f"an ensemble needs frames with weight, found {len(tics)} frames.")
        number = int(trajectory.max()) + 1
        first, second = (
            _summed(_profile_bins(edges, tics[:, axis]), trajectory, mass, number, PROFILE_BINS)
            for axis, edges in enumerate(profile_edges(grid))
        )
        bins = grid.shape[0] * grid.shape[1] + 1
        return cls(
            grid,
            _summed(grid.bin_index(tics) + 1, trajectory, mass, number, bins),
            (first, second),
            None
            if folded is None
            else _summed((~folded).astype(np.int64), trajectory, mass, number, 2).toarray(),
            np.zeros(number, dtype=np.int64) if kind is None else np.asarray(kind, dtype=np.int64),
        )

    def __len__(self) -> int:
        """Return the number of trajectories."""
        return len(self.kind)

    def draws(self, count: int, random: np.random.Generator) -> IntArray:
        """Return how often each of `count` bootstrap samples holds each trajectory (R, T)."""
        return draw_trajectories(self.kind, count, random)

    def totals(self, draws: IntArray | None = None) -> Totals:
        """Return the shares of the whole, or of bootstrap samples with these `draws` (R, T)."""
        chosen = np.ones((1, len(self))) if draws is None else draws
        first, second = (_shares(chosen @ profile) for profile in self.profiles)
        folded = None if self.folded is None else _shares(chosen @ self.folded)[:, 0]
        found = Totals(_shares(chosen @ self.joint), (first, second), folded)
        if draws is not None:
            return found
        folded = None if folded is None else folded[0]
        return Totals(found.joint[0], (first[0], second[0]), folded)

    @property
    def probability(self) -> FloatArray:
        """Share of the whole in each bin (n1, n2)."""
        shares: FloatArray = self.totals().joint[1:].reshape(self.grid.shape)
        return shares

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the mass as plain arrays; the grid is kept by its owner."""
        arrays: dict[str, NDArray[Any]] = {"kind": self.kind}
        for name, matrix in zip(_SPARSE, (self.joint, *self.profiles), strict=True):
            arrays |= {f"{name}_{part}": getattr(matrix, part) for part in _PARTS}
        if self.folded is not None:
            arrays["folded"] = self.folded
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], grid: TICGrid) -> "Ensemble":
        """Return the ensemble that `to_arrays` took apart."""
        kind = np.asarray(arrays["kind"])
        columns = (grid.shape[0] * grid.shape[1] + 1, PROFILE_BINS, PROFILE_BINS)
        joint, first, second = (
            csr_matrix(
                tuple(np.asarray(arrays[f"{name}_{part}"]) for part in _PARTS),
                shape=(len(kind), width),
            )
            for name, width in zip(_SPARSE, columns, strict=True)
        )
        folded = arrays.get("folded")
        return cls(
            grid, joint, (first, second), None if folded is None else np.asarray(folded), kind
        )


def draw_trajectories(
    kind: NDArray[np.integer], count: int, random: np.random.Generator
) -> IntArray:
    """Return how often each of `count` bootstrap samples holds each trajectory (R, T).

    Parameters
    ----------
    kind : int array (T,)
        They are drawn among those of their own kind.
    """
    drawn = np.zeros((count, len(kind)), dtype=np.int64)
    for own in (kind == k for k in np.unique(kind)):
        total = int(own.sum())
        drawn[:, own] = random.multinomial(total, np.full(total, 1 / total), size=count)
    return drawn


_SPARSE = ("joint", "profile1", "profile2")
_PARTS = ("data", "indices", "indptr")


def profile_edges(grid: TICGrid) -> tuple[FloatArray, FloatArray]:
    """Return the edges (P + 1,) of the histogram of each TIC: the grid's range, twice as long."""
    first, second = (
        np.linspace(
            1.5 * edges[0] - 0.5 * edges[-1], 1.5 * edges[-1] - 0.5 * edges[0], PROFILE_BINS + 1
        )
        for edges in grid.edges
    )
    return first, second


def _profile_bins(edges: FloatArray, values: FloatArray) -> IntArray:
    finite = np.nan_to_num(values, nan=np.inf)
    return np.clip(np.searchsorted(edges, finite, side="right") - 1, 0, PROFILE_BINS - 1)


def _summed(
    bins: IntArray, trajectory: NDArray[np.integer], mass: FloatArray, number: int, width: int
) -> csr_matrix:
    summed = csr_matrix((mass, (trajectory, bins)), shape=(number, width))
    summed.sum_duplicates()
    return summed


def _shares(mass: FloatArray) -> FloatArray:
    total = mass.sum(axis=-1, keepdims=True)
    return mass / np.where(total > 0, total, 1)
