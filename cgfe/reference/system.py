"""The beads of one protein and what they are sampled at."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgfe.analysis.metrics import FOLDED_RMSD
from cgfe.data.frames import CGFrames
from cgfe.reference.arrays import read_text, text_array


@dataclass(frozen=True)
class BeadSystem:
    """What the beads of one protein are, apart from any sample of them.

    Attributes
    ----------
    residue_names : tuple of str
        Of the N beads.
    bead_types : int array (N,)
    masses : array (N,)
        amu.
    bonds : int array (B, 2)
    temperature_kelvin : float
    native_positions : array (N, 3) or None
        Å, the folded structure, where it is known.
    folded_rmsd : float
        Å; a frame is folded if its RMSD to the native structure is at most this.
    """

    residue_names: tuple[str, ...]
    bead_types: NDArray[np.int64]
    masses: NDArray[np.float64]
    bonds: NDArray[np.int64]
    temperature_kelvin: float
    native_positions: NDArray[np.float64] | None
    folded_rmsd: float = FOLDED_RMSD

    @classmethod
    def of(cls, frames: CGFrames) -> "BeadSystem":
        """Return the system that frames are of."""
        return cls(
            residue_names=frames.residue_names,
            bead_types=frames.bead_types,
            masses=frames.masses,
            bonds=frames.bonds,
            temperature_kelvin=frames.temperature_kelvin,
            native_positions=frames.native_positions,
            folded_rmsd=frames.folded_rmsd,
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything as numeric arrays, for npz files and checkpoints."""
        arrays: dict[str, NDArray[Any]] = {
            "residue_names": text_array(self.residue_names),
            "bead_types": self.bead_types,
            "masses": self.masses,
            "bonds": self.bonds,
            "temperature_kelvin": np.array(self.temperature_kelvin),
            "folded_rmsd": np.array(self.folded_rmsd),
        }
        if self.native_positions is not None:
            arrays["native_positions"] = self.native_positions
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "BeadSystem":
        """Return the system that `to_arrays` described."""
        return cls(
            residue_names=tuple(read_text(arrays["residue_names"])),
            bead_types=arrays["bead_types"],
            masses=arrays["masses"],
            bonds=arrays["bonds"],
            temperature_kelvin=float(arrays["temperature_kelvin"]),
            native_positions=arrays.get("native_positions"),
            # Older files know one threshold.
            folded_rmsd=float(arrays.get("folded_rmsd", FOLDED_RMSD)),
        )
