"""Potential: prior plus network, the only thing that simulation and ensemble terms see."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from cgfe.errors import InputError

LARGEST_PAIRS, LARGEST_PAIRS_OF_A_GPU = 2**13, 2**17
"""Pairs of beads evaluated at once, one frame at least. Of each pair autograd keeps some 30 bytes
for every layer and channel: 0.1 and 2 GB with 4 layers of 128 channels."""


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
        with torch.inference_mode(False):  # of tensors made in that mode, autograd keeps none
            self.register_buffer("bead_types", bead_types.clone())

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

        Works under `torch.no_grad` and `torch.inference_mode` too. Many frames are evaluated in
        parts, so that memory does not grow with their number.
        """
        return energy_and_forces(self.energy, positions)

    def _apply(self, fn: Callable[[Tensor], Tensor], *options: Any) -> Self:
        # What is moved to a device in inference mode stays fit for autograd.
        with torch.inference_mode(False):
            return super()._apply(fn, *options)


def energy_and_forces(
    energy: Callable[[Tensor], Tensor], positions: Tensor
) -> tuple[Tensor, Tensor]:
    """Return an energy (B,) and its negative gradient (B, N, 3) by autograd, both detached.

    Many frames are evaluated in parts, so that memory does not grow with their number.

    Parameters
    ----------
    energy : callable
        Gives the energies (B,) of positions (B, N, 3), each of its own frame alone.
    positions : Tensor (B, N, 3)
    """
    frames, beads, _ = positions.shape
    most = LARGEST_PAIRS if positions.device.type == "cpu" else LARGEST_PAIRS_OF_A_GPU
    at_once = max(1, most // max(1, beads * (beads - 1) // 2))
    parts = positions.detach().tensor_split(max(1, -(-frames // at_once)))
    energies, forces = zip(*(_of_part(energy, part) for part in parts), strict=True)
    if len(parts) == 1:
        return energies[0], forces[0]
    return torch.cat(energies), torch.cat(forces)


def _of_part(energy: Callable[[Tensor], Tensor], positions: Tensor) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False), torch.enable_grad():
        # A clone made here is a normal tensor even if the caller's is an inference tensor.
        inputs = positions.clone().requires_grad_()
        energies = energy(inputs)
        (gradient,) = torch.autograd.grad(energies.sum(), inputs)
    return energies.detach(), -gradient
