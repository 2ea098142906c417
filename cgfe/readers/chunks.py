"""Reading a source in chunks of a bounded size, and from its atoms to beads."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cgfe.analysis.metrics import FOLDED_RMSD
from cgfe.array_types import RealArray
from cgfe.data.force_mapping import CarbonAlphaMapping, MapKind
from cgfe.errors import InputError
from cgfe.readers.source import Chunk, Source, check_frames_shape

MEGABYTE = 2**20
COPIES_PER_VALUE = 64
"""Bytes held at once per coordinate of a chunk: float32 and float64 copies of positions and
forces, as read, mapped and compressed."""


@dataclass(frozen=True)
class ImportSettings:
    """What the user decides about an import."""

    temperature_kelvin: float | None = None
    """None: the source tells"""
    frame_interval_ps: float | None = None
    """Of the source, before striding; None: the source tells"""
    force_map: MapKind | None = None
    """None: optimal; only for all-atom sources"""
    stride: int = 1
    buffer_megabytes: float = 64.0
    native: str | None = None
    """Structure file, or the number of a frame of the source, from 0"""
    folded_rmsd: float = FOLDED_RMSD
    """Å; up to this RMSD to the native structure a frame is folded"""
    weights: str | None = None
    """File with one weight a frame of the source"""
    origin: str = "cgfe import"


def rows_of(source: Source, settings: ImportSettings) -> int:
    """Return how many frames fit into the buffer."""
    atoms = source.atoms.count if source.atoms else len(source.beads.residue_names)
    return max(1, int(settings.buffer_megabytes * MEGABYTE / (3 * COPIES_PER_VALUE * atoms)))


def chunks_of(
    source: Source,
    interval: float,
    settings: ImportSettings,
    weights: NDArray[np.float64] | None,
) -> Iterator[tuple[int, int, int, Chunk]]:
    """Yield trajectory, its frame to begin with, frames read, and those kept of them."""
    rows, done = rows_of(source, settings), 0
    for number, read in enumerate(source.trajectories):
        start, last_time = 0, None
        for chunk in read(rows):
            if chunk.times_ps is not None:
                last_time = _check_times(source, number, chunk.times_ps, last_time, interval)
            if weights is not None:
                chunk = _weighted(chunk, weights[done : done + len(chunk.positions)], source)
            done += len(chunk.positions)
            skip = -start % settings.stride
            yield (
                number,
                start,
                len(chunk.positions),
                chunk.select(slice(skip, None, settings.stride)),
            )
            start += len(chunk.positions)
    if weights is not None and done < len(weights):
        raise InputError(f"--weights: {len(weights)} numbers, but {source.name} has {done} frames.")


def _weighted(chunk: Chunk, weights: NDArray[np.float64], source: Source) -> Chunk:
    if chunk.weights is not None:
        raise InputError(f"{source.name}: has weights of its own; leave --weights out.")
    if len(weights) < len(chunk.positions):
        raise InputError(f"--weights: fewer numbers than {source.name} has frames.")
    return replace(chunk, weights=weights)


def _check_times(
    source: Source, number: int, times: RealArray, last: float | None, interval: float
) -> float:
    """Raise InputError if frames are missing or doubled; return the last time."""
    times = np.asarray(times, dtype=np.float64)
    steps = np.diff(times) if last is None else np.diff(times, prepend=last)
    # Times are often stored as float32, whose steps grow coarse in long trajectories.
    tolerance = 0.02 * interval + 4 * np.finfo(np.float32).eps * np.abs(times).max()
    wrong = np.flatnonzero(np.abs(steps - interval) > tolerance)
    if len(wrong):
        raise InputError(
            f"{source.name}: in trajectory {number} a frame follows the one before after "
            f"{steps[wrong[0]]:g} ps (near {times[min(wrong[0], len(times) - 1)]:g} ps), "
            f"expected {interval:g} ps."
        )
    return float(times[-1])


def beads_of(
    chunk: Chunk, source: Source, mapping: CarbonAlphaMapping | None, number: int
) -> Chunk:
    """Return the chunk with Cα positions and forces, whole molecules, checked shapes."""
    name = f"{source.name}, trajectory {number}"
    atoms = source.atoms.count if source.atoms else len(source.beads.residue_names)
    check_frames_shape(f"{name}: positions", chunk.positions.shape, atoms)
    positions, forces = chunk.positions, chunk.forces
    if forces is not None:
        if forces.shape != positions.shape:
            raise InputError(
                f"{name}: forces have shape {forces.shape}, but positions {positions.shape}."
            )
        forces = mapping.map_forces(forces) if mapping else forces
    if mapping is not None:
        positions = mapping.map_positions(positions)
    if chunk.box is not None:
        with np.errstate(invalid="ignore"):
            flat = ~(np.abs(np.linalg.det(chunk.box.astype(np.float64))) > 0)
        if flat.any():
            vectors = chunk.box[np.argmax(flat)].tolist()
            raise InputError(f"{name}: a periodic box has the vectors {vectors}, and no volume.")
        positions = whole_chains(positions, source.beads.bonds, chunk.box)
    return replace(chunk, positions=positions, forces=forces)


def whole_chains(positions: RealArray, bonds: NDArray[np.int64], box: RealArray) -> RealArray:
    """Undo breaks of chains at the walls of a periodic box.

    Parameters
    ----------
    positions : array (n, N, 3)
        Å.
    bonds : array (B, 2)
        Sorted, so that each bead follows one that is in place already.
    box : array (n, 3, 3)
        Box vectors in Å as rows.
    """
    whole = np.array(positions, dtype=np.float64)
    inverse = np.linalg.inv(box.astype(np.float64))
    for first, second in bonds:
        step = whole[:, second] - whole[:, first]
        cells = np.round(np.einsum("ni,nij->nj", step, inverse))
        whole[:, second] -= np.einsum("ni,nij->nj", cells, box)
    return whole
