"""Energies and forces for training: tabulated filters and gradients written out by hand.

A loss that holds forces needs the derivatives of forces in the parameters. Autograd gets them by
differentiating twice. Here they are one more pass: with gradients g_E of the energies E and g_F of
the forces F, the gradient of the loss in the parameters is that of

    S = Σ_b g_E,b E_b + E',

where E' is the derivative of Σ E along the direction v = -g_F of the positions. Energies and
their derivatives along v are evaluated together, as dual numbers; the adjoints of all derivatives
in E' are those of the values in E, known from the forces, so one way back through the values is
left.

The filter of a pair depends on its distance alone, so the filter networks are evaluated on an
even grid of distances, once per step, and interpolated by cubic Hermite polynomials. Forces are
the exact gradient of the interpolated energy.
"""

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from cgfe.schnet import CGSchNet, Interaction
from cgfe.training_pairs import Pairs

log = logging.getLogger(__name__)

TOLERANCE = 1e-5
"""Largest error of interpolation in energies, relative to the root mean square of the forces times
1 Å, and in forces, relative to their root mean square."""
FIRST_INTERVALS, LAST_INTERVALS = 256, 4096
CHECKED_FRAMES = 64


def energy_and_forces(
    network: CGSchNet, positions: Tensor, bead_types: Tensor, intervals: int
) -> tuple[Tensor, Tensor]:
    """Return energies (B,) in kcal/mol and forces (B, N, 3) in kcal/mol/Å.

    Both can be differentiated once in the network's parameters, not in the positions.

    Parameters
    ----------
    network : CGSchNet
    positions : Tensor (B, N, 3)
        Å, as `is_supported` wants them.
    bead_types : LongTensor (N,)
    intervals : int
        Of the filters' grid.
    """
    tables = torch.stack([filter_table(network, block, intervals) for block in _blocks(network)])
    weights = [
        parameter
        for block in _blocks(network)
        for parameter in (*block.to_filters.parameters(), *block.update.parameters())
    ]
    weights += network.output.parameters()
    energy, forces = _EnergyAndForces.apply(
        network.config.cutoff,
        ACTIVATIONS[network.config.activation],
        positions.detach().contiguous(),
        tables,
        network.embedding(bead_types),
        *weights,
    )
    return energy, forces


def filter_table(network: CGSchNet, block: Interaction, intervals: int) -> Tensor:
    """Return values and slopes (per interval) of a layer's filters at all grid points (G, 2, F)."""
    cutoff = network.config.cutoff
    weight = block.to_filters.weight
    grid = torch.linspace(0, cutoff, intervals + 1, dtype=weight.dtype, device=weight.device)

    def filters(distance: Tensor) -> Tensor:
        envelope = 0.5 + 0.5 * torch.cos(distance * (math.pi / cutoff))
        return block.filter_network(network.radial_basis(distance)) * envelope[:, None]

    value, slope = torch.func.jvp(filters, (grid,), (torch.ones_like(grid),))[:2]
    return torch.stack([value, slope * (cutoff / intervals)], dim=1)


def _blocks(network: CGSchNet) -> list[Interaction]:
    return [block for block in network.interactions if isinstance(block, Interaction)]


# Activations ------------------------------------------------------------------------------------
Activation = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def _tanh(before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    after = torch.tanh(before)
    slope = torch.addcmul(after.new_ones(()), after, after, value=-1)
    return after, slope, (after * slope).mul_(-2)


def _silu(before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    gate = torch.sigmoid(before)
    after = before * gate
    # φ' = σ + φ (1 - σ), φ'' = (1 - σ) (σ + φ') - φ σ (1 - σ)
    rest = 1 - gate
    slope = torch.addcmul(gate, after, rest)
    curvature = torch.add(gate, slope).addcmul_(after, gate, value=-1).mul_(rest)
    return after, slope, curvature


ACTIVATIONS: dict[str, Activation] = {"tanh": _tanh, "silu": _silu}
"""Value, first and second derivative."""


# The network ------------------------------------------------------------------------------------
class _Layer(NamedTuple):
    """What the way forth leaves of an interaction block."""

    features: Tensor
    """x (B or 1, N, H); the first layer's are the same in all frames"""
    neighbours: Tensor
    """h = L x (B or 1, N, F)"""
    summed: Tensor
    """m_i = Σ_j W_ij h_j (B, N, F)"""
    after: Tensor
    """s = φ(z), z = A m + a (B, N, H); the block adds B s + b to x"""
    slope: Tensor
    """φ'(z)"""
    curvature: Tensor
    """φ''(z)"""


class _Adjoint(NamedTuple):
    """Derivatives of the energy in what the block computes, which the forces need."""

    of_update: Tensor
    """dE/dx of the block's result, (B, N, H)"""
    of_before: Tensor
    """dE/dz (B, N, H)"""
    bend: Tensor
    """φ''(z) dE/ds (B, N, H)"""
    of_summed: Tensor
    """dE/dm (B, N, F)"""
    of_neighbours: Tensor
    """dE/dh (B, N, F)"""


class _Tangent(NamedTuple):
    """Derivatives along the direction v of what the block computes."""

    features: Tensor
    neighbours: Tensor
    summed: Tensor
    before: Tensor
    after: Tensor


class _EnergyAndForces(torch.autograd.Function):
    """The network by hand; its weights are, per layer, L, A, a, B, b, and at last the output's."""

    @staticmethod
    def forward(
        ctx: Any,
        cutoff: float,
        activation: Activation,
        positions: Tensor,
        tables: Tensor,
        embedded: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(tables, *weights)
        ctx.pairs = pairs = Pairs(positions, tables, cutoff)
        blocks, output = _grouped(weights)
        layers, features = [], embedded[None]
        for number, (to_filters, inner, inner_bias, outer, outer_bias) in enumerate(blocks):
            neighbours = features @ to_filters.T
            summed = pairs.convolve(number, neighbours)
            after = activation(linear(summed, inner, inner_bias))
            layers.append(_Layer(features, neighbours, summed, *after))
            features = linear(after[0], outer, outer_bias).add_(features)
        after = activation(linear(features, output[0], output[1]))
        energy = linear(after[0], output[2], output[3]).sum((1, 2))
        ctx.layers, ctx.output = layers, (features, *after)

        forces = torch.zeros_like(positions)
        of_features = (after[1] * output[2]) @ output[0]
        adjoints = []
        for number, (to_filters, inner, _, outer, _) in reversed(list(enumerate(blocks))):
            layer = layers[number]
            of_after = of_features @ outer
            of_before = of_after * layer.slope
            of_summed = of_before @ inner
            of_neighbours = pairs.pull(number, layer.neighbours, of_summed, forces)
            bend = of_after.mul_(layer.curvature)
            adjoints.append(_Adjoint(of_features, of_before, bend, of_summed, of_neighbours))
            if number > 0:  # the embedding does not depend on positions
                of_features = _plus(of_features, of_neighbours, to_filters)
        ctx.adjoints = adjoints[::-1]
        return energy, forces

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_energy, of_forces = gradients
        _, *weights = ctx.saved_tensors
        blocks, output = _grouped(weights)
        directions = of_forces.neg().contiguous()
        tangents, change = _along(ctx, blocks, directions)

        # The output, e = w · φ(O x + o) + c.
        features, after, slope, curvature = ctx.output
        first, _, last, _ = output
        before_change = change @ first.T
        of_energy = of_energy[:, None, None]
        of_last = torch.addcmul(slope * before_change, after, of_energy).sum((0, 1))
        of_before = slope * last
        adjoint = of_energy * of_before + last * curvature * before_change
        of_output = (
            _product(adjoint, features).addmm_(_rows(of_before).T, _rows(change)),
            adjoint.sum((0, 1)),
            of_last[None],
            of_energy.sum((0, 1)) * features.shape[1],
        )
        of_tables, of_blocks = [], []
        adjoint = adjoint @ first
        for number, block in reversed(list(enumerate(blocks))):
            adjoint, of_table, of_block = _block_back(
                ctx, number, block, directions, tangents[number], adjoint
            )
            of_tables.append(of_table)
            of_blocks.append(of_block)
        of_weights = [gradient for of_block in of_blocks[::-1] for gradient in of_block]
        return (
            *(None, None, None),
            torch.stack(of_tables[::-1]),
            adjoint[0],
            *of_weights,
            *of_output,
        )


def _along(
    ctx: Any, blocks: list[tuple[Tensor, ...]], directions: Tensor
) -> tuple[list[_Tangent], Tensor]:
    """Return the derivatives along the directions, per layer and of the last features."""
    tangents, change = [], torch.zeros_like(ctx.layers[0].features)
    for number, (to_filters, inner, _, outer, _) in enumerate(blocks):
        layer = ctx.layers[number]
        neighbours = change @ to_filters.T
        summed = ctx.pairs.convolve_dual(number, directions, layer.neighbours, neighbours)
        before = summed @ inner.T
        after = layer.slope * before
        tangents.append(_Tangent(change, neighbours, summed, before, after))
        change = (after @ outer.T).add_(change)
    return tangents, change


def _block_back(
    ctx: Any,
    number: int,
    block: tuple[Tensor, ...],
    directions: Tensor,
    tangent: _Tangent,
    adjoint: Tensor,
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Return dS/dx of the block's input from that of its result, of its table and its weights."""
    to_filters, inner, _, outer, _ = block
    layer, energy = ctx.layers[number], ctx.adjoints[number]
    pairs = ctx.pairs
    of_outer = _product(adjoint, layer.after).addmm_(
        _rows(energy.of_update).T, _rows(tangent.after)
    )
    of_before = (adjoint @ outer).mul_(layer.slope).addcmul_(energy.bend, tangent.before)
    of_inner = _product(of_before, layer.summed).addmm_(
        _rows(energy.of_before).T, _rows(tangent.summed)
    )
    of_summed = of_before @ inner
    of_table = pairs.collect(
        directions, layer.neighbours, tangent.neighbours, of_summed, energy.of_summed
    )
    of_neighbours = pairs.convolve_dual(number, directions, energy.of_summed, of_summed)
    biases = of_before.sum((0, 1)), adjoint.sum((0, 1))
    if number == 0:
        of_neighbours, adjoint = of_neighbours.sum(0, True), adjoint.sum(0, True)
    of_filters = _product(of_neighbours, layer.features)
    if number > 0:
        of_filters.addmm_(_rows(energy.of_neighbours).T, _rows(tangent.features))
    adjoint = _plus(adjoint, of_neighbours, to_filters)
    return adjoint, of_table, (of_filters, of_inner, biases[0], of_outer, biases[1])


def _grouped(weights: Sequence[Tensor]) -> tuple[list[tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """Return the five weights of each block, and the four of the output."""
    blocks = [tuple(weights[k : k + 5]) for k in range(0, len(weights) - 4, 5)]
    return blocks, tuple(weights[-4:])


def _rows(features: Tensor) -> Tensor:
    return features.flatten(0, 1)


def _product(adjoint: Tensor, inputs: Tensor) -> Tensor:
    """Return the gradient of a weight from those of its results and its inputs."""
    return _rows(adjoint).T @ _rows(inputs)


def _plus(adjoint: Tensor, of_result: Tensor, weight: Tensor) -> Tensor:
    return torch.addmm(_rows(adjoint), _rows(of_result), weight).view_as(adjoint)
