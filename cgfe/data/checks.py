"""What CGFrames checks: kinds, shapes and values of arrays, and what they mean together."""

import json
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from cgfe.data.rounded_arrays import STEP
from cgfe.errors import InputError

FRAMES_AT_ONCE = 65_536
"""Checked at once, so that arrays mapped from disk never fill the memory."""
LARGEST = 1e9
"""Å, kcal/mol, kcal/mol/Å, amu: beyond it float32 cannot be squared and summed, and no frame
reaches it."""
LARGEST_BEAD_TYPE = 9999

MEASURED = ("positions", "forces", "force_standard_errors", "all_atom_energies", "masses")
REAL = (*MEASURED, "native_positions", "weights", "bias_log_weights")
WHOLE = (
    *("trajectory_index", "bonds", "bead_types", "replica_index"),
    *("biased_trajectories", "validation_trajectories", "test_trajectories"),
)
ARRAYS = (*REAL, *WHOLE)


def check_shapes(name: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check shapes against each other, of arrays or of what a file says before it is read.

    Raises
    ------
    InputError
        If one is wrong; it names both shapes.
    """
    shape = shapes["positions"]
    if len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise InputError(
            f"{name}: positions have shape {shape}, expected (frames, beads, 3), one of each at "
            "least."
        )
    count, beads = shape[:2]
    wanted: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(("forces", "force_standard_errors"), shape),
        **dict.fromkeys(("trajectory_index", "all_atom_energies", "weights"), (count,)),
        **dict.fromkeys(("bias_log_weights", "replica_index"), (count,)),
        **dict.fromkeys(("masses", "bead_types"), (beads,)),
        "native_positions": (beads, 3),
    }
    for key, found in shapes.items():
        if key == "bonds":
            if len(found) != 2 or found[1] != 2:
                raise InputError(f"{name}: bonds have shape {found}, expected (bonds, 2).")
        elif key.endswith("_trajectories"):
            if len(found) != 1:
                raise InputError(f"{name}: {key} have shape {found}, expected (trajectories,).")
        elif found != wanted.get(key, found):
            raise InputError(
                f"{name}: {key} have shape {found}, but positions have shape {shape}; "
                f"expected {wanted[key]}."
            )


def check_kind(name: str, key: str, kind: str) -> None:
    """Check the kind of an array's numbers, a letter of NumPy's.

    Raises
    ------
    InputError
        If indices are not whole, or anything is complex or no number.
    """
    if kind not in ("iu" if key in WHOLE else "fiu"):
        found = {"f": "numbers with a fraction", "c": "complex numbers"}.get(kind, "no numbers")
        expected = "whole numbers" if key in WHOLE else "real numbers"
        raise InputError(f"{name}: {key} are {found}, expected {expected}.")


def check_numbers_of(name: str, key: str, values: Any) -> None:
    """Raise InputError unless an array holds real and finite numbers of a usable size."""
    check_kind(name, key, values.dtype.kind)
    if not (np.abs(values) <= LARGEST).all():
        _refuse_numbers(name, key, values, 0)


def check_datasets(file: h5py.File, name: str, keys: list[str]) -> None:
    """Check what a file says of its arrays before any is read, so that none is read in vain.

    Raises
    ------
    InputError
        If one is no array of numbers or has a wrong shape.
    """
    shapes = {}
    for key in keys:
        thing = file[key]
        if not isinstance(thing, h5py.Dataset) or thing.shape is None:
            found = "a group" if isinstance(thing, h5py.Group) else "empty"
            raise InputError(f"{name}: {key} is {found}, expected an array of numbers.")
        check_kind(name, key, thing.dtype.kind)
        if STEP in thing.attrs:
            number_of(thing.attrs, STEP, f"{name}: {key}")
        shapes[key] = thing.shape
    check_shapes(name, shapes)


def number_of(attributes: Mapping[str, Any], key: str, name: str) -> float:
    """Return an attribute that is one number.

    Raises
    ------
    InputError
        If it is missing or none.
    """
    if key not in attributes:
        raise InputError(f"{name}: missing entry {key!r}.")
    value = np.asarray(attributes[key])
    if value.size != 1 or value.dtype.kind not in "fiu":
        raise InputError(f"{name}: {key} is {attributes[key]!r}, expected one number.")
    return float(value.item())


def residues_of(attributes: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Return the residue names that are kept as a JSON list.

    Raises
    ------
    InputError
        If they are missing or no such list.
    """
    try:
        names = json.loads(attributes["residue_names"])
    except KeyError:
        raise InputError(f"{name}: missing entry 'residue_names'.") from None
    except (ValueError, TypeError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(each, str) and each for each in names):
        raise InputError(
            f"{name}: residue_names is {str(attributes['residue_names'])[:60]!r}, expected a JSON "
            "list of three-letter codes."
        )
    return tuple(names)


def check(frames: Any) -> None:
    """Check shapes, values and what they mean.

    Parameters
    ----------
    frames : CGFrames

    Raises
    ------
    InputError
        If one is wrong; it names the file, what was found and what was expected.
    """
    name = frames.name
    arrays = {key: getattr(frames, key) for key in ARRAYS if getattr(frames, key) is not None}
    for key, values in arrays.items():
        check_kind(name, key, values.dtype.kind)
    check_shapes(name, {key: values.shape for key, values in arrays.items()})
    for key in (*MEASURED, "native_positions", "weights"):
        values = arrays.get(key, np.zeros(0))
        for start in range(0, len(values), FRAMES_AT_ONCE):
            piece = values[start : start + FRAMES_AT_ONCE]
            largest = np.finfo(np.float64).max if key == "weights" else LARGEST
            # NaN is not below anything.
            if not (np.abs(piece) <= largest).all():
                _refuse_numbers(name, key, piece, start)
    if frames.bias_log_weights is not None:
        biased = np.isin(frames.trajectory_index, frames.biased_trajectories)
        if not np.isfinite(frames.bias_log_weights[biased]).all():
            raise InputError(f"{name}: bias_log_weights of biased frames are not finite.")
    _check_meaning(frames)


def _refuse_numbers(name: str, key: str, piece: Any, start: int) -> None:
    finite = np.isfinite(piece)
    if not finite.all():
        index = start + int(np.argwhere(~finite)[0][0])
        raise InputError(f"{name}: {key} are not finite (first at index {index}).")
    largest = float(np.abs(piece).max())
    raise InputError(f"{name}: {key} reach {largest:.3g}, expected {LARGEST:g} at most.")


def _check_meaning(frames: Any) -> None:
    name, beads, index = frames.name, frames.bead_count, frames.trajectory_index
    if len(frames.residue_names) != beads:
        raise InputError(f"{name}: {len(frames.residue_names)} residue names for {beads} beads.")
    if (index[1:] < index[:-1]).any():
        raise InputError(f"{name}: trajectory_index falls; frames must be in order.")
    if index[0] < 0:
        raise InputError(f"{name}: trajectory_index is {index[0]}, expected 0 or more.")
    first, second = frames.bonds.T
    if ((frames.bonds < 0) | (frames.bonds >= beads)).any() or (first == second).any():
        raise InputError(
            f"{name}: bonds name beads {frames.bonds.min()} to {frames.bonds.max()}, expected two "
            f"different ones each, from 0 to {beads - 1}."
        )
    weights = frames.weights
    if weights is not None and ((weights < 0).any() or not 0 < weights.sum() < np.inf):
        raise InputError(f"{name}: weights are negative, all zero or too large to be summed.")
    for key in ("temperature_kelvin", "frame_interval_ps", "folded_rmsd"):
        if not 0 < getattr(frames, key) <= LARGEST:
            raise InputError(f"{name}: {key} is {getattr(frames, key)}, expected a positive value.")
    twice = np.intersect1d(frames.validation_trajectories, frames.test_trajectories)
    if len(twice):
        raise InputError(f"{name}: trajectory {twice[0]} is named for validation and for test.")
    if (frames.masses <= 0).any() or (frames.bead_types < 0).any():
        raise InputError(f"{name}: masses must be positive and bead types not negative.")
    if frames.bead_types.max() > LARGEST_BEAD_TYPE:
        raise InputError(
            f"{name}: bead types reach {frames.bead_types.max()}, expected {LARGEST_BEAD_TYPE} at "
            "most (1 to 20 are residues, 0 any other)."
        )
