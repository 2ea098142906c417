"""Reference: everything derived once from the training frames of one system, then frozen.

Its parts are fitted one after the other, each by its own function; a checkpoint with a Reference
and a network needs no frames file to be simulated and judged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from cgfe.data.frames import CGFrames
from cgfe.errors import InputError
from cgfe.files import replacing
from cgfe.geometry import rmsd
from cgfe.model.prior import PriorEnergy
from cgfe.reference.arrays import ARRAYS_VERSION, in_parts, part, read_text, text_array, under
from cgfe.reference.config import ReferenceConfig
from cgfe.reference.fingerprint import fingerprint
from cgfe.reference.labels import Labels
from cgfe.reference.projection import Projection, fit_tica
from cgfe.reference.starts import Starts
from cgfe.reference.surface import Surface
from cgfe.reference.system import BeadSystem
from cgfe.reference.training_frames import TrainingFrames


@dataclass(frozen=True)
class Reference:
    """What is known of one system from its training frames.

    Attributes
    ----------
    system : BeadSystem
        The beads, their temperature, the native structure.
    prior : PriorEnergy
        What the network's energy is added to.
    projection : Projection
        TICA and the grid.
    surface : Surface
        The sampled density on it.
    labels : Labels
        Energies that the network may be trained on.
    starts : Starts
        Where simulations begin.
    fingerprint : str
        Hash of the frames and settings that all this was derived from.
    floor : dict
        How far halves of the training frames are apart, by metric, where evaluation has added
        it (`cgfe.simulation.evaluation.with_floor`).
    """

    system: BeadSystem
    prior: PriorEnergy
    projection: Projection
    surface: Surface
    labels: Labels
    starts: Starts
    fingerprint: str
    floor: dict[str, float] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        frames: CGFrames,
        segments: Sequence[slice],
        config: ReferenceConfig,
        key: str | None = None,
    ) -> "Reference":
        """Fit on the training segments of `frames` (contiguous pieces of trajectories).

        TICA sees unbiased segments only, since a bias changes the kinetics; the density sees
        all, by their weights. Positions may be mapped from disk: of more than `FIT_FRAMES`
        frames the prior and the entropies of bins see evenly strided ones, as many at most, and
        all else is computed piece by piece.

        Parameters
        ----------
        frames : CGFrames
        segments : sequence of slice
        config : ReferenceConfig
        key : str, optional
            Their fingerprint, if it is known already.

        Raises
        ------
        InputError
            If there is too little to fit TICA on (no segment longer than the lag).
        """
        system, training = BeadSystem.of(frames), TrainingFrames(frames, segments)
        tica = fit_tica(training, config)
        native = system.native_positions
        near = [] if native is None else [partial(rmsd, reference=native)]
        tics, *distance = training.read(tica.project, *near)
        weights, temperature = training.weights, system.temperature_kelvin
        projection = Projection.spanning(tica, tics, config)
        positions, chosen = training.evenly()
        return cls(
            system=system,
            prior=PriorEnergy.fit(positions, system.bonds, temperature, weights[chosen]),
            projection=projection,
            surface=Surface.fit(projection.grid, tics, weights, *distance),
            labels=Labels.fit(tics, weights, (positions, chosen), temperature, config),
            starts=Starts.fit(training, tics, config),
            fingerprint=key or fingerprint(frames, segments, config),
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything as plain arrays, for checkpoints and files."""
        arrays: dict[str, NDArray[Any]] = {
            "version": np.array(ARRAYS_VERSION),
            "texts": text_array([self.floor, self.fingerprint]),
        }
        for name in _PARTS:
            arrays |= under(name, getattr(self, name).to_arrays())
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Reference":
        """Return the Reference that `to_arrays` of this or an older version took apart.

        Raises
        ------
        InputError
            If the arrays are of a newer version.
        """
        arrays = in_parts(arrays)
        floor, key = read_text(arrays["texts"])
        parts: dict[str, Any] = {
            name: kind.from_arrays(part(name, arrays)) for name, kind in _PARTS.items()
        }
        return cls(**parts, fingerprint=key, floor=floor)

    def save(self, path: str | Path) -> None:
        """Write the arrays as .npz (no objects in it)."""
        with replacing(path) as temporary:
            np.savez_compressed(temporary, allow_pickle=False, **self.to_arrays())

    @classmethod
    def load(cls, path: str | Path) -> "Reference":
        """Read what `save` wrote.

        Raises
        ------
        InputError
            If the file is missing, damaged or no reference.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls.from_arrays(dict(file))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise InputError(f"{path}: not a readable reference file ({error}).") from None


_PARTS: dict[str, Any] = {
    "system": BeadSystem,
    "prior": PriorEnergy,
    "projection": Projection,
    "surface": Surface,
    "labels": Labels,
    "starts": Starts,
}
