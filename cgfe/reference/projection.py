"""The coordinates that free energies of one system are functions of, and their bins."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgfe.analysis.free_energy import TICGrid
from cgfe.analysis.tica import TICAProjection
from cgfe.errors import InputError
from cgfe.reference.arrays import part, under
from cgfe.reference.config import ReferenceConfig
from cgfe.reference.training_frames import TrainingFrames


@dataclass(frozen=True)
class Projection:
    """TICA, and the grid on which densities of its first two components are compared.

    Attributes
    ----------
    tica : TICAProjection
        Two components.
    grid : TICGrid
    third : TICAProjection, optional
        The next component alone, which no label and no surface sees; None where there is none, or
        in an older file.
    """

    tica: TICAProjection
    grid: TICGrid
    third: TICAProjection | None = None

    @classmethod
    def spanning(
        cls,
        tica: TICAProjection,
        tics: NDArray[np.float64],
        config: ReferenceConfig,
        third: TICAProjection | None = None,
    ) -> "Projection":
        """Return the projection with a grid of `config.bins` that spans tics (f, 2)."""
        return cls(tica, TICGrid.from_samples(tics, bins=config.bins), third)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything as numeric arrays, for npz files and checkpoints."""
        arrays = under("tica", self.tica.to_arrays()) | under("grid", self.grid.to_arrays())
        return arrays if self.third is None else arrays | under("third", self.third.to_arrays())

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "Projection":
        """Return the projection that `to_arrays` described."""
        tica = TICAProjection.from_arrays(part("tica", arrays))
        third = part("third", arrays)
        return cls(
            tica,
            TICGrid.from_arrays(part("grid", arrays)),
            TICAProjection.from_arrays(third) if third else None,
        )


def fit_tica(
    training: TrainingFrames, config: ReferenceConfig
) -> tuple[TICAProjection, TICAProjection | None]:
    """Fit TICA to the unbiased segments (to all, if all are biased).

    Returns
    -------
    tica, third
        Of `Projection`.

    Raises
    ------
    InputError
        If there is too little to fit it to (no segment longer than the lag); it names the file.
    """
    frames = training.frames
    try:
        found = TICAProjection.fit(
            training.kinetic(),
            frames.frame_interval_ps,
            config.lag_ps(frames.frame_interval_ps),
            dimensions=3,
            scaling=config.tica_scaling,
            fewest=2,
        )
    except InputError as error:
        raise InputError(f"{frames.name}: {error}") from None
    third = found.only(slice(2, 3))
    return found.only(slice(0, 2)), third if len(third.timescales_ps) else None
