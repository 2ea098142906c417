"""The CLN025 set of FU Berlin: all-atom chignolin without water, 3,744 trajectories of 50 ns.

ftp.mi.fu-berlin.de/pub/cmb-data/chignolin_trajectories, unpacked (the layout that mlcg's
ChignolinDataset reads); arrays (frames, atoms, 3) in Å and kcal/mol/Å:

    coords_nowater/chig_coor_TAG.npy
    forces_nowater/chig_force_TAG.npy
    chignolin_50ns_0/structure.pdb      with water, which is removed

The three may also lie in one folder. Neither temperature nor time is in the arrays; a simulation
input (ACEMD's `input`) beside structure.pdb is asked for the temperature. The published set is
at 350 K, a frame every 100 ps.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import mdtraj
import numpy as np

from cgfe.errors import InputError
from cgfe.readers.arrays import npy_array, npy_rows
from cgfe.readers.source import (
    KCAL,
    Chunk,
    ReaderOptions,
    Source,
    check_frames_shape,
    check_same_shape,
    single,
)
from cgfe.readers.topology import ProteinTopology, load_topology, protein_topology

COORDINATES = "chig_coor_"
FORCES = "chig_force_"
TEMPERATURE = re.compile(
    r"^\s*(?:set\s+)?(?:thermostattemp|langevintemp|temperature)\s+([\d.]+)", re.M | re.I
)


def recognises(path: Path) -> bool:
    """Whether it is a folder with chig_coor_TAG.npy files."""
    return path.is_dir() and bool(_coordinate_files(path))


def open_source(paths: list[Path], options: ReaderOptions) -> Source:
    """Open the folder.

    Raises
    ------
    InputError
        If a force file or the structure is missing, or shapes disagree.
    """
    folder = single(paths, "fu-berlin", "folder")
    options.check_no_force_files()
    files = _coordinate_files(folder)
    if not files:
        raise InputError(f"{folder}: no file {COORDINATES}TAG.npy here or in coords_nowater.")
    wanted = not options.without_forces
    structure = options.get("topology") or _structure(folder)
    protein = _without_water(load_topology(structure), str(structure), files[0])
    forces = [_forces_of(folder, path) if wanted else None for path in files]
    frames = 0
    for path, force in zip(files, forces, strict=True):
        shape = npy_array(path).shape
        check_frames_shape(str(path), shape)
        check_same_shape(str(path), shape[1:], str(files[0]), npy_array(files[0]).shape[1:])
        if force is not None:
            check_same_shape(str(force), npy_array(force).shape, str(path), shape)
        frames += shape[0]
    first = np.array(npy_array(files[0])[0])[protein.selection]
    return Source(
        name=str(folder),
        beads=protein.beads,
        trajectories=[
            partial(_read, path, force, protein) for path, force in zip(files, forces, strict=True)
        ],
        frame_count=frames,
        atoms=protein.atoms(first),
        has_forces=wanted,
        force_unit=options.get("force_unit"),
        documented_unit=KCAL,
        temperature_kelvin=_temperature(Path(structure)),
    )


def _coordinate_files(folder: Path) -> list[Path]:
    for place in (folder / "coords_nowater", folder):
        files = list(place.glob(f"{COORDINATES}*.npy"))
        if files:
            return sorted(files, key=lambda path: _natural(path.stem))
    return []


def _natural(text: str) -> list[tuple[int, str]]:
    return [
        (int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", text) if part
    ]


def _forces_of(folder: Path, coordinates: Path) -> Path:
    name = coordinates.name.replace(COORDINATES, FORCES, 1)
    for place in (folder / "forces_nowater", coordinates.parent):
        if (place / name).is_file():
            return place / name
    raise InputError(f"{folder}: no file {name} beside {coordinates.name}; --forces none.")


def _structure(folder: Path) -> Path:
    found = sorted([*folder.glob("structure.pdb"), *folder.glob("*/structure.pdb")])
    if not found:
        raise InputError(f"{folder}: no structure.pdb here or in a subfolder; give --topology.")
    return found[0]


def _without_water(topology: mdtraj.Topology, name: str, first: Path) -> ProteinTopology:
    """Return the protein of the atoms that the arrays hold."""
    shape = npy_array(first).shape
    check_frames_shape(str(first), shape)
    dry = topology.subset([a.index for a in topology.atoms if not _is_solvent(a)])
    for candidate in (topology, dry):
        if candidate.n_atoms == shape[1]:
            return protein_topology(candidate, name)
    raise InputError(
        f"{first}: shape is {shape}, but {name} has {topology.n_atoms} atoms "
        f"({dry.n_atoms} without solvent)."
    )


def _is_solvent(atom: mdtraj.core.topology.Atom) -> bool:
    return atom.residue.is_water or atom.residue.name in mdtraj.core.residue_names._SOLVENT_TYPES


def _temperature(structure: Path) -> float | None:
    path = structure.with_name("input")
    match = TEMPERATURE.search(path.read_text(errors="replace")) if path.is_file() else None
    return float(match[1]) if match else None


def _read(path: Path, force: Path | None, protein: ProteinTopology, frames: int) -> Iterator[Chunk]:
    forces = None if force is None else npy_rows(force, frames)
    for rows in npy_rows(path, frames):
        part = None if forces is None else next(forces)[:, protein.selection]
        yield Chunk(rows[:, protein.selection], part)
