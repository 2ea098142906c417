"""Reference energies that the network is trained on: of frames, and of bins of TIC space."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgfe.analysis.energy_labels import EnergyLabels
from cgfe.analysis.free_energy import FreeEnergySurface, TICGrid
from cgfe.analysis.mean_energies import conditional_mean_targets, internal_entropy
from cgfe.errors import InputError
from cgfe.reference.arrays import part, under
from cgfe.reference.config import ReferenceConfig


@dataclass(frozen=True)
class Labels:
    """Energies by Boltzmann inversion of the density, and mean energies of coarse bins.

    Attributes
    ----------
    inverted : EnergyLabels
        -kT ln p(s) of a frame.
    grid : TICGrid
        Coarser than the grid of the surface.
    bin_energies : array (n1 n2,)
        kcal/mol, conditional mean energy F + T S of each bin of `grid`; NaN where it cannot be
        told.
    """

    inverted: EnergyLabels
    grid: TICGrid
    bin_energies: NDArray[np.float64]

    @classmethod
    def fit(
        cls,
        tics: NDArray[np.float64],
        weights: NDArray[np.float64],
        sample: tuple[NDArray[np.float32], slice],
        temperature: float,
        config: ReferenceConfig,
    ) -> "Labels":
        """Fit the density and the mean energies.

        Parameters
        ----------
        tics : array (F, 2)
        weights : array (F,)
        sample : array (n, N, 3), slice
            Positions in Å that the entropies of bins are estimated from, and which of the F
            frames they are.
        temperature : float
            K.
        config : ReferenceConfig
        """
        grid = TICGrid.from_samples(tics, bins=config.target_bins)
        return cls(
            EnergyLabels.fit(tics, weights, temperature, config.label_estimator),
            grid,
            _mean_energies(sample, tics, weights, grid, temperature),
        )

    @property
    def knows_bins(self) -> bool:
        """Whether the mean energy of any bin can be told."""
        return not np.isnan(self.bin_energies).all()

    def energies(self, tics: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return -kT ln p (F,) in kcal/mol at tics (F, 2)."""
        return self.inverted.energies(tics)

    def bin_targets(
        self, tics: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the bin (F,) of tics (F, 2), and its mean energy (F,) in kcal/mol.

        Where that is not known the bin is -1 and the energy 0.
        """
        bins = self.grid.bin_index(tics)
        bins[np.isnan(self.bin_energies)[bins]] = -1
        return bins, np.append(self.bin_energies, 0.0)[bins]  # -1 is the 0 at the end

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything as numeric arrays, for npz files and checkpoints."""
        return {
            **under("inverted", self.inverted.to_arrays()),
            **under("grid", self.grid.to_arrays()),
            "bin_energies": self.bin_energies,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Labels":
        """Return the labels that `to_arrays` described."""
        return cls(
            EnergyLabels.from_arrays(part("inverted", arrays)),
            TICGrid.from_arrays(part("grid", arrays)),
            arrays["bin_energies"],
        )


def _mean_energies(
    sample: tuple[NDArray[np.float32], slice],
    tics: NDArray[np.float64],
    weights: NDArray[np.float64],
    grid: TICGrid,
    temperature: float,
) -> NDArray[np.float64]:
    """Return F + T S per bin; NaN everywhere if no bin holds enough frames for its entropy."""
    positions, chosen = sample
    surface = FreeEnergySurface.from_samples(tics, weights, grid)
    count = grid.shape[0] * grid.shape[1]
    try:
        entropy = internal_entropy(positions, grid.bin_index(tics[chosen]), weights[chosen], count)
    except InputError:  # too few frames; training says so if the target is asked for
        return np.full(count, np.nan)
    return conditional_mean_targets(surface, entropy, temperature)
