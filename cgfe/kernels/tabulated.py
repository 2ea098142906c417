"""Fast forces for simulation: filter tables and a hand-written gradient of a trained CGSchNet.

In a simulation the network is fixed, so each layer's filter W(d) C(d) is a function of one
distance: it is tabulated and interpolated, and energy and forces are written out in one function
without autograd.
"""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from cgfe.errors import InputError
from cgfe.kernels.accuracy import checked_frames, exact_energy_and_forces, in_float64
from cgfe.kernels.simulation import NativeForces, runs_natively
from cgfe.model.schnet import CGSchNet, Interaction, diagonals

Operation = Callable[[Tensor, Tensor], Tensor]
Product = Callable[[Tensor, Tensor, Tensor], Tensor]
DERIVATIVES: dict[str, Product] = {
    "tanh": lambda gradient, _, after: torch.ops.aten.tanh_backward(gradient, after),
    "silu": lambda gradient, before, _: torch.ops.aten.silu_backward(gradient, before),
}
"""Gradient of an activation's input from that of its output, its input and its output."""

TOLERANCE = 1e-5
"""Largest error of a frame's forces against float64, relative to the root mean square force."""
FIRST_INTERVALS, LAST_INTERVALS = 256, 16384
CHECKED_FRAMES = 64
SMALL = 1200
"""Replicas × beads² up to which one operation over all ordered pairs beats two per diagonal of
the pair matrix: there the time goes into calls, not into numbers."""
LARGEST_FILTERS, FEWEST_AT_ONCE = 2**21, 4
"""Filter values held at once; more replicas are evaluated in turn, some at least. Blocks of 8 MB
are taken again from the heap, where larger ones cost the system fresh pages at each call."""


class TableError(RuntimeError):
    """No table of a sensible size gives the forces to the tolerance."""


class TabulatedNetwork(nn.Module):
    """Energies and forces of a fixed CGSchNet on one system, by filter tables.

    Filters are interpolated by cubic Hermite polynomials between values and derivatives on an
    even grid from 0 to the cutoff, stored by their coefficients; energy and forces use the same
    polynomials, so forces are the exact gradient of the interpolated energy. The grid is halved
    until the forces hold, as the simulation will evaluate them.

    Parameters
    ----------
    network : CGSchNet
        Trained; later changes of its parameters are not seen.
    bead_types : LongTensor (N,)
    frames : Tensor (F, N, 3)
        Å, real frames of the system, on which the forces are checked (64 at most, evenly chosen).
    tolerance : float
        Largest |ΔF| of any frame over the frames' root mean square |F|, against the network in
        float64.

    Raises
    ------
    TableError
        If 16,384 intervals do not hold the tolerance.
    """

    bead_types: Tensor
    table: Tensor
    table_starts: Tensor
    embedded: Tensor
    apart: Tensor
    first: Tensor
    second: Tensor

    def __init__(
        self,
        network: CGSchNet,
        bead_types: Tensor,
        frames: Tensor,
        tolerance: float = TOLERANCE,
    ) -> None:
        super().__init__()
        if frames.ndim != 3 or not len(frames) or frames.shape[1:] != (len(bead_types), 3):
            raise InputError(
                f"frames have shape {tuple(frames.shape)}, expected (frames, {len(bead_types)}, 3)."
            )
        # A copy outside inference mode, and without autograd.
        with torch.inference_mode(False), torch.no_grad():
            self.network = copy.deepcopy(network).eval().requires_grad_(False)
            device = next(network.parameters()).device
            beads, cutoff = len(bead_types), network.config.cutoff
            types = bead_types.to(device)
            self.register_buffer("bead_types", types)
            self.register_buffer("embedded", self.network.embedding(types)[:, None])
            # Sends a bead's distance from itself beyond the cutoff.
            apart = cutoff * torch.eye(beads, dtype=self.embedded.dtype, device=device)
            self.register_buffer("apart", apart[..., None])
            # Unordered pairs by the difference of their indices, as in the dense convolution.
            pairs = [(i, i + k) for k in range(1, beads) for i in range(beads - k)]
            index = torch.tensor(pairs, dtype=torch.long, device=device).reshape(-1, 2)
            self.register_buffer("first", index[:, 0].contiguous())
            self.register_buffer("second", index[:, 1].contiguous())
            self._refine(frames.detach(), tolerance)

    def _refine(self, frames: Tensor, tolerance: float) -> None:
        positions, exact = checked_frames(frames, CHECKED_FRAMES), in_float64(self.network)
        _, expected = exact_energy_and_forces(exact, positions, self.bead_types)
        scale = expected.square().sum((1, 2)).mean().sqrt()
        intervals = FIRST_INTERVALS
        while intervals <= LAST_INTERVALS:
            self._tabulate(exact, intervals)
            _, forces = self._as_simulated(positions.to(self.embedded))
            worst = (forces.cpu() - expected).square().sum((1, 2)).max().sqrt()
            self.force_error = float(worst / scale) if worst != 0 else 0.0
            if self.force_error <= tolerance:  # never, if it is not a number
                return
            intervals *= 2
        raise TableError(
            f"filter tables of {LAST_INTERVALS} intervals give forces to {self.force_error:.1e}, "
            f"expected {tolerance:.0e}"
        )

    def _as_simulated(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return energies and forces from what will run in a simulation."""
        if runs_natively(positions, self):
            return NativeForces([], self, len(self.bead_types)).energy_and_forces(positions)
        return self.energy_and_forces(positions)

    def _tabulate(self, exact: CGSchNet, intervals: int) -> None:
        """Store the polynomials of every filter on every interval."""
        cutoff = exact.config.cutoff
        grid = torch.linspace(0, cutoff, intervals + 1, dtype=torch.float64)
        tables = []
        for block in exact.interactions:
            assert isinstance(block, Interaction)

            def filters(distance: Tensor, block: Interaction = block) -> Tensor:
                envelope = 0.5 + 0.5 * torch.cos(distance * (math.pi / cutoff))
                return block.filter_network(exact.radial_basis(distance)) * envelope[:, None]

            value, slope = torch.func.jvp(filters, (grid,), (torch.ones_like(grid),))[:2]
            value[-1], slope[-1] = 0, 0
            slope = slope * (cutoff / intervals)
            # Cubic polynomials in the way through an interval, from 0 to 1. Taken in float64:
            # of differences of float32 values on a fine grid nothing would be left.
            rise = value.diff(dim=0)
            square = 3 * rise - 2 * slope[:-1] - slope[1:]
            cube = slope[:-1] + slope[1:] - 2 * rise
            coefficients = torch.stack([value[:-1], slope[:-1], square, cube], dim=1)
            # The last row holds at the cutoff and beyond.
            tables.append(torch.cat([coefficients, torch.zeros_like(coefficients[:1])]))
        table = torch.stack(tables).flatten(0, 2).to(self.embedded)
        layers = torch.arange(len(tables), device=table.device)
        self.intervals = intervals
        self.register_buffer("table", table.contiguous())
        self.register_buffer("table_starts", layers[:, None, None] * (4 * intervals + 4))

    def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return energies (B,) in kcal/mol and forces (B, N, 3) in kcal/mol/Å.

        Parameters
        ----------
        positions : Tensor (B, N, 3)
            Å.
        """
        return joined([self._evaluate(part) for part in self.split(positions)])

    @property
    def filters_per_pair(self) -> int:
        """Layers times channels."""
        return len(self.table_starts) * self.table.shape[1]

    def split(self, positions: Tensor) -> list[Tensor]:
        """Split positions (B, N, 3) into parts of replicas whose filters are held at once."""
        frames = len(positions)
        at_once = LARGEST_FILTERS // (self.filters_per_pair * max(1, len(self.first)))
        fewest = -(-frames // max(FEWEST_AT_ONCE, at_once))
        # Equal parts if possible, since each size is compiled by itself.
        equal = (number for number in range(fewest, 2 * fewest) if frames % number == 0)
        return list(positions.tensor_split(next(equal, fewest)))

    def _evaluate(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        frames, beads, _ = positions.shape
        by_bead = positions.transpose(0, 1).contiguous()
        if frames * beads**2 <= SMALL or beads == 1:
            vectors = by_bead[None] - by_bead[:, None]
            distances = _lengths(vectors)
            filters, slopes = self._interpolate((distances + self.apart).flatten(0, 1))
            square = (beads, beads)
            energy, pull = self._network(
                filters.unflatten(1, square), slopes.unflatten(1, square), _convolve, _product
            )
            pull = (pull + pull.transpose(0, 1)) / distances
            forces = (pull[..., None] * vectors).sum(1)
        else:
            vectors = by_bead.index_select(0, self.second) - by_bead.index_select(0, self.first)
            distances = _lengths(vectors)
            filters, slopes = self._interpolate(distances)
            energy, pull = self._network(filters, slopes, _convolve_diagonals, _product_diagonals)
            on_first = (pull / distances)[..., None] * vectors
            forces = torch.zeros_like(by_bead).index_add(0, self.first, on_first)
            forces = forces.index_add(0, self.second, on_first, alpha=-1)
        return energy, forces.transpose(0, 1)

    def _interpolate(self, distances: Tensor) -> tuple[Tensor, Tensor]:
        """Return filters and their derivatives (L, P, B, F) at distances (P, B)."""
        per_length = self.intervals / self.network.config.cutoff
        scaled = (distances * per_length).clamp(max=self.intervals)
        # Clamped as an integer, so that a distance that is not a number reads no other memory.
        interval = scaled.long().clamp(0, self.intervals)
        right = scaled - interval
        square = right**2
        value = [torch.ones_like(right), right, square, right * square]
        slope = [
            torch.full_like(right, per_length),
            2 * per_length * right,
            3 * per_length * square,
        ]
        parts = torch.arange(4, device=distances.device)
        rows = ((4 * interval + self.table_starts)[..., None] + parts).flatten(0, 2)
        return self._weighted(value, rows), self._weighted(slope, rows[:, 1:].contiguous())

    def _weighted(self, weights: list[Tensor], rows: Tensor) -> Tensor:
        # Gathers and sums rows without storing them.
        repeated = torch.stack(weights, -1).expand(len(self.table_starts), -1, -1, -1)
        bags = functional.embedding_bag(
            rows, self.table, per_sample_weights=repeated.flatten(0, 2), mode="sum"
        )
        return bags.view(*repeated.shape[:-1], bags.shape[1])

    def _network(
        self, filters: Tensor, slopes: Tensor, convolve: Operation, product: Product
    ) -> tuple[Tensor, Tensor]:
        """Return energies (B,) and their derivative (P, B) in the distance of every pair."""
        derivative = DERIVATIVES[self.network.config.activation]
        features = self.embedded
        layers: list[tuple[Interaction, Tensor, Tensor, Tensor]] = []
        for block, weights in zip(self.network.interactions, filters, strict=True):
            assert isinstance(block, Interaction)
            neighbours = block.to_filters(features).expand(-1, weights.shape[-2], -1)
            before = block.update[0](convolve(weights, neighbours))
            after = block.update[1](before)
            layers.append((block, neighbours, before, after))
            features = features + block.update[2](after)
        output = self.network.output
        before = output[0](features)
        after = output[1](before)
        energy = output[2](after).sum((0, 2))

        # The same way back.
        gradient = _back(output[2], torch.ones_like(after[..., :1]))
        gradient = _back(output[0], derivative(gradient, before, after))
        pull = torch.zeros_like(filters[0, ..., 0])
        for layer in reversed(range(len(layers))):
            block, neighbours, before, after = layers[layer]
            inner = derivative(_back(block.update[2], gradient), before, after)
            summed = _back(block.update[0], inner)
            pull = pull + product(slopes[layer], neighbours, summed)
            if layer > 0:  # the embedding does not depend on positions
                gradient = gradient + _back(block.to_filters, convolve(filters[layer], summed))
        return energy, pull


def joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    if len(parts) == 1:
        return parts[0]
    energies, forces = zip(*parts, strict=True)
    return torch.cat(energies), torch.cat(forces)


def _back(linear: nn.Module, gradient: Tensor) -> Tensor:
    assert isinstance(linear, nn.Linear)
    return gradient @ linear.weight


def _convolve(filters: Tensor, features: Tensor) -> Tensor:
    """Return Σ_j W_ij x_j (N, B, F) of all ordered pairs (N, N, B, F)."""
    return (filters * features).sum(1)


def _product(slopes: Tensor, neighbours: Tensor, summed: Tensor) -> Tensor:
    """Return Σ_F W'_ij x_j g_i (N, N, B)."""
    return (slopes * neighbours * summed[:, None]).sum(-1)


def _convolve_diagonals(filters: Tensor, features: Tensor) -> Tensor:
    """Return Σ_j W_ij x_j (N, B, F) of unordered pairs (P, B, F)."""
    summed = torch.zeros_like(features, memory_format=torch.contiguous_format)
    for k, block in enumerate(diagonals(filters, len(features)), start=1):
        summed[:-k].addcmul_(block, features[k:])
        summed[k:].addcmul_(block, features[:-k])
    return summed


def _product_diagonals(slopes: Tensor, neighbours: Tensor, summed: Tensor) -> Tensor:
    """Return Σ_F W'_ij (x_j g_i + x_i g_j) (P, B)."""
    products = []
    for k, block in enumerate(diagonals(slopes, len(summed)), start=1):
        both = neighbours[k:] * summed[:-k]
        products.append(both.addcmul_(neighbours[:-k], summed[k:]).mul_(block).sum(-1))
    return torch.cat(products)


def _lengths(vectors: Tensor) -> Tensor:
    # Never zero, as in the network; beads on one point then have no force between them.
    return vectors.square().sum(-1).clamp(min=1e-12).sqrt()
