"""Long trajectories cut as if each had been started in the fold."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cgfe.data.frames import CGFrames
from cgfe.errors import InputError
from cgfe.geometry import rmsd


def begun_folded(frames: CGFrames, nanoseconds: float) -> CGFrames:
    """Return the frames with training trajectories cut to pieces that begin in the fold.

    Many projects start all that they sample from the one structure that they have. Until these
    trajectories have forgotten it, counts are not of equilibrium, while transitions are right: a
    piece begins where a trajectory is folded, whatever went before, so nothing that comes
    after is selected. Pieces do not overlap; what lies between them is dropped, as is what was
    known of energies by a bias. Validation and test stay as they are.

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
    pieces: list[slice] = []
    held_out: dict[str, list[int]] = {"validation": [], "test": []}
    for own in frames.trajectory_slices():
        index = frames.trajectory_index[own.start]
        if index in frames.validation_trajectories or index in frames.test_trajectories:
            part = "validation" if index in frames.validation_trajectories else "test"
            held_out[part].append(len(pieces))
            pieces.append(own)
            continue
        folded = rmsd(frames.positions[own], frames.native_positions) <= frames.folded_rmsd
        pieces += _pieces(folded, own.start, length)
    if len(pieces) == sum(map(len, held_out.values())):
        raise InputError(f"{frames.name}: no {nanoseconds:g} ns begin in the fold.")
    rows = np.concatenate([np.r_[piece] for piece in pieces])
    lengths = [piece.stop - piece.start for piece in pieces]
    per_frame = {
        key: getattr(frames, key)[rows]
        for key in (
            *("positions", "forces", "force_standard_errors", "all_atom_energies"),
            *("weights", "replica_index"),
        )
        if getattr(frames, key) is not None
    }
    return replace(
        frames,
        **per_frame,
        bias_log_weights=None,
        trajectory_index=np.repeat(np.arange(len(pieces)), lengths).astype(np.int32),
        validation_trajectories=np.array(held_out["validation"], dtype=np.int32),
        test_trajectories=np.array(held_out["test"], dtype=np.int32),
    )


def _pieces(folded: NDArray[np.bool_], start: int, length: int) -> list[slice]:
    """Return slices of a length, each from the first folded frame behind the one before."""
    found: list[slice] = []
    place = 0
    while place + length <= len(folded):
        if folded[place]:
            found.append(slice(start + place, start + place + length))
            place += length
        else:
            place += 1
    return found
