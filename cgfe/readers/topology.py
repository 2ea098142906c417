"""From an mdtraj topology to Cα beads: atoms that are read, beads among them, constraints."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
from numpy.typing import NDArray

from cgfe.array_types import RealArray
from cgfe.errors import InputError
from cgfe.readers.residues import canonical_residue
from cgfe.readers.source import Atoms, Beads, existing

UNSAFE_TOPOLOGIES = (".h5", ".hdf5", ".lh5")
LONGEST_HYDROGEN_BOND = 1.5


@dataclass(frozen=True)
class ProteinTopology:
    """The protein part of a topology."""

    selection: NDArray[np.int64]
    """Atoms of the file that belong to the protein"""
    carbons: tuple[int, ...]
    """Cα atoms, numbered within the selection"""
    hydrogens: tuple[int, ...]
    """Numbered within the selection"""
    hydrogen_bonds: dict[int, int]
    """Heavy atom of each hydrogen whose bond the topology names"""
    beads: Beads

    @property
    def only_beads(self) -> bool:
        """Whether the source has nothing but the Cα atoms."""
        return len(self.selection) == len(self.carbons)

    def atoms(self, positions: RealArray) -> Atoms | None:
        """Return what the mapping needs; None for a source of Cα beads.

        Parameters
        ----------
        positions : array (A, 3)
            Å, one frame of the selection: finds the bonds of hydrogens whose names the topology
            does not know, by the nearest heavy atom.
        """
        if self.only_beads:
            return None
        heavy = np.setdiff1d(np.arange(len(self.selection)), self.hydrogens)
        pairs = []
        for hydrogen in self.hydrogens:
            partner = self.hydrogen_bonds.get(hydrogen)
            if partner is None:
                distances = np.linalg.norm(positions[heavy] - positions[hydrogen], axis=1)
                if distances.min() > LONGEST_HYDROGEN_BOND:
                    raise InputError(
                        f"the topology has no bond of hydrogen atom {self.selection[hydrogen]}, "
                        f"whose nearest heavy atom is {distances.min():.2f} Å away; "
                        "give a topology with bonds (.psf, .prmtop, or .pdb with CONECT)."
                    )
                partner = int(heavy[distances.argmin()])
            pairs.append((partner, hydrogen))
        return Atoms(len(self.selection), self.carbons, tuple(pairs))


def protein_topology(topology: mdtraj.Topology, name: str) -> ProteinTopology:
    """Select the residues with a Cα, and what else mdtraj takes for protein (caps).

    Raises
    ------
    InputError
        If there is no Cα.
    """
    bead_atoms = [atom for atom in topology.atoms if _is_alpha_carbon(atom)]
    if not bead_atoms:
        raise InputError(f"{name}: the topology has no Cα atom (name CA, element carbon).")
    residues = {atom.residue.index for atom in bead_atoms}
    chosen = [
        atom for atom in topology.atoms if atom.residue.index in residues or atom.residue.is_protein
    ]
    number = {atom.index: i for i, atom in enumerate(chosen)}
    hydrogens = {number[atom.index] for atom in chosen if _is_hydrogen(atom)}
    partners = {}
    for first, second in topology.bonds:
        if first.index in number and second.index in number:
            a, b = number[first.index], number[second.index]
            for one, other in ((a, b), (b, a)):
                if one in hydrogens and other not in hydrogens:
                    partners[one] = other
    pairs = [
        (i, i + 1)
        for i, (a, b) in enumerate(itertools.pairwise(bead_atoms))
        if a.residue.chain.index == b.residue.chain.index
    ]
    return ProteinTopology(
        np.array([atom.index for atom in chosen]),
        tuple(number[atom.index] for atom in bead_atoms),
        tuple(sorted(hydrogens)),
        partners,
        Beads(
            tuple(canonical_residue(atom.residue.name) for atom in bead_atoms),
            np.array(pairs, dtype=np.int64).reshape(-1, 2),
        ),
    )


def load_topology(path: str | Path) -> mdtraj.Topology:
    """Read any topology that mdtraj reads without running code.

    Raises
    ------
    InputError
        If the file is missing or cannot be read. HDF5 is refused: mdtraj opens it with PyTables,
        which unpickles attributes.
    """
    path = existing(path)
    if path.suffix in UNSAFE_TOPOLOGIES:
        raise InputError(f"{path}: HDF5 topologies are not read; expected .pdb, .psf, .prmtop.")
    try:
        return mdtraj.load_topology(str(path))
    except Exception as error:
        # mdtraj's parsers raise whatever a malformed line happens to trigger.
        told = " ".join(str(error).split())
        raise InputError(f"{path}: not a topology that mdtraj reads ({told}).") from None


def _is_alpha_carbon(atom: Any) -> bool:
    # CA is also calcium, whose element differs; beads of a Cα file may have none.
    return atom.name == "CA" and (atom.element is None or atom.element.symbol in ("C", "VS"))


def _is_hydrogen(atom: Any) -> bool:
    return atom.element is not None and atom.element.symbol in ("H", "D")
