"""Multiply-adds that an algorithm needs for one frame, counted from the sizes of the network.

Counted are matrix products and the pairwise products of the convolution, not activations, radial
functions or the prior, so a share of the machine's ceiling that is told from them is a lower
bound. A filter is counted once per unordered pair, and the first layer's features once for all
frames (they depend on the bead's type alone): other implementations may do more than that.
"""

from dataclasses import dataclass

from cgfe.schnet import CGSchNetConfig

TABLE_VALUE, TABLE_SLOPE = 4, 3
"""Multiply-adds of a cubic polynomial's value and of its derivative."""


@dataclass(frozen=True)
class Operations:
    """Multiply-adds of one frame."""

    matrix: int
    """In matrix products with weights."""
    pairwise: int
    """Over pairs of beads and channels."""

    @property
    def total(self) -> int:
        """Matrix and pairwise multiply-adds."""
        return self.matrix + self.pairwise

    @property
    def flops(self) -> int:
        """A multiplication and an addition each."""
        return 2 * self.total


@dataclass(frozen=True)
class _Parts:
    """Multiply-adds of the energy: where they arise."""

    filter_in: int
    """radial functions → filters"""
    filter_out: int
    beads: int
    """all layers on beads: features → filters (but the first), update, output"""
    one_convolution: int
    """of one layer, both directions of each pair"""


def _parts(config: CGSchNetConfig, beads: int) -> _Parts:
    hidden, filters, layers = config.hidden_channels, config.num_filters, config.num_layers
    pairs = beads * (beads - 1) // 2
    half = hidden // 2
    to_filters = (layers - 1) * hidden * filters
    update = layers * (filters * hidden + hidden * hidden)
    output = hidden * half + half
    return _Parts(
        filter_in=layers * pairs * config.num_radial * filters,
        filter_out=layers * pairs * filters * filters,
        beads=beads * (to_filters + update + output),
        one_convolution=2 * pairs * filters,
    )


def energy(config: CGSchNetConfig, beads: int) -> Operations:
    """Return the multiply-adds of one frame's energy."""
    parts = _parts(config, beads)
    return Operations(
        matrix=parts.filter_in + parts.filter_out + parts.beads,
        pairwise=config.num_layers * parts.one_convolution,
    )


def forces(config: CGSchNetConfig, beads: int) -> Operations:
    """Return the multiply-adds of one frame's energy and forces, by one way back.

    Each matrix product has its transposed one on the way back. A convolution has two, in filters
    and in features, and the first layer's features need none.
    """
    forward = energy(config, beads)
    return Operations(
        matrix=2 * forward.matrix,
        pairwise=(3 * config.num_layers - 1) * _parts(config, beads).one_convolution,
    )


def training_step(config: CGSchNetConfig, beads: int) -> Operations:
    """Return the multiply-adds of one frame's energy, forces, and the loss's gradient.

    A product and its transposed one for the forces have two gradients each: six in all. The
    radial functions need no gradient, which leaves five for the first product of the filters.
    Of the convolution, energy and forces take three products (two in the first layer), each with
    two gradients: nine, and six in the first layer.
    """
    parts = _parts(config, beads)
    return Operations(
        matrix=5 * parts.filter_in + 6 * parts.filter_out + 6 * parts.beads,
        pairwise=(9 * config.num_layers - 3) * parts.one_convolution,
    )


def simulation_step(config: CGSchNetConfig, beads: int) -> Operations:
    """Return the multiply-adds of one replica's energy and forces with tabulated filters.

    In place of the filter networks: value and slope of each filter by a cubic polynomial, and
    the slope times the gradient in the filter, summed.
    """
    parts = _parts(config, beads)
    filters = config.num_layers * parts.one_convolution // 2
    both_ways = (3 * config.num_layers - 1) * parts.one_convolution
    return Operations(
        matrix=2 * parts.beads,
        pairwise=both_ways + filters * (TABLE_VALUE + TABLE_SLOPE + 1),
    )
