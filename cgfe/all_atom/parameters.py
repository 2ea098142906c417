"""Parameters of the batched kernel from an OpenMM system: force fields stay OpenMM's.

What the kernel does not know is named in one sentence, and OpenMM can sample instead.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import unit

from cgfe.all_atom.system import BORN_OFFSET_NM
from cgfe.array_types import FloatArray
from cgfe.errors import InputError

COULOMB = 138.93545764438198
"""1 / (4 π ε0) in kJ/mol nm / e², as OpenMM has it."""
PROBE_NM = 0.14
"""Radius of the water molecule of the surface term."""
NEAR_RATIO = 2.1
"""Pairs closer than so many scaled radii, or overlapping, take the Born integral's logarithm."""
FAR_RATIO = 3.2
"""Beyond so many times the largest scaled radius the shortest series does."""
MOST_FOLD = 6
MOST_BONDED = 3
"""Atoms that one other may hold at fixed distances."""


class UnsupportedSystem(InputError):
    """An OpenMM system has something that the batched kernel does not know."""


@dataclass(frozen=True)
class Layout:
    """How the kernel was compiled (`peptide_layout`).

    Attributes
    ----------
    lanes : int
        Walkers in a vector.
    rows : int
        Rows of a block of pairs.
    middle, far : int
        Coefficients of the series of a Born integral.
    """

    lanes: int
    rows: int
    middle: int
    far: int


@dataclass(frozen=True)
class Parameters:
    """A peptide in the kernel's order (peptide.h); nm, ps, kJ/mol, amu.

    Attributes
    ----------
    counts : dict of int
        `atoms`, `bonds`, `angles`, `torsions`, `clusters`, `remove_motion`.
    far_nm : float
        Distance from which the shortest series does.
    floats, integers : array
        Every number, one behind the other.
    """

    counts: dict[str, int]
    far_nm: float
    floats: NDArray[np.float32]
    integers: NDArray[np.int32]

    @classmethod
    def of_system(
        cls, system: openmm.System, layout: Layout, fixed: tuple[int, ...] = ()
    ) -> "Parameters":
        """Read an implicit-solvent system; atoms `fixed` keep their place.

        Raises
        ------
        UnsupportedSystem
            If the system has anything that the kernel does not know.
        InputError
            If a fixed atom does not exist.
        """
        forces = _forces(system)
        atoms = system.getNumParticles()
        missing = [atom for atom in fixed if not 0 <= atom < atoms]
        if missing:
            raise InputError(f"fixed atom {missing[0]} does not exist; the system has {atoms}.")
        masses = np.array([system.getParticleMass(i)._value for i in range(atoms)])
        if (masses <= 0).any() or any(system.isVirtualSite(i) for i in range(atoms)):
            raise UnsupportedSystem("the batched kernel knows no virtual sites or massless atoms.")
        inverse_masses = 1 / masses
        inverse_masses[list(fixed)] = 0
        bonds, bond_values = _bonds(forces["HarmonicBondForce"])
        angles, angle_values = _angles(forces["HarmonicAngleForce"])
        torsions, torsion_values = _torsions(forces["PeriodicTorsionForce"])
        clusters, lengths = _clusters(system, masses, set(fixed))
        pair_tables, born, far_nm = _nonbonded(forces, layout)
        floats = [bond_values, angle_values, torsion_values, lengths, masses, inverse_masses]
        motion = bool(forces["CMMotionRemover"]) and not fixed
        return cls(
            counts={
                "atoms": atoms,
                "bonds": len(bonds),
                "angles": len(angles),
                "torsions": len(torsions),
                "clusters": len(clusters),
                "remove_motion": int(motion),
            },
            far_nm=far_nm,
            floats=_joined([*floats, *pair_tables, born], np.float32),
            integers=_joined([bonds, angles, torsions, clusters], np.int32),
        )


def _joined(arrays: list[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.ravel(array) for array in arrays]).astype(dtype)


def _forces(system: openmm.System) -> dict[str, list[openmm.Force]]:
    """Return the forces by kind, after checking that the kernel knows them all."""
    known = ("HarmonicBondForce", "HarmonicAngleForce", "PeriodicTorsionForce")
    single = ("NonbondedForce", "GBSAOBCForce")
    found: dict[str, list[openmm.Force]] = {
        name: [] for name in (*known, *single, "CMMotionRemover")
    }
    for force in system.getForces():
        name = type(force).__name__
        if name not in found:
            raise UnsupportedSystem(f"the batched kernel does not know the system's {name}.")
        found[name].append(force)
    for name in single:
        if len(found[name]) != 1:
            raise UnsupportedSystem(
                f"the batched kernel needs exactly one {name}, the system has {len(found[name])}."
            )
        if found[name][0].getNonbondedMethod() != 0:
            raise UnsupportedSystem(f"the batched kernel knows the {name} without cutoff only.")
    if system.usesPeriodicBoundaryConditions():
        raise UnsupportedSystem("the batched kernel knows no periodic box.")
    if found["NonbondedForce"][0].getNumGlobalParameters():
        raise UnsupportedSystem("the batched kernel knows no parameter offsets of NonbondedForce.")
    if any(force.getFrequency() != 1 for force in found["CMMotionRemover"]):
        raise UnsupportedSystem("the batched kernel removes the motion of the whole at each step.")
    return found


def _bonds(forces: list[Any]) -> tuple[NDArray[np.int32], FloatArray]:
    """Return atoms (B, 2) and length, stiffness (B, 2)."""
    terms = [f.getBondParameters(i) for f in forces for i in range(f.getNumBonds())]
    atoms = np.array([term[:2] for term in terms], dtype=np.int32).reshape(-1, 2)
    values = np.array([[term[2]._value, term[3]._value] for term in terms]).reshape(-1, 2)
    return atoms, values


def _angles(forces: list[Any]) -> tuple[NDArray[np.int32], FloatArray]:
    """Return atoms (A, 3) and cosine, sine of the rest, stiffness (A, 3)."""
    terms = [f.getAngleParameters(i) for f in forces for i in range(f.getNumAngles())]
    atoms = np.array([term[:3] for term in terms], dtype=np.int32).reshape(-1, 3)
    rest = np.array([term[3]._value for term in terms])
    stiffness = [term[4]._value for term in terms]
    return atoms, np.stack([np.cos(rest), np.sin(rest), stiffness], axis=1)


def _torsions(forces: list[Any]) -> tuple[NDArray[np.int32], FloatArray]:
    """Return atoms (T, 4) and the energy as a polynomial of cos φ (T, 7), one term per quadruple.

    k (1 + cos(n φ - δ)) with δ of 0 or π is k (1 ± T_n(cos φ)) with Chebyshev's T_n.
    """
    terms: dict[tuple[int, ...], FloatArray] = {}
    for force in forces:
        for i in range(force.getNumTorsions()):
            *atoms, fold, phase, strength = force.getTorsionParameters(i)
            sign, height = np.cos(phase._value), strength._value
            if height == 0:
                continue
            if abs(abs(sign) - 1) > 1e-6 or fold > MOST_FOLD:
                raise UnsupportedSystem(
                    f"the batched kernel knows torsion phases 0 and 180 degrees and up to "
                    f"{MOST_FOLD} fold; atoms {atoms} have {np.degrees(phase._value):.1f} degrees, "
                    f"{fold} fold."
                )
            key = tuple(atoms)
            if key[::-1] in terms:
                key = key[::-1]
            chebyshev = np.polynomial.chebyshev.cheb2poly([0.0] * fold + [1.0])
            polynomial = np.zeros(MOST_FOLD + 1)
            polynomial[: len(chebyshev)] = height * np.round(sign) * chebyshev
            polynomial[0] += height
            terms[key] = terms.get(key, 0) + polynomial
    index = np.array(list(terms), dtype=np.int32).reshape(-1, 4)
    return index, np.array(list(terms.values())).reshape(-1, MOST_FOLD + 1)


def _clusters(
    system: openmm.System, masses: FloatArray, fixed: set[int]
) -> tuple[NDArray[np.int32], FloatArray]:
    """Return clusters (C, 5), number of held atoms, centre, held atoms, and lengths (C, 3)."""
    held: dict[int, list[tuple[int, float]]] = {}
    pairs = [system.getConstraintParameters(i) for i in range(system.getNumConstraints())]
    degree = np.bincount([atom for pair in pairs for atom in pair[:2]], minlength=len(masses))
    for one, two, length in pairs:
        centre, other = (
            (one, two) if (degree[one], masses[one]) >= (degree[two], masses[two]) else (two, one)
        )
        if degree[other] > 1 or degree[centre] > MOST_BONDED:
            raise UnsupportedSystem(
                f"the batched kernel knows constraints of up to {MOST_BONDED} atoms to one, no "
                f"rings or chains of them; atoms {one} and {two} are in one."
            )
        if not {one, two} <= fixed:  # a distance between two fixed atoms stays by itself
            held.setdefault(centre, []).append((other, length._value))
    used = {atom for centre, others in held.items() for atom in (centre, *(a for a, _ in others))}
    groups: list[tuple[int, list[tuple[int, float]]]] = [
        (atom, []) for atom in range(len(masses)) if atom not in used
    ]
    groups += sorted(held.items(), key=lambda item: (len(item[1]), item[0]))
    index = np.zeros((len(groups), 2 + MOST_BONDED), dtype=np.int32)
    lengths = np.zeros((len(groups), MOST_BONDED))
    for row, (centre, others) in enumerate(groups):
        index[row, : 2 + len(others)] = [len(others), centre, *(atom for atom, _ in others)]
        lengths[row, : len(others)] = [length for _, length in others]
    return index, lengths


def pair_order(atoms: int, rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return all pairs i < j as the kernel's `sweep` meets them, two arrays (A (A - 1) / 2,)."""
    pairs: list[tuple[int, int]] = []
    whole = atoms - atoms % rows
    for first in range(0, whole, rows):
        block = range(first, first + rows)
        pairs += [(i, j) for i in block for j in range(i + 1, first + rows)]
        pairs += [(i, j) for j in range(first + rows, atoms) for i in block]
    pairs += [(i, j) for i in range(whole, atoms) for j in range(i + 1, atoms)]
    order = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return order[:, 0], order[:, 1]


def _nonbonded(
    forces: dict[str, list[Any]], layout: Layout
) -> tuple[list[FloatArray], FloatArray, float]:
    """Return tables of pairs and series, `born` (A, 5), and the distance of the short series."""
    nonbonded, solvent = forces["NonbondedForce"][0], forces["GBSAOBCForce"][0]
    atoms = nonbonded.getNumParticles()
    charges, twelve, six = _direct(nonbonded)
    values = [solvent.getParticleParameters(i) for i in range(atoms)]
    charge, radius, scale = (
        np.array([getattr(value[k], "_value", value[k]) for value in values]) for k in range(3)
    )
    offset = radius - BORN_OFFSET_NM
    scaled = offset * scale
    if (scaled <= 0).any():
        raise UnsupportedSystem("the batched kernel needs Born radii and scales above zero.")
    dielectric = 1 / solvent.getSoluteDielectric() - 1 / solvent.getSolventDielectric()
    solvation = -COULOMB * dielectric * np.outer(charge, charge)
    pairs = pair_order(atoms, layout.rows)
    # The factors that the second pass of peptide_pairs.h leaves out.
    table = [charges[pairs] / 2**3, solvation[pairs] * 3 / 8]
    table += [12 * twelve[pairs] / 2**14, 6 * six[pairs] / 2**8]
    reach = np.maximum(offset[:, None] + scaled, offset + scaled[:, None])
    near = np.maximum(reach, NEAR_RATIO * np.maximum(scaled[:, None], scaled))
    far_nm = FAR_RATIO * scaled.max()
    series = [
        _series(scaled, 1 / NEAR_RATIO**2, layout.middle),
        _series(scaled, 1 / FAR_RATIO**2, layout.far),
    ]
    tension = solvent.getSurfaceAreaEnergy().value_in_unit(
        unit.kilojoule_per_mole / unit.nanometer**2
    )
    surface = 4 * np.pi * tension * (radius + PROBE_NM) ** 2 * radius**6
    born = np.stack([offset, scaled, radius, np.diag(solvation), surface], axis=1)
    # A little farther, so that rounding never leaves an overlap to the series.
    squared = (near[pairs] * (1 + 1e-5)) ** 2
    return [np.stack(table, axis=1), squared, *series], born, float(far_nm)


def _direct(nonbonded: Any) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return (A, A) tables of q q', 4 ε σ¹² and 4 ε σ⁶, exceptions put in."""
    values = [nonbonded.getParticleParameters(i) for i in range(nonbonded.getNumParticles())]
    charge, sigma, epsilon = (np.array([value[k]._value for value in values]) for k in range(3))
    charges = COULOMB * np.outer(charge, charge)
    sigma6 = (0.5 * (sigma[:, None] + sigma)) ** 6
    depth = 4 * np.sqrt(np.outer(epsilon, epsilon))
    twelve, six = depth * sigma6**2, depth * sigma6
    for i in range(nonbonded.getNumExceptions()):
        one, two, product, sigma, epsilon = nonbonded.getExceptionParameters(i)
        power, height = sigma._value**6, 4 * epsilon._value
        for pair in ((one, two), (two, one)):
            charges[pair] = COULOMB * product._value
            twelve[pair], six[pair] = height * power**2, height * power
    return charges, twelve, six


def _series(scaled: FloatArray, most: float, count: int) -> FloatArray:
    """Return coefficients (A, 2, count) of each atom's Born integral and its slope in 1 / r².

    With y = (s/r)² the integral is s³/r⁴ Σ_k 2k/(2k+1) y^(k-1) and -(1/r) d/dr of it s³/r⁶
    Σ_k 2k (2k+2)/(2k+1) y^(k-1), for y below `most`; polynomials of least relative error
    replace the sums.
    """
    powers = np.arange(count)
    parts = []
    k = np.arange(1, 60)
    for weights in (2 * k / (2 * k + 1), 2 * k * (2 * k + 2) / (2 * k + 1)):
        fit = least_relative_error(weights, most, count)
        parts.append(fit * scaled[:, None] ** (2 * powers + 3))
    return np.stack(parts, axis=1)


def least_relative_error(weights: FloatArray, most: float, count: int) -> FloatArray:
    """Return the polynomial (count,) nearest to Σ_k weights_k y^(k-1) on [0, most], relatively.

    Lawson's iteration: least squares, weighted again where the error is large.
    """
    nodes = 0.5 * most * (1 - np.cos(np.pi * (np.arange(400) + 0.5) / 400))
    function = np.polynomial.polynomial.polyval(nodes, weights)
    columns = (nodes[:, None] / most) ** np.arange(count)
    weight = 1 / function
    for _ in range(60):
        fit = np.linalg.lstsq(columns * weight[:, None], function * weight, rcond=None)[0]
        error = np.abs(columns @ fit / function - 1)
        weight = weight * np.sqrt(0.3 + error / error.max())
        weight /= weight.max() * function.min()
    return np.asarray(fit / most ** np.arange(count))
