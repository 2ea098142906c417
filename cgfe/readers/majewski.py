"""The training data of Majewski et al. 2022 (arXiv 2212.07492, torchmd-protein-thermodynamics).

Cα arrays (frames, beads, 3) in Å and kcal/mol/Å, for each protein:

    chignolin_ca_coords.npy
    chignolin_ca_forces.npy        total forces
    chignolin_ca_deltaforces.npy   optional, minus the authors' prior
    chignolin_ca_embeddings.npy    optional, (beads,) numbers of the authors' table; without it
                                   --topology names the residues

The frames of all trajectories stand behind each other without a mark, so they count as one
trajectory. Neither temperature nor time is in the arrays.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from cgfe.errors import InputError
from cgfe.readers.arrays import npy_array, npy_rows
from cgfe.readers.residues import linear_bonds, residues_of_embedding
from cgfe.readers.source import (
    DELTA_ONLY,
    JOINED,
    KCAL,
    Beads,
    Chunk,
    ReaderOptions,
    Source,
    check_frames_shape,
    check_same_shape,
    single,
)
from cgfe.readers.topology import load_topology, protein_topology

SUFFIX = "_coords.npy"


def recognises(path: Path) -> bool:
    """Whether it is NAME_coords.npy or a folder with one."""
    return path.name.endswith(SUFFIX) or (path.is_dir() and bool(list(path.glob(f"*{SUFFIX}"))))


def open_source(paths: list[Path], options: ReaderOptions) -> Source:
    """Open the arrays of one protein.

    Raises
    ------
    InputError
        If an array is missing or shapes disagree.
    """
    coordinates = _coordinates(paths)
    shape = npy_array(coordinates).shape
    check_frames_shape(str(coordinates), shape)
    forces, delta = (_beside(coordinates, kind) for kind in ("forces", "deltaforces"))
    if options.without_forces:
        forces = delta = None
    elif options.forces:
        if len(options.forces) != 1:
            raise InputError(f"--forces: expected one file, found {len(options.forces)}.")
        forces = Path(options.forces[0])
    elif forces is None and delta is None:
        raise InputError(
            f"{coordinates}: no {_sibling(coordinates, 'forces').name} beside it; "
            "--forces none imports positions alone."
        )
    for path in (forces, delta):
        if path is not None:
            check_same_shape(str(path), npy_array(path).shape, str(coordinates), shape)
    # Total forces tell all: the delta forces are these minus a prior.
    delta = None if forces else delta
    return Source(
        name=str(coordinates),
        beads=_beads(coordinates, shape[1], options),
        trajectories=[partial(_read, coordinates, forces, delta)],
        frame_count=shape[0],
        has_forces=forces is not None,
        force_unit=options.get("force_unit"),
        documented_unit=KCAL,
        notes=(JOINED, DELTA_ONLY) if delta else (JOINED,),
    )


def _coordinates(paths: list[Path]) -> Path:
    path = single(paths, "majewski", f"NAME{SUFFIX} or its folder")
    if not path.is_dir():
        return path
    found = sorted(path.glob(f"*{SUFFIX}"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise InputError(f"{path}: expected one file *{SUFFIX}, found {names}.")
    return found[0]


def _sibling(coordinates: Path, kind: str) -> Path:
    return coordinates.with_name(coordinates.name.removesuffix(SUFFIX) + f"_{kind}.npy")


def _beside(coordinates: Path, kind: str) -> Path | None:
    path = _sibling(coordinates, kind)
    return path if path.is_file() else None


def _beads(coordinates: Path, number: int, options: ReaderOptions) -> Beads:
    topology, table = options.get("topology"), options.get("embedding") or "majewski"
    embeddings = _beside(coordinates, "embeddings")
    if topology is not None:
        protein = protein_topology(load_topology(topology), topology)
        if len(protein.carbons) != number:
            raise InputError(
                f"{coordinates}: has {number} beads, but {topology} has {len(protein.carbons)} Cα."
            )
        return protein.beads
    if embeddings is None:
        name = _sibling(coordinates, "embeddings").name
        raise InputError(f"{coordinates}: no {name} beside it; give --topology for the residues.")
    names = residues_of_embedding(npy_array(embeddings), table, str(embeddings), number)
    return Beads(names, linear_bonds(number))


def _read(
    coordinates: Path, forces: Path | None, delta: Path | None, frames: int
) -> Iterator[Chunk]:
    other = None if forces is None else npy_rows(forces, frames)
    differences = None if delta is None else npy_rows(delta, frames)
    for rows in npy_rows(coordinates, frames):
        yield Chunk(
            rows,
            None if other is None else next(other),
            delta_forces=None if differences is None else next(differences),
        )
