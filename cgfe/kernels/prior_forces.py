"""The prior's forces written out, for simulation: no autograd.

All terms depend on positions by vectors between two beads, so the vectors of all terms are
gathered at once, each term gives its energy's gradient in its own vectors, and these are
scattered to the beads at once.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from cgfe.model.prior import PriorEnergy
from cgfe.model.prior_terms import (
    HARMONICS,
    SMALLEST_DISTANCE,
    FourierDihedrals,
    HarmonicAngles,
    HarmonicBonds,
    PriorTerm,
    Repulsion,
)

TINY = 1e-12
"""Keeps the gradient of coinciding or collinear beads finite, where it has no direction."""


class PriorForces(nn.Module):
    """Energies and forces of a PriorEnergy.

    Parameters
    ----------
    prior : PriorEnergy
    """

    start: Tensor
    end: Tensor

    def __init__(self, prior: PriorEnergy) -> None:
        super().__init__()
        self.terms = prior.terms
        pairs = torch.cat([_vector_ends(term.index, type(term)) for term in terms_of(prior.terms)])
        self.register_buffer("start", pairs[:, 0].contiguous())
        self.register_buffer("end", pairs[:, 1].contiguous())

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return energies (B,) in kcal/mol and forces (B, N, 3) in kcal/mol/Å.

        Parameters
        ----------
        positions : Tensor (B, N, 3)
            Å.
        """
        by_bead = positions.transpose(0, 1).contiguous()
        vectors = by_bead.index_select(0, self.end) - by_bead.index_select(0, self.start)
        terms = terms_of(self.terms)
        split = vectors.split([len(_vector_ends(term.index, type(term))) for term in terms])
        energies, gradients = [], []
        for term, own in zip(terms, split, strict=True):
            energy, gradient = GRADIENTS[type(term)](term, own)
            energies.append(energy)
            gradients.append(gradient)
        gradient = torch.cat(gradients)
        forces = torch.zeros_like(by_bead).index_add(0, self.start, gradient)
        forces = forces.index_add(0, self.end, gradient, alpha=-1)
        return torch.cat(energies).sum(0), forces.transpose(0, 1)


def terms_of(terms: nn.ModuleDict) -> list[PriorTerm]:
    found = list(terms.values())
    assert all(isinstance(term, PriorTerm) for term in found)
    return found  # type: ignore[return-value]


def _vector_ends(index: Tensor, kind: type[PriorTerm]) -> Tensor:
    """Return the first and last bead (V, 2) of a term's vectors: all first ones, all second ..."""
    if kind is HarmonicAngles:  # both arms start at the middle bead
        return torch.cat([index[:, [1, 0]], index[:, [1, 2]]])
    return torch.cat([index[:, [k, k + 1]] for k in range(index.shape[1] - 1)])


def _bonds(term: HarmonicBonds, vectors: Tensor) -> tuple[Tensor, Tensor]:
    length = torch.linalg.vector_norm(vectors, dim=-1)
    stretch = length - term.centre[:, None]
    force = term.stiffness[:, None] * stretch
    return 0.5 * force * stretch, (force / length.clamp(min=TINY))[..., None] * vectors


def _angles(term: HarmonicAngles, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """d(cos θ)/da = (b - cos θ a |b| / |a|) / (|a| |b|)."""
    arm_1, arm_2 = vectors.chunk(2)
    square_1, square_2 = arm_1.square().sum(-1), arm_2.square().sum(-1)
    lengths = (square_1 * square_2).sqrt()
    bounded = lengths.clamp(min=SMALLEST_DISTANCE**2)
    cosine = (arm_1 * arm_2).sum(-1) / bounded
    off = cosine - term.centre[:, None]
    force = term.stiffness[:, None] * off
    # Below the bound the cosine does not depend on the lengths.
    inner = torch.where(lengths >= SMALLEST_DISTANCE**2, cosine, 0)
    scaled = (force / bounded)[..., None]
    along_1 = (force * inner / square_1.clamp(min=TINY))[..., None]
    along_2 = (force * inner / square_2.clamp(min=TINY))[..., None]
    gradient = torch.cat([scaled * arm_2 - along_1 * arm_1, scaled * arm_1 - along_2 * arm_2])
    return 0.5 * force * off, gradient


def _dihedrals(term: FourierDihedrals, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """dφ/db₁ = |b₂| n₁ / n₁², dφ/db₃ = |b₂| n₂ / n₂²; dφ/db₂ from invariance under rotation."""
    bond_1, bond_2, bond_3 = vectors.chunk(3)
    normal_1 = torch.linalg.cross(bond_1, bond_2)
    normal_2 = torch.linalg.cross(bond_2, bond_3)
    square = bond_2.square().sum(-1)
    length = square.sqrt()
    across, along = length * (bond_1 * normal_2).sum(-1), (normal_1 * normal_2).sum(-1)
    angle = torch.atan2(across, along)
    orders = torch.arange(1, HARMONICS + 1, device=angle.device)
    phases = angle[..., None] * orders
    cosine, sine = phases.cos(), phases.sin()
    a, b = term.cosine[:, None], term.sine[:, None]
    energy = (a * cosine + b * sine).sum(-1)
    torque = ((b * cosine - a * sine) * orders).sum(-1) * length
    # Where the angle is not defined it has no gradient, as in autograd.
    torque = torque.where((across != 0) | (along != 0), 0)
    of_1 = (torque / normal_1.square().sum(-1).clamp(min=TINY))[..., None] * normal_1
    of_3 = (torque / normal_2.square().sum(-1).clamp(min=TINY))[..., None] * normal_2
    share_1 = (bond_1 * bond_2).sum(-1) / square.clamp(min=TINY)
    share_3 = (bond_3 * bond_2).sum(-1) / square.clamp(min=TINY)
    of_2 = -share_1[..., None] * of_1 - share_3[..., None] * of_3
    return energy, torch.cat([of_1, of_2, of_3])


def _repulsion(term: Repulsion, vectors: Tensor) -> tuple[Tensor, Tensor]:
    length = torch.linalg.vector_norm(vectors, dim=-1)
    bounded = length.clamp(min=SMALLEST_DISTANCE)
    inverse = bounded.reciprocal().square()
    square = term.contact_distance[:, None].square() * inverse
    energy = square * square * square
    slope = torch.where(length >= SMALLEST_DISTANCE, -6 * energy * inverse, 0)
    return energy, slope[..., None] * vectors


GRADIENTS: dict[type[PriorTerm], Callable[..., tuple[Tensor, Tensor]]] = {
    HarmonicBonds: _bonds,
    HarmonicAngles: _angles,
    FourierDihedrals: _dihedrals,
    Repulsion: _repulsion,
}
"""Energy (K, B) and its gradient (V, B, 3) of each kind of term, from its vectors (V, B, 3)."""
