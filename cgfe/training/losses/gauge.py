"""Gauge: what is done about the arbitrary constant of reference energies."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from cgfe.errors import InputError
from cgfe.training.losses.means import group_means

GaugeKind = Literal["fixed", "centred", "learned"]


class Gauge(nn.Module):
    """The constant of each system's energies.

    Parameters
    ----------
    kind : "fixed", "centred" or "learned"
        fixed: nothing is done. centred: each system's mean residual in the batch is removed.
        learned: one offset per system is trained.

    Raises
    ------
    InputError
        If `kind` is another word.
    """

    def __init__(self, kind: GaugeKind) -> None:
        super().__init__()
        if kind not in get_args(GaugeKind):
            raise InputError(f"gauge is {kind!r}, expected {' or '.join(get_args(GaugeKind))}.")
        self.kind = kind

    def prepare(self, num_systems: int, trained: bool) -> None:
        """Make the offsets, kcal/mol; those of a term without weight are not trained.

        They would get no gradient, which distributed training forbids.
        """
        if self.kind == "learned":
            self.offsets = nn.Parameter(torch.zeros(num_systems), requires_grad=trained)

    def shifted(self, energy: Tensor, system: Tensor) -> Tensor:
        """Return energies (G,) with their system's learned offset, if any."""
        return energy + self.offsets[system] if self.kind == "learned" else energy

    def centred(self, residual: Tensor, weights: Tensor, system: Tensor) -> Tensor:
        """Return residuals (K,) without their system's weighted mean, if it is to be removed."""
        if self.kind != "centred":
            return residual
        return residual - group_means(residual, weights, system)[0][system]
