"""All-atom peptides in OpenMM: building the chain, the force field and the solvent model."""

import io
import itertools
import random
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import app, unit

from cgfe.errors import InputError

HAIRPIN = str(files("cgfe") / "data" / "hairpin.pdb")
"""The embedded structure that `folded` names."""
AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
FORCE_FIELDS = {
    "implicit": "Amber ff14SB, OBC2 (GBSAOBCForce)",
    "explicit": "Amber ff14SB, TIP3P-FB, PME",
}
"""Force field by solvent."""
HELIX_PHI, HELIX_PSI = -57.0, -47.0
"""Degrees, of an ideal α-helix."""
PADDING_NM = 1.2
CUTOFF_NM = 0.9
PRESSURE_ATM = 1.0
BORN_OFFSET_NM = 0.009
"""What OBC subtracts from every Born radius."""


@dataclass(frozen=True)
class Peptide:
    """Topology with hydrogens and positions (atoms, 3) in nm."""

    topology: app.Topology
    positions: NDArray[np.float64]


def protein_force_field() -> app.ForceField:
    """Return Amber ff14SB without a solvent model."""
    return app.ForceField("amber14/protein.ff14SB.xml")


def peptide_from_sequence(sequence: str, caps: bool = False, helix: bool = False) -> Peptide:
    """Build a chain from one-letter codes, extended or as an α-helix.

    Parameters
    ----------
    sequence : str
    caps : bool
        End the chain with acetyl and amide (ACE and NH2) in place of charged ends.
    helix : bool
        φ = -57°, ψ = -47°, in place of an extended chain.

    Raises
    ------
    InputError
        If a letter is not one of the 20 amino acids.
    """
    import PeptideBuilder  # imports Biopython, only needed here
    from Bio.PDB import PDBIO

    unknown = sorted(set(sequence) - set(AMINO_ACIDS))
    if unknown or len(sequence) < 2:
        found = f"the unknown letter {unknown[0]!r}" if unknown else "fewer than two residues"
        raise InputError(
            f"sequence {sequence!r} has {found}; expected one-letter codes from {AMINO_ACIDS}."
        )
    # The caps are what is left of a glycine at either end.
    letters = f"G{sequence}G" if caps else sequence
    if helix:
        turns = len(letters) - 1
        chain = PeptideBuilder.make_structure(letters, [HELIX_PHI] * turns, [HELIX_PSI] * turns)
    else:
        chain = PeptideBuilder.make_extended_structure(letters)
    if caps:
        _cut_to_caps(list(chain.get_residues()))
    else:
        PeptideBuilder.add_terminal_OXT(chain)
    text = io.StringIO()
    writer = PDBIO()
    writer.set_structure(chain)
    writer.save(text)
    text.seek(0)
    return _with_hydrogens(app.PDBFile(text), f"sequence {sequence}")


def _cut_to_caps(residues: list[Any]) -> None:
    """Make the first residue an acetyl group and the last one an amide nitrogen."""
    first, last = residues[0], residues[-1]
    methyl = first["CA"]
    for residue, kept, name in ((first, {"CA", "C", "O"}, "ACE"), (last, {"N"}, "NH2")):
        for atom in [atom.id for atom in residue if atom.id not in kept]:
            residue.detach_child(atom)
        residue.resname = name
    methyl.name, methyl.id, methyl.fullname = "CH3", "CH3", " CH3"


def peptide_from_pdb(path: str | Path) -> Peptide:
    """Read a peptide from a PDB file; missing hydrogens are added at pH 7.

    Raises
    ------
    InputError
        If the file is missing, is no PDB file, or has residues outside ff14SB.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file.")
    try:
        pdb = app.PDBFile(str(path))
    except (ValueError, IndexError, KeyError) as error:
        raise InputError(f"{path}: not a readable PDB file ({error}).") from None
    return _with_hydrogens(pdb, str(path))


def _with_hydrogens(pdb: app.PDBFile, source: str) -> Peptide:
    modeller = app.Modeller(pdb.topology, pdb.positions)
    force_field = protein_force_field()
    # Hydrogens are placed at random and then relaxed; the same peptide must come out each time.
    state = random.getstate()
    random.seed(0)
    try:
        reference = openmm.Platform.getPlatformByName("Reference")
        modeller.addHydrogens(force_field, pH=7.0, platform=reference)
        force_field.createSystem(modeller.topology)
    except ValueError as error:
        raise InputError(f"{source}: Amber ff14SB cannot describe it ({error}).") from None
    finally:
        random.setstate(state)
    positions = modeller.positions.value_in_unit(unit.nanometer)
    return Peptide(modeller.topology, np.array(positions, dtype=np.float64))


def implicit_solvent_system(
    topology: app.Topology, hydrogen_mass: float = 4.0, native: bool = True
) -> openmm.System:
    """Return ff14SB + OBC2 with constrained X-H bonds.

    Parameters
    ----------
    topology : Topology
        A peptide with hydrogens.
    hydrogen_mass : float
        Mass of every hydrogen (amu), taken from the atom that it is bonded to.
    native : bool
        Replace the force field's interpreted CustomGBForce by the native GBSAOBCForce with the
        same charges, radii and scales: the same energy at several times the speed on CPUs.
    """
    force_field = app.ForceField("amber14/protein.ff14SB.xml", "implicit/obc2.xml")
    system = force_field.createSystem(
        topology,
        nonbondedMethod=app.NoCutoff,
        constraints=app.HBonds,
        hydrogenMass=hydrogen_mass * unit.amu,
    )
    if native:
        _use_native_obc(system)
    return system


def _use_native_obc(system: openmm.System) -> None:
    indices = [
        i for i, force in enumerate(system.getForces()) if isinstance(force, openmm.CustomGBForce)
    ]
    custom = system.getForce(indices[0])
    names = [custom.getPerParticleParameterName(i) for i in range(3)]
    native = openmm.GBSAOBCForce()
    for particle in range(custom.getNumParticles()):
        values = dict(zip(names, custom.getParticleParameters(particle), strict=True))
        # The custom force keeps radius - offset ("or") and scale * (radius - offset) ("sr").
        native.addParticle(
            values["charge"], values["or"] + BORN_OFFSET_NM, values["sr"] / values["or"]
        )
    native.setNonbondedMethod(openmm.GBSAOBCForce.NoCutoff)
    system.removeForce(indices[0])
    system.addForce(native)


def solvated(peptide: Peptide) -> Peptide:
    """Return the peptide in a box of TIP3P-FB water, neutral, its own atoms first."""
    modeller = app.Modeller(peptide.topology, peptide.positions * unit.nanometer)
    modeller.addSolvent(
        _water_force_field(), model="tip3p", padding=PADDING_NM * unit.nanometer, neutralize=True
    )
    positions = modeller.positions.value_in_unit(unit.nanometer)
    return Peptide(modeller.topology, np.array(positions, dtype=np.float64))


def explicit_solvent_system(
    topology: app.Topology, temperature: float, hydrogen_mass: float = 4.0
) -> openmm.System:
    """Return ff14SB + TIP3P-FB with PME, constrained X-H bonds, rigid water, 1 atm.

    Parameters
    ----------
    topology : Topology
        Of `solvated`.
    temperature : float
        K, of the barostat.
    hydrogen_mass : float
        Mass of the peptide's hydrogens (amu); water keeps its own.
    """
    system = _water_force_field().createSystem(
        topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=CUTOFF_NM * unit.nanometer,
        constraints=app.HBonds,
        rigidWater=True,
        hydrogenMass=hydrogen_mass * unit.amu,
    )
    system.addForce(openmm.MonteCarloBarostat(PRESSURE_ATM * unit.atmosphere, temperature))
    return system


def _water_force_field() -> app.ForceField:
    return app.ForceField("amber14/protein.ff14SB.xml", "amber14/tip3pfb.xml")


def fastest_platform() -> openmm.Platform:
    """Return the fastest platform that can make a context: a GPU where there is one, else CPU."""
    for name in ("CUDA", "HIP", "OpenCL", "CPU", "Reference"):
        try:
            platform = openmm.Platform.getPlatformByName(name)
            system = openmm.System()
            system.addParticle(1.0)
            openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
        except openmm.OpenMMException:
            continue
        return platform
    raise InputError("OpenMM found no usable platform on this machine.")


def named_platform(name: str) -> str:
    """Return `name` if OpenMM has that platform here, else raise InputError."""
    known = [
        openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())
    ]
    if name not in known:
        raise InputError(f"platform {name!r} is not here; expected one of {', '.join(known)}.")
    return name


def alpha_carbons(topology: app.Topology) -> list[int]:
    """Return the atom index of each residue's Cα, in order."""
    return [atom.index for atom in _beads(topology)]


def bead_residues(topology: app.Topology) -> tuple[str, ...]:
    """Return the names of the residues that have a Cα, in order: caps have none."""
    return tuple(atom.residue.name for atom in _beads(topology))


def bead_bonds(topology: app.Topology) -> NDArray[np.int64]:
    """Return pairs (B, 2) of beads that are neighbours in one chain."""
    chains = [atom.residue.chain.index for atom in _beads(topology)]
    pairs = [(i, i + 1) for i, (a, b) in enumerate(itertools.pairwise(chains)) if a == b]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _beads(topology: app.Topology) -> list[app.topology.Atom]:
    return [atom for atom in topology.atoms() if atom.name == "CA"]
