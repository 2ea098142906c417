"""The accuracy of tabulated filters: checked against the network itself, on real frames."""

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cgfe.errors import InputError
from cgfe.model.potential import energy_and_forces
from cgfe.model.schnet import CGSchNet

TOLERANCE = 1e-5
"""Largest error of energies and of forces, see `error_of`."""
CHECKED_FRAMES = 32
CHECKED_PAIRS, FEWEST_CHECKED = 20_000, 4
"""Pairs of beads of all frames that are checked, some frames at least. Tables hold functions of one
distance, and one frame of a large protein has as many distances as many frames of a peptide."""

Evaluate = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""Energies (F,) and forces (F, N, 3) at positions (F, N, 3) of beads of types (N,), with filters on
a grid of so many intervals."""


def checked_frames(frames: Tensor) -> Tensor:
    """Return 32 of the frames (F, N, 3), evenly chosen; fewer of large proteins."""
    pairs = max(1, frames.shape[1] * (frames.shape[1] - 1) // 2)
    count = min(len(frames), CHECKED_FRAMES, max(FEWEST_CHECKED, CHECKED_PAIRS // pairs))
    return frames[torch.linspace(0, len(frames) - 1, count).long()]


def in_float64(network: CGSchNet) -> CGSchNet:
    """Return a fixed copy of a network in float64, on the CPU (some GPUs have no float64)."""
    with torch.inference_mode(False):  # of tensors made in that mode, autograd keeps none
        return copy.deepcopy(network).cpu().double().requires_grad_(False)


def coarsest_grid(
    exact: CGSchNet,
    systems: Sequence[tuple[Tensor, Tensor]],
    evaluate: Evaluate,
    grids: Sequence[int],
) -> tuple[int | None, float]:
    """Return the first grid on which filters hold the tolerance, and its error.

    Parameters
    ----------
    exact : CGSchNet
        From `in_float64`.
    systems : sequence of (Tensor (F, N, 3), LongTensor (N,))
        Real frames in Å and their bead types; 32 frames are taken of each, fewer of large ones.
    evaluate : callable
        What is checked; it gets the frames in float64.
    grids : sequence of int
        Numbers of intervals, from coarse to fine.

    Returns
    -------
    intervals : int or None
        None if no grid holds the tolerance.
    error : float
        The larger one of energies and forces, of the worst system, on the last grid tried.

    Raises
    ------
    InputError
        If frames do not have the beads of their types.
    """
    cases = []
    for frames, types in systems:
        if frames.ndim != 3 or not len(frames) or frames.shape[1:] != (len(types), 3):
            raise InputError(
                f"frames have shape {tuple(frames.shape)}, expected (frames, {len(types)}, 3)."
            )
        with torch.inference_mode(False):  # autograd keeps the bead types
            types = types.cpu().clone()
        positions = checked_frames(frames.detach()).cpu().double()
        cases.append((positions, types, _by_autograd(exact, positions, types)))
    error = math.inf
    for intervals in grids if cases else ():
        errors = [
            error_of(evaluate(positions, types, intervals), expected)
            for positions, types, expected in cases
        ]
        error = float(torch.stack(errors).max())  # not a number, if any is not
        if error <= TOLERANCE:
            return intervals, error
    return None, error


def error_of(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> Tensor:
    """Return the larger relative error of energies (F,) and forces (F, N, 3).

    Both are root mean squares over frames. Filters are smooth functions of one distance: of
    networks before and within training, the worst frame's forces had at most twice the error. Of
    energies, whose constant is arbitrary, no more than a share of 1 kcal/mol a bead is asked.
    """
    off = [one - other for one, other in zip(found, expected, strict=True)]
    energies, forces = expected
    energy = energies.square().mean().sqrt().clamp(min=forces.shape[1])
    of_energies = off[0].square().mean().sqrt() / energy
    return torch.maximum(of_energies, off[1].norm() / forces.norm().clamp(min=1e-30))


def _by_autograd(exact: CGSchNet, positions: Tensor, types: Tensor) -> tuple[Tensor, Tensor]:
    return energy_and_forces(lambda inputs: exact.energy(inputs, types), positions)
