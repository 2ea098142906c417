"""CGSchNet: the network part of the coarse-grained potential.

SchNet (arXiv 1706.08566) on beads, as used for coarse-grained force fields in arXiv 2007.11412.
The energy depends on bead types and bead-bead distances alone, so it is invariant under
rotation, translation, reflection and permutation of equal beads.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from cgfe.errors import InputError, require
from cgfe.memory import machine_memory

MOST_LAYERS = 100
BYTES_OF_PARAMETER = 16
"""Itself, its gradient and the two moments of Adam."""
ONE_SYSTEM = "expected frames of one system; make a batch for each system"
ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "silu": nn.SiLU}


@dataclass(frozen=True)
class CGSchNetConfig:
    """Size and functions of a CGSchNet.

    Parameters
    ----------
    hidden_channels : int
        Features of a bead.
    num_filters : int
        Channels of a continuous-filter convolution.
    num_layers : int
        Interaction blocks.
    num_radial : int
        Radial basis functions.
    cutoff : float
        Å; beads farther apart do not see each other.
    radial_basis : "expnorm" or "gaussian"
        Functions of a distance: dense where beads are close, or at even distances.
    activation : "tanh" or "silu"
        Between the layers.
    max_bead_types : int
        Bead types are 0 to max_bead_types - 1.
    """

    hidden_channels: int = 128
    num_filters: int = 128
    num_layers: int = 4
    num_radial: int = 20
    cutoff: float = 30.0
    radial_basis: Literal["expnorm", "gaussian"] = "expnorm"
    activation: Literal["tanh", "silu"] = "tanh"
    max_bead_types: int = 25

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        hidden, filters, half = self.hidden_channels, self.num_filters, self.hidden_channels // 2
        filter_network = (self.num_radial + 1 + filters + 1) * filters
        update = hidden * filters + (filters + 1 + hidden + 1) * hidden
        ends = self.max_bead_types * hidden + (hidden + 1) * half + half + 1
        return self.num_layers * (filter_network + update) + ends

    def check(self) -> None:
        """Check every value.

        Raises
        ------
        InputError
            Naming the option, what was found and what was expected.
        """
        smallest = {
            "hidden_channels": 2,
            "num_filters": 1,
            "num_layers": 1,
            "num_radial": 2,
            "max_bead_types": 1,
        }
        for name, least in smallest.items():
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}, expected at least {least}.")
        require(self.num_layers <= MOST_LAYERS, "num_layers", self.num_layers,
                f"at most {MOST_LAYERS}")  # fmt: skip
        needed, there = self.parameters * BYTES_OF_PARAMETER, machine_memory()
        if needed > there:
            raise InputError(
                f"the network would have {self.parameters:.2g} parameters ("
                f"hidden_channels {self.hidden_channels}, num_filters {self.num_filters}, "
                f"num_radial {self.num_radial}, max_bead_types {self.max_bead_types}), which take "
                f"{needed / 2**30:.3g} GiB to train; expected at most the machine's "
                f"{there / 2**30:.3g} GiB."
            )
        if not 0 < self.cutoff < math.inf:
            raise InputError(f"cutoff is {self.cutoff} Å, expected a positive finite length.")
        for name, known in (("radial_basis", RADIAL_BASES), ("activation", ACTIVATIONS)):
            if getattr(self, name) not in known:
                expected = " or ".join(known)
                raise InputError(f"{name} is {getattr(self, name)!r}, expected {expected}.")


class ExpNormBasis(nn.Module):
    """Gaussians in exp(-α d): dense where beads are close (PhysNet, arXiv 1902.08408, eq. 7).

    e_k(d) = exp(-β (exp(-α d) - μ_k)²), α = 5 / cutoff, μ_k even from exp(-5) to 1,
    β = (2 (1 - exp(-5)) / K)⁻². PhysNet has α = 1/Å for bonds between atoms; α scales with the
    cutoff here, since beads are further apart.
    """

    centres: Tensor

    def __init__(self, number: int, cutoff: float) -> None:
        super().__init__()
        self.alpha = 5 / cutoff
        self.beta = (2 * (1 - math.exp(-5)) / number) ** -2
        self.register_buffer("centres", torch.linspace(math.exp(-5), 1, number), persistent=False)

    def forward(self, distances: Tensor) -> Tensor:
        """Map distances (...) in Å to values (..., K)."""
        scaled = torch.exp(-self.alpha * distances)
        return torch.exp(-self.beta * (scaled[..., None] - self.centres).square())


class GaussianBasis(nn.Module):
    """Gaussians at even distances (SchNet, arXiv 1706.08566, section 3).

    e_k(d) = exp(-(d - μ_k)² / (2 Δ²)), μ_k even from 0 to the cutoff, Δ their spacing.
    """

    centres: Tensor

    def __init__(self, number: int, cutoff: float) -> None:
        super().__init__()
        self.gamma = 0.5 / (cutoff / (number - 1)) ** 2
        self.register_buffer("centres", torch.linspace(0, cutoff, number), persistent=False)

    def forward(self, distances: Tensor) -> Tensor:
        """Map distances (...) in Å to values (..., K)."""
        return torch.exp(-self.gamma * (distances[..., None] - self.centres).square())


RADIAL_BASES = {"expnorm": ExpNormBasis, "gaussian": GaussianBasis}


class Interaction(nn.Module):
    """One interaction block: a continuous-filter convolution between dense layers.

    x_i + Dense(act(Dense(Σ_j (L x)_j ∘ W(d_ij) C(d_ij)))), with the filter network
    W = Dense(act(Dense(radial basis))) and the cosine cutoff C.
    """

    def __init__(self, config: CGSchNetConfig) -> None:
        super().__init__()
        hidden, filters = config.hidden_channels, config.num_filters
        activation = ACTIVATIONS[config.activation]
        self.filter_network = nn.Sequential(
            nn.Linear(config.num_radial, filters), activation(), nn.Linear(filters, filters)
        )
        self.to_filters = nn.Linear(hidden, filters, bias=False)
        self.update = nn.Sequential(
            nn.Linear(filters, hidden), activation(), nn.Linear(hidden, hidden)
        )

    def forward(
        self,
        features: Tensor,
        radial: Tensor,
        envelope: Tensor,
        convolve: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Return new features; `convolve(filters, features)` sums over the neighbours."""
        filters = self.filter_network(radial) * envelope
        return features + self.update(convolve(filters, self.to_filters(features)))


class CGSchNet(nn.Module):
    """Energy of beads, and forces as its exact negative gradient.

    Parameters
    ----------
    config : CGSchNetConfig

    Raises
    ------
    InputError
        If the configuration makes no sense.

    Notes
    -----
    All pairs of beads are laid out densely, so frames evaluated together are of one system. A
    filter depends on a distance alone and is evaluated once per unordered pair.
    """

    def __init__(self, config: CGSchNetConfig) -> None:
        super().__init__()
        config.check()
        self.config = config
        hidden, half = config.hidden_channels, config.hidden_channels // 2
        self.embedding = nn.Embedding(config.max_bead_types, hidden)
        self.radial_basis = RADIAL_BASES[config.radial_basis](config.num_radial, config.cutoff)
        self.interactions = nn.ModuleList(Interaction(config) for _ in range(config.num_layers))
        self.output = nn.Sequential(
            nn.Linear(hidden, half), ACTIVATIONS[config.activation](), nn.Linear(half, 1)
        )

    def energy(self, positions: Tensor, bead_types: Tensor) -> Tensor:
        """Return the energies of frames of one system.

        Parameters
        ----------
        positions : Tensor (B, N, 3)
            Å.
        bead_types : LongTensor (N,)

        Returns
        -------
        Tensor (B,)
            kcal/mol.
        """
        frames, beads, _ = positions.shape
        beads_first = positions.transpose(0, 1)
        distances = _lengths(
            torch.cat([beads_first[k:] - beads_first[:-k] for k in range(1, beads)])
            if beads > 1
            else beads_first[:0]
        )

        def convolve(filters: Tensor, features: Tensor) -> Tensor:
            return _DenseConvolution.apply(filters, features.expand(-1, frames, -1))

        # Until the first convolution all frames have the same features.
        features = self.embedding(bead_types)[:, None]
        return self._bead_energies(features, distances, convolve).sum(0).expand(frames)

    def forward(self, batch: Batch) -> Tensor:
        """Return the energies (G,), kcal/mol, of a torch-geometric batch.

        Parameters
        ----------
        batch : Batch
            Frames of one system, with `pos` (A, 3) in Å, `bead_types` (A,) and `ptr` (G + 1,).

        Raises
        ------
        InputError
            If its graphs do not all have the same beads.
        """
        types = bead_types_of(batch)
        return self.energy(batch.pos.view(-1, len(types), 3), types)

    def energy_and_forces(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the energies (G,), kcal/mol, and forces (A, 3), kcal/mol/Å, of a batch.

        In training mode both can be differentiated again; otherwise they are detached. Works
        under `torch.no_grad` and `torch.inference_mode` too. Batch and errors are those of
        `forward`.
        """
        types = bead_types_of(batch)
        with torch.inference_mode(False), torch.enable_grad():
            # Of tensors made in inference mode, as a Trainer's validation makes them, autograd
            # keeps none; their clones made here are normal ones.
            types = types.clone() if types.is_inference() else types
            positions = batch.pos.clone() if batch.pos.is_inference() else batch.pos.detach()
            positions.requires_grad_()
            energy = self.energy(positions.view(-1, len(types), 3), types)
            (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=self.training)
            if not self.training:
                return energy.detach(), -gradient
            # The last bias shifts the energy and leaves the forces alone; distributed training
            # wants every parameter to take part in a loss of forces only.
            return energy, 0 * self.get_parameter("output.2.bias") - gradient

    def _bead_energies(
        self, features: Tensor, distances: Tensor, convolve: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        radial = self.radial_basis(distances)
        cutoff = self.config.cutoff
        envelope = 0.5 + 0.5 * torch.cos(distances.clamp(max=cutoff) * (math.pi / cutoff))
        for interaction in self.interactions:
            features = interaction(features, radial, envelope[..., None], convolve)
        # Under autocast the products are coarse; what is summed over beads need not be.
        return self.output(features).squeeze(-1).to(distances.dtype)


def bead_types_of(batch: Batch) -> Tensor:
    """Return the bead types (N,) of the one system that all graphs of a batch are of.

    A batch that is made of one system says so by `one_system` and is not compared, for which a
    training step would have to wait for the GPU.

    Raises
    ------
    InputError
        If graphs differ in their beads.
    """
    graphs = batch.num_graphs
    beads, rest = divmod(len(batch.bead_types), graphs)
    if not rest and "one_system" in batch:
        return batch.bead_types[:beads]
    if rest or not bool((batch.ptr.diff() == beads).all()):
        sizes = " and ".join(map(str, sorted(set(batch.ptr.diff().tolist()))))
        raise InputError(f"a batch has graphs of {sizes} beads, {ONE_SYSTEM}.")
    types = batch.bead_types.view(graphs, beads)
    if not bool((types == types[0]).all()):
        raise InputError(f"a batch has graphs of {beads} beads of different types, {ONE_SYSTEM}.")
    return types[0]


# The dense convolution. Pairs are ordered by the difference k of their bead indices: block k
# holds (0, k), (1, k + 1), ..., and joins two plain slices of the beads, so nothing is gathered
# and no (frames, N, N, channels) tensor is made. The convolution is linear in filters and
# features and its own adjoint, so with `_PairProduct` it is closed under differentiation, which
# forces in a loss ask for twice. With both derivatives, at 512 frames of 10 beads and 128 channels
# on a CPU, it took 18 ms; index_add over the pairs 51, a product summed over (N, N, B, F) 45,
# batched matrix products 207.
def diagonals(pairs: Tensor, beads: int) -> list[Tensor]:
    """Split (P, ...) into the blocks k = 1 ... N - 1 of N - k pairs."""
    return list(pairs.split([beads - k for k in range(1, beads)])) if beads > 1 else []


class _DenseConvolution(torch.autograd.Function):
    """y_i = Σ_j W_ij x_j from filters (P, B, F) and features (N, B, F)."""

    @staticmethod
    def forward(ctx: Any, filters: Tensor, features: Tensor) -> Tensor:
        ctx.save_for_backward(filters, features)
        beads = len(features)
        summed = features.new_zeros(features.shape)
        for k, block in enumerate(diagonals(filters, beads), start=1):
            summed[:-k].addcmul_(block, features[k:])
            summed[k:].addcmul_(block, features[:-k])
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        filters, features = ctx.saved_tensors
        (gradient,) = gradients
        of_filters, of_features = ctx.needs_input_grad
        return (
            _PairProduct.apply(features, gradient) if of_filters else None,
            _DenseConvolution.apply(filters, gradient) if of_features else None,
        )


class _PairProduct(torch.autograd.Function):
    """z_ij = x_i y_j + x_j y_i from features (N, B, F) twice, to (P, B, F)."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(left, right)
        beads, *shape = left.shape
        products = left.new_empty(beads * (beads - 1) // 2, *shape)
        for k, block in enumerate(diagonals(products, beads), start=1):
            torch.mul(left[:-k], right[k:], out=block)
            block.addcmul_(left[k:], right[:-k])
        return products

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        left, right = ctx.saved_tensors
        (gradient,) = gradients
        of_left, of_right = ctx.needs_input_grad
        return (
            _DenseConvolution.apply(gradient, right) if of_left else None,
            _DenseConvolution.apply(gradient, left) if of_right else None,
        )


def _lengths(vectors: Tensor) -> Tensor:
    # Beads on one point get a zero gradient, not 0/0.
    return vectors.square().sum(-1).clamp(min=1e-12).sqrt()
