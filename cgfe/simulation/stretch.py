"""Scans of bonds: does the energy rise all the way as one bond is stretched?

Training frames hold a bond to some hundredths of an Å, so a network is free beyond; where its
energy falls faster than the prior's rises there is a well that no data have seen.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cgfe.array_types import FloatArray, RealArray
from cgfe.model.potential import Potential
from cgfe.reference.reference import Reference
from cgfe.units import thermal_energy

STRETCHES = np.linspace(0.0, 4.0, 17)
"""Å. A quarter of one holds several standard deviations of a bond between Cα."""
MOST_SCANS = 64


@dataclass(frozen=True)
class BondScans:
    """Energies as single bonds are stretched, the two sides of the bond moved apart as they are.

    Attributes
    ----------
    energies : array (C, S)
        kcal/mol, of each scan at `STRETCHES`, above its beginning.
    kt : float
        kcal/mol, of the system; a smaller fall is none.
    """

    energies: FloatArray
    kt: float

    @property
    def falls(self) -> FloatArray:
        """How far (C,) each energy falls at most from a point to one further out, kcal/mol."""
        return np.asarray(
            (np.maximum.accumulate(self.energies, axis=1) - self.energies).max(axis=1)
        )

    @property
    def monotone(self) -> float:
        """Share of the scans in which the energy never falls by more than kT."""
        return float((self.falls <= self.kt).mean())

    def facts(self) -> dict[str, object]:
        """Return what a result keeps: shares, the steepest fall, the median and that scan."""
        worst = int(self.falls.argmax())
        return {
            "scans": len(self.energies),
            "monotone": self.monotone,
            "largest_fall": float(self.falls[worst]),
            "stretch": STRETCHES.tolist(),
            "median": np.median(self.energies, axis=0).tolist(),
            "worst": self.energies[worst].tolist(),
        }


def scan_bonds(potential: Potential, reference: Reference) -> BondScans | None:
    """Stretch bonds of the structures that simulations start from, each by itself.

    Bonds that hold a ring together are left out, as they cannot be stretched alone, and scans in
    which the prior alone falls, as beads pass one another there; None where nothing is left.

    Parameters
    ----------
    potential : Potential
        On any device.
    reference : Reference
        Of the potential's system.
    """
    system, starts = reference.system, reference.starts.positions
    sided = ((bond, _side(bond, system.bonds, starts.shape[1])) for bond in system.bonds)
    bonds = [(bond, side) for bond, side in sided if side.any()]
    if not bonds:
        return None
    structures = max(1, min(len(starts), MOST_SCANS // len(bonds)))
    chosen = bonds[:: -(-len(bonds) // MOST_SCANS)]
    positions = np.concatenate(
        [_stretched(starts[:structures], bond, side) for bond, side in chosen]
    )
    inputs = torch.from_numpy(positions.reshape(-1, *starts.shape[1:])).to(
        potential.bead_types.device
    )
    kt = thermal_energy(system.temperature_kelvin)
    prior, whole = (
        _scans(part, inputs, kt)
        for part in (Potential(potential.prior, None, potential.bead_types), potential)
    )
    free = prior.falls <= kt
    return BondScans(whole.energies[free], kt) if free.any() else None


def _scans(potential: Potential, positions: Tensor, kt: float) -> BondScans:
    energies, _ = potential.energy_and_forces(positions)
    found = energies.cpu().numpy().astype(np.float64).reshape(-1, len(STRETCHES))
    return BondScans(found - found[:, :1], kt)


def _side(bond: NDArray[np.int64], bonds: NDArray[np.int64], beads: int) -> NDArray[np.bool_]:
    """Return which beads (N,) hang on the second end of a bond; none if it is part of a ring."""
    others = bonds[~(np.sort(bonds, axis=1) == np.sort(bond)).all(axis=1)]
    side = np.zeros(beads, dtype=bool)
    side[bond[1]] = True
    for _ in range(beads):
        reached = side[others].any(axis=1)
        grown = side.copy()
        grown[others[reached].ravel()] = True
        if (grown == side).all():
            break
        side = grown
    return np.zeros_like(side) if side[bond[0]] else side


def _stretched(
    structures: RealArray, bond: NDArray[np.int64], side: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return structures (K, S, N, 3) with one side of a bond moved along it."""
    along = structures[:, bond[1]] - structures[:, bond[0]]
    along = along / np.linalg.norm(along, axis=1, keepdims=True)
    moves = STRETCHES[None, :, None, None] * along[:, None, None, :] * side[None, None, :, None]
    return (structures[:, None] + moves).astype(np.float32)
