"""Potential: prior plus network, the only thing that simulation and ensemble terms see."""

import logging

import torch
from torch import Tensor, nn

from cgfe.errors import InputError
from cgfe.fast_forces import TableError, TabulatedNetwork
from cgfe.fast_potential import FastPotential
from cgfe.priors import PriorEnergy
from cgfe.schnet import CGSchNet

log = logging.getLogger(__name__)


class Potential(nn.Module):
    """Energy of a system's beads: U(R) = U_prior(R) + U_network(R).

    Parameters
    ----------
    prior : module
        Gives energies (B,) in kcal/mol for positions (B, N, 3) in Å.
    network : module or None
        With a method `energy(positions, bead_types)` of the same meaning; None: prior alone.
    bead_types : tensor (N,) of int64
    """

    bead_types: Tensor

    def __init__(self, prior: nn.Module, network: nn.Module | None, bead_types: Tensor) -> None:
        super().__init__()
        self.prior = prior
        self.network = network
        self.register_buffer("bead_types", bead_types)

    def energy(self, positions: Tensor) -> Tensor:
        """Return energies (B,) in kcal/mol at positions (B, N, 3) in Å.

        Raises
        ------
        InputError
            If the number of beads is not the potential's.
        """
        if positions.shape[-2] != len(self.bead_types):
            raise InputError(
                f"positions have {positions.shape[-2]} beads, but the potential is of "
                f"{len(self.bead_types)} beads."
            )
        energy: Tensor = self.prior(positions)
        if self.network is not None:
            energy = energy + self.network.energy(positions, self.bead_types)  # type: ignore[operator]
        return energy

    def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return energies (B,) in kcal/mol and forces (B, N, 3) in kcal/mol/Å, both detached.

        Works under `torch.no_grad` and `torch.inference_mode` too.
        """
        with torch.inference_mode(False), torch.enable_grad():
            # A clone made here is a normal tensor even if the caller's is an inference tensor.
            inputs = positions.detach().clone().requires_grad_()
            energy = self.energy(inputs)
            (gradient,) = torch.autograd.grad(energy.sum(), inputs)
        return energy.detach(), -gradient

    def fast(self, frames: Tensor) -> "Potential | FastPotential":
        """Return the same potential made for simulation, fixed as it is now.

        A network is tabulated (`TabulatedNetwork`) and must give forces within 1e-5 of its own
        in float64. If it does not, or prior or network are of another kind than cgfe's, this
        potential itself is returned.

        Parameters
        ----------
        frames : Tensor (F, N, 3)
            Å, real frames on which the forces are checked.
        """
        network = None
        if not isinstance(self.prior, PriorEnergy):
            return self
        if self.network is not None:
            if not isinstance(self.network, CGSchNet):
                return self
            try:
                network = TabulatedNetwork(self.network, self.bead_types, frames)
            except TableError as error:
                log.warning("forces: %s; the network is evaluated plainly, which is slower.", error)
                return self
        return FastPotential(self.prior, network, self.bead_types)
