"""A set whose counts are wrong and whose truth is known: pieces that begin in the fold."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgfe.analysis.core_sets import FOLDED, core_of
from cgfe.data.frames import CGFrames
from cgfe.errors import InputError
from cgfe.geometry import rmsd

PER_FRAME = ("positions", "forces", "force_standard_errors", "all_atom_energies", "replica_index")


def begun_folded(frames: CGFrames, nanoseconds: float) -> CGFrames:
    """Return pieces of the training trajectories, each from the folded core, to be trained on.

    Many projects start all that they sample from the one structure that they have. Until these
    trajectories have forgotten it, counts are not of equilibrium. A piece begins where a
    trajectory comes into the folded core (`core_of`), whatever went before, so nothing that comes
    after is selected: its transitions are as right as the trajectory's. Pieces do not overlap,
    and what lies between them is dropped.

    The whole training trajectories are the test part: what right weights would bring back.
    Validation stays as it is. Frames have no weights.

    Parameters
    ----------
    frames : CGFrames
    nanoseconds : float
        Length of each piece.

    Raises
    ------
    InputError
        If there is no native structure, a trajectory is biased, the length is no multiple of the
        frame interval, or no piece begins folded.
    """
    if frames.native_positions is None:
        raise InputError(f"{frames.name}: no native structure, so no frame is known as folded.")
    if len(frames.biased_trajectories):
        raise InputError(f"{frames.name}: a biased trajectory cannot stand for shorter ones.")
    steps = nanoseconds * 1000 / frames.frame_interval_ps
    length = round(steps) if 2 <= steps < np.inf else 0
    if not length or not np.isclose(length, steps):
        raise InputError(
            f"pieces of {nanoseconds:g} ns; expected at least two frames, and a multiple of the "
            f"frame interval, {frames.frame_interval_ps:g} ps."
        )
    held_out = {*frames.validation_trajectories, *frames.test_trajectories}
    slices = {int(frames.trajectory_index[own.start]): own for own in frames.trajectory_slices()}
    whole = [own for index, own in slices.items() if index not in held_out]
    validation = [slices[int(index)] for index in frames.validation_trajectories]
    pieces: list[slice] = []
    for own in whole:
        away = rmsd(frames.positions[own], frames.native_positions)
        folded = core_of(away, frames.folded_rmsd) == FOLDED
        pieces += [slice(own.start + s, own.start + s + length) for s in _starts(folded, length)]
    if not pieces:
        raise InputError(f"{frames.name}: no {nanoseconds:g} ns begin in the fold.")
    return _taken(frames, pieces, validation, whole)


def _starts(folded: NDArray[np.bool_], length: int) -> list[int]:
    """Return where pieces begin, each at the first folded frame behind the one before."""
    found, place = [], 0
    while place + length <= len(folded):
        if folded[place]:
            found.append(place)
        place += length if folded[place] else 1
    return found


def _taken(
    frames: CGFrames,
    training: Sequence[slice],
    validation: Sequence[slice],
    test: Sequence[slice],
) -> CGFrames:
    """Return frames of which each slice is a trajectory of its part."""
    every = [*training, *validation, *test]
    rows = np.concatenate([np.r_[own] for own in every])
    numbers = np.arange(len(every), dtype=np.int32)
    arrays: dict[str, Any] = {
        key: getattr(frames, key)[rows] for key in PER_FRAME if getattr(frames, key) is not None
    }
    return replace(
        frames,
        **arrays,
        weights=None,
        bias_log_weights=None,
        trajectory_index=np.repeat(numbers, [own.stop - own.start for own in every]),
        validation_trajectories=numbers[len(training) : len(training) + len(validation)],
        test_trajectories=numbers[len(training) + len(validation) :],
    )
