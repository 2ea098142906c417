"""Potential: prior plus network, the only thing that simulation and ensemble terms see."""

import torch
from torch import Tensor, nn

from cgfe.errors import InputError


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
