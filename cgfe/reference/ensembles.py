"""What was sampled, on the TICs: the mass of every trajectory of each split.

A model is compared with the validation frames while it is trained and with the test frames at the
end, so that no figure is of frames that a fit has seen. No array is as long as the frames.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cgfe.analysis.ensemble import Ensemble
from cgfe.analysis.free_energy import TICGrid
from cgfe.analysis.metrics import FOLDED_RMSD
from cgfe.reference.arrays import Arrays, part, under
from cgfe.reference.training_frames import TrainingFrames

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Ensembles:
    """The sampled ensembles of one system, each weighted by itself.

    Attributes
    ----------
    train : Ensemble
    validation, test : Ensemble or None
        None where the split has no frames, or an older file does not have it.
    frames : int
        Training frames.
    """

    train: Ensemble
    validation: Ensemble | None
    test: Ensemble | None
    frames: int

    def best_for(self, wanted: Part) -> tuple[Part, Ensemble]:
        """Return the split that a model is compared with, the training frames if need be."""
        found: Ensemble | None = getattr(self, wanted)
        return ("train", self.train) if found is None else (wanted, found)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything as numeric arrays, for npz files and checkpoints."""
        arrays: dict[str, NDArray[Any]] = {"frames": np.array(self.frames)}
        arrays |= under("grid", self.train.grid.to_arrays())
        for name in PARTS:
            ensemble = getattr(self, name)
            if ensemble is not None:
                arrays |= under(name, ensemble.to_arrays())
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Ensembles":
        """Return the ensembles that `to_arrays` described."""
        grid = TICGrid.from_arrays(part("grid", arrays))
        found = {name: part(name, arrays) for name in PARTS}
        train, validation, test = (
            Ensemble.from_arrays(own, grid) if own else None for own in found.values()
        )
        assert train is not None, "every reference has training frames"
        return cls(train, validation, test, int(arrays["frames"]))


def ensemble_of(
    frames: TrainingFrames,
    grid: TICGrid,
    tics: NDArray[np.float64],
    rmsd: NDArray[np.float64] | None = None,
) -> Ensemble | None:
    """Return the ensemble of some segments, None where their frames have no weight.

    Parameters
    ----------
    frames : TrainingFrames
        Of any split, f in all.
    grid : TICGrid
    tics : array (f, 2)
    rmsd : array (f,), optional
        Å to the native structure.
    """
    if not frames.weights.sum() > 0:
        return None
    folded = None if rmsd is None else rmsd <= frames.frames.folded_rmsd
    return Ensemble.from_samples(
        grid, tics, frames.trajectory, frames.weights, folded, frames.biased.astype(np.int64)
    )


def from_frames_of_version_1(arrays: Arrays, grid: TICGrid) -> dict[str, NDArray[Any]]:
    """Return the arrays of `Ensembles` from the tics, weights and RMSD that version 1 kept.

    It did not keep which frames go together, so nothing is known of the sampling error.
    """
    rmsd = arrays.get("rmsd")
    train = Ensemble.from_samples(
        grid,
        arrays["tics"],
        np.zeros(len(arrays["tics"]), dtype=np.int64),
        arrays["weights"],
        None if rmsd is None else rmsd <= FOLDED_RMSD,
    )
    return Ensembles(train, None, None, len(arrays["tics"])).to_arrays()
