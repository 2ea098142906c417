"""A network in float64 on real frames: what tables of its filters are checked against."""

import copy

import torch
from torch import Tensor

from cgfe.model.schnet import CGSchNet

CHECKED_PAIRS, FEWEST_CHECKED = 20_000, 4
"""Pairs of beads of all frames that are checked, some frames at least. Tables hold functions of one
distance, and one frame of a large protein has as many distances as many frames of a peptide."""
LARGEST_FILTERS = 2**22
"""Filter values of the frames evaluated at once; autograd keeps about 30 bytes for each."""


def checked_frames(frames: Tensor, most: int) -> Tensor:
    """Return `most` of the frames (F, N, 3) or fewer, evenly chosen."""
    pairs = max(1, frames.shape[1] * (frames.shape[1] - 1) // 2)
    count = min(len(frames), most, max(FEWEST_CHECKED, CHECKED_PAIRS // pairs))
    return frames[torch.linspace(0, len(frames) - 1, count).long()]


def in_float64(network: CGSchNet) -> CGSchNet:
    """Return a fixed copy of a network in float64, on the CPU (some GPUs have no float64)."""
    with torch.inference_mode(False):  # of tensors made in that mode, autograd keeps none
        return copy.deepcopy(network).cpu().double().requires_grad_(False)


def exact_energy_and_forces(
    exact: CGSchNet, positions: Tensor, bead_types: Tensor
) -> tuple[Tensor, Tensor]:
    """Return energies (F,) in kcal/mol and forces (F, N, 3) in kcal/mol/Å, by autograd.

    Some frames are evaluated at a time, so that memory does not grow with their number.

    Parameters
    ----------
    exact : CGSchNet
        From `in_float64`.
    positions : Tensor (F, N, 3)
        Å, on any device, in any precision.
    bead_types : LongTensor (N,)
    """
    beads = positions.shape[1]
    values = exact.config.num_layers * exact.config.num_filters * max(1, beads * (beads - 1) // 2)
    energies, forces = [], []
    for part in positions.detach().cpu().double().split(max(1, LARGEST_FILTERS // values)):
        with torch.inference_mode(False), torch.enable_grad():
            inputs = part.clone().requires_grad_()
            energy = exact.energy(inputs, bead_types.cpu().clone())
            (gradient,) = torch.autograd.grad(energy.sum(), inputs)
        energies.append(energy.detach())
        forces.append(-gradient)
    return torch.cat(energies), torch.cat(forces)
