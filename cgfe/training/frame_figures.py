"""What stands beside a model's figures in its result, from the sampled frames themselves."""

from itertools import islice
from typing import Any

import lightning as L

from cgfe.array_types import FloatArray, RealArray
from cgfe.reference.ensembles import Part
from cgfe.reference.training_frames import TrainingFrames, every
from cgfe.simulation.evaluation import Judgement
from cgfe.simulation.structure import MOST_FRAMES, Arrays, compare_structure

MOST_BATCHES = 100
"""Of validation frames, that the prior's force loss is taken from."""


def structures(
    trainer: L.Trainer, system: int, judgement: Judgement
) -> tuple[Arrays, Arrays | None] | None:
    """Compare structures with those of the frames that the model was judged against.

    Returns
    -------
    model, training : dict of arrays
        Of the model and of the training frames, the latter None where the model was judged against
        these. None where the frames are gone.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if not data.frames:
        return None
    own = data.references[system].system
    sampled, weights = _frames(data, system, judgement.part)
    model = compare_structure(own, sampled, weights, judgement.positions)
    if judgement.part == "train":
        return model, None
    learned, own_weights = _frames(data, system, "train")
    return model, compare_structure(own, sampled, weights, learned, own_weights)


def _frames(data: Any, system: int, part: Part) -> tuple[RealArray, FloatArray]:
    """Return positions (F, N, 3) and weights (F,) of at most `MOST_FRAMES` frames of a part."""
    frames = TrainingFrames(data.frames[system], getattr(data.splits[system], part))
    chosen = every(MOST_FRAMES, len(frames.rows))
    return data.frames[system].positions[frames.rows[chosen]], frames.weights[chosen]


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
