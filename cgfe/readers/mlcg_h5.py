"""HDF5 data sets of mlcg (mlcg.datasets.h5_dataset): a group per molecule.

    [METASET/]MOLECULE/cg_coords (F, N, 3)         Å
    [METASET/]MOLECULE/cg_forces (F, N, 3)         kcal/mol/Å, total
    [METASET/]MOLECULE/cg_delta_forces (F, N, 3)   kcal/mol/Å, minus mlcg's prior
    attributes: cg_embeds (N,) numbers of mlcg's table, N_frames, and where given cg_masses (N,),
    temperature

A frames file holds one system, so of several molecules one is chosen with --molecule. Only Cα
beads are read: mlcg's backbone beads (types 21 to 24) are refused.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cgfe.errors import InputError
from cgfe.hdf5 import open_hdf5
from cgfe.readers.residues import linear_bonds, residues_of_embedding
from cgfe.readers.source import (
    DELTA_ONLY,
    JOINED,
    Beads,
    Chunk,
    ReaderOptions,
    Source,
    check_frames_shape,
    check_same_shape,
    hdf5_array,
    single,
)

DEPTH = 3


def recognises(path: Path) -> bool:
    """Whether it is an HDF5 file with a group that has cg_coords."""
    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    with open_hdf5(path) as file:
        return bool(_molecules(file))


def open_source(paths: list[Path], options: ReaderOptions) -> Source:
    """Open one molecule of one file.

    Raises
    ------
    InputError
        If there is no such molecule, or shapes or attributes disagree.
    """
    path = single(paths, "mlcg")
    options.check_no_force_files()
    with open_hdf5(path) as file:
        group = _choose(file, path, options.get("molecule"))
        name = f"{path}: {group.name}"
        shape = hdf5_array(group, "cg_coords", name).shape
        check_frames_shape(f"{name}/cg_coords", shape)
        for key in ("cg_forces", "cg_delta_forces"):
            if key in group:
                found = hdf5_array(group, key, name).shape
                check_same_shape(f"{name}/{key}", found, "cg_coords", shape)
        stated = group.attrs.get("N_frames", shape[0])
        if int(stated) != shape[0]:
            raise InputError(f"{name}: N_frames is {stated}, but cg_coords has shape {shape}.")
        if "cg_embeds" not in group.attrs:
            raise InputError(f"{name}: has no attribute cg_embeds.")
        keys = [key for key in ("cg_forces", "cg_delta_forces") if key in group]
        if options.without_forces:
            keys = []
        elif not keys:
            raise InputError(
                f"{name}: has neither cg_forces nor cg_delta_forces; "
                "--forces none imports positions alone."
            )
        table = options.get("embedding") or "one_letter"
        temperature = group.attrs.get("temperature", file.attrs.get("temperature"))
        return Source(
            name=name,
            beads=_beads(group, name, table, shape[1]),
            trajectories=[partial(_read, path, group.name, keys[0] if keys else None)],
            frame_count=shape[0],
            has_forces="cg_forces" in keys,
            temperature_kelvin=None if temperature is None else float(temperature),
            notes=(JOINED, DELTA_ONLY) if keys == ["cg_delta_forces"] else (JOINED,),
        )


def _molecules(file: h5py.File) -> list[str]:
    found: list[str] = []

    def search(group: h5py.Group, depth: int) -> None:
        if "cg_coords" in group:
            found.append(str(group.name).strip("/"))
        elif depth < DEPTH:
            for key in group:
                # Links to other files are not followed.
                inside = isinstance(group.get(key, getlink=True), h5py.HardLink)
                if inside and isinstance(group[key], h5py.Group):
                    search(group[key], depth + 1)

    search(file, 0)
    return found


def _choose(file: h5py.File, path: Path, molecule: str | None) -> h5py.Group:
    found = _molecules(file)
    names = ", ".join(found[:10]) + (" ..." if len(found) > 10 else "")
    if not found:
        raise InputError(f"{path}: no group has a dataset cg_coords.")
    if molecule is None:
        if len(found) > 1:
            raise InputError(f"{path}: holds {len(found)} molecules ({names}); give --molecule.")
        return file[found[0]]
    chosen = [name for name in found if molecule in (name, name.rsplit("/")[-1])]
    if len(chosen) != 1:
        raise InputError(f"{path}: --molecule {molecule} is not one of {names}.")
    return file[chosen[0]]


def _beads(group: h5py.Group, name: str, table: str, number: int) -> Beads:
    embedding = np.asarray(group.attrs["cg_embeds"])
    names = residues_of_embedding(embedding, table, f"{name}: cg_embeds", number)
    masses: Any = group.attrs.get("cg_masses")
    if masses is not None:
        masses = np.asarray(masses, dtype=np.float64)
        if masses.shape != (number,):
            raise InputError(f"{name}: cg_masses have shape {masses.shape}, expected ({number},).")
    return Beads(names, linear_bonds(number), masses)


def _read(path: Path, group: str, key: str | None, frames: int) -> Iterator[Chunk]:
    with open_hdf5(path) as file:
        coordinates = file[group]["cg_coords"]
        for start in range(0, len(coordinates), frames):
            rows = slice(start, start + frames)
            values = file[group][key][rows] if key else None
            total = key == "cg_forces"
            yield Chunk(
                coordinates[rows],
                values if total else None,
                delta_forces=None if total else values,
            )
