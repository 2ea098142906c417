"""Gauge: the arbitrary constant of reference energies, and terms whose targets have one."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from cgfe.errors import InputError
from cgfe.training.losses.means import group_means
from cgfe.training.losses.term import LossTerm

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


class GaugedTerm(LossTerm):
    """A term whose targets have an arbitrary constant.

    Parameters
    ----------
    weight : float
        Per (kcal/mol)².
    gauge : "fixed", "centred" or "learned"
        See `Gauge`.
    weighted : bool
        Frames count by their weight.
    """

    def __init__(
        self, weight: float = 1.0, gauge: GaugeKind = "fixed", weighted: bool = False
    ) -> None:
        super().__init__(weight, weighted)
        self.gauge = Gauge(gauge)

    def prepare(self, num_systems: int) -> None:
        """Make the offsets of the gauge."""
        self.gauge.prepare(num_systems, self.weight > 0)

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"{super().extra_repr()}, gauge={self.gauge.kind}"
