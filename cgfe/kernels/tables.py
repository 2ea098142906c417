"""A network as the C++ kernels take it: its filters on a grid of distances, and its weights.

The filter of a pair depends on its distance alone, so the filter networks are evaluated on an even
grid from 0 to the cutoff and interpolated by cubic Hermite polynomials. Energies and forces use
the same polynomials, so forces are the exact gradient of the interpolated energy.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from cgfe.model.schnet import RADIAL_BASES, CGSchNet, CGSchNetConfig, Interaction

TENSORS_OF_LAYER = 5
"""The weight of `to_filters`, weights and biases of `update`."""


def network_arrays(network: CGSchNet, bead_types: Tensor, intervals: int) -> list[Tensor]:
    """Return a network on one system as arrays, differentiable in its parameters.

    Parameters
    ----------
    network : CGSchNet
    bead_types : LongTensor (N,)
    intervals : int
        Of the filters' grid.

    Returns
    -------
    list of Tensor
        Embedded beads (N, H); `filter_tables` (L, G, 3, F); of each layer the weights of
        `to_filters` and `update`, and those of the output.
    """
    blocks = [block for block in network.interactions if isinstance(block, Interaction)]
    weights = [part for block in blocks for part in (block.to_filters, block.update)]
    return [
        network.embedding(bead_types),
        filter_tables(network.config, [block.filter_network for block in blocks], intervals),
        *(parameter for part in (*weights, network.output) for parameter in part.parameters()),
    ]


def filter_tables(
    config: CGSchNetConfig, filter_networks: Sequence[nn.Module], intervals: int
) -> Tensor:
    """Return value, rise and slope of all filters at all grid points (L, G, 3, F).

    W = y C with y = V φ(U r + u) + v, radial functions r and envelope C; so W' = y' C + y C' with
    y' = V (φ' ∘ U r'). The rise to the next point is ΔW = Δy C + y ΔC with Δy = V Δφ: taken
    before rounding to float32, Δφ keeps its digits, and all large products are in float32.
    Slopes are per interval.
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


def cubic_coefficients(tables: Tensor) -> Tensor:
    """Return the polynomials (L, G - 1, 4, F) in the way through an interval, from 0 to 1.

    Parameters
    ----------
    tables : Tensor (L, G, 3, F)
        From `filter_tables`.
    """
    value, rise, slope = tables[:, :-1].unbind(2)
    following = tables[:, 1:, 2]
    square = 3 * rise - 2 * slope - following
    cube = slope + following - 2 * rise
    return torch.stack([value, slope, square, cube], dim=2)


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
"""Value and derivative, in operations that autograd differentiates (not aten::silu_backward); in
the order of dense.h."""


def activation_number(config: CGSchNetConfig) -> int:
    """Return the activation's place in dense.h."""
    return list(ACTIVATIONS).index(config.activation)
