"""What is simulated: chignolin, and synthetic chains of any length at a protein's density."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cgfe.data.embedded import EMBEDDED
from cgfe.data.frames import CGFrames
from cgfe.kernels.accuracy import checked_frames
from cgfe.model.potential import Potential
from cgfe.model.prior import PriorEnergy, bond_graph_paths
from cgfe.model.prior_terms import (
    FourierDihedrals,
    HarmonicAngles,
    HarmonicBonds,
    PriorTerm,
    Repulsion,
    angle_cosines,
)
from cgfe.model.schnet import CGSchNet, CGSchNetConfig

BOND, CLOSEST = 3.8, 4.5
"""Å"""
COSINES = (-0.3, 0.75)
"""Between the directions of successive bonds: Cα angles of about 73 to 139 degrees."""


@dataclass(frozen=True)
class System:
    """Beads, prior and frames of one system."""

    name: str
    prior: PriorEnergy
    bead_types: Tensor
    masses: NDArray[np.float64]
    frames: Tensor
    """(F, N, 3), Å, float32"""
    temperature: float

    @property
    def beads(self) -> int:
        """Number of beads."""
        return len(self.bead_types)

    def starts(self, replicas: int) -> Tensor:
        """Return starts (R, N, 3), taken evenly from the frames."""
        return self.frames[torch.linspace(0, len(self.frames) - 1, replicas).long()]

    @property
    def checked(self) -> Tensor:
        """Frames to check forces on."""
        return checked_frames(self.frames)

    def potential(self, config: CGSchNetConfig, seed: int = 0) -> Potential:
        """Return prior + a network of random parameters, on which speed does not depend."""
        torch.manual_seed(seed)
        return Potential(self.prior, CGSchNet(config), self.bead_types)


def chignolin() -> System:
    """Return the embedded chignolin set with its fitted prior."""
    frames = CGFrames.load(str(EMBEDDED["chignolin"]))
    return System(
        name="chignolin",
        prior=PriorEnergy.fit(frames.positions[::20], frames.bonds, frames.temperature_kelvin),
        bead_types=torch.from_numpy(frames.bead_types),
        masses=frames.masses,
        frames=torch.from_numpy(frames.positions),
        temperature=frames.temperature_kelvin,
    )


def synthetic(beads: int, seed: int = 0) -> System:
    """Return a compact chain of `beads` residues with a prior that keeps its shape."""
    random = np.random.default_rng(seed)
    chain = compact_chain(beads, random)
    frames = chain + random.normal(0, 0.1, (64, beads, 3))
    return System(
        name=f"{beads} beads",
        prior=_prior(chain),
        bead_types=torch.from_numpy(random.integers(1, 21, beads)),
        masses=np.full(beads, 110.0),
        frames=torch.from_numpy(frames).float(),
        temperature=300.0,
    )


def radius_of_gyration(beads: int) -> float:
    """Return the radius of gyration of globular proteins of this length, 2.2 N^0.38 Å."""
    return 2.2 * beads**0.38


def compact_chain(beads: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Return a self-avoiding chain (N, 3) with bonds of 3.8 Å in a globular protein's volume.

    Beads are put one after the other at a Cα angle, inside the sphere whose uniform filling has
    the radius of gyration of a protein; where there is no room some beads are taken back.
    """
    # A short chain needs room for its own bends.
    radius = max((5 / 3) ** 0.5 * radius_of_gyration(beads), 8.0)
    chain = [np.zeros(3), np.array([BOND, 0.0, 0.0])]
    while len(chain) < beads:
        bead = _next_bead(chain, radius, random)
        if bead is not None:
            chain.append(bead)
        else:
            del chain[max(2, len(chain) - int(random.integers(2, 12))) :]
    return np.array(chain[:beads])


def _next_bead(
    chain: list[NDArray[np.float64]], radius: float, random: np.random.Generator
) -> NDArray[np.float64] | None:
    last = chain[-1]
    along = (last - chain[-2]) / BOND
    placed = np.array(chain[:-2]).reshape(-1, 3)
    for _ in range(30):
        direction = random.normal(size=3)
        direction /= np.linalg.norm(direction)
        bead = last + BOND * direction
        if (
            COSINES[0] <= along @ direction <= COSINES[1]
            and np.linalg.norm(bead) <= radius
            and np.linalg.norm(placed - bead, axis=1).min(initial=np.inf) >= CLOSEST
        ):
            return bead
    return None


def _prior(chain: NDArray[np.float64]) -> PriorEnergy:
    """Return bonds and angles around the chain's own, weak dihedrals, and a repulsion."""
    every = np.arange(len(chain))
    paths = bond_graph_paths(np.stack([every[:-1], every[1:]], axis=1), len(chain))
    index = {name: torch.from_numpy(path) for name, path in paths.items() if len(path)}

    def filled(name: str, value: float, *shape: int) -> Tensor:
        return torch.full((len(index[name]), *shape), value)

    terms: dict[str, PriorTerm] = {
        "bonds": HarmonicBonds(
            index["bonds"], centre=filled("bonds", BOND), stiffness=filled("bonds", 100.0)
        )
    }
    if "angles" in index:
        own = angle_cosines(torch.from_numpy(chain)[None], index["angles"])[0].float()
        terms["angles"] = HarmonicAngles(
            index["angles"], centre=own, stiffness=filled("angles", 20.0)
        )
    if "dihedrals" in index:
        terms["dihedrals"] = FourierDihedrals(
            index["dihedrals"],
            cosine=filled("dihedrals", 0.3, 3),
            sine=filled("dihedrals", 0.1, 3),
        )
    if "repulsion" in index:
        terms["repulsion"] = Repulsion(
            index["repulsion"], contact_distance=filled("repulsion", 4.0)
        )
    return PriorEnergy(terms)
