"""Writing simulated frames as they come, in formats that mdtraj opens."""

import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import mdtraj
import numpy as np
from mdtraj.formats import DCDTrajectoryFile, XTCTrajectoryFile
from numpy.typing import NDArray

from cgfe.data.beads import alpha_carbon_topology
from cgfe.errors import InputError
from cgfe.files import ascii_path
from cgfe.hdf5 import DiskFile, h5py_file
from cgfe.reference.system import BeadSystem
from cgfe.units import ANGSTROM_PER_NM
from cgfe.version import __version__

CHUNK_BYTES = 2**16


class TrajectoryWriter:
    """One open trajectory file; its format follows the suffix (.xtc, .dcd, .h5).

    Parameters
    ----------
    path : Path
    system : BeadSystem
    name : str, optional
        What errors call the file.
    """

    def __init__(self, path: Path, system: BeadSystem, name: str | None = None) -> None:
        self.topology = alpha_carbon_topology(system.residue_names, system.bonds)
        self.path, self.name = path, name or str(path)
        self.frames = 0
        self._open = ExitStack()
        self.file: Any
        if path.suffix == ".h5":
            disk = self._open.enter_context(DiskFile(path, self.name))
            file = self._open.enter_context(h5py_file(disk, "w"))
            self.file = _MDTrajHDF5(file, disk, self.topology)
        else:
            self.path = self._open.enter_context(ascii_path(path))
            kind = XTCTrajectoryFile if path.suffix == ".xtc" else DCDTrajectoryFile
            self.file = kind(str(self.path), "w")

    def write(self, positions: NDArray[np.float32], time_ps: float) -> None:
        """Append one frame (N, 3) in Å.

        Raises
        ------
        InputError
            If it cannot be written.
        """
        # Each format's own length unit: DCD has Å, XTC and mdtraj's HDF5 have nm.
        try:
            if self.path.suffix == ".dcd":
                self.file.write(positions[None])
            elif self.path.suffix == ".xtc":
                self.file.write(
                    positions[None] / ANGSTROM_PER_NM, time=[time_ps], step=[self.frames]
                )
            else:
                self.file.write(positions / ANGSTROM_PER_NM, time_ps)
        except (OSError, RuntimeError, TypeError):
            # What mdtraj's C readers raise of a full disk, a broken message of its own included.
            raise self._incomplete() from None
        self.frames += 1

    def save_topology(self, path: Path, positions: NDArray[np.float32]) -> None:
        """Write the beads as PDB."""
        mdtraj.Trajectory(positions[None] / ANGSTROM_PER_NM, self.topology).save_pdb(str(path))

    def close(self) -> None:
        """Close the file.

        Raises
        ------
        InputError
            If not all of it could be written.
        """
        with self._open:
            if self.path.suffix == ".h5" or self.file is None:
                return
            kind = type(self.file)
            self.file.close()
            self.file = None
            if not self.frames:
                return
            # What C code buffered is written on closing, and an error then is not told.
            try:
                with kind(str(self.path)) as file:
                    file.seek(self.frames - 1)
                    complete = len(file.read(1)[0]) == 1
            except (OSError, RuntimeError, TypeError, ValueError, IndexError):
                complete = False
            if not complete:
                raise self._incomplete()

    def _incomplete(self) -> InputError:
        free = shutil.disk_usage(self.path.parent).free / 2**20
        return InputError(
            f"{self.name}: frame {self.frames + 1} cannot be written; {free:.1f} MiB are free on "
            "its disk."
        )


class _MDTrajHDF5:
    """Frames in mdtraj's HDF5 convention, which mdtraj itself writes through PyTables.

    PyTables never returns from a full disk.
    """

    def __init__(self, file: h5py.File, disk: DiskFile, topology: mdtraj.Topology) -> None:
        self._disk = disk
        words = {"conventions": "Pande", "conventionVersion": "1.1", "program": "cgfe"}
        for key, value in {**words, "programVersion": __version__}.items():
            file.attrs[key] = np.bytes_(value)
        text = json.dumps(_described(topology)).encode()
        file.create_dataset("topology", data=np.array([text], dtype=f"S{len(text)}"))
        arrays = {"coordinates": ((topology.n_atoms, 3), "nanometers"), "time": ((), "picoseconds")}
        self._arrays = {}
        for name, (shape, unit) in arrays.items():
            rows = max(1, CHUNK_BYTES // (4 * int(np.prod(shape))))
            array = file.create_dataset(
                name,
                (0, *shape),
                "f4",
                maxshape=(None, *shape),
                chunks=(rows, *shape),
                compression="gzip",
                compression_opts=1,
                shuffle=True,
            )
            array.attrs["units"] = np.bytes_(unit)
            self._arrays[name] = array

    def write(self, coordinates: NDArray[np.float32], time_ps: float) -> None:
        """Append one frame (N, 3) in nm."""
        for name, value in (("coordinates", coordinates), ("time", time_ps)):
            array = self._arrays[name]
            array.resize(len(array) + 1, axis=0)
            array[-1] = value
        self._disk.check()


def _described(topology: mdtraj.Topology) -> dict[str, Any]:
    """Return a topology as mdtraj keeps it in JSON."""

    def residue(own: Any) -> dict[str, Any]:
        atoms = [{"index": x.index, "name": x.name, "element": x.element.symbol} for x in own.atoms]
        return {
            **{"index": own.index, "name": own.name, "resSeq": own.resSeq},
            **{"segmentID": own.segment_id, "atoms": atoms},
        }

    chains = [
        {"index": chain.index, "residues": [residue(own) for own in chain.residues]}
        for chain in topology.chains
    ]
    return {"chains": chains, "bonds": [[a.index, b.index] for a, b in topology.bonds]}
