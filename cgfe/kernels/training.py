"""Energies and forces for training: tabulated filters and gradients written out by hand.

A loss that holds forces needs the derivatives of forces in the parameters. Autograd gets them by
differentiating twice. Here they are one more pass: with gradients g_E of the energies E and g_F of
the forces F, the gradient of the loss in the parameters is that of

    S = Σ_b g_E,b E_b + E',

where E' is the derivative of Σ E along the direction v = -g_F of the positions. Energies and
their derivatives along v are evaluated together, as dual numbers; the adjoints of all derivatives
in E' are those of the values in E, known from the forces, so one way back through the values is
left. All that is in training.cpp; here is what surrounds it.

The filter of a pair depends on its distance alone, so the filter networks are evaluated on an
even grid of distances, once per step, and interpolated by cubic Hermite polynomials. Forces are
the exact gradient of the interpolated energy.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from cgfe.kernels.accuracy import checked_frames, exact_energy_and_forces, in_float64
from cgfe.kernels.native_training import differentiate, evaluate
from cgfe.model.schnet import RADIAL_BASES, CGSchNet, CGSchNetConfig, Interaction

TOLERANCE = 1e-5
"""Largest error of interpolation: root mean squares over frames, relative to the energies and
forces themselves."""
FIRST_INTERVALS, LAST_INTERVALS = 512, 4096
CHECKED_FRAMES = 32


def energy_and_forces(
    network: CGSchNet, positions: Tensor, bead_types: Tensor, intervals: int
) -> tuple[Tensor, Tensor]:
    """Return energies (B,) in kcal/mol and forces (B, N, 3) in kcal/mol/Å.

    Both can be differentiated once in the network's parameters, not in the positions.

    Parameters
    ----------
    network : CGSchNet
    positions : Tensor (B, N, 3)
        Å, such that `native_training.is_supported`.
    bead_types : LongTensor (N,)
    intervals : int
        Of the filters' grid.
    """
    blocks = [block for block in network.interactions if isinstance(block, Interaction)]
    weights = [x for block in blocks for x in (block.to_filters, block.update)]
    energy, forces = _EnergyAndForces.apply(
        network.config,
        positions.detach().contiguous(),
        network.embedding(bead_types),
        _filter_tables(network.config, [block.filter_network for block in blocks], intervals),
        *(parameter for part in (*weights, network.output) for parameter in part.parameters()),
    )
    return energy, forces


def sufficient_intervals(
    network: CGSchNet, systems: Sequence[tuple[Tensor, Tensor]], first: int | None = None
) -> tuple[int | None, float]:
    """Return the coarsest grid that holds the tolerance, and its error.

    Grids of 512 to 4,096 intervals, each an eighth finer, are compared with the network itself, in
    float64. Small steps, since filters are a good part of a training step's cost, and the error
    falls with the third power of the number.

    Parameters
    ----------
    network : CGSchNet
    systems : sequence of (Tensor (F, N, 3), LongTensor (N,))
        Real frames in Å and their bead types; 32 frames are taken of each, fewer of large ones.
    first : int, optional
        The coarsest grid to try, 512 by default.

    Returns
    -------
    intervals : int or None
        None if no grid holds the tolerance.
    error : float
        The larger one of energies and forces, of the worst system.
    """
    exact = in_float64(network)
    cases = []
    for positions, bead_types in systems:
        frames = checked_frames(positions, CHECKED_FRAMES).double()
        cases.append((frames, bead_types, exact_energy_and_forces(exact, frames, bead_types)))
    error, intervals = math.inf, first or FIRST_INTERVALS
    while cases and intervals <= LAST_INTERVALS:
        errors = [
            (one - other).norm() / other.norm().clamp(min=1e-30)
            for frames, types, expected in cases
            for one, other in zip(
                energy_and_forces(exact, frames, types, intervals), expected, strict=True
            )
        ]
        error = float(torch.stack(errors).max())  # not a number, if any is not
        if error <= TOLERANCE:
            return intervals, error
        intervals += intervals // 8
    return None, error


class _EnergyAndForces(torch.autograd.Function):
    """training.cpp as one function of the network's parameters."""

    @staticmethod
    def forward(
        ctx: Any, config: CGSchNetConfig, positions: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        parameters = tuple(parameter.contiguous() for parameter in parameters)
        energy, forces, ctx.kept = evaluate(config, positions, parameters)
        ctx.config = config
        ctx.save_for_backward(positions, *parameters)
        return energy, forces

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        positions, *parameters = ctx.saved_tensors
        return None, None, *differentiate(ctx.config, positions, parameters, ctx.kept, *gradients)


def _filter_tables(
    config: CGSchNetConfig, filter_networks: Sequence[nn.Module], intervals: int
) -> Tensor:
    """Return value, rise and slope of all filters at all grid points (L, G, 3, F).

    W = y C with y = V φ(U r + u) + v, radial functions r and envelope C; so W' = y' C + y C' with
    y' = V (φ' ∘ U r'). The rise to the next point is ΔW = Δy C + y ΔC with Δy = V Δφ: taken
    before rounding to float32, Δφ keeps its digits, and all large products are in float32.
    """
    grid = _grid(config, intervals)
    inner, inner_bias, outer, outer_bias = (
        torch.stack(same)
        for same in zip(*(network.parameters() for network in filter_networks), strict=True)
    )
    after, slope = ACTIVATIONS[config.activation](
        torch.baddbmm(inner_bias[:, None].double(), grid.radial.expand(len(inner), -1, -1),
                      inner.double().mT)
    )  # fmt: skip
    bent = slope * (grid.radial_slope @ inner.double().mT)
    rise = functional.pad(after.diff(dim=1), (0, 0, 0, 1))
    hidden = torch.cat([x.to(outer) for x in (after, rise, bent)], dim=1)
    filters, filter_rise, filter_slope = (hidden @ outer.mT).chunk(3, dim=1)
    filters = filters + outer_bias[:, None]
    envelope, next_envelope, envelope_rise, envelope_slope = grid.envelope.to(outer)
    return torch.stack(
        [
            filters * envelope,
            filter_rise * next_envelope + filters * envelope_rise,
            filter_slope * envelope + filters * envelope_slope,
        ],
        dim=2,
    )


class _Grid(NamedTuple):
    """What tables are made of, in float64; slopes are per interval."""

    radial: Tensor
    """(G, K)"""
    radial_slope: Tensor
    """(G, K)"""
    envelope: Tensor
    """(4, G, 1): its value, that of the next point, the rise to it, and the slope"""


@functools.lru_cache(maxsize=8)
def _grid(config: CGSchNetConfig, intervals: int) -> _Grid:
    with torch.inference_mode(False):  # kept for training steps too
        basis = RADIAL_BASES[config.radial_basis](config.num_radial, config.cutoff).double()
        step = torch.full((intervals + 1,), config.cutoff / intervals, dtype=torch.float64)
        distances = torch.arange(intervals + 1) * step
        # Not torch.func.jvp, whose first use in a process loads decompositions for half a second.
        radial, radial_slope = torch.autograd.functional.jvp(basis, distances, step)
        phase = torch.linspace(0, math.pi, intervals + 1, dtype=torch.float64)[:, None]
        value, slope = 0.5 + 0.5 * phase.cos(), (-0.5 * math.pi / intervals) * phase.sin()
        following = functional.pad(value[1:], (0, 0, 0, 1))
        rise = functional.pad(value.diff(dim=0), (0, 0, 0, 1))
        return _Grid(radial, radial_slope, torch.stack([value, following, rise, slope]))


def _tanh(before: Tensor) -> tuple[Tensor, Tensor]:
    after = torch.tanh(before)
    return after, 1 - after.square()


def _silu(before: Tensor) -> tuple[Tensor, Tensor]:
    gate = torch.sigmoid(before)
    after = before * gate
    return after, gate + after * (1 - gate)


ACTIVATIONS = {"tanh": _tanh, "silu": _silu}
"""Value and derivative, in operations that autograd differentiates (not aten::silu_backward)."""
