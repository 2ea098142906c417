"""What stands beside a model's figures in its result, from the sampled frames themselves."""

from itertools import islice
from typing import Any

import lightning as L
import numpy as np
from numpy.typing import NDArray

from cgfe.reference.training_frames import TrainingFrames, every
from cgfe.simulation.evaluation import Judgement
from cgfe.simulation.structure import MOST_FRAMES, compare_structure

MOST_BATCHES = 100
"""Of validation frames, that the prior's force loss is taken from."""


def structures(
    trainer: L.Trainer, system: int, judgement: Judgement
) -> dict[str, NDArray[np.float64]]:
    """Compare the model's structures with those of the frames that it was judged against.

    Nothing where the frames are gone.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if not data.frames:
        return {}
    frames, part = data.frames[system], judgement.part
    sampled = TrainingFrames(frames, getattr(data.splits[system], part))
    chosen = every(MOST_FRAMES, len(sampled.rows))
    return compare_structure(
        data.references[system].system,
        frames.positions[sampled.rows[chosen]],
        sampled.weights[chosen],
        judgement.positions,
    )


def prior_force_mse(trainer: L.Trainer) -> float | None:
    """Return the force loss of the prior alone, of validation frames; None without forces.

    Of this process's share of them, as they count in plain `force_mse`.
    """
    total, number = 0.0, 0
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if not data.systems:  # gone
        return None
    for batch in islice(data.val_dataloader(), MOST_BATCHES):
        if "forces" not in batch:
            return None
        residual = batch.forces - batch.prior_forces
        total += float(residual.square().sum())
        number += residual.numel()
    return total / number
