"""Reference: everything derived once from the training frames of one system, then frozen.

Its parts are fitted one after the other, each by its own function; a checkpoint with a Reference
and a network needs no frames file to be simulated and judged.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cgfe.analysis.ensemble import Ensemble
from cgfe.analysis.free_energy import TICGrid
from cgfe.data.frames import CGFrames
from cgfe.data.splits import Split
from cgfe.errors import InputError
from cgfe.files import replacing
from cgfe.geometry import rmsd
from cgfe.model.potential import Potential
from cgfe.model.prior import PriorEnergy
from cgfe.reference.arrays import ARRAYS_VERSION, in_parts, part, read_text, text_array, under
from cgfe.reference.checks import check_parts
from cgfe.reference.config import ReferenceConfig
from cgfe.reference.ensembles import Ensembles, ensemble_of, from_frames_of_version_1
from cgfe.reference.fingerprint import fingerprint
from cgfe.reference.labels import Labels
from cgfe.reference.projection import Projection, fit_tica
from cgfe.reference.starts import Starts
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
    ensembles : Ensembles
        What was sampled, on the grid, by split and trajectory.
    labels : Labels
        Energies that the network may be trained on.
    starts : Starts
        Where simulations begin.
    fingerprint : str
        Hash of the frames and settings that all this was derived from.
    """

    system: BeadSystem
    prior: PriorEnergy
    projection: Projection
    ensembles: Ensembles
    labels: Labels
    starts: Starts
    fingerprint: str

    @classmethod
    def fit(
        cls,
        frames: CGFrames,
        split: Split,
        config: ReferenceConfig,
        key: str | None = None,
        tics: NDArray[np.float64] | None = None,
    ) -> "Reference":
        """Fit on the training frames; of the others only the ensembles are kept.

        TICA sees unbiased segments only, since a bias changes the kinetics; the density sees
        all, by their weights. Positions may be mapped from disk: of more than `FIT_FRAMES`
        frames the prior and the entropies of bins see evenly strided ones, as many at most, and
        all else is computed piece by piece.

        Parameters
        ----------
        frames : CGFrames
        split : Split
        config : ReferenceConfig
        key : str, optional
            Their fingerprint, if it is known already.
        tics : array (F, 2), optional
            Filled with the coordinates of the frames of the file that lie in any split.

        Raises
        ------
        InputError
            If there is too little to fit TICA on (no segment longer than the lag).
        """
        system, training = BeadSystem.of(frames), TrainingFrames(frames, split.train)
        tica, third = fit_tica(training, config)
        native = system.native_positions
        near = [] if native is None else [partial(rmsd, reference=native)]
        own, *distance = training.read(tica.project, *near)
        weights, temperature = training.weights, system.temperature_kelvin
        projection = Projection.spanning(tica, own, config, third)
        train = ensemble_of(training, projection.grid, own, *distance)
        if train is None:
            raise InputError(f"{frames.name}: no training frame has any weight.")
        held_out: list[Ensemble | None] = []
        for segments in (split.validation, split.test):
            part_of = TrainingFrames(frames, segments)
            read = part_of.read(tica.project, *near) if len(part_of.rows) else []
            held_out.append(ensemble_of(part_of, projection.grid, *read) if read else None)
            if tics is not None and read:
                tics[part_of.rows] = read[0]
        if tics is not None:
            tics[training.rows] = own
        positions, chosen = training.evenly()
        return cls(
            system=system,
            prior=PriorEnergy.fit(positions, system.bonds, temperature, weights[chosen]),
            projection=projection,
            ensembles=Ensembles(train, held_out[0], held_out[1], len(own)),
            labels=Labels.fit(own, weights, (positions, chosen), temperature, config),
            starts=Starts.fit(training, own, config),
            fingerprint=key or fingerprint(frames, split, config),
        )

    def check(self) -> None:
        """Check parts that were read, from a checkpoint for example, against each other.

        Raises
        ------
        InputError
            If a shape is wrong, a number is not finite, or an index names no bead.
        """
        check_parts(self.system, self.prior, self.projection, self.starts.positions)

    def potential(self, network: nn.Module | None = None) -> Potential:
        """Return the prior, plus a network if one is given, as a potential of this system.

        The prior is a copy on the CPU: what moves the potential to a device moves its parts too,
        and the reference stays where it is.

        Parameters
        ----------
        network : module, optional
            See `Potential`.
        """
        with torch.inference_mode(False):  # of tensors made in that mode, autograd keeps none
            prior = copy.deepcopy(self.prior)
        return Potential(prior, network, torch.from_numpy(self.system.bead_types))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything as plain arrays, for checkpoints and files."""
        arrays: dict[str, NDArray[Any]] = {
            "version": np.array(ARRAYS_VERSION),
            "texts": text_array([self.fingerprint]),
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
        named = in_parts(arrays)
        if int(arrays["version"]) == 1:
            grid = TICGrid.from_arrays(part("projection/grid", named))
            named = {**named, **under("ensembles", from_frames_of_version_1(arrays, grid))}
        (key,) = read_text(named["texts"])
        parts: dict[str, Any] = {
            name: kind.from_arrays(part(name, named)) for name, kind in _PARTS.items()
        }
        return cls(**parts, fingerprint=key)

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
    "ensembles": Ensembles,
    "labels": Labels,
    "starts": Starts,
}
