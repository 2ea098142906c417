"""Where simulations of one system begin: training frames spread over TIC space."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgfe.geometry import k_centres
from cgfe.reference.config import ReferenceConfig
from cgfe.reference.training_frames import TrainingFrames

CANDIDATES = 20_000


@dataclass(frozen=True)
class Starts:
    """Frames that simulations start from.

    Attributes
    ----------
    positions : array (S, N, 3)
        Å, the first n of them as spread out as n frames can be.
    """

    positions: NDArray[np.float32]

    @classmethod
    def fit(
        cls, training: TrainingFrames, tics: NDArray[np.float64], config: ReferenceConfig
    ) -> "Starts":
        """Choose frames by k-centres of their tics (F, 2), each in units of its spread."""
        stride = max(1, len(tics) // CANDIDATES)
        chosen = k_centres(tics[::stride] / tics.std(axis=0), config.starts, config.seed)
        return cls(training.frames.positions[training.rows[chosen * stride]])

    def deal(self, replicas: int, rank: int = 0, world_size: int = 1) -> NDArray[np.float32]:
        """Return starts (n, N, 3) of one process's share of some replicas.

        Every process gets equally many, rounded up; from the last start it goes on with the
        first.
        """
        share = -(-replicas // world_size)
        return self.positions[(np.arange(share) * world_size + rank) % len(self.positions)]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything as numeric arrays, for npz files and checkpoints."""
        return {"positions": self.positions}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Starts":
        """Return the starts that `to_arrays` described."""
        return cls(arrays["positions"])
