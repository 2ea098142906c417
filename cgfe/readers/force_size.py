"""The unit of forces, told from their thermal size along the bonds.

For a smooth field v(x) of the coordinates integration by parts gives <v · F> = -kT <∇ · v> at
equilibrium (the virial theorem in its general form, Hirschfelder 1960, doi 10.1063/1.1731427). A
bond of length d with direction u takes v = (d - c) u / 2 on its second bead and the opposite on its
first, of divergence 1 + 2 (d - c) / d for any constant c, so that

    -<(d - c) u · (F_2 - F_1) / 2> / <1 + 2 (d - c) / d> = kT.

It holds for mapped forces, whose mean given the beads is the gradient of W. Bonds are stiff, so the
left side fluctuates little more than kT from frame to frame, and a hundred frames tell kcal/mol/Å
from kJ/mol/nm, whose numbers are 41.84 times as large.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cgfe.array_types import RealArray
from cgfe.data.force_mapping import CarbonAlphaMapping
from cgfe.errors import InputError
from cgfe.readers.chunks import ImportSettings, beads_of, rows_of
from cgfe.readers.source import KCAL, Source
from cgfe.readers.units import FORCE_UNITS, force_factor
from cgfe.units import thermal_energy

NEAR = 4.0
"""A unit is told if the size is within this factor of kT; of the two at most one is, and a map that
leaves constraint forces out is no farther off."""
SIZE_FRAMES = 400
SIZE_TRAJECTORIES = 40
"""That the size is measured on."""
SHARPEST = 0.25
"""Largest standard error, in sizes, that tells anything."""


@dataclass(frozen=True)
class ForceSize:
    """Thermal size of forces along the bonds, in kT: 1 in the right unit.

    Attributes
    ----------
    value, standard_error : float
    """

    value: float
    standard_error: float

    @classmethod
    def of(
        cls,
        positions: RealArray,
        forces: RealArray,
        bonds: NDArray[np.integer],
        temperature_kelvin: float,
    ) -> "ForceSize":
        """Measure it, the standard error over frames.

        Parameters
        ----------
        positions, forces : array (F, N, 3)
            Å and the unit that is asked for, at equilibrium.
        bonds : int array (B, 2)
        temperature_kelvin : float
        """
        first, second = bonds.T
        steps = (positions[:, second] - positions[:, first]).astype(np.float64)
        lengths = np.linalg.norm(steps, axis=-1)
        along = ((forces[:, second] - forces[:, first]) * steps).sum(axis=-1) / lengths / 2
        away = lengths - lengths.mean(axis=0)
        kt = thermal_energy(temperature_kelvin)
        expected = kt * (1 + 2 * away / lengths).mean()
        sizes = -(away * along).mean(axis=1) / expected
        return cls(float(sizes.mean()), float(sizes.std(ddof=1) / np.sqrt(len(sizes))))

    def tells(self, factor: float) -> bool:
        """Return whether forces times `factor` are of thermal size."""
        value, error = self.value * factor, self.standard_error * factor
        return 1 / NEAR < value < NEAR and error < SHARPEST * max(1.0, value)


def force_scale(
    source: Source,
    mapping: CarbonAlphaMapping | None,
    temperature: float,
    settings: ImportSettings,
) -> tuple[float, tuple[str, ...]]:
    """Return what forces are multiplied by, and a note if their size alone told it.

    Raises
    ------
    InputError
        If neither the user nor the format nor the size of the forces tells their unit.
    """
    if source.force_unit is not None:
        return force_factor(source.force_unit), ()
    size = None
    if source.has_forces and len(source.beads.bonds):
        size = _force_size(source, mapping, temperature, settings)
        for unit in FORCE_UNITS:
            if size.tells(force_factor(unit)):
                note = f"forces are in {unit}: their thermal size along the bonds tells."
                return force_factor(unit), (note,) if unit != source.documented_unit else ()
    if source.documented_unit is None and source.has_forces:
        found = "no bonds" if size is None else f"{size.value:.3g} ± {size.standard_error:.2g} kT"
        raise InputError(
            f"{source.name}: the size of the forces along the bonds does not tell their unit "
            f"({found}, expected 1 in kcal/mol/angstrom or 41.84 in kJ/mol/nm); give --force-unit."
        )
    return force_factor(source.documented_unit or KCAL), ()


def _force_size(
    source: Source,
    mapping: CarbonAlphaMapping | None,
    temperature: float,
    settings: ImportSettings,
) -> ForceSize:
    """Measure forces of beads at the beginnings of trajectories spread over the source."""
    chosen = source.trajectories[:: -(-len(source.trajectories) // SIZE_TRAJECTORIES)]
    each = -(-SIZE_FRAMES // len(chosen))
    pieces = []
    for number, read in enumerate(chosen):
        for chunk in read(min(each, rows_of(source, settings))):
            pieces.append(beads_of(chunk, source, mapping, number))
            if sum(len(piece.positions) for piece in pieces) >= (number + 1) * each:
                break
    forces = [piece.forces for piece in pieces if piece.forces is not None]
    positions = np.concatenate([piece.positions for piece in pieces])
    return ForceSize.of(positions, np.concatenate(forces), source.beads.bonds, temperature)
