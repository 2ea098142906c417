"""Free energies on the TICs: histogram grid and surface.

F(s) = -kT ln p(s), with p the weighted histogram of the frames.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cgfe.array_types import RealArray
from cgfe.errors import InputError

DEFAULT_BINS = 40
"""Of a TIC."""
MARGIN = 0.05
"""Share of the range by which a grid reaches beyond the frames on each side."""


def effective_sample_size(weights: RealArray) -> float:
    """Return Kish's effective number of frames, (Σ w)² / Σ w², of weights (F,)."""
    return float(weights.sum() ** 2 / (weights**2).sum())


@dataclass(frozen=True)
class TICGrid:
    """Bins over the first two TICs, fixed by the reference.

    Attributes
    ----------
    edges : two arrays (n + 1,)
        Ascending bin edges of each TIC.
    """

    edges: tuple[NDArray[np.float64], NDArray[np.float64]]

    @classmethod
    def from_samples(cls, tics: RealArray, bins: int = DEFAULT_BINS) -> "TICGrid":
        """Span all frames, widened by `MARGIN` of the range on each side.

        Parameters
        ----------
        tics : array (F, 2 or more)
        bins : int
            Of each axis.

        Raises
        ------
        InputError
            If there are fewer than two TICs or two different values of one.
        """
        if tics.ndim != 2 or tics.shape[1] < 2:
            raise InputError(f"a TIC grid needs two TICs, found an array of shape {tics.shape}.")
        low, high = tics[:, :2].min(axis=0), tics[:, :2].max(axis=0)
        if not (high > low).all():
            raise InputError(f"a TIC grid needs TICs that vary, found the range {low} to {high}.")
        extra = MARGIN * (high - low)
        first, second = np.linspace(low - extra, high + extra, bins + 1, axis=1)
        return cls((first, second))

    @property
    def shape(self) -> tuple[int, int]:
        """Number of bins along each TIC."""
        return len(self.edges[0]) - 1, len(self.edges[1]) - 1

    @property
    def centres(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Bin centres (n,) along each TIC."""
        first, second = ((edges[1:] + edges[:-1]) / 2 for edges in self.edges)
        return first, second

    def bin_index(self, tics: RealArray) -> NDArray[np.int64]:
        """Return the flat bin index (F,) of tics (F, 2 or more), -1 outside or not finite."""
        columns = []
        for axis, edges in enumerate(self.edges):
            # Values on the last edge belong to the last bin, as in numpy.histogram.
            index = np.searchsorted(edges, tics[:, axis], side="right") - 1
            index[tics[:, axis] == edges[-1]] -= 1
            columns.append(index)
        inside = (columns[0] >= 0) & (columns[0] < self.shape[0])
        inside &= (columns[1] >= 0) & (columns[1] < self.shape[1])
        return np.where(inside, columns[0] * self.shape[1] + columns[1], -1)

    def histogram(
        self, tics: RealArray, weights: RealArray | None = None
    ) -> tuple[NDArray[np.float64], float]:
        """Return the share of the frames in each bin (n1, n2) and the share outside.

        All shares together are 1.
        """
        index = self.bin_index(tics)
        mass = np.ones(len(tics)) if weights is None else np.asarray(weights, dtype=np.float64)
        # Outside, -1, becomes slot 0.
        counts = np.bincount(index + 1, mass, minlength=self.shape[0] * self.shape[1] + 1)
        shares = counts / mass.sum()
        return shares[1:].reshape(self.shape), float(shares[0])

    def to_arrays(self) -> dict[str, NDArray]:
        """Return the edges as arrays, for npz files and checkpoints."""
        return {"edges_tic1": self.edges[0], "edges_tic2": self.edges[1]}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> "TICGrid":
        """Return the grid that `to_arrays` described."""
        return cls((np.asarray(arrays["edges_tic1"]), np.asarray(arrays["edges_tic2"])))


def free_energy_difference(
    reference: NDArray[np.float64], model: NDArray[np.float64], smoothing: float
) -> NDArray[np.float64]:
    """Return F_ref − F_model (n1, n2) in kT of two densities on one grid.

    0 where the reference has no density; where the model alone has none, the largest negative
    number: it never goes where F_ref is that low.

    Parameters
    ----------
    reference, model : array (n1, n2)
        Shares, of any sum.
    smoothing : float
        Bins; standard deviation of the Gaussian that both are smoothed by, cut off at 4 of it.
    """
    one, other = (
        ndimage.gaussian_filter(density, smoothing, mode="constant") if smoothing > 0 else density
        for density in (reference, model)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = np.log(other / other.sum()) - np.log(one / one.sum())
    return np.where(one > 0, np.nan_to_num(difference, neginf=-np.finfo(np.float64).max), 0.0)


@dataclass(frozen=True)
class FreeEnergySurface:
    """F on a grid, from a weighted histogram without pseudo-count.

    Attributes
    ----------
    grid : TICGrid
    probability : array (n1, n2)
        Share of the frames in each bin; with `outside` the sum is 1.
    outside : float
        Share of the frames outside the grid.
    """

    grid: TICGrid
    probability: NDArray[np.float64]
    outside: float

    @classmethod
    def from_samples(
        cls, tics: RealArray, weights: RealArray | None, grid: TICGrid
    ) -> "FreeEnergySurface":
        """Count frames with tics (F, 2 or more) and weights (F,) on the grid."""
        return cls(grid, *grid.histogram(tics, weights))

    @property
    def visited(self) -> NDArray[np.bool_]:
        """Bins (n1, n2) that hold a frame of positive weight."""
        return self.probability > 0

    @property
    def free_energy_kt(self) -> NDArray[np.float64]:
        """F (n1, n2) in kT, 0 in the fullest bin, NaN in bins not visited."""
        free_energy = np.full(self.grid.shape, np.nan)
        free_energy[self.visited] = -np.log(self.probability[self.visited])
        return free_energy - np.nanmin(free_energy) if self.visited.any() else free_energy
