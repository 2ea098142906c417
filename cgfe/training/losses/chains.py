"""Chains: replicas of the model that move along while it is trained."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torch import Tensor, distributed, nn
from torch_geometric.data import Batch

from cgfe.errors import require
from cgfe.kernels.fast_potential import FastPotential
from cgfe.model.potential import Potential
from cgfe.reference.reference import Reference
from cgfe.simulation.evaluation import Judgement
from cgfe.simulation.ladder import TemperatureLadder
from cgfe.simulation.langevin import MOST_REPLICAS
from cgfe.simulation.state import ReplicaState, size_limit, thermal_speeds
from cgfe.training.batches import batch_of
from cgfe.training.losses.chain_weights import carried, effective_share, resampled
from cgfe.units import thermal_energy

OPTION = "model.losses.chains"


@dataclass(frozen=True)
class ChainConfig:
    """Replicas that move along with the model, `model.losses.chains`; terms say if they use them.

    Parameters
    ----------
    number : int
        Chains of each system, all processes' together; every batch of training evaluates them.
    steps : int
        Time steps of one move, with the model as it then is.
    every : int
        Batches from one move to the next.
    refreshed : float
        Share of the chains that begin a move anew, at starts of the reference: 0 to 1. Draws what
        the chains say towards the data, and frees them where they are trapped.
    effective : float
        Chains have weights that follow the model as it changes, until their effective share falls
        below this: then they are drawn anew, each by its weight. A change that leaves less by
        itself is left out. 0: all count alike.
    time_step_ps : float
        As in a simulation.
    friction_per_ps : float
        As in a simulation.
    """

    number: int = 128
    steps: int = 40
    every: int = 4
    refreshed: float = 0.0
    effective: float = 0.5
    time_step_ps: float = 0.016
    friction_per_ps: float = 0.2

    def check(self) -> None:
        """Check every value.

        Raises
        ------
        InputError
            If a value makes no sense; the message names it.
        """
        good, within = 2 <= self.number <= MOST_REPLICAS, f"at least 2 and at most {MOST_REPLICAS}"
        require(good, f"{OPTION}.number", self.number, within)
        for name in ("steps", "every"):
            value = getattr(self, name)
            require(value >= 1, f"{OPTION}.{name}", value, "at least 1")
        for name in ("refreshed", "effective"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"{OPTION}.{name}", value, "at least 0 and at most 1")
        good, value = 0 < self.time_step_ps < math.inf, self.time_step_ps
        require(good, f"{OPTION}.time_step_ps", value, "a positive finite value")
        good, value = 0 <= self.friction_per_ps < math.inf, self.friction_per_ps
        require(good, f"{OPTION}.friction_per_ps", value, "a finite value of at least 0")


class Chains(nn.Module):
    """Replicas of each system that move along with the model: samples of what it is now.

    As in persistent contrastive divergence (Tieleman 2008, doi 10.1145/1390156.1390290) they go on
    from where they were, some Langevin steps with the model as it is now after every so many
    batches, so that they stay near its equilibrium as long as it changes more slowly than they mix.
    They begin at starts of the reference, each as often as the training density near it has it, and
    after each simulation of a validation at configurations that this has visited.

    How many chains are in a basin changes as slowly as they cross its barriers; the model does not
    wait. So each has a weight, w ← w exp(−β[U_now − U_then]) at every move, with the energies of
    where it is by the model now and at the last move: weighted means keep up with the model
    whatever the chains cross (Jarzynski 1997; Carbone et al., arXiv 2305.19414), if they were right
    when the chains began and these are many. Chains that begin anew get the mean weight. Once few
    count, `ChainConfig.effective`, they are drawn anew by weight; a change that leaves fewer by
    itself is too far to be told from them, and left out: drawn anew after each of many such, all
    would soon descend from a few.

    Each process moves its own share, with random numbers of its own, and then tells the others: in
    all processes the buffers are the same, which distributed training would make them anyway, and a
    checkpoint holds all chains.

    Parameters
    ----------
    config : ChainConfig
    references : sequence of Reference
        By system.
    potential : callable
        Gives the model of a system as it is now, for simulation.
    energy_and_forces : callable
        As in `Setting`.
    seed : int

    Raises
    ------
    InputError
        If there are not two chains for each process.

    Attributes
    ----------
    moves : Tensor ()
        How often they were moved.
    lost : Tensor ()
        Share of the chains that blew up in the last move, and began anew.
    counting : Tensor ()
        Effective share of the chains at the last move, of the system with the least, before they
        are drawn anew, or that the model's change alone leaves, if that is less.
    """

    moves: Tensor
    lost: Tensor
    counting: Tensor

    def __init__(
        self,
        config: ChainConfig,
        references: Sequence[Reference],
        potential: Callable[[int], Potential | FastPotential],
        energy_and_forces: Callable[[Batch], tuple[Tensor, Tensor]],
        seed: int,
    ) -> None:
        super().__init__()
        self.config, self._references, self._seed = config, references, seed
        self._potential, self._energy_and_forces = potential, energy_and_forces
        needed = 2 * process()[1]
        require(config.number >= needed, f"{OPTION}.number", config.number,
                f"two for each process, {needed} at least")  # fmt: skip
        self.register_buffer("moves", torch.zeros((), dtype=torch.long))
        self.register_buffer("lost", torch.zeros(()))
        self.register_buffer("counting", torch.ones(()))
        # Of the starts, not of where a move begins: chains could fly apart move by move.
        self._limits = [
            float(size_limit(torch.from_numpy(ref.starts.positions)).max()) for ref in references
        ]
        self._shares = [shares_of_starts(reference) for reference in references]
        for system, reference in enumerate(references):
            room = torch.zeros(config.number, *reference.starts.positions.shape[1:])
            self.register_buffer(f"positions_{system}", room)
            self.register_buffer(f"velocities_{system}", room.clone())
            self.register_buffer(f"energies_{system}", torch.full((config.number,), torch.nan))
            self.register_buffer(f"log_weights_{system}", torch.zeros(config.number))
            everyone = torch.ones(config.number, dtype=torch.bool)
            random = self._random(system, process=-1)
            self._begin(system, self.positions(system), self.velocities(system), everyone, random)

    def positions(self, system: int) -> Tensor:
        """Return where all chains of a system are (M, N, 3), in Å, centred."""
        return self.get_buffer(f"positions_{system}")

    def velocities(self, system: int) -> Tensor:
        """Return the velocities of all chains of a system (M, N, 3), in Å/ps."""
        return self.get_buffer(f"velocities_{system}")

    def own(self, system: int) -> Tensor:
        """Return where this process's chains of a system are (m, N, 3), in Å."""
        return self.positions(system)[self._rows()]

    def weights(self, system: int) -> Tensor:
        """Return what all chains of a system count (M,); 1 in the mean."""
        return self.get_buffer(f"log_weights_{system}").exp()

    def own_weights(self, system: int) -> Tensor:
        """Return what this process's chains of a system count (m,).

        Their sum, averaged over processes, is 1.
        """
        return self.weights(system)[self._rows()] * (process()[1] / self.config.number)

    def energies(self, system: int) -> Tensor:
        """Return the network's energies (m,) of this process's chains, differentiable, kcal/mol."""
        positions = self.own(system)
        types = torch.from_numpy(self._references[system].system.bead_types)
        batch = batch_of(positions, types.to(positions.device), system)
        return self._energy_and_forces(batch)[0]

    @torch.no_grad()
    def advance(self, number: int) -> bool:
        """Move all chains if the batch with this number is one before which they move.

        Parameters
        ----------
        number : int
            Counted over processes too, see `Turn`.

        Returns
        -------
        bool
            Whether they moved.
        """
        batches = number // process()[1]
        if (batches + 1) % self.config.every:
            return False
        self.lost.zero_()
        self.counting.fill_(1.0)
        device = self.moves.device.type
        with torch.autocast(device, enabled=False):  # as they are simulated at validations
            for system in range(len(self._references)):
                self._move(system)
        if process()[1] > 1:
            distributed.all_reduce(self.lost)  # of each process's share
        self.moves += 1
        return True

    @torch.no_grad()
    def after_simulation(self, system: int, judgement: Judgement) -> None:
        """Begin anew at what a simulation of the model has visited, if any replica stayed whole."""
        visited = judgement.positions
        if not len(visited):
            return
        number, random = self.config.number, self._random(system, process=-1)
        rows = random.choice(len(visited), number, replace=len(visited) < number)
        positions, velocities = self.positions(system), self.velocities(system)
        positions.copy_(centred(torch.from_numpy(visited[rows])))
        velocities.copy_(self._thermal(system, number, random))
        self.get_buffer(f"energies_{system}").fill_(torch.nan)
        self.get_buffer(f"log_weights_{system}").zero_()

    def extra_repr(self) -> str:
        """Describe the settings."""
        return ", ".join(f"{name}={value:g}" for name, value in vars(self.config).items())

    def _move(self, system: int) -> None:
        rows, (rank, processes) = self._rows(), process()
        state = torch.stack([self.positions(system), self.velocities(system)])
        moved, told = torch.zeros_like(state), torch.zeros_like(state[:, :, 0, 0])
        own = self._moved(system, state[:, rows].float(), rank)
        moved[:, rows], told[:, rows] = own[0].to(state), own[1].to(state)
        if processes > 1:  # sums: of each chain one process has all, others 0
            distributed.all_reduce(moved)
            distributed.all_reduce(told)
        if self.config.effective > 0:
            chosen = self._reweighted(system, told[0])
            moved, told = moved[:, chosen], told[:, chosen]
        self.positions(system).copy_(moved[0])
        self.velocities(system).copy_(moved[1])
        self.get_buffer(f"energies_{system}").copy_(told[1])

    def _moved(self, system: int, chains: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        """Move chains some steps.

        Returns
        -------
        Tensor (2, m, N, 3)
            Their positions and velocities then.
        Tensor (2, m)
            What the model's change since the last move was worth, β(U_now − U_then), and their
            energies after this one, kcal/mol; NaN of chains that began anew.
        """
        config, beads = self.config, self._references[system].system
        positions, velocities = chains.unbind()
        random, count = self._random(system, rank), len(positions)
        some = torch.from_numpy(random.random(count) < config.refreshed)
        self._begin(system, positions, velocities, some, random)
        state = ReplicaState(
            self._potential(system),
            positions,
            torch.from_numpy(beads.masses),
            beads.temperature_kelvin,
            TemperatureLadder(beads.temperature_kelvin, [1.0], count, 0),
            config.time_step_ps,
            config.friction_per_ps,
            torch.Generator(positions.device).manual_seed(int(random.integers(2**62))),
            int(random.integers(2**62)),
            velocities,
        )
        state.limit = state.limit.clamp(max=self._limits[system])
        before = self.get_buffer(f"energies_{system}")[self._rows()]
        work = (state.energy - before) / thermal_energy(beads.temperature_kelvin)
        work = work.where(~some.to(work.device), torch.nan)
        strained = state.is_hot()
        state.advance(config.steps)
        state.check()
        lost = state.blown_up | (strained & state.is_hot())
        self.lost += lost.sum() / (config.number * len(self._references))
        positions, velocities = centred(state.positions), state.velocities
        self._begin(system, positions, velocities, lost, random)
        told = torch.stack([work, state.energy]).where(~lost, torch.nan)
        return torch.stack([positions, velocities]), told

    def _reweighted(self, system: int, work: Tensor) -> Tensor:
        """Carry the weights on; return which chains (M,) to go on with."""
        weights, least = self.get_buffer(f"log_weights_{system}"), self.config.effective
        found = carried(weights, work, least)
        share = effective_share(found)
        known = -work[work.isfinite()]
        self.counting.clamp_(max=min(share, effective_share(known)) if len(known) else share)
        if share >= least:
            weights.copy_(found)
            return torch.arange(len(found), device=found.device)
        weights.zero_()
        return resampled(found, self._random(system, process=-1))

    def _begin(
        self,
        system: int,
        positions: Tensor,
        velocities: Tensor,
        which: Tensor,
        random: np.random.Generator,
    ) -> None:
        """Put the chains `which` (m,) at starts of the reference, in place."""
        count, which = int(which.sum()), which.to(positions.device)
        starts, shares = self._references[system].starts.positions, self._shares[system]
        chosen = starts[random.choice(len(starts), count, p=shares)]
        positions[which] = centred(torch.from_numpy(chosen)).to(positions)
        velocities[which] = self._thermal(system, count, random).to(velocities)

    def _thermal(self, system: int, count: int, random: np.random.Generator) -> Tensor:
        beads = self._references[system].system
        normal = torch.from_numpy(random.standard_normal((count, len(beads.masses), 3)))
        return normal * thermal_speeds(
            torch.from_numpy(beads.masses), beads.temperature_kelvin, normal
        )

    def _random(self, system: int, process: int) -> np.random.Generator:
        """Return what a process draws for its chains at this move; -1: all draw the same."""
        return np.random.default_rng((self._seed, system, int(self.moves), process + 1))

    def _rows(self) -> slice:
        """Return which chains are this process's."""
        rank, processes = process()
        number = self.config.number
        return slice(number * rank // processes, number * (rank + 1) // processes)


def shares_of_starts(reference: Reference) -> NDArray[np.float64]:
    """Return the share (S,) of the training density that each start of a reference stands for.

    Starts are spread evenly over the TICs; each bin of the grid counts for the one next to it.
    """
    grid = reference.projection.grid
    density = reference.ensembles.train.probability.ravel()
    widths = np.array([edges[1] - edges[0] for edges in grid.edges])
    centres = np.stack(np.meshgrid(*grid.centres, indexing="ij"), axis=-1).reshape(-1, 2)
    tics = reference.projection.tica.project(reference.starts.positions)[:, :2]
    visited = density > 0
    nearest = cdist(centres[visited] / widths, tics / widths).argmin(axis=1)
    mass = np.bincount(nearest, density[visited], minlength=len(tics))
    return np.asarray(mass / mass.sum())


def centred(positions: Tensor) -> Tensor:
    """Return positions (M, N, 3) about their centres: float32 has few digits far from it."""
    return positions - positions.mean(dim=1, keepdim=True)


def process() -> tuple[int, int]:
    """Return the number of this process of a distributed training, and how many there are."""
    if not distributed.is_available() or not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()
