"""What must hold of frames: the checks of CGFrames."""

from typing import TYPE_CHECKING

import numpy as np

from cgfe.errors import InputError

if TYPE_CHECKING:
    from cgfe.frames import CGFrames

FRAMES_AT_ONCE = 65_536
"""Checked at once, so that arrays mapped from disk never fill the memory."""


def check_frames(frames: "CGFrames") -> None:
    """Check shapes, values and what they mean.

    Raises
    ------
    InputError
        If one is wrong; it names the file, what was found and what was expected.
    """
    name, shape = frames.name, frames.positions.shape
    if len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise InputError(f"{name}: positions have shape {shape}, expected (frames, beads, 3).")
    count, beads = shape[:2]
    expected: dict[str, tuple[int, ...]] = {
        "forces": shape,
        "force_standard_errors": shape,
        "trajectory_index": (count,),
        "all_atom_energies": (count,),
        "weights": (count,),
        "bias_log_weights": (count,),
        "replica_index": (count,),
        "masses": (beads,),
        "bead_types": (beads,),
        "native_positions": (beads, 3),
    }
    for key, wanted in expected.items():
        values = getattr(frames, key)
        if values is None:
            continue
        if values.shape != wanted:
            raise InputError(
                f"{name}: {key} have shape {values.shape}, but positions have shape {shape}; "
                f"expected {wanted}."
            )
    numbers = ("positions", "forces", "force_standard_errors", "all_atom_energies")
    for key in (*numbers, "weights", "masses"):
        values = getattr(frames, key)
        for start in range(0, 0 if values is None else len(values), FRAMES_AT_ONCE):
            finite = np.isfinite(values[start : start + FRAMES_AT_ONCE])
            if not finite.all():
                frame = start + int(np.argwhere(~finite)[0][0])
                raise InputError(f"{name}: {key} are not finite (first at index {frame}).")
    if frames.bias_log_weights is not None:
        biased = np.isin(frames.trajectory_index, frames.biased_trajectories)
        if not np.isfinite(frames.bias_log_weights[biased]).all():
            raise InputError(f"{name}: bias_log_weights of biased frames are not finite.")
    _check_meaning(frames)


def _check_meaning(frames: "CGFrames") -> None:
    name, beads = frames.name, frames.bead_count
    if len(frames.residue_names) != beads:
        raise InputError(f"{name}: {len(frames.residue_names)} residue names for {beads} beads.")
    if (np.diff(frames.trajectory_index) < 0).any():
        raise InputError(f"{name}: trajectory_index falls; frames must be in order.")
    if frames.bonds.ndim != 2 or frames.bonds.shape[1] != 2 or (frames.bonds >= beads).any():
        raise InputError(f"{name}: bonds have shape {frames.bonds.shape} or name unknown beads.")
    if frames.weights is not None and ((frames.weights < 0).any() or frames.weights.sum() == 0):
        raise InputError(f"{name}: weights are negative or all zero.")
    for key in ("temperature_kelvin", "frame_interval_ps"):
        if not getattr(frames, key) > 0:
            raise InputError(f"{name}: {key} is {getattr(frames, key)}, expected a positive value.")
    twice = np.intersect1d(frames.validation_trajectories, frames.test_trajectories)
    if len(twice):
        raise InputError(f"{name}: trajectory {twice[0]} is named for validation and for test.")
    if (frames.masses <= 0).any() or (frames.bead_types < 0).any():
        raise InputError(f"{name}: masses must be positive and bead types not negative.")
