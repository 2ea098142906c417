"""From atoms to beads: Cα positions and the three maps of all-atom forces onto them.

A force map b sends atomic forces f to bead forces F_I = Σ_i b_Ii f_i. With the position map c
that picks the Cα atoms, Σ_i b_Ii c_Ji = δ_IJ makes the conditional mean of F the mean force of
the beads, and atoms tied by a constraint must share one coefficient, since constraint forces
are not part of f (Krämer et al. 2023, arXiv 2302.07071).

Every map here also has Σ_I b_Ii = 1, so the mapped forces have no net force: a potential of the
beads can have none either, so what a map leaves there is noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cgfe.errors import InputError

MapKind = Literal["slice", "constraint_aware", "optimal"]
RIDGE = 1e-3


@dataclass(frozen=True)
class CarbonAlphaMapping:
    """Position and force maps onto Cα beads.

    Attributes
    ----------
    beads : array (N,)
        Atom index of each bead.
    coefficients : array (N, A)
        The force map b.
    kind : str
        `slice`, `constraint_aware` or `optimal`.
    """

    beads: NDArray[np.int64]
    coefficients: NDArray[np.float64]
    kind: MapKind

    @classmethod
    def fit(
        cls,
        kind: MapKind,
        beads: Sequence[int],
        atom_count: int,
        constraints: Sequence[tuple[int, int]],
        forces: NDArray[np.floating] | None = None,
    ) -> "CarbonAlphaMapping":
        """Build a force map.

        Parameters
        ----------
        kind : str
            `slice`: the force on the Cα atom alone (biased where a Cα-H bond is constrained).
            `constraint_aware`: the sum over the Cα and the atoms constrained to it.
            `optimal`: the valid map with the least mean squared force over `forces`.
        beads : sequence of int
            Cα atom indices.
        atom_count : int
        constraints : sequence of (int, int)
            Pairs of atoms with a fixed distance.
        forces : array (F, A, 3), optional
            All-atom forces that the optimal map is fitted to.

        Raises
        ------
        InputError
            If the kind is unknown, or `optimal` gets no forces.
        """
        if kind not in get_args(MapKind):
            raise InputError(f"force map {kind!r} is unknown; expected one of {get_args(MapKind)}.")
        identity = [{atom} for atom in range(atom_count)]
        groups = identity if kind == "slice" else _constraint_groups(atom_count, constraints)
        membership = np.zeros((len(groups), atom_count))
        for row, group in enumerate(groups):
            membership[row, sorted(group)] = 1.0
        owner = membership[:, list(beads)].argmax(axis=0)
        if len(set(owner.tolist())) < len(beads):
            raise InputError("two beads share a constrained group of atoms; no valid force map.")
        if kind != "optimal":
            by_group = np.zeros((len(beads), len(groups)))
            by_group[np.arange(len(beads)), owner] = 1.0
        elif forces is None or len(forces) == 0:
            raise InputError("the optimal force map needs all-atom forces to be fitted to.")
        else:
            by_group = _least_square_force(owner, membership, forces)
        coefficients = by_group @ membership
        # Spread what is missing to Σ_I b = 1 evenly: at the Cα columns it is nothing, so the
        # orthogonality stands, and the shared coefficients stay shared.
        coefficients += (1 - coefficients.sum(axis=0)) / len(beads)
        return cls(np.array(beads, dtype=np.int64), coefficients, kind)

    def map_positions(self, positions: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return bead positions (..., N, 3) of atom positions (..., A, 3)."""
        return positions[..., self.beads, :]

    def map_forces(self, forces: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return bead forces (..., N, 3) of atom forces (..., A, 3)."""
        return np.einsum("ia,...ad->...id", self.coefficients, forces, optimize=True)


def _constraint_groups(atom_count: int, constraints: Sequence[tuple[int, int]]) -> list[set[int]]:
    """Return sets of atoms connected by constraints, singles included."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = np.array(constraints, dtype=np.int64).reshape(-1, 2)
    graph = coo_array(
        (np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(atom_count, atom_count)
    )
    number, labels = connected_components(graph, directed=False)
    return [set(np.flatnonzero(labels == group).tolist()) for group in range(number)]


def _least_square_force(
    owner: NDArray[np.int64], membership: NDArray[np.float64], forces: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Minimise ⟨|Σ_g b_Ig f_g|²⟩ + ridge |b|² with b_{I, owner(J)} = δ_IJ; (beads, groups).

    The beads' groups are fixed by the constraint, so each row is a linear least-squares problem
    in the other groups. The ridge (relative to the mean squared group force) also settles the
    direction that the total force, which is zero, leaves open.
    """
    grouped = np.einsum("ga,fad->gfd", membership, forces, optimize=True)
    grouped = grouped.reshape(len(membership), -1)
    covariance = grouped @ grouped.T / forces.shape[0]
    covariance += RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    free = np.setdiff1d(np.arange(len(membership)), owner)
    result = np.zeros((len(owner), len(membership)))
    result[np.arange(len(owner)), owner] = 1.0
    result[:, free] = -np.linalg.solve(
        covariance[np.ix_(free, free)], covariance[np.ix_(free, owner)]
    ).T
    return result
