"""The sampled density of one system on its TICs: what a model's density is compared with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgfe.analysis.free_energy import TICGrid


@dataclass(frozen=True)
class Surface:
    """The training frames on the TICs, each by itself and counted on the grid.

    Attributes
    ----------
    tics : array (F, 2)
    weights : array (F,)
    rmsd : array (F,) or None
        Å to the native structure, where there is one.
    probability : array (n1, n2)
        Share of the weight in each bin of the projection's grid.
    outside : float
        Share outside the grid; all shares together are 1.
    """

    tics: NDArray[np.float64]
    weights: NDArray[np.float64]
    rmsd: NDArray[np.float64] | None
    probability: NDArray[np.float64]
    outside: float

    @classmethod
    def fit(
        cls,
        grid: TICGrid,
        tics: NDArray[np.float64],
        weights: NDArray[np.float64],
        rmsd: NDArray[np.float64] | None = None,
    ) -> "Surface":
        """Count frames with tics (F, 2) and weights (F,) on the grid."""
        return cls(tics, weights, rmsd, *grid.histogram(tics, weights))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything as numeric arrays, for npz files and checkpoints."""
        return {name: np.asarray(x) for name, x in vars(self).items() if x is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Surface":
        """Return the surface that `to_arrays` described."""
        return cls(
            tics=arrays["tics"],
            weights=arrays["weights"],
            rmsd=arrays.get("rmsd"),
            probability=arrays["probability"],
            outside=float(arrays["outside"]),
        )
