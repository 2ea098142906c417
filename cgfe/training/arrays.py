"""What training sees of each frame: computed once, in memory or, piece by piece, on disk."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cgfe.data.checks import check_datasets, residues_of
from cgfe.data.file_format import open_frames
from cgfe.data.frames import CGFrames
from cgfe.data.mapped_arrays import Layout, array_path, mapped_arrays, write_arrays
from cgfe.data.rounded_arrays import read_rows
from cgfe.kernels.fast_potential import accelerated
from cgfe.reference.reference import Reference
from cgfe.training.batches import SCALARS, SystemTensors

FRAMES_AT_ONCE = 2**16
LARGE = ("positions", "forces")


def training_bytes(path: Path) -> int:
    """Return the memory that the training tensors of a frames file take, by its header."""
    with open_frames(path) as file:
        shape = file["positions"].shape
        arrays = len(_frames_layout(file)) + 1  # prior forces
    scalars = sum(np.dtype(dtype).itemsize for dtype in SCALARS.values())
    return int(np.prod(shape)) * 4 * arrays + int(np.prod(shape[:1])) * scalars


def beads_of(path: Path) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return residue names and bead types (N,) of a frames file, without reading its frames.

    Raises
    ------
    InputError
        If they are missing or damaged.
    """
    with open_frames(path) as file:
        check_datasets(file, str(path), ["positions", "bead_types"])
        return residues_of(dict(file.attrs), str(path)), file["bead_types"][()]


def system_tensors(
    frames: CGFrames,
    reference: Reference,
    number: int,
    tics: NDArray[np.float64] | None = None,
) -> SystemTensors:
    """Return the training tensors of one system in memory.

    Parameters
    ----------
    frames : CGFrames
    reference : Reference
    number : int
        Of the system in the data module.
    tics : array (F, 2), optional
        What is known of the frames' coordinates, NaN where nothing is.
    """
    parts = list(_computed(frames, reference, tics))
    return SystemTensors(
        **{name: torch.cat([part[name] for part in parts]) for name in parts[0]},  # type: ignore[arg-type]
        positions=torch.from_numpy(frames.positions),
        forces=None if frames.forces is None else torch.from_numpy(frames.forces),
        bead_types=torch.from_numpy(reference.system.bead_types),
        system=number,
    )


def stored_frames(path: Path, cache: Path) -> CGFrames:
    """Return the frames of a file with positions and forces mapped from copies on disk.

    The file's own are compressed, and so cannot be mapped. A copy is known by the file's path,
    size and time of change.
    """
    with open_frames(path) as file:
        status = path.stat()
        facts = [str(path.resolve()), status.st_size, status.st_mtime_ns]
        key = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
        folder, layout = cache / f"frames-{key}", _frames_layout(file)
        mapped = mapped_arrays(folder, layout)
        if mapped is None:
            write_arrays(folder, layout, _slices(file), f"copying {path.name}")
            mapped = mapped_arrays(folder, layout)
    return CGFrames.load(path, mapped)


def stored_training(
    frames: CGFrames,
    reference: Reference,
    cache: Path,
    tics: NDArray[np.float64] | None = None,
) -> dict[str, Path]:
    """Return the .npy files of the training tensors of frames that are mapped from disk.

    Those that `stored_frames` did not write are computed first, unless they are there for the
    same frames and reference.
    """
    folder = cache / f"training-{reference.fingerprint}"
    layout: Layout = {
        "prior_forces": (frames.positions.shape, np.float32),
        **{name: ((len(frames),), dtype) for name, dtype in SCALARS.items()},
    }
    if mapped_arrays(folder, layout) is None:
        computed = _computed(frames, reference, tics)
        pieces = ({k: v.numpy() for k, v in x.items()} for x in computed)
        write_arrays(folder, layout, pieces, f"prior and labels of {Path(frames.name).name}")
    copies = [name for name in LARGE if getattr(frames, name) is not None]
    return {
        **{name: Path(getattr(frames, name).filename) for name in copies},
        **{name: array_path(folder, name) for name in layout},
    }


def _frames_layout(file: h5py.File) -> Layout:
    return {name: (file[name].shape, np.float32) for name in LARGE if name in file}


def _slices(file: h5py.File) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield positions and forces some frames at a time, each compressed chunk read once."""
    datasets = {name: file[name] for name in _frames_layout(file)}
    rows = max((x.chunks[0] if x.chunks else 1) for x in datasets.values())
    step = -(-FRAMES_AT_ONCE // rows) * rows
    for start in range(0, max(map(len, datasets.values())), step):
        yield {name: read_rows(x, slice(start, start + step)) for name, x in datasets.items()}


def _computed(
    frames: CGFrames, reference: Reference, tics: NDArray[np.float64] | None
) -> Iterator[dict[str, Tensor]]:
    """Yield what is derived from the frames, some of them at a time."""
    known = np.full((len(frames), 2), np.nan) if tics is None else tics
    prior = accelerated(reference.potential(), torch.from_numpy(reference.starts.positions))
    weights = frames.weights if frames.weights is not None else np.ones(len(frames))
    for start in range(0, len(frames), FRAMES_AT_ONCE):
        piece = slice(start, start + FRAMES_AT_ONCE)
        positions = torch.from_numpy(np.array(frames.positions[piece]))
        energy, forces = prior.energy_and_forces(positions)
        own = known[piece]
        missing = np.isnan(own[:, 0])
        if missing.any():
            own[missing] = reference.projection.tica.project(positions.numpy()[missing])
        bins, targets = reference.labels.bin_targets(own)
        yield {
            "prior_energy": energy,
            "prior_forces": forces,
            "energy_label": torch.from_numpy(reference.labels.energies(own)).float(),
            "weight": torch.from_numpy(weights[piece]).float(),
            "tic_bin": torch.from_numpy(bins).long(),
            "bin_target": torch.from_numpy(targets).float(),
            "surface_bin": torch.from_numpy(reference.projection.grid.bin_index(own)),
        }
