"""Writing a frames file chunk by chunk, so that memory does not grow with the data."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cgfe.data.frames import CGFrames
from cgfe.errors import InputError
from cgfe.files import replacing
from cgfe.hdf5 import DiskFile, h5py_file

PER_FRAME = ("positions", "forces", "all_atom_energies", "trajectory_index")
EXTRA = "delta_forces"
"""(F, N, 3) kcal/mol/Å, forces minus those of somebody else's prior: kept for reference. cgfe
cannot train on them, since it subtracts its own prior from total forces."""

CHUNK_BYTES = 256 * 1024


class FramesWriter:
    """Appends chunks of frames to one frames file, `target`, which is `path` until it is complete.

    A chunk is a CGFrames, and so checked in full when it is made; here chunks are checked
    against each other.
    """

    def __init__(self, path: Path, target: Path) -> None:
        self._path = path
        self.target = target
        self._file: h5py.File | None = None
        self._disk: DiskFile | None = None
        self._open = ExitStack()
        self._keys: tuple[str, ...] = ()
        self._last_trajectory = 0
        self._weight_sum = 0.0
        self.frames = 0
        self.trajectories = 0
        self.beads = 0
        self.frame_interval_ps = 0.0

    def append(
        self,
        chunk: CGFrames,
        weights: NDArray[np.float64] | None = None,
        delta_forces: NDArray[np.float32] | None = None,
    ) -> None:
        """Write the frames of `chunk` behind those written so far.

        Parameters
        ----------
        chunk : CGFrames
            Without weights: its frames' weights may all be zero, which a whole file's may not.
        weights : array (n,), optional
            Of any scale; the file's get mean 1.
        delta_forces : array (n, N, 3), optional

        Raises
        ------
        InputError
            If the trajectory index falls, the chunk has other beads or other arrays than the
            first one, or weights or delta forces are not finite or weights negative.
        """
        values: dict[str, NDArray[Any]] = {
            key: getattr(chunk, key) for key in PER_FRAME if getattr(chunk, key) is not None
        }
        for key, array in (("weights", weights), (EXTRA, delta_forces)):
            if array is not None:
                if not np.isfinite(array).all() or (key == "weights" and (array < 0).any()):
                    raise InputError(f"{chunk.name}: {key} are not finite, or negative.")
                values[key] = array
        if self._file is None:
            self._file = self._start(chunk, values)
        if tuple(values) != self._keys:
            raise InputError(
                f"{chunk.name}: found {', '.join(values)}, but the frames before had "
                f"{', '.join(self._keys)}."
            )
        if chunk.trajectory_index[0] < self._last_trajectory:
            raise InputError(f"{chunk.name}: trajectory_index falls; frames must be in order.")
        for key, array in values.items():
            dataset = self._file[key]
            if array.shape[1:] != dataset.shape[1:] or len(array) != len(chunk):
                raise InputError(
                    f"{chunk.name}: {key} have shape {array.shape}, expected "
                    f"{(len(chunk), *dataset.shape[1:])}."
                )
            dataset.resize(self.frames + len(array), axis=0)
            dataset[self.frames :] = array
        if self._disk is not None:
            self._disk.check()
        steps = np.diff(chunk.trajectory_index, prepend=self._last_trajectory)
        self.trajectories += int(np.count_nonzero(steps)) + (self.frames == 0 and steps[0] == 0)
        self.frames += len(chunk)
        self._last_trajectory = int(chunk.trajectory_index[-1])
        if weights is not None:
            self._weight_sum += float(weights.sum())

    def finish(self) -> None:
        """Bring the weights to mean 1.

        Raises
        ------
        InputError
            If nothing was written, or all weights are zero.
        """
        if self._file is None:
            raise InputError(f"{self.target}: the source holds no frame.")
        if "weights" in self._keys:
            if self._weight_sum == 0:
                raise InputError(f"{self.target}: all weights are zero.")
            weights = self._file["weights"]
            scale = self.frames / self._weight_sum
            for rows in weights.iter_chunks():
                weights[rows] = weights[rows] * scale

    def close(self) -> None:
        """Close the file; raise InputError if it could not be written to the end."""
        self._file = None
        self._open.close()

    def _start(self, chunk: CGFrames, values: dict[str, NDArray[Any]]) -> h5py.File:
        # CGFrames.save of a single frame writes the attributes and the small arrays, so that the
        # format is defined in one place; then its per-frame arrays make room for growing ones.
        first: dict[str, Any] = {key: values[key][:1] for key in PER_FRAME if key in values}
        replace(chunk, weights=None, **first).save(self._path)
        self._disk = self._open.enter_context(DiskFile(self._path, str(self.target), "r+"))
        file = self._open.enter_context(h5py_file(self._disk, "r+"))
        for key, array in values.items():
            if key in file:
                del file[key]
            rows = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
            file.create_dataset(
                key,
                shape=(0, *array.shape[1:]),
                maxshape=(None, *array.shape[1:]),
                chunks=(rows, *array.shape[1:]),
                dtype=array.dtype,
                compression="gzip",
                shuffle=True,
            )
        self._keys = tuple(values)
        self.beads, self.frame_interval_ps = chunk.bead_count, chunk.frame_interval_ps
        return file


@contextmanager
def writing_frames(path: str | Path) -> Iterator[FramesWriter]:
    """Yield a writer for `path`, which appears complete when the block succeeds, or not at all.

    Raises
    ------
    InputError
        If nothing was written, or all weights are zero.
    """
    with replacing(path) as temporary:
        writer = FramesWriter(temporary, Path(path))
        try:
            yield writer
            writer.finish()
        finally:
            writer.close()
