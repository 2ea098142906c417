"""The frames file (HDF5): its format, version and units, checked where one is opened."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cgfe.errors import InputError
from cgfe.hdf5 import open_hdf5
from cgfe.units import ENERGY_UNIT, LENGTH_UNIT

FORMAT = "cgfe-frames"
FORMAT_VERSION = 1
ROUNDED_VERSION = 2
"""Of files whose positions or forces are kept as integers, which version 1 did not know."""
ALIKE = 1e-6
"""Spread of weights over their mean below which frames count alike."""


@contextmanager
def open_frames(path: str | Path) -> Iterator[h5py.File]:
    """Open a frames file for reading, its format and units checked.

    Raises
    ------
    InputError
        If that fails, or the block asks for an entry that is missing.
    """
    with open_hdf5(path) as file:
        try:
            _check_format(file.attrs, str(path))
            yield file
        except KeyError as error:
            raise InputError(f"{path}: missing entry {error}.") from None


def require_forces(paths: Iterable[Path], why: str) -> None:
    """Check that frames files have forces, without reading any.

    Raises
    ------
    InputError
        If one has none; it says `why` they are needed.
    """
    for path in paths:
        with open_frames(path) as file:
            if "forces" not in file:
                raise InputError(
                    f"{path}: the frames have no forces, but {why}; expected forces in every "
                    "frame, or a weight of 0."
                )


def require_alike(paths: Iterable[Path], why: str) -> None:
    """Check that the frames of frames files count alike, by their weights alone.

    Raises
    ------
    InputError
        If they do not; it says `why` they must, or else be weighted.
    """
    for path in paths:
        with open_frames(path) as file:
            weights = file["weights"][()] if "weights" in file else np.ones(1)
        if np.ptp(weights) > ALIKE * np.abs(weights).mean():
            raise InputError(f"{path}: its frames do not count alike, but {why}.")


def is_frames_file(file: h5py.File) -> bool:
    """Return whether an HDF5 file says that it is a frames file."""
    return _equals(file.attrs.get("format"), FORMAT)


def _check_format(attributes: Mapping[str, Any], name: str) -> None:
    form, version = attributes.get("format"), attributes.get("format_version")
    known = any(_equals(version, each) for each in (FORMAT_VERSION, ROUNDED_VERSION))
    if not _equals(form, FORMAT) or not known:
        raise InputError(
            f"{name}: format is {form} version {version}, expected {FORMAT} version 1 or 2."
        )
    for unit, expected in (("length_unit", LENGTH_UNIT), ("energy_unit", ENERGY_UNIT)):
        if not _equals(attributes.get(unit), expected):
            raise InputError(f"{name}: {unit} is {attributes.get(unit)!r}, expected {expected!r}.")


def _equals(value: Any, expected: str | int) -> bool:
    # An attribute may be an array, whose comparison is one.
    return np.shape(value) == () and bool(value == expected)
