"""From an opened source to a frames file, a bounded number of frames at a time."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgfe.array_types import RealArray
from cgfe.data.beads import RESIDUE_MASSES
from cgfe.data.force_mapping import CarbonAlphaMapping
from cgfe.data.frames import CGFrames
from cgfe.data.writer import writing_frames
from cgfe.errors import InputError
from cgfe.files import make_folder
from cgfe.progress import Bar
from cgfe.readers.chunks import MEGABYTE, ImportSettings, beads_of, chunks_of, rows_of
from cgfe.readers.force_size import force_scale
from cgfe.readers.native import native_of, weights_of_file
from cgfe.readers.source import Atoms, Chunk, Source

COPIES_WHEN_FITTED = 12
"""Bytes held at once per coordinate of forces that the map is fitted to: float32 as read, float64
summed by group."""
MAP_FRAMES = 2000
MAP_TRAJECTORIES = 40
OTHER_MASS = 110.0
CARBON_ALPHA_DISTANCE = (2.5, 5.0)
"""Å; neighbours are 3.8 Å apart (2.9 Å at a cis bond)."""


@dataclass(frozen=True)
class Imported:
    """What was written."""

    path: Path
    frames: int
    trajectories: int
    beads: int
    frame_interval_ps: float
    force_mapping: str
    notes: tuple[str, ...] = field(default=())


def import_frames(
    source: Source, output: str | Path, settings: ImportSettings, progress: bool = False
) -> Imported:
    """Map a source's frames to Cα beads and write them as a frames file.

    Raises
    ------
    InputError
        If the source is damaged or inconsistent, its lengths are in another unit, or temperature
        or frame interval are told by neither source nor settings.
    """
    if settings.stride < 1 or not 0 < settings.buffer_megabytes < np.inf:
        raise InputError(
            f"--stride {settings.stride} and --buffer-mb {settings.buffer_megabytes:g}: expected "
            "positive, finite numbers."
        )
    temperature = _told(source, "temperature_kelvin", "--temperature", settings)
    interval = _told(source, "frame_interval_ps", "--frame-interval", settings)
    weights = None if settings.weights is None else weights_of_file(settings.weights)
    mapping, notes = _fit_mapping(source, settings)
    native = native_of(source, mapping, settings)
    factor, told = force_scale(source, mapping, temperature, settings)
    names, masses = source.beads.residue_names, source.beads.masses
    if masses is None:
        masses = np.array([RESIDUE_MASSES.get(name, OTHER_MASS) for name in names])
    force_mapping = "none"
    if source.has_forces:
        force_mapping = mapping.kind if mapping else "of the source"
    make_folder(Path(output).parent)
    with (
        writing_frames(output) as writer,
        Bar(total=source.frame_count, unit="frame", desc="importing", disable=not progress) as bar,
    ):
        for number, start, read, chunk in chunks_of(source, interval, settings, weights):
            beads = beads_of(chunk, source, mapping, number)
            first = writer.frames
            if len(beads.positions):
                frames = CGFrames(
                    positions=beads.positions.astype(np.float32),
                    forces=_single(beads.forces, factor),
                    all_atom_energies=_double(beads.energies),
                    trajectory_index=_index(beads, number),
                    residue_names=names,
                    masses=masses,
                    bonds=source.beads.bonds,
                    temperature_kelvin=temperature,
                    frame_interval_ps=interval * settings.stride,
                    force_mapping=force_mapping,
                    native_positions=native,
                    folded_rmsd=settings.folded_rmsd,
                    force_field=source.force_field,
                    source=settings.origin,
                    name=f"{source.name}, trajectory {number}, frames from {start}",
                )
                if first == 0:
                    _check_distances(frames)
                writer.append(frames, _double(beads.weights), _single(beads.delta_forces, factor))
            bar.update(read)
    return Imported(
        Path(output),
        writer.frames,
        writer.trajectories,
        writer.beads,
        writer.frame_interval_ps,
        force_mapping,
        (*source.notes, *notes, *told),
    )


def _told(source: Source, key: str, option: str, settings: ImportSettings) -> float:
    """Return a value that the source or the user tells, never a default."""
    by_source, by_user = getattr(source, key), getattr(settings, key)
    if by_source is None and by_user is None:
        name = key.rsplit("_", 1)[0].replace("_", " ")
        raise InputError(f"{source.name}: does not tell its {name}; give {option}.")
    if by_user is None:
        return float(by_source)
    if not 0 < by_user < np.inf:
        raise InputError(f"{option} {by_user:g}: expected a positive, finite number.")
    if by_source is not None and not np.isclose(by_source, by_user, rtol=1e-3):
        raise InputError(f"{source.name}: has {key} {by_source:g}, but {option} says {by_user:g}.")
    return float(by_user)


def _fit_mapping(
    source: Source, settings: ImportSettings
) -> tuple[CarbonAlphaMapping | None, tuple[str, ...]]:
    """Return the force map of an all-atom source, and a note if it is not the one hoped for."""
    atoms = source.atoms
    if atoms is None:
        if settings.force_map is not None:
            raise InputError(f"{source.name}: holds Cα beads; --force-map is for all-atom sources.")
        return None, ()
    # Without forces only the positions' part of the map is used, which all maps share.
    kind = (settings.force_map or "optimal") if source.has_forces else "slice"
    forces: RealArray | None = None
    notes: tuple[str, ...] = ()
    if kind == "optimal":
        forces = _sampled_forces(source, atoms, settings)
        # Fitted to fewer frames than it has unknowns, the least noisy map only fits their noise.
        needed = atoms.count - len(atoms.constraints)
        if len(forces) < needed:
            lack = (
                f"the optimal force map needs {needed} frames to be fitted to, found {len(forces)}"
            )
            if settings.force_map == "optimal":
                raise InputError(f"{source.name}: {lack}; use constraint_aware or a larger buffer.")
            kind, notes = "constraint_aware", (f"{lack}: the map is constraint_aware.",)
    mapping = CarbonAlphaMapping.fit(kind, atoms.beads, atoms.count, atoms.constraints, forces)
    return mapping, notes


def _sampled_forces(source: Source, atoms: Atoms, settings: ImportSettings) -> RealArray:
    """Return forces (n, A, 3) from the beginnings of trajectories spread over the source."""
    chosen = source.trajectories[:: -(-len(source.trajectories) // MAP_TRAJECTORIES)]
    room = int(settings.buffer_megabytes * MEGABYTE / (3 * COPIES_WHEN_FITTED * atoms.count))
    each = max(1, min(MAP_FRAMES, room) // len(chosen))
    rows = min(each, rows_of(source, settings))
    pieces = []
    for read in chosen:
        found = 0
        for chunk in read(rows):
            assert chunk.forces is not None
            pieces.append(chunk.forces[: each - found].astype(np.float32))
            found += len(pieces[-1])
            if found == each:
                break
    forces = np.concatenate(pieces)
    if not np.isfinite(forces).all() or not forces.any():
        raise InputError(f"{source.name}: forces are not finite, or all zero.")
    return forces


def _check_distances(frames: CGFrames) -> None:
    """Raise InputError if neighbours are not about 3.8 Å apart: lengths in another unit."""
    if len(frames.bonds) == 0:
        return
    first, second = frames.bonds.T
    steps = frames.positions[:, second] - frames.positions[:, first]
    distance = float(np.median(np.linalg.norm(steps, axis=-1)))
    if not CARBON_ALPHA_DISTANCE[0] < distance < CARBON_ALPHA_DISTANCE[1]:
        raise InputError(
            f"{frames.name}: neighbouring Cα are {distance:.3g} Å apart, expected about 3.8 Å; "
            "are the lengths in another unit, or the beads in another order?"
        )


def _index(beads: Chunk, number: int) -> NDArray[np.int32]:
    if beads.trajectory_index is not None:
        return beads.trajectory_index.astype(np.int32)
    return np.full(len(beads.positions), number, dtype=np.int32)


def _single(values: Any, factor: float = 1.0) -> NDArray[np.float32] | None:
    return None if values is None else (values * factor).astype(np.float32)


def _double(values: Any) -> NDArray[np.float64] | None:
    return None if values is None else values.astype(np.float64)
