"""Chains, priors and networks of any size for tests of the kernels; given, not fitted."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cgfe.model.potential import Potential
from cgfe.model.prior import PriorEnergy, bond_graph_paths
from cgfe.model.prior_terms import FourierDihedrals, HarmonicAngles, HarmonicBonds, Repulsion
from cgfe.model.schnet import CGSchNet, CGSchNetConfig

CUTOFF = 12.0


class Nothing(nn.Module):
    """A prior without energy."""

    def forward(self, positions: Tensor) -> Tensor:
        return 0 * positions.sum((1, 2))


def network_of(seed: int, **options: Any) -> CGSchNet:
    """Return a small network, in float32."""
    torch.manual_seed(seed)
    sizes = {"hidden_channels": 12, "num_filters": 10, "num_layers": 2, "cutoff": CUTOFF}
    return CGSchNet(CGSchNetConfig(**sizes | options))


def prior_of(beads: int, seed: int = 0) -> PriorEnergy:
    """Return a prior of a chain with all its terms, in float32."""
    random = np.random.default_rng(seed)
    every = np.arange(beads)
    paths = bond_graph_paths(np.stack([every[:-1], every[1:]], axis=1), beads)
    index = {name: torch.from_numpy(path) for name, path in paths.items() if len(path)}

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy(random.uniform(low, high, shape)).float()

    makers = {
        "bonds": lambda i: HarmonicBonds(
            i, centre=uniform(3.6, 4.0, len(i)), stiffness=uniform(10, 40, len(i))
        ),
        "angles": lambda i: HarmonicAngles(
            i, centre=uniform(-0.5, 0.3, len(i)), stiffness=uniform(2, 9, len(i))
        ),
        "dihedrals": lambda i: FourierDihedrals(
            i, cosine=uniform(-1, 1, len(i), 3), sine=uniform(-1, 1, len(i), 3)
        ),
        "repulsion": lambda i: Repulsion(i, contact_distance=uniform(3.5, 5, len(i))),
    }
    return PriorEnergy({name: makers[name](i) for name, i in index.items()})


def potential_of(seed: int, beads: int, **options: Any) -> Potential:
    """Return prior and network of random bead types."""
    types = torch.from_numpy(np.random.default_rng(seed).integers(0, 25, beads))
    return Potential(prior_of(beads, seed), network_of(seed, **options), types)


def chains(frames: int, beads: int, seed: int) -> Tensor:
    """Return random walks in float32 with steps of 3.8 Å; long ones leave the cutoff."""
    random = np.random.default_rng(seed)
    steps = random.normal(size=(frames, beads, 3)) + np.array([0.8, 0, 0])
    steps *= 3.8 / np.linalg.norm(steps, axis=-1, keepdims=True)
    return torch.from_numpy(steps.cumsum(1)).float()
