"""The same network built from other libraries: torch_geometric's SchNet blocks, torchmd-net.

Both hold the parameters of a cgfe network, so they give its energies; what differs is how they
are evaluated. A network of radial basis `gaussian` is needed, which all three have alike.
"""

import functools
import importlib
import logging
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn.models.schnet import GaussianSmearing, InteractionBlock

from benchmarks.turns import threads
from cgfe.kernels.fast_potential import accelerated
from cgfe.model.potential import Potential
from cgfe.model.schnet import ACTIVATIONS, CGSchNet, CGSchNetConfig

HAS_TORCHMD_NET = find_spec("torchmdnet") is not None


@functools.lru_cache(maxsize=8)
def dense_pairs(frames: int, beads: int) -> Tensor:
    """Return the ordered pairs (2, B N (N - 1)) of different beads within each frame."""
    every = torch.arange(beads)
    first, second = torch.meshgrid(every, every, indexing="ij")
    apart = first != second
    pairs = torch.stack([first[apart], second[apart]])
    shifts = torch.arange(frames) * beads
    return (pairs[:, None] + shifts[:, None]).flatten(1)


@functools.lru_cache(maxsize=8)
def frame_of_bead(frames: int, beads: int) -> Tensor:
    """Return the frame (B N,) of each bead."""
    return torch.arange(frames).repeat_interleave(beads)


class Baseline(nn.Module):
    """A network that gives energies and forces of frames of one system by autograd.

    Edges and the beads' frames are prepared once for each shape and kept.
    """

    def flat(self, positions: Tensor, types: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """Return energies (B,) and forces (B N, 3) at positions (B N, 3).

        They can be differentiated again in training mode.
        """
        raise NotImplementedError

    def energy_and_forces(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return energies (G,) and forces (A, 3) of a batch, as `CGSchNet` does."""
        return self.flat(batch.pos.detach(), batch.bead_types, batch.num_graphs)


class PyGSchNet(Baseline):
    """CGSchNet of torch_geometric's interaction blocks.

    Parameters
    ----------
    network : CGSchNet
        Its parameters are copied; of radial basis `gaussian`.
    """

    def __init__(self, network: CGSchNet) -> None:
        super().__init__()
        config = network.config
        _check(config)
        self.cutoff = config.cutoff
        hidden, filters = config.hidden_channels, config.num_filters
        activation = ACTIVATIONS[config.activation]
        self.embedding = nn.Embedding(config.max_bead_types, hidden)
        self.radial = GaussianSmearing(0.0, config.cutoff, config.num_radial)
        self.blocks = nn.ModuleList()
        for _ in range(config.num_layers):
            block = InteractionBlock(hidden, config.num_radial, filters, config.cutoff)
            # In place of the blocks' own shifted softplus.
            block.mlp[1], block.act = activation(), activation()
            self.blocks.append(block)
        self.output = nn.Sequential(
            nn.Linear(hidden, hidden // 2), activation(), nn.Linear(hidden // 2, 1)
        )
        _copy_layer(network.embedding, self.embedding)
        _copy_blocks(network, self.blocks)
        _copy_layer(network.output[0], self.output[0])
        _copy_layer(network.output[2], self.output[2])
        self.to(next(network.parameters()))

    def flat(self, positions: Tensor, types: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """Return energies (B,) and forces (B N, 3)."""
        beads = len(types) // frames
        edges, frame = dense_pairs(frames, beads), frame_of_bead(frames, beads)
        with torch.enable_grad():
            positions = positions.requires_grad_()
            distances = _distances(positions, edges)
            radial = self.radial(distances)
            # The blocks' cutoff function rises again beyond the cutoff; at it, it is zero.
            bounded = distances.clamp(max=self.cutoff)
            features = self.embedding(types)
            for block in self.blocks:
                features = features + block(features, edges, bounded, radial)
            each = self.output(features).squeeze(-1)
            energy = each.new_zeros(frames).index_add(0, frame, each)
            (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=self.training)
        return energy, -gradient


class GivenPairs(nn.Module):
    """Stands in for torchmd-net's neighbour search: all pairs of a frame, prepared before."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = 1

    def forward(
        self, positions: Tensor, batch: Tensor, box: Tensor | None = None
    ) -> tuple[Tensor, Tensor, None]:
        """Return pairs (2, E) and distances (E,)."""
        edges = dense_pairs(self.frames, len(positions) // self.frames)
        return edges, _distances(positions, edges), None


class TorchMDNet(Baseline):
    """torchmd-net's graph network with the parameters of a cgfe network.

    Parameters
    ----------
    network : CGSchNet
        Of radial basis `gaussian` and as many filters as hidden channels.
    beads : int
        Of a frame, for torchmd-net's limit of neighbours.
    search : bool
        With torchmd-net's own neighbour search in every call; else pairs are prepared before.
    """

    def __init__(self, network: CGSchNet, beads: int, search: bool = True) -> None:
        super().__init__()
        # The library of torchmd-net's kernels tells much about itself.
        warp: Any = importlib.import_module("warp")
        warp.config.log_level = logging.ERROR
        from torchmdnet.models.model import create_model

        config = network.config
        _check(config)
        if config.num_filters != config.hidden_channels:
            raise ValueError("torchmd-net's graph network has as many filters as channels")
        arguments: dict[str, Any] = {
            "model": "graph-network",
            "embedding_dimension": config.hidden_channels,
            "num_layers": config.num_layers,
            "num_rbf": config.num_radial,
            "rbf_type": "gauss",
            "trainable_rbf": False,
            "activation": config.activation,
            "cutoff_lower": 0.0,
            "cutoff_upper": config.cutoff,
            "max_z": config.max_bead_types,
            "max_num_neighbors": beads,
            "neighbor_embedding": False,
            "aggr": "add",
            "output_model": "Scalar",
            "reduce_op": "add",
            "prior_model": None,
            "atom_filter": -1,
            "derivative": True,
            "precision": 32 if next(network.parameters()).dtype == torch.float32 else 64,
        }
        self.model: Any = create_model(arguments)
        self.given = None if search else GivenPairs()
        inner = self.model.representation_model
        if self.given is not None:
            inner.distance = self.given
        output = self.model.output_model.output_network.layers
        _copy_layer(network.embedding, inner.embedding)
        _copy_blocks(network, inner.interactions)
        _copy_layer(network.output[0], output[0])
        _copy_layer(network.output[2], output[2])

    def flat(self, positions: Tensor, types: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """Return energies (B,) and forces (B N, 3)."""
        if self.given is not None:
            self.given.frames = frames
        batch = frame_of_bead(frames, len(types) // frames)
        with torch.enable_grad():
            # torchmd-net marks the positions that it gets, so they are its own.
            energy, forces = self.model(types, positions.clone(), batch, num_systems=frames)
        return energy.squeeze(-1), forces


class BaselinePotential(nn.Module):
    """Prior plus a baseline network, as `LangevinSimulation` wants it.

    The prior's forces are cgfe's own fast ones, so that what is compared is the networks.

    Parameters
    ----------
    potential : Potential
        Whose prior and bead types are taken.
    network : Baseline
    frames : Tensor (F, N, 3)
        Real frames.
    """

    bead_types: Tensor

    def __init__(self, potential: Potential, network: Baseline, frames: Tensor) -> None:
        super().__init__()
        self.prior = accelerated(Potential(potential.prior, None, potential.bead_types), frames)
        self.network = network.eval().requires_grad_(False)
        self.register_buffer("bead_types", potential.bead_types)
        self.threads = torch.get_num_threads()

    def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return energies (B,) and forces (B, N, 3), detached, on `threads` threads."""
        energy, forces = self.prior.energy_and_forces(positions)
        frames = len(positions)
        # LangevinSimulation chooses the threads that are best for cgfe's own forces.
        with threads(self.threads):
            of_network = self.network.flat(
                positions.detach().flatten(0, 1).clone(), self.bead_types.repeat(frames), frames
            )
        return energy + of_network[0].detach(), forces + of_network[1].view_as(positions)


def _distances(positions: Tensor, edges: Tensor) -> Tensor:
    first, second = edges
    vectors = positions.index_select(0, second) - positions.index_select(0, first)
    return vectors.norm(dim=-1)


def _check(config: CGSchNetConfig) -> None:
    if config.radial_basis != "gaussian":
        raise ValueError("the baselines have the radial basis 'gaussian' only")


def _copy_layer(source: nn.Module, target: nn.Module) -> None:
    target.load_state_dict(source.state_dict())


def _copy_blocks(network: CGSchNet, blocks: Any) -> None:
    """Copy the interaction blocks; torch_geometric and torchmd-net name the layers alike."""
    for source, target in zip(network.interactions, blocks, strict=True):
        inner: Any = source
        _copy_layer(inner.filter_network[0], target.mlp[0])
        _copy_layer(inner.filter_network[2], target.mlp[2])
        _copy_layer(inner.to_filters, target.conv.lin1)
        _copy_layer(inner.update[0], target.conv.lin2)
        _copy_layer(inner.update[2], target.lin)
