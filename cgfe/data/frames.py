"""CGFrames: what was sampled, the data contract between every source of data and training.

One HDF5 file holds the coarse-grained frames of one system. It is read once, checked in full,
and never changed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cgfe.analysis.metrics import FOLDED_RMSD
from cgfe.data.beads import alpha_carbon_topology, bead_types_of
from cgfe.data.checks import check, check_datasets, number_of, residues_of
from cgfe.data.file_format import FORMAT, FORMAT_VERSION, ROUNDED_VERSION, open_frames
from cgfe.data.rounded_arrays import STEP, read_rows, write_rounded
from cgfe.hdf5 import writing_hdf5
from cgfe.units import ENERGY_UNIT, LENGTH_UNIT

if TYPE_CHECKING:
    import mdtraj

FOLDED_KEY = "folded_rmsd_angstrom"


@dataclass(frozen=True)
class CGFrames:
    """Coarse-grained frames of one system in Å, kcal/mol, kcal/mol/Å, ps, K, amu.

    Raises
    ------
    InputError
        On construction, if shapes disagree, a value is not finite, or the trajectory index
        falls.
    """

    positions: NDArray[np.float32]
    """(F, N, 3)"""
    trajectory_index: NDArray[np.int32]
    """(F,), frames of one trajectory are contiguous and in the order of time"""
    residue_names: tuple[str, ...]
    masses: NDArray[np.float64]
    """(N,)"""
    bonds: NDArray[np.int64]
    """(B, 2)"""
    temperature_kelvin: float
    frame_interval_ps: float
    bead_types: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """(N,); from the residue names when left empty"""
    forces: NDArray[np.float32] | None = None
    """(F, N, 3)"""
    force_standard_errors: NDArray[np.float32] | None = None
    """(F, N, 3), of forces that are means: half the difference of two halves' means, without
    sign, so that only its mean square over many components is sharp"""
    all_atom_energies: NDArray[np.float64] | None = None
    """(F,)"""
    weights: NDArray[np.float64] | None = None
    """(F,), mean 1"""
    bias_log_weights: NDArray[np.float64] | None = None
    """(F,), ln of the weight by the bias alone, comparable between trajectories; NaN where there
    was no bias"""
    biased_trajectories: NDArray[np.int32] = field(
        default_factory=lambda: np.zeros(0, dtype=np.int32)
    )
    """Trajectories sampled under a bias: their weights count, their kinetics do not. So it is with
    one temperature of replica exchange, whose log weights are 0."""
    validation_trajectories: NDArray[np.int32] = field(
        default_factory=lambda: np.zeros(0, dtype=np.int32)
    )
    """Trajectories that nothing is fitted to and that choose the best model."""
    test_trajectories: NDArray[np.int32] = field(
        default_factory=lambda: np.zeros(0, dtype=np.int32)
    )
    """Trajectories held out of every fit."""
    replica_index: NDArray[np.int32] | None = None
    """(F,), the replica that a frame of replica exchange was sampled by: a trajectory then holds
    the frames of one ladder, which go from replica to replica"""
    native_positions: NDArray[np.float64] | None = None
    """(N, 3), the folded structure that "folded" refers to"""
    folded_rmsd: float = FOLDED_RMSD
    """Å; a frame is folded if its RMSD to the native structure is at most this"""
    position_step: float = 0.0
    """Å that all positions are multiples of, for a smaller file; 0: they are not rounded"""
    force_step: float = 0.0
    """kcal/mol/Å, of the forces"""
    force_mapping: str = "none"
    force_field: str = "unknown"
    source: str = "unknown"
    name: str = "frames"
    """Where error messages say the data came from."""

    def __post_init__(self) -> None:
        if self.bead_types.size == 0:
            object.__setattr__(self, "bead_types", bead_types_of(self.residue_names))
        check(self)

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def bead_count(self) -> int:
        return int(self.positions.shape[1])

    @property
    def nanoseconds(self) -> float:
        """Simulated time that the frames stand for."""
        return len(self) * self.frame_interval_ps / 1000

    def trajectory_slices(self) -> list[slice]:
        """Return one slice of frames per trajectory, in order."""
        starts = np.flatnonzero(np.diff(self.trajectory_index, prepend=-1))
        ends = np.append(starts[1:], len(self))
        return [slice(int(a), int(b)) for a, b in zip(starts, ends, strict=True)]

    @classmethod
    def load(cls, path: str | Path, mapped: Mapping[str, NDArray[Any]] | None = None) -> "CGFrames":
        """Read and check a frames file.

        Parameters
        ----------
        path : str or Path
        mapped : mapping from name to array, optional
            Copies of arrays of the file, mapped from disk, to take in place of reading them.

        Raises
        ------
        InputError
            If the file is missing, truncated, of another format, in other units, or wrong in
            any value; the message names the file.
        """
        with open_frames(path) as file:
            return _read(cls, file, str(path), mapped or {})

    def save(self, path: str | Path) -> None:
        """Write the frames as HDF5, complete or not at all."""
        attributes = {
            "format": FORMAT,
            "format_version": ROUNDED_VERSION if any(self._steps.values()) else FORMAT_VERSION,
            "temperature_kelvin": self.temperature_kelvin,
            "frame_interval_ps": self.frame_interval_ps,
            "length_unit": LENGTH_UNIT,
            "energy_unit": ENERGY_UNIT,
            FOLDED_KEY: self.folded_rmsd,
            "force_mapping": self.force_mapping,
            "force_field": self.force_field,
            "source": self.source,
            "residue_names": json.dumps(self.residue_names),
        }
        with writing_hdf5(path) as file:
            file.attrs.update(attributes)
            for name in (*REQUIRED, *_OPTIONAL):
                values = getattr(self, name)
                if values is not None and self._steps.get(name):
                    write_rounded(file, name, values, self._steps[name])
                elif values is not None:
                    large = values.ndim == 3 or len(values) == len(self)
                    # Shuffled bytes of smooth trajectories compress; small arrays need not.
                    options = {"compression": "gzip", "shuffle": True} if large else {}
                    file.create_dataset(name, data=values, **options)

    @property
    def _steps(self) -> dict[str, float]:
        steps = {"positions": self.position_step, "forces": self.force_step}
        return {**steps, "force_standard_errors": self.force_step}

    def topology(self) -> "mdtraj.Topology":
        """Return a Cα topology, with which mdtraj opens trajectories of these beads."""
        return alpha_carbon_topology(self.residue_names, self.bonds)


REQUIRED = ("positions", "trajectory_index", "masses", "bonds", "bead_types")
_OPTIONAL = (
    "forces",
    "force_standard_errors",
    "all_atom_energies",
    "weights",
    "bias_log_weights",
    "biased_trajectories",
    "validation_trajectories",
    "test_trajectories",
    "replica_index",
    "native_positions",
)


def _read(
    cls: type[CGFrames], file: h5py.File, name: str, mapped: Mapping[str, NDArray[Any]]
) -> CGFrames:
    attributes: dict[str, Any] = dict(file.attrs)
    keys = [*REQUIRED, *(key for key in _OPTIONAL if key in file)]
    check_datasets(file, name, keys)
    arrays: dict[str, Any] = {
        key: mapped[key] if key in mapped else read_rows(file[key]) for key in keys
    }
    steps: dict[str, Any] = {
        field: number_of(file[key].attrs, STEP, f"{name}: {key}")
        for key, field in (("positions", "position_step"), ("forces", "force_step"))
        if key in file and STEP in file[key].attrs
    }
    return cls(
        **arrays,
        **steps,
        residue_names=residues_of(attributes, name),
        temperature_kelvin=number_of(attributes, "temperature_kelvin", name),
        frame_interval_ps=number_of(attributes, "frame_interval_ps", name),
        folded_rmsd=(
            number_of(attributes, FOLDED_KEY, name) if FOLDED_KEY in attributes else FOLDED_RMSD
        ),
        force_mapping=str(attributes["force_mapping"]),
        force_field=str(attributes["force_field"]),
        source=str(attributes["source"]),
        name=name,
    )
