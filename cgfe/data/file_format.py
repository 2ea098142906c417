"""The frames file (HDF5): its format, version and units, checked where one is opened."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from cgfe.errors import InputError
from cgfe.hdf5 import open_hdf5
from cgfe.units import ENERGY_UNIT, LENGTH_UNIT

FORMAT = "cgfe-frames"
FORMAT_VERSION = 1
ROUNDED_VERSION = 2
"""Of files whose positions or forces are kept as integers, which version 1 did not know."""


@contextmanager
def open_frames(path: str | Path) -> Iterator[h5py.File]:
    """Open a frames file for reading, its format and units checked.

    Raises
    ------
    InputError
        If that fails, or the block asks for an entry that is missing or cannot be read.
    """
    with open_hdf5(path) as file:
        try:
            _check_format(file.attrs, str(path))
            yield file
        except KeyError as error:
            raise InputError(f"{path}: missing entry {error}.") from None
        except OSError:
            raise InputError(f"{path}: data cannot be read; it may be truncated.") from None


def _check_format(attributes: Mapping[str, Any], name: str) -> None:
    versions = (FORMAT_VERSION, ROUNDED_VERSION)
    if attributes.get("format") != FORMAT or attributes.get("format_version") not in versions:
        found = f"{attributes.get('format')} version {attributes.get('format_version')}"
        raise InputError(f"{name}: format is {found}, expected {FORMAT} version 1 or 2.")
    for unit, expected in (("length_unit", LENGTH_UNIT), ("energy_unit", ENERGY_UNIT)):
        if attributes.get(unit) != expected:
            raise InputError(f"{name}: {unit} is {attributes.get(unit)!r}, expected {expected!r}.")
