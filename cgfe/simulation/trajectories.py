"""Writing simulated frames as they come, in formats that mdtraj opens."""

from pathlib import Path

import mdtraj
import numpy as np
from mdtraj.formats import DCDTrajectoryFile, HDF5TrajectoryFile, XTCTrajectoryFile
from numpy.typing import NDArray

from cgfe.data.beads import alpha_carbon_topology
from cgfe.reference.system import BeadSystem
from cgfe.units import ANGSTROM_PER_NM


class TrajectoryWriter:
    """One open trajectory file; its format follows the suffix (.xtc, .dcd, .h5)."""

    def __init__(self, path: Path, system: BeadSystem) -> None:
        self.topology = alpha_carbon_topology(system.residue_names, system.bonds)
        self.suffix = path.suffix
        self.frames = 0
        if self.suffix == ".xtc":
            self.file = XTCTrajectoryFile(str(path), "w")
        elif self.suffix == ".dcd":
            self.file = DCDTrajectoryFile(str(path), "w")
        else:
            self.file = HDF5TrajectoryFile(str(path), "w")
            self.file.topology = self.topology

    def write(self, positions: NDArray[np.float32], time_ps: float) -> None:
        """Append one frame (N, 3) in Å."""
        # Each format's own length unit: DCD has Å, XTC and mdtraj's HDF5 have nm.
        if self.suffix == ".dcd":
            self.file.write(positions[None])
        elif self.suffix == ".xtc":
            self.file.write(positions[None] / ANGSTROM_PER_NM, time=[time_ps], step=[self.frames])
        else:
            self.file.write(positions[None] / ANGSTROM_PER_NM, time=np.array([time_ps]))
        self.frames += 1

    def save_topology(self, path: Path, positions: NDArray[np.float32]) -> None:
        """Write the beads as PDB."""
        mdtraj.Trajectory(positions[None] / ANGSTROM_PER_NM, self.topology).save_pdb(str(path))

    def close(self) -> None:
        """Close the file."""
        self.file.close()
