"""Loss terms, one file each, and their weighted sum.

A new term is a `LossTerm` in a file of its own here and one line in `config.Losses`; one that lives
elsewhere is named by its class path in the config (`model.losses.own`).
"""

from cgfe.training.losses.chains import ChainConfig, Chains
from cgfe.training.losses.config import LossConfig, Losses
from cgfe.training.losses.contrastive import ContrastiveEstimation
from cgfe.training.losses.force import ForceMatching
from cgfe.training.losses.implied_fes import ImpliedFES
from cgfe.training.losses.mean_force import MeanForceMatching
from cgfe.training.losses.projected_mean_force import ProjectedMeanForce
from cgfe.training.losses.relative_entropy import RelativeEntropy
from cgfe.training.losses.self_consistent import SelfConsistentEnergy
from cgfe.training.losses.term import LossTerm, Prediction, Setting, Turn
from cgfe.training.losses.weighted import WeightedLoss

__all__ = [
    "ChainConfig",
    "Chains",
    "ContrastiveEstimation",
    "ForceMatching",
    "ImpliedFES",
    "LossConfig",
    "LossTerm",
    "Losses",
    "MeanForceMatching",
    "Prediction",
    "ProjectedMeanForce",
    "RelativeEntropy",
    "SelfConsistentEnergy",
    "Setting",
    "Turn",
    "WeightedLoss",
]
