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

import copy
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.functional import linear

from cgfe.schnet import RADIAL_BASES, CGSchNet, CGSchNetConfig, Interaction
from cgfe.training_pairs import Pairs

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
        Å, such that `training_pairs.is_supported`.
    bead_types : LongTensor (N,)
    intervals : int
        Of the filters' grid.
    """
    blocks = [block for block in network.interactions if isinstance(block, Interaction)]
    weights = [x for block in blocks for x in (block.to_filters, block.update)]
    energy, forces = _EnergyAndForces.apply(
        network.config.cutoff,
        ACTIVATIONS[network.config.activation],
        positions.detach().contiguous(),
        torch.stack([_filter_table(network.config, x, intervals) for x in blocks]).to(positions),
        network.embedding(bead_types),
        *(parameter for part in (*weights, network.output) for parameter in part.parameters()),
    )
    return energy, forces


def sufficient_intervals(
    network: CGSchNet, systems: Sequence[tuple[Tensor, Tensor]]
) -> tuple[int | None, float]:
    """Return the coarsest grid that holds the tolerance, and its error.

    Grids of 512, 1,024, ... 4,096 intervals are compared with the network itself, in float64.

    Parameters
    ----------
    network : CGSchNet
    systems : sequence of (Tensor (F, N, 3), LongTensor (N,))
        Real frames in Å and their bead types; 32 frames are taken of each.

    Returns
    -------
    intervals : int or None
        None if no grid holds the tolerance.
    error : float
        The larger one of energies and forces, of the worst system.
    """
    exact = copy.deepcopy(network).double().requires_grad_(False)
    cases = []
    for positions, bead_types in systems:
        chosen = torch.linspace(0, len(positions) - 1, min(len(positions), CHECKED_FRAMES)).long()
        frames = positions[chosen].double().requires_grad_()
        with torch.enable_grad():
            energy = exact.energy(frames, bead_types)
            (gradient,) = torch.autograd.grad(energy.sum(), frames)
        cases.append((frames.detach(), bead_types, (energy.detach(), -gradient)))
    error, intervals = math.inf, FIRST_INTERVALS
    while intervals <= LAST_INTERVALS:
        error = 0.0
        for frames, types, expected in cases:
            found = energy_and_forces(exact, frames, types, intervals)
            for one, other in zip(found, expected, strict=True):
                error = max(error, float((one - other).norm() / other.norm().clamp(min=1e-30)))
        if error <= TOLERANCE:
            return intervals, error
        intervals *= 2
    return None, error


def _filter_table(config: CGSchNetConfig, block: Interaction, intervals: int) -> Tensor:
    """Return value, rise and slope of a layer's filters at all grid points (G, 3, F), float64.

    W = y C with y = V φ(U r + u) + v, radial functions r and envelope C; so W' = y' C + y C' with
    y' = V (φ' ∘ U r').
    """
    radial, radial_slope, envelope, envelope_slope = _grid(config, intervals)
    inner, inner_bias, outer, outer_bias = (x.double() for x in block.filter_network.parameters())
    after, slope, _ = ACTIVATIONS[config.activation](linear(radial, inner, inner_bias))
    filters = linear(after, outer, outer_bias)
    change = linear(slope * linear(radial_slope, inner), outer)
    value = filters * envelope
    rise = functional.pad(value.diff(dim=0), (0, 0, 0, 1))
    return torch.stack([value, rise, change * envelope + filters * envelope_slope], dim=1)


@functools.lru_cache(maxsize=8)
def _grid(config: CGSchNetConfig, intervals: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return radial functions (G, K), envelope (G, 1), and the slopes of both per interval."""
    basis = RADIAL_BASES[config.radial_basis](config.num_radial, config.cutoff).double()
    step = torch.full((intervals + 1,), config.cutoff / intervals, dtype=torch.float64)
    distances = torch.arange(intervals + 1) * step
    radial, radial_slope = torch.func.jvp(basis, (distances,), (step,))[:2]
    phase = torch.linspace(0, math.pi, intervals + 1, dtype=torch.float64)[:, None]
    slope = (-0.5 * math.pi / intervals) * phase.sin()
    return radial, radial_slope, 0.5 + 0.5 * phase.cos(), slope


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
