"""Batches of frames that stay on disk: read in windows, one ahead of the one in use."""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch_geometric.data import Batch

from cgfe.training.batches import SystemTensors

WINDOW_BYTES = 2**26
"""Of the frames that are mixed with each other, all systems together. Two windows are in memory:
the one in use and the one being read."""
BLOCK_BYTES = 2**17
"""Of consecutive frames that are read as one piece. A window mixes 512 such blocks from anywhere,
so a batch of 512 frames has about one of each."""
LARGEST_GAP = 2**14
"""Bytes; pieces of a file that are closer are read as one."""


class StreamedSystem:
    """One system's frames in .npy files, read a window at a time.

    Neither the sizes of block and window nor anything else here depends on the machine, so a run
    resumed elsewhere meets the same batches.

    Parameters
    ----------
    paths : mapping from name to path
        A file per array of `SystemTensors`, except `bead_types`.
    bead_types : Tensor (N,)
    system, systems : int
        The number of this system, and how many share the window.
    """

    in_sequence: ClassVar[bool] = True

    def __init__(
        self, paths: Mapping[str, Path], bead_types: Tensor, system: int, systems: int = 1
    ) -> None:
        self.paths = dict(paths)
        self.bead_types = bead_types
        self.system = system
        arrays = [np.load(path, mmap_mode="r") for path in self.paths.values()]
        frame_bytes = sum(array[:1].nbytes for array in arrays)
        self.block = max(1, BLOCK_BYTES // frame_bytes)
        self.window = max(1, WINDOW_BYTES // frame_bytes // systems)

    def mixed(self, frames: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
        """Return frame indices in random order within windows of randomly chosen blocks.

        Parameters
        ----------
        frames : Tensor (f,)
            Ascending.
        batch_size : int
            Windows are whole batches.
        generator : torch.Generator
        """
        blocks = frames.split(self.block)
        order = torch.randperm(len(blocks), generator=generator).tolist()
        windows = torch.cat([blocks[i] for i in order]).split(
            self._batches(batch_size) * batch_size
        )
        return torch.cat([x[torch.randperm(len(x), generator=generator)] for x in windows])

    def batches(self, chosen: list[Tensor]) -> Iterator[Batch]:
        """Yield a batch of each list of frame indices; the next window is read meanwhile."""
        at_once = self._batches(max((len(frames) for frames in chosen), default=1))
        windows = [chosen[i : i + at_once] for i in range(0, len(chosen), at_once)]
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self.read, windows[0]) if windows else None
            for number, window in enumerate(windows):
                assert ahead is not None
                rows, tensors = ahead.result()
                if number + 1 < len(windows):
                    ahead = reader.submit(self.read, windows[number + 1])
                for frames in window:
                    yield tensors.batch(torch.searchsorted(rows, frames))

    def read(self, window: list[Tensor]) -> tuple[Tensor, SystemTensors]:
        """Return the frames of some batches, by ascending index, and these indices."""
        rows = torch.cat(window).sort().values
        fields: dict[str, Tensor | None] = {"forces": None}
        fields |= {
            name: torch.from_numpy(_rows(path, rows.numpy())) for name, path in self.paths.items()
        }
        tensors: Any = {**fields, "bead_types": self.bead_types, "system": self.system}
        return rows, SystemTensors(**tensors)

    def _batches(self, batch_size: int) -> int:
        return max(1, self.window // batch_size)


def _rows(path: Path, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Return rows, by ascending index, of a .npy file."""
    # Mapped anew each time: pages of a map count as this process's memory until it is gone.
    array = np.load(path, mmap_mode="r")
    if hasattr(os, "posix_fadvise"):
        # Asked for at once, pieces are read in parallel and nothing else is; left to itself the
        # system would read a page and its neighbours each time that one is missing.
        bytes_of_row = array[:1].nbytes
        pieces = np.split(rows, np.flatnonzero(np.diff(rows) * bytes_of_row > LARGEST_GAP) + 1)
        with path.open("rb") as file:
            for piece in pieces:
                start = array.offset + int(piece[0]) * bytes_of_row
                length = int(piece[-1] - piece[0] + 1) * bytes_of_row
                os.posix_fadvise(file.fileno(), start, length, os.POSIX_FADV_WILLNEED)
    return array[rows]
