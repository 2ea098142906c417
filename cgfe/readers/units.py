"""Force units of the sources, and their factor to kcal/mol/Å."""

from typing import Any

import h5py

from cgfe.errors import InputError
from cgfe.units import ANGSTROM_PER_NM, KCAL_PER_KJ

FORCE_UNITS = ("kcal/mol/angstrom", "kJ/mol/nm")
_SPELLINGS = {
    "kilojoules/mole/nanometer": "kJ/mol/nm",
    "kilojoules/nanometer/mole": "kJ/mol/nm",
    "kilojoule/(nanometer*mole)": "kJ/mol/nm",
    "kilocalories/mole/angstrom": "kcal/mol/angstrom",
    **{unit: unit for unit in FORCE_UNITS},
}


def force_factor(unit: str) -> float:
    """Return what forces of `unit` are multiplied by.

    Raises
    ------
    InputError
        If the unit is unknown.
    """
    if unit not in FORCE_UNITS:
        raise InputError(f"force unit {unit!r} is unknown; expected one of {FORCE_UNITS}.")
    return 1.0 if unit == "kcal/mol/angstrom" else KCAL_PER_KJ / ANGSTROM_PER_NM


def stored_force_factor(dataset: h5py.Dataset, unit: str | None, name: str) -> float:
    """Return the factor for a dataset by its attribute `units`, or by the user's option.

    Raises
    ------
    InputError
        If neither tells, both differ, or the stored unit is unknown.
    """
    stored = attribute_text(dataset.attrs.get("units"))
    if stored is None:
        if unit is None:
            raise InputError(f"{name}: forces have no attribute `units`; give --force-unit.")
        return force_factor(unit)
    if stored not in _SPELLINGS:
        raise InputError(f"{name}: forces are in {stored!r}, expected one of {FORCE_UNITS}.")
    if unit not in (None, _SPELLINGS[stored]):
        raise InputError(f"{name}: forces are in {stored!r}, but --force-unit says {unit}.")
    return force_factor(_SPELLINGS[stored])


def attribute_text(value: Any) -> str | None:
    """Return an HDF5 attribute as text, whichever way it was stored."""
    return value.decode() if isinstance(value, bytes) else None if value is None else str(value)
