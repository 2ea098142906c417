"""Loss terms, one file each, and their weighted sum.

A new term is a `LossTerm` in a file of its own here and one line in `config.Losses`; one that lives
elsewhere is named by its class path in the config (`model.losses.own`).
"""

from cgfe.training.losses.config import LossConfig, Losses
from cgfe.training.losses.force import ForceMatching
from cgfe.training.losses.self_consistent import SelfConsistentEnergy
from cgfe.training.losses.term import LossTerm, Prediction
from cgfe.training.losses.weighted import WeightedLoss

__all__ = [
    "ForceMatching",
    "LossConfig",
    "LossTerm",
    "Losses",
    "Prediction",
    "SelfConsistentEnergy",
    "WeightedLoss",
]
