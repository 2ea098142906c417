"""Parts as named arrays: `part/name` in one flat dictionary, and what older versions named so."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgfe.analysis.free_energy import TICGrid
from cgfe.errors import InputError

Arrays = Mapping[str, NDArray[Any]]

ARRAYS_VERSION = 2


def under(name: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Return the arrays of a part with its name before theirs."""
    return {f"{name}/{key}": value for key, value in arrays.items()}


def part(name: str, arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Return the arrays that `under` named so, by the names they had before."""
    prefix = f"{name}/"
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def text_array(value: object) -> NDArray[np.uint8]:
    """Return texts, numbers, lists or dictionaries of such as bytes of JSON."""
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def read_text(array: NDArray[np.uint8]) -> Any:
    """Return what `text_array` was given; tuples come back as lists."""
    return json.loads(array.tobytes())


def in_parts(arrays: Arrays) -> Arrays:
    """Return a reference's arrays by the names of this version.

    Raises
    ------
    InputError
        If they are of a version that is not known.
    """
    version = int(arrays["version"])
    if version not in (1, ARRAYS_VERSION):
        raise InputError(
            f"reference arrays have version {version}, expected 1 or {ARRAYS_VERSION}."
        )
    return arrays if version == ARRAYS_VERSION else _from_version_1(arrays)


_OF_VERSION_1 = {
    **dict.fromkeys(("bead_types", "masses", "bonds", "native_positions"), "system"),
    "temperature_kelvin": "system",
    **dict.fromkeys(("tics", "weights", "rmsd"), "surface"),
    "bin_energies": "labels",
}
"""The part that an array belongs to now; in version 1 it stood by itself."""

_PARTS_OF_VERSION_1 = {
    "prior": "prior",
    "tica": "projection/tica",
    "grid": "projection/grid",
    "labels": "labels/inverted",
    "target_grid": "labels/grid",
}


def _from_version_1(arrays: Arrays) -> Arrays:
    residue_names, floor, fingerprint = read_text(arrays["texts"])
    found: dict[str, NDArray[Any]] = {
        "texts": text_array([floor, fingerprint]),
        "system/residue_names": text_array(residue_names),
        "starts/positions": arrays["start_positions"],
    }
    for name, owner in _OF_VERSION_1.items():
        if name in arrays:
            found[f"{owner}/{name}"] = arrays[name]
    for old, new in _PARTS_OF_VERSION_1.items():
        found |= under(new, part(old, arrays))
    grid = TICGrid.from_arrays(part("grid", arrays))
    probability, outside = grid.histogram(arrays["tics"], arrays["weights"])
    return found | {"surface/probability": probability, "surface/outside": np.array(outside)}
