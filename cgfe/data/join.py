"""Frames files joined to one: stretch after stretch of one sampling, or several side by side."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgfe.data.frames import CGFrames
from cgfe.errors import InputError

SAME = (
    *("residue_names", "temperature_kelvin", "frame_interval_ps", "position_step", "force_step"),
    *(
        "force_mapping",
        "force_field",
        "masses",
        "bonds",
        "bead_types",
        "native_positions",
        "folded_rmsd",
    ),
    *("validation_trajectories", "test_trajectories", "biased_trajectories"),
)
"""What stretches must share."""
PER_FRAME = ("forces", "force_standard_errors", "all_atom_energies", "replica_index")


def join(stretches: Sequence[CGFrames]) -> CGFrames:
    """Return the frames of all stretches, those of each trajectory one stretch after the other.

    Raises
    ------
    InputError
        If stretches are of different systems, walkers, parts or contents, have weights, or hold the
        same frames.
    """
    first = stretches[0]
    walkers = np.unique(first.trajectory_index)
    for number, other in enumerate(stretches):
        names = f"{other.name} and {first.name}"
        if other.weights is not None:
            raise InputError(
                f"{other.name} has weights of its own stretch alone; pack with --weights counts."
            )
        if not np.array_equal(np.unique(other.trajectory_index), walkers):
            raise InputError(f"{names} are of other walkers; not joined.")
        if any(np.array_equal(other.positions, before.positions) for before in stretches[:number]):
            raise InputError(f"{other.name} is there twice; not joined.")
        for key in SAME:
            if not np.array_equal(_comparable(first, key), _comparable(other, key)):
                raise InputError(f"{names} differ in {key}; not joined.")
        for key in (*PER_FRAME, "bias_log_weights"):
            if (getattr(first, key) is None) != (getattr(other, key) is None):
                raise InputError(f"{names}: only one has {key}; not joined.")
    index = np.concatenate([stretch.trajectory_index for stretch in stretches])
    order = np.argsort(index, kind="stable")
    arrays: dict[str, Any] = {
        key: np.concatenate([getattr(stretch, key) for stretch in stretches])[order]
        for key in ("positions", *PER_FRAME, "bias_log_weights")
        if getattr(first, key) is not None
    }
    sources = dict.fromkeys(stretch.source for stretch in stretches)
    return replace(
        first, **arrays, trajectory_index=index[order], source="; ".join(sources), name="joined"
    )


def side_by_side(samplings: Sequence[CGFrames]) -> CGFrames:
    """Return the trajectories of several samplings of one system, without weights.

    Forces, energies and parts are left out.

    Raises
    ------
    InputError
        If samplings are of different systems, spacings or kinds, or hold the same frames.
    """
    first = samplings[0]
    for number, other in enumerate(samplings):
        names = f"{other.name} and {first.name}"
        if any(np.array_equal(other.positions, before.positions) for before in samplings[:number]):
            raise InputError(f"{other.name} is there twice; expected independent samplings.")
        for key in ("residue_names", "temperature_kelvin", "frame_interval_ps", "folded_rmsd"):
            if getattr(first, key) != getattr(other, key):
                raise InputError(f"{names} differ in {key}; expected samplings of one system.")
        for key in ("replica_index", "bias_log_weights"):
            if (getattr(first, key) is None) != (getattr(other, key) is None):
                raise InputError(f"{names}: only one has {key}; expected samplings of one kind.")

    def numbered(key: str) -> NDArray[np.int32]:
        """Numbers (F,) of trajectories or replicas, from 0 over all samplings."""
        parts, begun = [], 0
        for each in samplings:
            parts.append(np.unique(getattr(each, key), return_inverse=True)[1] + begun)
            begun = parts[-1].max() + 1
        return np.concatenate(parts).astype(np.int32)

    trajectory = numbered("trajectory_index")
    biased = [np.isin(each.trajectory_index, each.biased_trajectories) for each in samplings]
    exchanged, logs = (
        [getattr(each, key) for each in samplings] for key in ("replica_index", "bias_log_weights")
    )
    return replace(
        first,
        positions=np.concatenate([each.positions for each in samplings]),
        trajectory_index=trajectory,
        biased_trajectories=np.unique(trajectory[np.concatenate(biased)]),
        replica_index=None if exchanged[0] is None else numbered("replica_index"),
        bias_log_weights=None if logs[0] is None else np.concatenate(logs),
        forces=None,
        force_standard_errors=None,
        all_atom_energies=None,
        weights=None,
        validation_trajectories=np.zeros(0, dtype=np.int32),
        test_trajectories=np.zeros(0, dtype=np.int32),
        name=", ".join(each.name for each in samplings),
    )


def _comparable(frames: CGFrames, key: str) -> NDArray[Any]:
    value = getattr(frames, key)
    return np.array([]) if value is None else np.asarray(value)
