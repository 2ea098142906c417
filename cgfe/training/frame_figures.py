"""What stands beside a model's figures in its result, from the sampled frames themselves."""

from itertools import islice
from typing import Any

import lightning as L
import numpy as np

from cgfe.reference.ensembles import Part
from cgfe.reference.training_frames import TrainingFrames, every
from cgfe.simulation.evaluation import Judgement
from cgfe.simulation.structure import (
    MOST_FRAMES,
    SampledStructures,
    StructureComparison,
    StructureFrames,
)

MOST_BATCHES = 100
"""Of validation frames, that the prior's force loss is taken from."""


def structures(
    trainer: L.Trainer, system: int, judgement: Judgement, seed: int = 0
) -> tuple[StructureComparison, dict[str, float]] | None:
    """Compare structures with those of the frames that the model was judged against.

    Returns
    -------
    model : StructureComparison
        Unknown where no replica stayed whole.
    training : dict
        The errors of the training frames, empty where the model was judged against these. None of
        both where the frames are gone.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if not data.frames:
        return None
    frames = StructureFrames.of_replicas(judgement.positions, judgement.replicas)
    reference = data.references[system]
    sampled = SampledStructures(
        reference.system, _frames(data, system, judgement.part), reference.projection
    )
    model = StructureComparison.unknown() if frames is None else sampled.compare(frames, seed)
    if judgement.part == "train":
        return model, {}
    return model, sampled.errors(_frames(data, system, "train"))


def _frames(data: Any, system: int, part: Part) -> StructureFrames:
    """Return at most `MOST_FRAMES` frames of a part."""
    frames = TrainingFrames(data.frames[system], getattr(data.splits[system], part))
    chosen = every(MOST_FRAMES, len(frames.rows))
    return StructureFrames(
        data.frames[system].positions[frames.rows[chosen]],
        frames.weights[chosen],
        frames.trajectory[chosen],
        frames.biased.astype(np.int64),
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
