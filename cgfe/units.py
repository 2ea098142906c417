"""Units and physical constants; no other file holds such numbers.

Inside cgfe: Å, kcal/mol, kcal/mol/Å, ps, K, amu. Values are converted where files are read or
written and nowhere else.
"""

BOLTZMANN = 0.001987204259
"""Boltzmann constant, kcal/mol/K."""

KCAL_PER_KJ = 1 / 4.184
ANGSTROM_PER_NM = 10.0

ACCELERATION = 418.4
"""(kcal/mol/Å) / amu in Å/ps²."""

LENGTH_UNIT = "angstrom"
ENERGY_UNIT = "kcal/mol"


def thermal_energy(temperature: float) -> float:
    """Return kT in kcal/mol for a temperature in K."""
    return BOLTZMANN * temperature
