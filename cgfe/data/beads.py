"""Beads of residues: types, masses, and the Cα topology that mdtraj reads them with."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import mdtraj

RESIDUE_MASSES = {
    **{"ALA": 71.08, "ARG": 156.19, "ASN": 114.10, "ASP": 115.09, "CYS": 103.14},
    **{"GLN": 128.13, "GLU": 129.12, "GLY": 57.05, "HIS": 137.14, "ILE": 113.16},
    **{"LEU": 113.16, "LYS": 128.17, "MET": 131.19, "PHE": 147.18, "PRO": 97.12},
    **{"SER": 87.08, "THR": 101.10, "TRP": 186.21, "TYR": 163.18, "VAL": 99.13},
}
"""amu, of a residue within a chain"""

RESIDUES = tuple(RESIDUE_MASSES)
"""Bead types are residues in alphabetical order of their three-letter codes, from 1; 0 is any
other."""

ONE_LETTER = dict(zip(RESIDUES, "ARNDCQEGHILKMFPSTWYV", strict=True))


def bead_types_of(residue_names: tuple[str, ...]) -> NDArray[np.int64]:
    """Return the bead type of each residue: 1 to 20 alphabetically, 0 for any other."""
    table = {name: index + 1 for index, name in enumerate(RESIDUES)}
    return np.array([table.get(name, 0) for name in residue_names], dtype=np.int64)


def alpha_carbon_topology(
    residue_names: tuple[str, ...], bonds: NDArray[np.integer]
) -> "mdtraj.Topology":
    """Return an mdtraj topology of one Cα per residue."""
    import mdtraj  # and with it openmm, which reading frames need not wait for

    topology = mdtraj.Topology()
    chain = topology.add_chain()
    atoms = [
        topology.add_atom("CA", mdtraj.element.carbon, topology.add_residue(name, chain))
        for name in residue_names
    ]
    for first, second in bonds:
        topology.add_bond(atoms[int(first)], atoms[int(second)])
    return topology
