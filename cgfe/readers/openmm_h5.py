"""HDF5 trajectories of OpenMM in mdtraj's convention, with forces where they were recorded.

The layout of the all-atom sets by the authors of arXiv 2509.14600 (reporter of
BioMedAI-UCSC/openmm_generate), `DATA/ID/result/output_ID.h5`:

    topology (1,)              JSON: chains, residues, atoms, bonds
    coordinates (F, A, 3)      nm
    forces (F, A, 3)           kJ/mol/nm, optional here
    time (F,)                  ps
    cell_lengths, cell_angles  (F, 3) nm and degrees, optional
    potentialEnergy (F,)       kJ/mol, optional

The temperature is that of `DATA/ID/simulation/integrator.xml`, if it is there.

The file is opened with h5py: PyTables, and so mdtraj, would unpickle its attributes.
"""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import mdtraj
import numpy as np

from cgfe.errors import InputError
from cgfe.hdf5 import open_hdf5
from cgfe.readers.source import (
    Chunk,
    ReaderOptions,
    Source,
    check_frames_shape,
    check_same_shape,
    hdf5_array,
)
from cgfe.readers.topology import ProteinTopology, load_topology, protein_topology
from cgfe.readers.units import attribute_text, stored_force_factor
from cgfe.units import ANGSTROM_PER_NM, KCAL_PER_KJ

PATTERNS = ("output_*.h5", "result/output_*.h5", "*/result/output_*.h5")


def recognises(path: Path) -> bool:
    """Whether it is an HDF5 file with coordinates, or a folder with output_ID.h5 files."""
    if path.is_dir():
        return bool(_files(path))
    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    with open_hdf5(path) as file:
        return "coordinates" in file


def open_source(paths: list[Path], options: ReaderOptions) -> Source:
    """Open files, or folders of files, of one protein.

    Raises
    ------
    InputError
        If a file is missing or not of this layout, shapes disagree, or proteins differ.
    """
    files = [file for path in paths for file in (_files(path) if path.is_dir() else [path])]
    if not files:
        raise InputError(f"{paths[0]}: no file output_ID.h5 here or in ID/result.")
    name = options.get("topology")
    proteins = [_protein(path, name) for path in files]
    for path, other in zip(files, proteins, strict=True):
        if other.beads.residue_names != proteins[0].beads.residue_names:
            raise InputError(
                f"{path}: holds {'-'.join(other.beads.residue_names)}, but {files[0]} holds "
                f"{'-'.join(proteins[0].beads.residue_names)}; import them one by one."
            )
    options.get("force_unit")
    options.check_no_force_files()
    wanted = not options.without_forces
    headers = [_header(path, p, wanted) for path, p in zip(files, proteins, strict=True)]
    forces = {header["forces"] for header in headers}
    if len(forces) > 1:
        raise InputError(f"{paths[0]}: some files have forces and some have none.")
    first = headers[0]
    unit = options.force_unit
    return Source(
        name=str(paths[0]),
        beads=proteins[0].beads,
        trajectories=[
            partial(_read, path, p, wanted, unit) for path, p in zip(files, proteins, strict=True)
        ],
        frame_count=sum(header["frames"] for header in headers),
        atoms=proteins[0].atoms(first["positions"]),
        has_forces=first["forces"],
        temperature_kelvin=_temperature(files),
        frame_interval_ps=first["interval"],
    )


def _files(folder: Path) -> list[Path]:
    found = (sorted(folder.glob(pattern)) for pattern in PATTERNS)
    return next((files for files in found if files), [])


def _protein(path: Path, topology: str | None) -> ProteinTopology:
    if topology is not None:
        return protein_topology(load_topology(topology), topology)
    with open_hdf5(path) as file:
        if "topology" not in file:
            raise InputError(f"{path}: has no dataset `topology`; give --topology FILE.")
        text = file["topology"][()]
    text = text[0] if isinstance(text, np.ndarray) else text
    try:
        return protein_topology(_topology_of(json.loads(text)), str(path))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: its topology is not mdtraj's JSON ({error!r}).") from None


def _topology_of(content: dict[str, Any]) -> mdtraj.Topology:
    topology = mdtraj.Topology()
    atoms = {}
    for chain_content in content["chains"]:
        chain = topology.add_chain()
        for residue_content in chain_content["residues"]:
            residue = topology.add_residue(residue_content["name"], chain)
            for atom in residue_content["atoms"]:
                symbol = atom["element"]
                element = mdtraj.element.get_by_symbol(symbol) if symbol else None
                atoms[atom["index"]] = topology.add_atom(atom["name"], element, residue)
    if list(atoms) != list(range(len(atoms))):
        raise InputError("the atoms of the topology are not numbered in order.")
    for first, second in content["bonds"]:
        topology.add_bond(atoms[first], atoms[second])
    return topology


def _header(path: Path, protein: ProteinTopology, wanted: bool) -> dict[str, Any]:
    """Check units and shapes of one file; return what Source needs of it."""
    with open_hdf5(path) as file:
        if "coordinates" not in file:
            raise InputError(f"{path}: has no dataset `coordinates`, but {sorted(file)}.")
        coordinates = hdf5_array(file, "coordinates", str(path))
        check_frames_shape(f"{path}: coordinates", coordinates.shape)
        frames, atoms, _ = coordinates.shape
        if frames == 0 or atoms <= protein.selection.max():
            raise InputError(
                f"{path}: coordinates have shape {coordinates.shape}, but the topology has at "
                f"least {protein.selection.max() + 1} atoms."
            )
        for key, unit in (("coordinates", "nanometers"), ("time", "picoseconds")):
            found = attribute_text(file[key].attrs.get("units")) if key in file else None
            if found not in (None, unit, unit.removesuffix("s")):
                raise InputError(f"{path}: {key} are in {found!r}, expected {unit!r}.")
        expected = {"forces": coordinates.shape, "time": (frames,), "potentialEnergy": (frames,)}
        expected |= {"cell_lengths": (frames, 3), "cell_angles": (frames, 3)}
        for key, shape in expected.items():
            if key in file:
                found = hdf5_array(file, key, str(path)).shape
                check_same_shape(f"{path}: {key}", found, "what coordinates ask", shape)
        times = file["time"][:2] if "time" in file else np.zeros(0)
        return {
            "frames": frames,
            "forces": "forces" in file and wanted,
            "positions": coordinates[0][protein.selection] * ANGSTROM_PER_NM,
            "interval": float(times[1] - times[0]) if len(times) > 1 else None,
        }


def _temperature(files: list[Path]) -> float | None:
    """Return the temperature of the integrators beside the files, if all tell the same one."""
    found = set()
    for path in files:
        xml = path.parent.parent / "simulation" / "integrator.xml"
        match = re.search(r'\btemperature="([^"]+)"', xml.read_text()) if xml.is_file() else None
        found.add(float(match[1]) if match else None)
    if len(found) > 1:
        raise InputError(f"{files[0]}: the trajectories are at different temperatures, {found}.")
    return found.pop()


def _read(
    path: Path, protein: ProteinTopology, wanted: bool, unit: str | None, frames: int
) -> Iterator[Chunk]:
    atoms = protein.selection
    with open_hdf5(path) as file:
        # The older files of this layout have forces without the attribute `units`.
        factor = 0.0
        if wanted and "forces" in file:
            stored = "units" in file["forces"].attrs
            factor = stored_force_factor(
                file["forces"], unit if stored else unit or "kJ/mol/nm", str(path)
            )
        for start in range(0, len(file["coordinates"]), frames):
            rows = slice(start, start + frames)
            yield Chunk(
                file["coordinates"][rows][:, atoms] * np.float32(ANGSTROM_PER_NM),
                file["forces"][rows][:, atoms] * np.float32(factor) if factor else None,
                energies=(
                    file["potentialEnergy"][rows].astype(np.float64) * KCAL_PER_KJ
                    if "potentialEnergy" in file
                    else None
                ),
                times_ps=file["time"][rows] if "time" in file else None,
                box=_box(file, rows),
            )


def _box(file: h5py.File, rows: slice) -> Any:
    if "cell_lengths" not in file or "cell_angles" not in file:
        return None
    lengths, angles = file["cell_lengths"][rows], file["cell_angles"][rows]
    vectors = mdtraj.utils.unitcell.lengths_and_angles_to_box_vectors(*lengths.T, *angles.T)
    return np.stack(vectors, axis=1) * ANGSTROM_PER_NM
