"""The prior energy of the beads: the sum of its fitted terms.

The prior keeps the beads in the region where there are data, breaks the mirror symmetry that a
network of distances cannot see, and leaves the rest to the network (arXiv 1812.01736,
2007.11412).
"""

from collections.abc import Mapping
from itertools import combinations, product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cgfe.array_types import RealArray
from cgfe.errors import InputError
from cgfe.model.prior_terms import (
    FourierDihedrals,
    HarmonicAngles,
    HarmonicBonds,
    IndexArray,
    PriorTerm,
    Repulsion,
)

TERMS: dict[str, type[PriorTerm]] = {
    "bonds": HarmonicBonds,
    "angles": HarmonicAngles,
    "dihedrals": FourierDihedrals,
    "repulsion": Repulsion,
}


class PriorEnergy(nn.Module):
    """The sum of the prior's terms.

    Parameters
    ----------
    terms : mapping from name to PriorTerm
        Names as in `TERMS`; a term that a system has no beads for is left out.
    """

    def __init__(self, terms: Mapping[str, PriorTerm]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict(dict(terms))

    def forward(self, positions: Tensor) -> Tensor:
        """Return the energy (B,) in kcal/mol at positions (B, N, 3) in Å."""
        return torch.stack(list(self.term_energies(positions).values())).sum(0)

    def term_energies(self, positions: Tensor) -> dict[str, Tensor]:
        """Return each term's energy (B,) in kcal/mol at positions (B, N, 3) in Å."""
        return {name: term(positions) for name, term in self.terms.items()}

    @classmethod
    def fit(
        cls,
        positions: RealArray,
        bonds: IndexArray,
        temperature: float,
        weights: RealArray | None = None,
    ) -> "PriorEnergy":
        """Fit every term to the frames, each by itself.

        Parameters
        ----------
        positions : array (F, N, 3)
            Å.
        bonds : array (K, 2)
            Any graph: branched, cyclic or of several chains. Angles and dihedrals are its paths
            of three and four beads; pairs three or more bonds apart, or unconnected, repel.
        temperature : float
            K.
        weights : array (F,), optional
            Weight of each frame.

        Raises
        ------
        InputError
            If frames, weights or bonds cannot be used, or a term cannot be fitted.
        """
        indices = bond_graph_paths(bonds, positions.shape[1])
        terms = {
            name: TERMS[name].fit(positions, index, temperature, weights)
            for name, index in indices.items()
            if len(index)
        }
        if not terms:
            raise InputError(f"no prior for {positions.shape[1]} beads, expected two or more.")
        return cls(terms)

    def to_arrays(self) -> dict[str, NDArray]:
        """Return the terms as arrays under keys such as `bonds.stiffness`."""
        return {key: tensor.cpu().numpy() for key, tensor in self.terms.state_dict().items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> "PriorEnergy":
        """Build the prior from what `to_arrays` gave.

        Raises
        ------
        InputError
            If a term or an array is unknown or missing.
        """
        names = {key.partition(".")[0] for key in arrays}
        expected = {
            f"{name}.{key}"
            for name in names & TERMS.keys()
            for key in ("index", *TERMS[name].parameter_names)
        }
        if not arrays or set(arrays) != expected:
            raise InputError(f"prior: found arrays {sorted(arrays)}, expected {sorted(expected)}.")
        return cls(
            {
                name: term(
                    **{
                        key: torch.tensor(arrays[f"{name}.{key}"])
                        for key in ("index", *term.parameter_names)
                    }
                )
                for name, term in TERMS.items()
                if name in names
            }
        )


def bond_graph_paths(bonds: IndexArray, beads: int) -> dict[str, NDArray[np.int64]]:
    """Return the bead indices of every prior term of a bond graph.

    Parameters
    ----------
    bonds : array (K, 2)
    beads : int
        Number of beads N.

    Returns
    -------
    dict
        `bonds` (K, 2); `angles` (A, 3) and `dihedrals` (D, 4), the paths of three and four
        beads, each once; `repulsion` (P, 2), pairs i < j three or more bonds apart.

    Raises
    ------
    InputError
        If a bond names an unknown bead or joins a bead with itself.
    """
    bonds = np.asarray(bonds, dtype=np.int64).reshape(-1, 2)
    if (bonds < 0).any() or (bonds >= beads).any() or (bonds[:, 0] == bonds[:, 1]).any():
        raise InputError(f"bonds join beads {bonds.tolist()}, expected two of 0 to {beads - 1}.")
    unique = sorted({(int(min(pair)), int(max(pair))) for pair in bonds})
    neighbours: list[list[int]] = [[] for _ in range(beads)]
    for i, j in unique:
        neighbours[i].append(j)
        neighbours[j].append(i)
    angles = [
        (i, middle, k)
        for middle in range(beads)
        for i, k in combinations(sorted(neighbours[middle]), 2)
    ]
    dihedrals = [
        (i, j, k, m)
        for j, k in unique
        for i, m in product(neighbours[j], neighbours[k])
        if len({i, j, k, m}) == 4
    ]
    near = {*unique, *((min(i, k), max(i, k)) for i, _, k in angles)}
    apart = [pair for pair in combinations(range(beads), 2) if pair not in near]
    return {
        "bonds": np.array(unique, dtype=np.int64).reshape(-1, 2),
        "angles": np.array(angles, dtype=np.int64).reshape(-1, 3),
        "dihedrals": np.array(dihedrals, dtype=np.int64).reshape(-1, 4),
        "repulsion": np.array(apart, dtype=np.int64).reshape(-1, 2),
    }
