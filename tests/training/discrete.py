"""A model of a few states, each with an energy that is trained: all is known in closed form."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch

from cgfe.analysis.free_energy import TICGrid
from cgfe.training.batches import batch_of
from cgfe.training.losses import ChainConfig, Losses, LossTerm, Setting, Turn, WeightedLoss
from cgfe.training.losses.chains import Chains
from cgfe.training.losses.term import FIRST
from cgfe.units import thermal_energy

KT = thermal_energy(300.0)
STATES = 6
BINS = (3, 2)
"""Of the grid: the states 2k and 2k + 1, k < 2, share a bin, 4 has one, and 5 is outside."""
SURFACE_BIN = torch.tensor([0, 0, 2, 2, 4, -1])
NUMBER = 2000


class Discrete:
    """Two beads, one opposite the other about their centre, whose distance tells the state."""

    def __init__(self, **terms: LossTerm) -> None:
        self.energies = torch.zeros(STATES, dtype=torch.float64, requires_grad=True)
        types, low = np.zeros(2, dtype=np.int64), np.full((1, 2, 3), 0.0)
        edges = (np.array([-0.5, 1.5, 3.5, 4.5]), np.array([-1.0, 0.5, 1e9]))
        self.reference: Any = SimpleNamespace(
            system=SimpleNamespace(bead_types=types, temperature_kelvin=300.0, masses=types + 1.0),
            starts=SimpleNamespace(positions=low),
            projection=SimpleNamespace(
                grid=TICGrid(edges), tica=SimpleNamespace(project=lambda x: x[:, 0, :2] * 2)
            ),
            ensembles=SimpleNamespace(train=SimpleNamespace(probability=np.full(BINS, 1 / 6))),
        )
        # Never moved: their states are told.
        chains = ChainConfig(number=NUMBER, every=10**9)
        self.loss = WeightedLoss(Losses(chains=chains, **terms))  # type: ignore[arg-type]
        network: Any = None
        potential: Any = lambda system: None  # noqa: E731
        self.loss.attach(Setting(network, [self.reference], self.evaluate, potential=potential))

    @property
    def chains(self) -> Chains:
        assert self.loss.chains is not None
        return self.loss.chains

    def evaluate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        energy = self.energies[(batch.pos[0::2, 0] * 2).round().long()]
        return energy, torch.zeros_like(batch.pos)

    def probability(self) -> Tensor:
        return torch.softmax(-self.energies / KT, 0)

    def visit(self, counts: Tensor, alike: Tensor | None = None) -> None:
        """Tell how many chains are in each state, NUMBER in all.

        Others `alike` may be there in their place, with weights that make up for it.
        """
        there = counts if alike is None else alike
        self.chains.positions(0).copy_(positions_of(there))
        weights = (counts / there).repeat_interleave(there)
        self.chains.get_buffer("log_weights_0").copy_(weights.log())
        for term in self.loss.terms.values():
            assert isinstance(term, LossTerm)
            term.after_move()

    def visit_by_chance(self, random: np.random.Generator) -> None:
        """Draw the chains' states, each by its probability."""
        share = self.probability().detach().numpy()
        self.visit(torch.from_numpy(random.multinomial(NUMBER, share)))

    def terms(
        self,
        counts: Tensor,
        turn: Turn = FIRST,
        weight: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss of a batch with so many frames of each state."""
        batch = batch_of(positions_of(counts), torch.zeros(2, dtype=torch.long), 0)
        batch.surface_bin = SURFACE_BIN.repeat_interleave(counts)
        if weight is not None:
            batch.weight = weight
        found: dict[str, Tensor] = self.loss(*self.evaluate(batch), batch, turn)
        return found


def positions_of(counts: Tensor) -> Tensor:
    states = torch.arange(STATES).repeat_interleave(counts).double() / 2
    found = torch.zeros(len(states), 2, 3, dtype=torch.float64)
    found[:, 0, 0], found[:, 1, 0] = states, -states
    return found


def counts_of(seed: int, total: int = NUMBER) -> Tensor:
    """Numbers of visits of which every state has some."""
    shares = np.random.default_rng(seed).dirichlet(np.full(STATES, 5.0))
    counts = torch.from_numpy(np.floor(shares * (total - STATES))).long() + 1
    counts[0] += total - counts.sum()
    return counts
