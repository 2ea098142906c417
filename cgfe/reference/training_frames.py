"""The frames that a Reference is fitted to: contiguous pieces of a file's trajectories."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgfe.data.frames import CGFrames

FIT_FRAMES = 500_000
"""Most frames, evenly strided, that the prior and the entropies of bins are fitted to."""
FRAMES_AT_ONCE = 65_536
"""Of all others that are looked at, so that positions need not fit into the memory."""


@dataclass(frozen=True)
class TrainingFrames:
    """Some segments of a frames file, in the order of the file; positions may lie on disk.

    Attributes
    ----------
    frames : CGFrames
    segments : sequence of slice
        Contiguous pieces of trajectories, f frames in all.
    """

    frames: CGFrames
    segments: Sequence[slice]

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Indices (f,) of the frames in the file."""
        return rows_of(self.segments)

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """Weight (f,) of each frame; 1 where the file has none."""
        raw = self.frames.weights
        return np.ones(len(self.rows)) if raw is None else raw[self.rows]

    @cached_property
    def trajectory(self) -> NDArray[np.int64]:
        """Number (f,) of each frame's segment: a whole trajectory, or a block of one."""
        lengths = [segment.stop - segment.start for segment in self.segments]
        return np.repeat(np.arange(len(lengths)), lengths)

    @cached_property
    def biased(self) -> NDArray[np.bool_]:
        """Whether each segment was sampled with a bias."""
        index = self.frames.trajectory_index[[segment.start for segment in self.segments]]
        return np.isin(index, self.frames.biased_trajectories)

    def kinetic(self) -> list[NDArray[np.float32]]:
        """Return positions (n, N, 3) of the unbiased segments, or of all if all are biased.

        A bias changes the kinetics, and weights do not undo that.
        """
        positions = [self.frames.positions[s] for s in self.segments]
        return [x for x, b in zip(positions, self.biased, strict=True) if not b] or positions

    def evenly(self) -> tuple[NDArray[np.float32], slice]:
        """Return positions (n, N, 3) of at most `FIT_FRAMES` frames, and which of all they are."""
        chosen = every(FIT_FRAMES, len(self.rows))
        return self.frames.positions[self.rows[chosen]], chosen

    def read(self, *functions: Callable[[NDArray[np.float32]], NDArray[Any]]) -> list[NDArray[Any]]:
        """Return what each function makes of the frames, whose positions are read once.

        Parameters
        ----------
        functions
            Each from positions (n, N, 3) in Å of some frames to an array (n, ...).
        """
        found: list[list[NDArray[Any]]] = [[] for _ in functions]
        for start in range(0, len(self.rows), FRAMES_AT_ONCE):
            positions = self.frames.positions[self.rows[start : start + FRAMES_AT_ONCE]]
            for values, function in zip(found, functions, strict=True):
                values.append(function(positions))
        return [np.concatenate(values) for values in found]


def rows_of(segments: Sequence[slice]) -> NDArray[np.int64]:
    """Return the indices (f,) of the frames of some segments."""
    return np.concatenate([np.zeros(0, np.int64), *(np.arange(s.start, s.stop) for s in segments)])


def every(most: int, frames: int) -> slice:
    """Return the smallest stride through so many frames that takes `most` of them or fewer."""
    return slice(None, None, max(1, -(-frames // most)))
