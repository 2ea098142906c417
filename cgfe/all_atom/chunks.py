"""Chunks: the files that a walker's trajectory is made of, and the random streams behind them.

A chunk holds its frames and the exact state at its end, and is renamed into place when complete,
so the newest chunk is all that a restart needs: a killed run loses at most the chunk that was being
sampled. Every chunk has its own random stream from (seed, walker, chunk), so an interrupted run and
an uninterrupted one draw the same numbers. They end with the same bits if they are sampled by the
same version of this program, compiler and width of the CPU's vectors (or OpenMM platform); else
with other trajectories of the same distribution.

Datasets: `positions` (frames, atoms, 3) float32 Å, centred; `forces` (frames, atoms, 3) float32
kcal/mol/Å, without any bias; `energies` (frames,) float64 kcal/mol; `end_positions` nm and
`end_velocities` nm/ps (atoms, 3); what a bias, a box of water or replica exchange adds.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgfe.errors import InputError
from cgfe.hdf5 import open_hdf5, writing_hdf5


def walker_folder(folder: Path, walker: int) -> Path:
    """Return the folder of one walker's chunks."""
    return folder / f"walker-{walker:03d}"


def chunk_path(folder: Path, walker: int, chunk: int) -> Path:
    """Return the file of a chunk, which may not be there yet."""
    return walker_folder(folder, walker) / f"chunk-{chunk:05d}.h5"


def chunk_files(folder: Path, walker: int) -> list[Path]:
    """Return the finished chunks of one walker, in order."""
    return sorted(walker_folder(folder, walker).glob("chunk-*.h5"))


def write_chunk(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a chunk, complete or not at all."""
    with writing_hdf5(path) as file:
        for name, values in arrays.items():
            file[name] = values


def read_chunk(path: Path, *names: str) -> dict[str, NDArray[Any]]:
    """Return arrays of a chunk, all of them if none is named.

    Raises
    ------
    InputError
        If the file cannot be read or lacks one of them.
    """
    with open_hdf5(path) as file:
        missing = [name for name in names if name not in file]
        if missing:
            raise InputError(f"{path}: no array {missing[0]!r}; expected a chunk of such a run.")
        return {name: file[name][()] for name in names or file}


def read_end(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a chunk that tell how it ended, without its frames."""
    with open_hdf5(path) as file:
        return {name: file[name][()] for name in file if name.startswith("end_")}


def stream(seed: int, walker: int, chunk: int, purpose: int = 0) -> int:
    """Return the number, 64 bits, that a random stream starts from.

    Chunk 0 is the way to the start, chunk k + 1 the k-th chunk; `purpose` tells streams of one
    chunk apart.
    """
    entropy = np.random.SeedSequence([seed, walker, chunk, purpose + 1])
    return int(entropy.generate_state(1, np.uint64)[0])


def streams(seed: int, walkers: Sequence[int], chunk: int, purpose: int = 0) -> NDArray[np.uint64]:
    """Return the `stream` of each walker (W,)."""
    return np.array([stream(seed, w, chunk, purpose) for w in walkers], dtype=np.uint64)


def finite(walker: int, energy: float, positions: NDArray[np.floating]) -> None:
    """Check that a walker is still in one piece.

    Raises
    ------
    InputError
        If not.
    """
    if not np.isfinite(energy) or not np.isfinite(positions).all():
        raise InputError(
            f"walker {walker} blew up (its energy is {energy:g}); try a shorter time_step_fs."
        )
