"""Any trajectory that mdtraj reads, with a topology, and forces inside or beside it or none.

Every SOURCE file is one trajectory. Forces come from, in this order: the files of --forces, the
trajectory itself (.trr), a file STEM_forces.npy, STEM_forces.h5 or STEM_forces.trr beside it.

    .npy  (frames, atoms, 3), in the unit of --force-unit, else told from their thermal size
    .h5   dataset `forces` (frames, atoms, 3), in the unit of its attribute `units`
    .trr  kJ/mol/nm, GROMACS' own

HDF5 trajectories are read by cgfe.readers.openmm_h5: mdtraj opens them with PyTables, which
unpickles attributes.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
from mdtraj.formats import TRRTrajectoryFile

from cgfe.array_types import RealArray
from cgfe.children import CAN_FORK, in_child
from cgfe.errors import InputError
from cgfe.files import ascii_path
from cgfe.hdf5 import open_hdf5
from cgfe.readers import openmm_h5
from cgfe.readers.arrays import npy_array, npy_rows
from cgfe.readers.source import (
    KCAL,
    Chunk,
    ReaderOptions,
    Source,
    check_frames_shape,
    existing,
    hdf5_array,
)
from cgfe.readers.topology import ProteinTopology, load_topology, protein_topology
from cgfe.readers.units import force_factor, stored_force_factor
from cgfe.units import ANGSTROM_PER_NM

SUFFIXES = (
    *(".xtc", ".trr", ".dcd", ".nc", ".netcdf", ".ncdf", ".binpos", ".mdcrd", ".crd"),
    *(".pdb", ".pdb.gz", ".gro", ".gsd", ".xyz", ".lammpstrj", ".arc"),
)
WITH_TOPOLOGY = (".pdb", ".pdb.gz", ".gro")
WITH_TIMES = (".xtc", ".trr", ".nc", ".netcdf", ".ncdf")
"""mdtraj makes up frame numbers as times for the others."""
COMPILED = (".xtc", ".trr", ".dcd", ".binpos")
"""Read by C code that trusts the file."""
LOOK_FRAMES = 100
LOOK_SECONDS = 20.0
SLOWEST_BYTES_PER_SECOND = 2e6
HDF5 = (".h5", ".hdf5")
FORCE_SUFFIXES = (".npy", ".h5", ".trr")


def recognises(path: Path) -> bool:
    """Whether the file's name ends like a trajectory's."""
    return path.is_file() and path.name.lower().endswith(SUFFIXES)


def open_source(paths: list[Path], options: ReaderOptions) -> Source:
    """Open trajectories of one topology.

    Raises
    ------
    InputError
        If a file is missing or unreadable, or topology, trajectory and forces disagree.
    """
    if all(path.suffix.lower() in HDF5 for path in paths):
        return openmm_h5.open_source(paths, options)
    for path in paths:
        if not recognises(existing(path)):
            raise InputError(f"{path}: no trajectory that is read through mdtraj ({SUFFIXES}).")
    name = options.get("topology")
    if name is None and not paths[0].name.lower().endswith(WITH_TOPOLOGY):
        raise InputError(f"{paths[0]}: --topology FILE is needed (.pdb, .psf, .prmtop, .gro).")
    topology = load_topology(name or paths[0])
    protein = protein_topology(topology, str(name or paths[0]))
    for path in paths:
        _look_through(path, _pieces(path, topology, protein, LOOK_FRAMES))
    forces = _force_files(paths, options)
    first = [_first_frames(path, topology, protein) for path in paths]
    timed = paths[0].name.lower().endswith(WITH_TIMES) and len(first[0].time) > 1
    trajectories = [
        partial(_read, path, topology, protein, force, options.force_unit)
        for path, force in zip(paths, forces, strict=True)
    ]
    bare = any(force is not None and force.suffix == ".npy" for force in forces)
    if bare and not all(force is not None and force.suffix == ".npy" for force in forces):
        raise InputError("--forces: some files are .npy and some are not; expected one kind.")
    for force in forces:
        _check_force_file(force, topology, protein)
    return Source(
        name=str(paths[0]),
        beads=protein.beads,
        trajectories=trajectories,
        frame_count=None,
        atoms=protein.atoms(first[0].xyz[0] * ANGSTROM_PER_NM),
        has_forces=forces[0] is not None,
        # Bare arrays come as they are; other files' forces are in kcal/mol/Å by then.
        force_unit=options.force_unit if bare else KCAL,
        frame_interval_ps=float(np.diff(first[0].time)[0]) if timed else None,
    )


def _look_through(path: Path, pieces: Iterator[Any]) -> None:
    """Raise InputError if a compiled reader hangs or dies of the file, told by a child process.

    Reading takes a tenth of an import's time.
    """
    if not CAN_FORK or path.suffix.lower() not in COMPILED:
        return

    def read() -> str:
        try:
            for _ in pieces:
                pass
        except InputError as error:
            return str(error)
        return ""

    limit = LOOK_SECONDS + path.stat().st_size / SLOWEST_BYTES_PER_SECOND
    fault = in_child(read, limit)
    if fault is None:
        raise InputError(f"{path}: mdtraj's reader hangs or crashes on it; it is damaged.")
    if fault:
        raise InputError(fault)


def _first_frames(path: Path, topology: Any, protein: ProteinTopology) -> Any:
    for piece in _pieces(path, topology, protein, 2):
        return piece
    raise InputError(f"{path}: holds no frame.")


def _pieces(path: Path, topology: Any, protein: ProteinTopology, frames: int) -> Iterator[Any]:
    given = {} if path.name.lower().endswith((".pdb", ".pdb.gz")) else {"top": topology}
    try:
        with ascii_path(path) as named:
            yield from mdtraj.iterload(
                str(named), chunk=frames, atom_indices=protein.selection.tolist(), **given
            )
    except Exception as error:
        # Each format's parser has its own exceptions.
        raise InputError(
            f"{path}: cannot be read with a topology of {topology.n_atoms} atoms "
            f"({' '.join(str(error).split())})."
        ) from None


def _force_files(paths: list[Path], options: ReaderOptions) -> list[Path | None]:
    """Return the file that holds each trajectory's forces."""
    options.get("force_unit")
    if options.without_forces:
        return [None] * len(paths)
    if options.forces:
        if len(options.forces) != len(paths):
            raise InputError(
                f"--forces names {len(options.forces)} files for {len(paths)} trajectories."
            )
        return [existing(path) for path in options.forces]
    found = [_forces_of(path) for path in paths]
    if None in found and any(found):
        missing = paths[found.index(None)]
        raise InputError(f"{missing}: has no forces, but others have; --forces none reads none.")
    return found


def _forces_of(path: Path) -> Path | None:
    if path.suffix.lower() == ".trr":
        with ascii_path(path) as named, TRRTrajectoryFile(str(named)) as file:
            try:
                file._read(1, None, False, True)
                return path
            except (RuntimeError, OSError):
                pass
    beside = [path.with_name(f"{path.stem}_forces{suffix}") for suffix in FORCE_SUFFIXES]
    return next((candidate for candidate in beside if candidate.is_file()), None)


def _check_force_file(force: Path | None, topology: Any, protein: ProteinTopology) -> None:
    if force is None:
        return
    if force.suffix not in FORCE_SUFFIXES:
        raise InputError(f"{force}: expected forces as one of {FORCE_SUFFIXES}.")
    if force.suffix == ".npy":
        shape = npy_array(force).shape
    elif force.suffix == ".h5":
        with open_hdf5(force) as file:
            if "forces" not in file:
                raise InputError(f"{force}: has no dataset `forces`, but {sorted(file)}.")
            shape = hdf5_array(file, "forces", str(force)).shape
    else:
        _look_through(force, _force_chunks(force, protein, None, LOOK_FRAMES))
        return
    check_frames_shape(str(force), shape)
    if shape[1] not in (topology.n_atoms, len(protein.selection)):
        raise InputError(
            f"{force}: shape is {shape}, but the topology has {topology.n_atoms} atoms "
            f"({len(protein.selection)} of protein)."
        )


def _read(
    path: Path,
    topology: Any,
    protein: ProteinTopology,
    force: Path | None,
    unit: str | None,
    frames: int,
) -> Iterator[Chunk]:
    forces = None if force is None else _force_chunks(force, protein, unit, frames)
    timed = path.name.lower().endswith(WITH_TIMES)
    count = 0
    for piece in _pieces(path, topology, protein, frames):
        part = None if forces is None else next(forces, None)
        count += len(piece)
        if forces is not None and (part is None or part.shape != piece.xyz.shape):
            found = "nothing" if part is None else f"shape {part.shape}"
            raise InputError(
                f"{force}: forces of the {len(piece)} frames up to {count} are {found}, but "
                f"{path} has positions of shape {piece.xyz.shape} there."
            )
        box = piece.unitcell_vectors
        yield Chunk(
            piece.xyz * ANGSTROM_PER_NM,
            part,
            times_ps=piece.time if timed else None,
            box=None if box is None else box * ANGSTROM_PER_NM,
        )
    if forces is not None and next(forces, None) is not None:
        raise InputError(f"{force}: has more than the {count} frames of {path}.")


def _force_chunks(
    path: Path, protein: ProteinTopology, unit: str | None, frames: int
) -> Iterator[RealArray]:
    """Yield forces (n, atoms, 3) of the selection in kcal/mol/Å, those of .npy as they are."""
    if path.suffix == ".trr":
        factor = force_factor(unit or "kJ/mol/nm")
        try:
            with ascii_path(path) as named, TRRTrajectoryFile(str(named)) as file:
                atoms = protein.selection
                while len(forces := file._read(frames, atoms, False, True)[-1]):
                    yield forces * factor
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            raise InputError(f"{path}: forces cannot be read ({error}).") from None
    elif path.suffix == ".h5":
        with open_hdf5(path) as file:
            factor = stored_force_factor(file["forces"], unit, str(path))
            for start in range(0, len(file["forces"]), frames):
                yield _selected(file["forces"][start : start + frames], protein) * factor
    else:
        for rows in npy_rows(path, frames):
            yield _selected(rows, protein)


def _selected(forces: RealArray, protein: ProteinTopology) -> RealArray:
    same = forces.shape[1] == len(protein.selection)
    return forces if same else forces[:, protein.selection]
