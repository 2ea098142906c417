"""What a user hands to an import beside the source: a native structure, and weights of frames."""

from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
from numpy.typing import NDArray

from cgfe.data.force_mapping import CarbonAlphaMapping
from cgfe.errors import InputError
from cgfe.files import ascii_path
from cgfe.readers.arrays import npy_array
from cgfe.readers.chunks import ImportSettings, beads_of, rows_of
from cgfe.readers.source import Chunk, Source, existing
from cgfe.readers.topology import UNSAFE_TOPOLOGIES, protein_topology
from cgfe.units import ANGSTROM_PER_NM


def native_of_file(path: str, residue_names: tuple[str, ...]) -> NDArray[np.float64]:
    """Return the Cα positions (N, 3) in Å of a structure file, a PDB for example.

    Raises
    ------
    InputError
        If it cannot be read, or is of another protein.
    """
    existing(path)
    if path.lower().endswith(UNSAFE_TOPOLOGIES):
        raise InputError(f"--native {path}: HDF5 is not read; expected a structure (.pdb, .gro).")
    try:
        with ascii_path(Path(path)) as named:
            structure = mdtraj.load(str(named))[0]
    except Exception as error:
        # mdtraj's parsers raise whatever a malformed line happens to trigger.
        told = " ".join(str(error).split())
        raise InputError(f"--native {path}: no structure that mdtraj reads ({told}).") from None
    protein = protein_topology(structure.topology, path)
    names = protein.beads.residue_names
    if names != residue_names:
        raise InputError(
            f"--native {path}: holds {'-'.join(names)}, but the frames are of "
            f"{'-'.join(residue_names)}."
        )
    atoms = protein.selection[np.array(protein.carbons)]
    return np.asarray(structure.xyz[0, atoms], dtype=np.float64) * ANGSTROM_PER_NM


def weights_of_file(path: str) -> NDArray[np.float64]:
    """Return the weights (F,) in a .npy file, or in a text with one number a line.

    Raises
    ------
    InputError
        If they are no list of numbers, negative, not finite, or all zero.
    """
    existing(path)
    values: NDArray[Any]
    if path.endswith(".npy"):
        values = np.array(npy_array(Path(path)), dtype=np.float64)
    else:
        try:
            values = np.loadtxt(path, dtype=np.float64, ndmin=1)
        except (ValueError, OSError) as error:
            told = " ".join(str(error).split())
            raise InputError(f"--weights {path}: expected one number a line ({told}).") from None
    if values.ndim != 1:
        raise InputError(f"--weights {path}: shape is {values.shape}, expected (frames,).")
    if not np.isfinite(values).all() or (values < 0).any() or not values.any():
        raise InputError(f"--weights {path}: weights are not finite, negative, or all zero.")
    return values


def native_of(
    source: Source, mapping: CarbonAlphaMapping | None, settings: ImportSettings
) -> NDArray[np.float64] | None:
    """Return the native structure (N, 3) in Å, its mean at 0, of a file or a frame."""
    if not 0 < settings.folded_rmsd < np.inf:
        raise InputError(f"--folded-rmsd {settings.folded_rmsd:g}: expected a positive length.")
    wanted = settings.native
    if wanted is None:
        return None
    if wanted.isdecimal():
        number = int(wanted)
        chunk = _frame(source, number, settings)
        positions = beads_of(chunk, source, mapping, 0).positions[0].astype(np.float64)
    else:
        positions = native_of_file(wanted, source.beads.residue_names)
    return positions - positions.mean(axis=0)


def _frame(source: Source, number: int, settings: ImportSettings) -> Chunk:
    """Return one frame, counted from 0 over all trajectories."""
    done = 0
    for read in source.trajectories:
        for chunk in read(rows_of(source, settings)):
            if number < done + len(chunk.positions):
                return chunk.select(slice(number - done, number - done + 1))
            done += len(chunk.positions)
    raise InputError(f"--native {number}: {source.name} has {done} frames, counted from 0.")
