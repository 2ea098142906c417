"""LangevinSimulation: many replicas of one system at once, on prior and network."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cgfe.errors import InputError, check_seed, require
from cgfe.kernels.fast_potential import FastPotential
from cgfe.kernels.simulation import Dynamics
from cgfe.model.potential import Potential
from cgfe.units import ACCELERATION, thermal_energy

LARGEST_SPREAD = 50.0
"""Å times √N beyond the start's own size: a bead that far from its replica's centre has left
any molecule, since a stretched chain of ten residues reaches 20 Å."""

MOST_REPLICAS = 10**7

ONE_THREAD_BEADS = 5120
"""Beads of all replicas up to which torch steps on one CPU thread: its operations are so short
that waking a second one costs more than it brings, most of all on a machine that is not idle."""


@dataclass
class SimulationConfig:
    """How much to simulate, and how.

    Attributes
    ----------
    replicas : int
        Independent copies of the system.
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
    fast : bool
        On a CPU, tabulate the network's filters and step in C++: the same forces to 1e-5, and ten
        times the speed or more. Off, on a GPU, or without a compiler: the network as it is
        trained, with autograd.
    """

    replicas: int = 128
    steps: int = 10_000
    save_interval: int = 50
    time_step_ps: float = 0.016
    friction_per_ps: float = 0.2
    burn_in: float = 0.2
    seed: int | None = None
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


@dataclass(frozen=True)
class SimulationResult:
    """What a simulation gave.

    Attributes
    ----------
    positions : array (frames, replicas, N, 3), float32
        Å, every `save_interval` steps, the start not included. A replica that blew up repeats
        its last good frame. No frames if they were handed to `on_frame`.
    blown_up : array (replicas,) of bool
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

    @property
    def replica_steps_per_second(self) -> float:
        """Steps of all replicas together per second of wall time."""
        return self.steps * len(self.blown_up) / self.seconds


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
        state = _State(self, start)
        frames = steps // save_interval
        kept = np.empty((0 if on_frame else frames, *start.shape), dtype=np.float32)
        for frame in range(frames):
            state.advance(save_interval)
            state.check()
            if on_frame is None:
                kept[frame] = state.last_good.cpu().numpy()
            else:
                on_frame(frame, state.last_good)
            if progress is not None:
                progress((frame + 1) * save_interval)
        return SimulationResult(
            positions=kept,
            blown_up=state.blown_up.cpu().numpy(),
            seconds=time.perf_counter() - began,
            steps=steps,
            kinetic_temperature=state.kinetic_temperature(),
        )


class _State:
    """Positions, velocities and forces of all replicas, and who has blown up."""

    def __init__(self, simulation: LangevinSimulation, start: Tensor) -> None:
        self.potential, self.generator = simulation.potential, simulation.generator
        dt, friction = simulation.time_step_ps, simulation.friction_per_ps
        self.half_step = 0.5 * dt
        self.damping = float(np.exp(-friction * dt))
        masses = simulation.masses.to(start)[:, None].repeat(1, 3)
        inverse_mass = ACCELERATION / masses
        self.kick = self.half_step * inverse_mass
        thermal_speed = (thermal_energy(simulation.temperature) * inverse_mass).sqrt()
        self.noise_scale = thermal_speed * (1 - self.damping**2) ** 0.5
        self.temperature = simulation.temperature
        self.thermal_speed = thermal_speed

        self.last_good = start
        self.positions = start.clone()
        self.noise = torch.empty_like(start)
        self.velocities = self.noise.normal_(generator=self.generator) * thermal_speed
        self.limit = _largest_distance(start) + LARGEST_SPREAD * start.shape[1] ** 0.5
        self.temperature_sum, self.temperature_count = 0.0, 0
        self.energy, self.forces = self.potential.energy_and_forces(self.positions)
        self.blown_up = ~self.energy.isfinite()
        # The kernel makes its own random numbers, in a stream of its own for each run.
        seed = torch.randint(2**62, (), generator=self.generator, device=start.device)
        self.dynamics = Dynamics(half_step=self.half_step, damping=self.damping, seed=int(seed))
        self.native = self.potential.native if isinstance(self.potential, FastPotential) else None

    def advance(self, steps: int) -> None:
        """Advance by some time steps, all of them in one call if the C++ kernel takes them."""
        if self.native is None:
            with _fitting_threads(self.positions):
                for _ in range(steps):
                    self.step()
            return
        self.dynamics.steps = steps
        state = (self.positions, self.velocities, self.energy, self.forces)
        self.native.advance(self.dynamics, (self.kick, self.noise_scale), state)
        self.dynamics.first_step += steps

    def step(self) -> None:
        """Advance by one time step: V R O R V."""
        self.velocities.addcmul_(self.forces, self.kick)
        if self.damping == 1:
            self.positions.add_(self.velocities, alpha=2 * self.half_step)
        else:
            self.positions.add_(self.velocities, alpha=self.half_step)
            self.noise.normal_(generator=self.generator)
            self.velocities.mul_(self.damping).addcmul_(self.noise, self.noise_scale)
            self.positions.add_(self.velocities, alpha=self.half_step)
        self.energy, self.forces = self.potential.energy_and_forces(self.positions)
        self.velocities.addcmul_(self.forces, self.kick)

    def check(self) -> None:
        """Freeze replicas that blew up since the last check; add to the temperature.

        Checked at frames alone, so that a GPU need not wait at every step: between two frames
        a replica that has blown up may go anywhere, since no other sees it.
        """
        good = self.energy.isfinite() & (_largest_distance(self.positions) <= self.limit)
        self.blown_up = self.blown_up | ~good
        frozen = self.blown_up[:, None, None]
        self.last_good = torch.where(frozen, self.last_good, self.positions)
        self.positions = self.last_good.clone()
        scaled = (self.velocities / self.thermal_speed).square().mean((1, 2))
        self.temperature_sum += float(scaled[~self.blown_up].sum())
        self.temperature_count += int((~self.blown_up).sum())

    def kinetic_temperature(self) -> float:
        """Return ⟨m v²⟩ / kB over frames, good replicas and all 3N degrees of freedom."""
        if self.temperature_count == 0:
            return float("nan")
        return self.temperature * self.temperature_sum / self.temperature_count


@contextmanager
def _fitting_threads(positions: Tensor) -> Iterator[None]:
    threads = torch.get_num_threads()
    beads = positions.shape[0] * positions.shape[1]
    torch.set_num_threads(1 if beads <= ONE_THREAD_BEADS else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _largest_distance(positions: Tensor) -> Tensor:
    """Return (R,), the distance of each replica's outermost bead from its centre."""
    centred = positions - positions.mean(1, keepdim=True)
    return torch.linalg.vector_norm(centred, dim=-1).amax(1)


def _check_steps(steps: int, save_interval: int) -> None:
    require(save_interval >= 1, "save_interval", save_interval, "at least 1")
    wanted = f"a positive multiple of save_interval, {save_interval}"
    require(steps >= 1 and steps % save_interval == 0, "steps", steps, wanted)


def _check_dynamics(time_step_ps: float, friction_per_ps: float) -> None:
    good = 0 < time_step_ps < math.inf
    require(good, "time_step_ps", time_step_ps, "a positive finite value")
    good = 0 <= friction_per_ps < math.inf
    require(good, "friction_per_ps", friction_per_ps, "a finite value of at least 0")
