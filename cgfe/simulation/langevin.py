"""LangevinSimulation: many replicas of one system at once, on prior and network."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cgfe.errors import InputError, check_seed, require
from cgfe.kernels.fast_potential import FastPotential
from cgfe.model.potential import Potential
from cgfe.simulation.ladder import TemperatureLadder, check_ladder
from cgfe.simulation.state import ReplicaState

MOST_REPLICAS = 10**7


@dataclass
class SimulationConfig:
    """How much to simulate, and how.

    Attributes
    ----------
    replicas : int
        Copies of the system, at all temperatures together; rounded up to whole ladders.
    steps : int
        Time steps per replica, a multiple of `save_interval`.
    save_interval : int
        Steps between frames, and between checks for replicas that blew up.
    time_step_ps : float
        In ps.
    friction_per_ps : float
        In 1/ps; 0 is plain velocity Verlet.
    burn_in : float
        Share of each trajectory that is dropped before analysis.
    seed : int, optional
        0 if not given; the command line takes seed_everything by default.
    ladder : list of float
        Temperatures of replica exchange, as multiples of the data's, rising from 1; [1] for none.
        Every so many replicas trade temperatures among themselves, and those that are at the
        data's give the frames: `replicas` divided by the ladder's length each time.
    exchange_interval : int
        Steps between two attempts to trade, at most; one is made at each frame.
    fast : bool
        On a CPU, tabulate the network's filters and step in C++: the same forces to 1e-5, and ten
        times the speed or more. Off, on a GPU, or without a compiler: the network as it is
        trained, with autograd.
    """

    replicas: int = 126
    steps: int = 10_000
    save_interval: int = 50
    time_step_ps: float = 0.016
    friction_per_ps: float = 0.2
    burn_in: float = 0.2
    seed: int | None = None
    ladder: list[float] = field(default_factory=lambda: [1.0, 1.3, 1.67])
    exchange_interval: int = 50
    fast: bool = True

    def check(self) -> None:
        """Check every value.

        Raises
        ------
        InputError
            If a value makes no sense; the message names it.
        """
        good = 1 <= self.replicas <= MOST_REPLICAS
        require(good, "replicas", self.replicas, f"at least 1 and at most {MOST_REPLICAS}")
        _check_steps(self.steps, self.save_interval)
        _check_dynamics(self.time_step_ps, self.friction_per_ps)
        require(0 <= self.burn_in < 1, "burn_in", self.burn_in, "at least 0 and less than 1")
        check_seed("seed", self.seed)
        check_ladder(self.ladder)
        _check_exchange(self.exchange_interval)


@dataclass(frozen=True)
class SimulationResult:
    """What a simulation gave.

    Attributes
    ----------
    positions : array (frames, ladders, N, 3), float32
        Å, every `save_interval` steps, the start not included; with replica exchange of the one
        replica of each ladder that is at the data's temperature, else of each replica. One that
        blew up repeats its last good frame. No frames if they were handed to `on_frame`.
    blown_up : array (ladders,) of bool
    replicas : int
        At all temperatures.
    last : array (replicas, N, 3), float32
        Å, where all replicas ended, those of each ladder by rising temperature: a start to go on
        from. NaN of those that blew up.
    followed : int array (frames, ladders)
        Number of the replica that each frame is of: `positions` without exchange is of replica l
        in column l throughout. No frames if they were handed to `on_frame`.
    starts : array (replicas, N, 3)
        Å, where each replica began.
    acceptance : list of float
        Share of the attempts to trade that did, between neighbouring temperatures.
    seconds : float
        Wall time.
    steps : int
        Steps of each replica.
    kinetic_temperature : float
        K, mean over frames and the replicas that had not blown up; nan if all had.
    """

    positions: NDArray[np.float32]
    blown_up: NDArray[np.bool_]
    seconds: float
    steps: int
    kinetic_temperature: float
    replicas: int
    last: NDArray[np.float32]
    acceptance: list[float]
    followed: NDArray[np.int64]
    starts: NDArray[np.floating]

    @property
    def replica_steps_per_second(self) -> float:
        """Steps of all replicas together per second of wall time."""
        return self.steps * self.replicas / self.seconds


class LangevinSimulation:
    """Langevin dynamics by BAOAB, the splitting V R O R V (Leimkuhler & Matthews 2013,
    arXiv 1203.5428), whose configurational averages are exact for harmonic forces.

    Parameters
    ----------
    potential : Potential or FastPotential
    masses : array or tensor (N,)
        amu.
    temperature : float
        K.
    time_step_ps, friction_per_ps : float
        Friction 0 is plain velocity Verlet.
    seed : int
        Of velocities and noise. Each further `run` goes on in the same random stream.
    device : device, optional
        Where to run; the potential is moved there. By default where the potential is.
    ladder, exchange_interval : sequence of float, int
        As in `SimulationConfig`.

    Raises
    ------
    InputError
        If a value makes no sense or the masses are not one per bead.
    """

    def __init__(
        self,
        potential: Potential | FastPotential,
        masses: NDArray[np.floating] | Tensor,
        temperature: float,
        time_step_ps: float,
        friction_per_ps: float,
        seed: int,
        device: torch.device | str | None = None,
        ladder: Sequence[float] = (1.0,),
        exchange_interval: int = 50,
    ) -> None:
        _check_dynamics(time_step_ps, friction_per_ps)
        good = 0 < temperature < math.inf
        require(good, "temperature", temperature, "a positive finite value in K")
        self.device = torch.device(device or potential.bead_types.device)
        self.potential = potential.to(self.device)
        self.masses = torch.as_tensor(masses, dtype=torch.float64)
        beads = len(potential.bead_types)
        if self.masses.shape != (beads,) or not bool((self.masses > 0).all()):
            raise InputError(f"masses are {self.masses.tolist()}, expected {beads} positive ones.")
        self.temperature = temperature
        self.time_step_ps = time_step_ps
        self.friction_per_ps = friction_per_ps
        _check_exchange(exchange_interval)
        self.ladder, self.exchange_interval = check_ladder(ladder), exchange_interval
        self.generator = torch.Generator(self.device).manual_seed(seed)

    @torch.no_grad()
    def run(
        self,
        start_positions: NDArray[np.floating] | Tensor,
        steps: int,
        save_interval: int,
        progress: Callable[[int], None] | None = None,
        on_frame: Callable[[int, Tensor], None] | None = None,
    ) -> SimulationResult:
        """Simulate from the given positions with fresh Maxwell-Boltzmann velocities.

        A replica has blown up when its energy or a position is not finite, or a bead is further
        from the replica's centre than 50 √N Å plus the size of its start. It is then frozen at
        its last good frame and counted. The others are not touched by it, since noise is drawn
        for every replica at every step.

        Parameters
        ----------
        start_positions : array or tensor (R, N, 3)
            Å; the dynamics run in this precision.
        steps, save_interval : int
            As in `SimulationConfig`.
        progress : callable, optional
            Called with the number of steps done, at each frame.
        on_frame : callable, optional
            Called with the frame's number and its positions (R, N, 3), which it may keep but
            not change. Frames are then not collected, so memory does not grow with `steps`.

        Raises
        ------
        InputError
            If the start has another shape or is not finite, or `steps` is no multiple of
            `save_interval`.
        """
        _check_steps(steps, save_interval)
        start = torch.as_tensor(start_positions, device=self.device).contiguous()
        if start.ndim != 3 or start.shape[1:] != (len(self.masses), 3) or len(start) == 0:
            raise InputError(
                f"start positions have shape {tuple(start.shape)}, "
                f"expected (replicas, {len(self.masses)}, 3)."
            )
        if not bool(start.isfinite().all()):
            raise InputError("start positions are not finite.")
        known = {x.dtype for x in self.potential.state_dict().values() if x.is_floating_point()}
        if known - {start.dtype}:
            raise InputError(
                f"start positions are {start.dtype}, expected the potential's "
                f"{' and '.join(map(str, known))}."
            )
        began = time.perf_counter()
        # The kernel and exchange make random numbers of their own, in streams of each run.
        seeds = torch.randint(2**62, (2,), generator=self.generator, device=self.device).tolist()
        ladder = TemperatureLadder(self.temperature, self.ladder, len(start), seeds[1])
        length = len(self.ladder)
        parts = 1 if length == 1 else -(-save_interval // self.exchange_interval)
        ends = [save_interval * part // parts for part in range(parts + 1)]
        state = ReplicaState(
            self.potential,
            start,
            self.masses,
            self.temperature,
            ladder,
            self.time_step_ps,
            self.friction_per_ps,
            self.generator,
            seeds[0],
        )
        frames = steps // save_interval
        shape = (0 if on_frame else frames, len(start) // length, *start.shape[1:])
        kept = np.empty(shape, dtype=np.float32)
        followed = np.empty(shape[:2], dtype=np.int64)
        for frame in range(frames):
            for begin, end in pairwise(ends):
                state.advance(end - begin)
                state.check()
                if length > 1:
                    state.exchange()
            positions, blown_up = state.cold()
            if on_frame is None:
                kept[frame], followed[frame] = positions.cpu().numpy(), ladder.cold
            else:
                on_frame(frame, positions)
            if progress is not None:
                progress((frame + 1) * save_interval)
        return SimulationResult(
            positions=kept,
            blown_up=blown_up.cpu().numpy(),
            seconds=time.perf_counter() - began,
            steps=steps,
            kinetic_temperature=state.kinetic_temperature(),
            replicas=len(start),
            last=state.last().cpu().numpy().astype(np.float32),
            acceptance=ladder.acceptance,
            followed=followed,
            starts=start.cpu().numpy(),
        )


def _check_steps(steps: int, save_interval: int) -> None:
    require(save_interval >= 1, "save_interval", save_interval, "at least 1")
    wanted = f"a positive multiple of save_interval, {save_interval}"
    require(steps >= 1 and steps % save_interval == 0, "steps", steps, wanted)


def _check_exchange(interval: int) -> None:
    require(interval >= 1, "exchange_interval", interval, "at least 1")


def _check_dynamics(time_step_ps: float, friction_per_ps: float) -> None:
    good = 0 < time_step_ps < math.inf
    require(good, "time_step_ps", time_step_ps, "a positive finite value")
    good = 0 <= friction_per_ps < math.inf
    require(good, "friction_per_ps", friction_per_ps, "a finite value of at least 0")
