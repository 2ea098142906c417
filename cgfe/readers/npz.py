"""Cα frames in a plain .npz archive of numbers and strings.

Any of these names of each array are accepted; all but the first two rows are optional:

    positions, coords, cg_coords, pos    (F, N, 3) Å
    residue_names                        (N,) three-letter codes, or
    embeddings, embeds, cg_embeds, bead_types   (N,) numbers, read by --embedding
    forces, cg_forces                    (F, N, 3) kcal/mol/Å, total
    delta_forces, cg_delta_forces        (F, N, 3) kcal/mol/Å, minus a foreign prior
    trajectory_index                     (F,) never falling
    weights                              (F,)
    masses, bonds                        (N,) amu, (B, 2)
    temperature, temperature_kelvin      K
    frame_interval_ps                    ps

Members are read as streams, compressed or not.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cgfe.errors import InputError
from cgfe.readers.arrays import Archive
from cgfe.readers.residues import canonical_residue, linear_bonds, residues_of_embedding
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

NAMES = {
    "positions": ("positions", "coords", "cg_coords", "pos"),
    "forces": ("forces", "cg_forces"),
    "delta_forces": ("delta_forces", "cg_delta_forces"),
    "weights": ("weights",),
    "trajectory_index": ("trajectory_index",),
}
EMBEDDINGS = ("embeddings", "embeds", "cg_embeds", "bead_types")
TEMPERATURES = ("temperature", "temperature_kelvin")


def recognises(path: Path) -> bool:
    """Whether it is a file that ends with .npz."""
    return path.is_file() and path.suffix == ".npz"


def open_source(paths: list[Path], options: ReaderOptions) -> Source:
    """Open one archive.

    Raises
    ------
    InputError
        If an array is missing or shapes disagree.
    """
    archive = Archive(single(paths, "npz"))
    options.check_no_force_files()
    found = {key: _first(archive, names) for key, names in NAMES.items()}
    positions = found["positions"]
    if positions is None:
        raise InputError(
            f"{archive.path}: none of {NAMES['positions']} is there, but {sorted(archive.names)}."
        )
    if options.without_forces:
        found["forces"] = found["delta_forces"] = None
    if found["forces"]:
        found["delta_forces"] = None
    members = {key: name for key, name in found.items() if name is not None}
    shape = archive.shape(positions)
    check_frames_shape(f"{archive.path}: {positions}", shape)
    for key, name in members.items():
        expected = shape[:1] if key in ("weights", "trajectory_index") else shape
        check_same_shape(f"{archive.path}: {name}", archive.shape(name), positions, expected)
    notes = () if "trajectory_index" in members else (JOINED,)
    return Source(
        name=str(archive.path),
        beads=_beads(archive, shape[1], options.get("embedding")),
        trajectories=[partial(_read, archive, members)],
        frame_count=shape[0],
        has_forces="forces" in members,
        force_unit=options.get("force_unit"),
        documented_unit=KCAL,
        temperature_kelvin=_number(archive, TEMPERATURES),
        frame_interval_ps=_number(archive, ("frame_interval_ps",)),
        notes=(*notes, DELTA_ONLY) if "delta_forces" in members else notes,
    )


def _first(archive: Archive, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in archive.names), None)


def _number(archive: Archive, names: tuple[str, ...]) -> float | None:
    name = _first(archive, names)
    if name is None:
        return None
    value = archive.load(name)
    if value.size != 1 or value.dtype.kind not in "iuf":
        raise InputError(f"{archive.path}: {name} has shape {value.shape}, expected one number.")
    return float(value.item())


def _beads(archive: Archive, number: int, table: str | None) -> Beads:
    path, embedding = archive.path, _first(archive, EMBEDDINGS)
    if "residue_names" in archive.names:
        values = archive.load("residue_names")
        if values.shape != (number,) or values.dtype.kind not in "US":
            raise InputError(
                f"{path}: residue_names have shape {values.shape}, expected ({number},) of text."
            )
        names = tuple(canonical_residue(name) for name in values.astype(str).tolist())
    elif embedding is not None:
        if table is None and embedding != "bead_types":
            raise InputError(f"{path}: give --embedding, the table that {embedding} numbers.")
        source = f"{path}: {embedding}"
        names = residues_of_embedding(archive.numbers(embedding), table or "cgfe", source, number)
    else:
        raise InputError(f"{path}: has neither residue_names nor any of {EMBEDDINGS}.")
    masses: Any = archive.numbers("masses") if "masses" in archive.names else None
    bonds = archive.numbers("bonds") if "bonds" in archive.names else linear_bonds(number)
    return Beads(
        names, bonds.astype(np.int64), None if masses is None else masses.astype(np.float64)
    )


def _read(archive: Archive, members: dict[str, str], frames: int) -> Iterator[Chunk]:
    streams = {key: archive.rows(name, frames) for key, name in members.items()}
    for positions in streams.pop("positions"):
        yield Chunk(positions, **{key: next(stream) for key, stream in streams.items()})
