"""A small network, and what a loss says of it; for the tests of loss terms."""

from torch import Tensor
from torch_geometric.data import Batch

from cgfe.model.schnet import CGSchNetConfig
from cgfe.training.losses import Turn
from cgfe.training.module import CGForceField

NETWORK = CGSchNetConfig(hidden_channels=8, num_filters=8, num_layers=1, num_radial=6)


def evaluated(module: CGForceField, batch: Batch, turn: Turn) -> dict[str, Tensor]:
    """Return the loss and its terms, of energies and forces as in a training step."""
    assert module.loss is not None
    found: dict[str, Tensor] = module.loss(*module.energy_and_forces(batch), batch, turn)
    return found
