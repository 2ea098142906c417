"""Multiply-adds that an algorithm needs for one frame, counted from the sizes of the network.

Counted are matrix products and what is done for each pair and channel, not activations, radial
functions or the prior, so a share of the machine's ceiling that is told from them is a lower
bound. A filter is counted once per unordered pair, and the first layer's features once for all
frames (they depend on the bead's type alone). Training and simulation are cgfe's own, with
tabulated filters; other implementations do more for the same result.
"""

from dataclasses import dataclass

from cgfe.model.schnet import CGSchNetConfig

TABLE_VALUE, TABLE_SLOPE = 4, 3
"""Multiply-adds of a cubic polynomial's value and of its derivative."""
TRAINING_PAIR = (5, 11, 11, 26)
"""Multiply-adds of `forward`, `pull`, `along` and `back` in training_pairs.h."""


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


def training_step(
    config: CGSchNetConfig, beads: int, intervals: int, batch_size: int
) -> Operations:
    """Return the multiply-adds of one frame's energy, forces, and the loss's gradient.

    Filters are made on a grid, once for all frames of a batch. There the second product of the
    filter network has three rows for each point (value, rise, slope), and a product has two
    gradients; the first one has two rows, and radial functions need no gradient. A product of the
    beads and its transposed one for the forces have two gradients each: six in all. What is done
    for each pair and channel is counted in training_pairs.h.
    """
    parts = _parts(config, beads)
    filters = config.num_filters
    of_point = 9 * filters * filters + 4 * config.num_radial * filters
    grid = config.num_layers * (intervals + 1) * of_point
    pairs = config.num_layers * parts.one_convolution // 2
    return Operations(
        matrix=6 * parts.beads + grid // batch_size, pairwise=pairs * sum(TRAINING_PAIR)
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
