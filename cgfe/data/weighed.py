"""Equilibrium weights of a frames file, of each part from its own trajectories alone."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cgfe.analysis.weights import combined_weights
from cgfe.data.frames import CGFrames
from cgfe.errors import InputError

WeightKind = Literal["estimated", "training", "counts"]


def weighed(frames: CGFrames, kind: WeightKind) -> CGFrames:
    """Return the frames with weights in place of those that they have.

    Parameters
    ----------
    frames : CGFrames
    kind : str
        `estimated`: by a Markov state model or the bias, of each part that the file names from
        its own trajectories; `training`: so in training, while all frames of validation and
        test count alike; `counts`: none.

    Raises
    ------
    InputError
        If frames of a biased trajectory would count alike, its log weights by the bias are
        missing, no part is named, or no way gives populations: unbiased trajectories are too
        short for a model.
    """
    slices = frames.trajectory_slices()
    logs = bias_logs(frames, slices)
    weights = np.ones(len(frames))
    parts = _parts(frames, slices)
    if kind == "training" and len(parts) == 1:
        raise InputError(
            f"weights is training, but {frames.name} names no trajectories for validation or test; "
            "expected estimated or counts."
        )
    for name, own in parts.items():
        if kind == "counts" or (kind == "training" and name != "training"):
            by_bias = [log for log in (logs[k] for k in own) if log is not None]
            if by_bias and np.ptp(np.concatenate(by_bias)) > 0:
                raise InputError(f"weights is {kind}, but a run is biased; expected estimated.")
            continue
        try:
            found = combined_weights(
                [frames.positions[slices[k]] for k in own],
                [logs[k] for k in own],
                frames.frame_interval_ps,
            )
        except InputError as error:
            raise InputError(f"weights of the {name} part: {error}") from None
        weights[np.concatenate([np.r_[slices[k]] for k in own])] = found
    return replace(frames, weights=None if kind == "counts" else weights)


def bias_logs(frames: CGFrames, slices: Sequence[slice]) -> list[NDArray[np.float64] | None]:
    """Return log weights (f,) by the bias of each trajectory, None of an unbiased one.

    Raises
    ------
    InputError
        If they are missing.
    """
    logs = frames.bias_log_weights
    found: list[NDArray[np.float64] | None] = []
    for own in slices:
        if frames.trajectory_index[own.start] not in frames.biased_trajectories:
            found.append(None)
        elif logs is None:
            raise InputError(
                f"{frames.name}: bias_log_weights are missing, so the biased trajectories cannot "
                "be weighted anew; pack the runs again."
            )
        else:
            found.append(logs[own])
    return found


def _parts(frames: CGFrames, slices: Sequence[slice]) -> dict[str, list[int]]:
    """Return which trajectories, by their place, each part has; without empty parts."""
    parts: dict[str, list[int]] = {"training": [], "validation": [], "test": []}
    for place, own in enumerate(slices):
        index = frames.trajectory_index[own.start]
        held_out = (
            ("validation", frames.validation_trajectories),
            ("test", frames.test_trajectories),
        )
        part = next((name for name, numbers in held_out if index in numbers), "training")
        parts[part].append(place)
    return {name: own for name, own in parts.items() if own}
