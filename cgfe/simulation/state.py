"""ReplicaState: replicas on their way through a simulation."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from cgfe.kernels.fast_potential import FastPotential
from cgfe.kernels.simulation import Dynamics
from cgfe.model.potential import Potential
from cgfe.simulation.ladder import TemperatureLadder
from cgfe.units import ACCELERATION, thermal_energy

LARGEST_SPREAD = 50.0
"""Å times √N beyond the start's own size: a bead that far from its replica's centre has left
any molecule, since a stretched chain of ten residues reaches 20 Å."""

HOTTEST = 20.0
"""Times the thermal mean of a replica's kinetic energy, which chance never reaches: it has run into
forces that the time step cannot follow, and may stay near them without flying apart."""
HOT_CHECKS = 3
"""In a row, until a hot replica has blown up: one that began strained has cooled down by then."""

ONE_THREAD_BEADS = 5120
"""Beads of all replicas up to which torch steps on one CPU thread: its operations are so short
that waking a second one costs more than it brings, most of all on a machine that is not idle."""


class ReplicaState:
    """Positions, velocities and forces of all replicas, and who has blown up.

    Parameters
    ----------
    potential : Potential or FastPotential
    start : Tensor (R, N, 3)
        Å.
    masses : Tensor (N,)
        amu.
    temperature : float
        K, of the coldest replicas.
    ladder : TemperatureLadder
        Of these replicas.
    time_step_ps, friction_per_ps : float
    generator : Generator
        Of velocities, and of noise unless the kernel steps.
    seed : int
        Of the kernel's noise.
    velocities : Tensor (R, N, 3), optional
        Å/ps, to go on with; else they are drawn.
    """

    def __init__(
        self,
        potential: Potential | FastPotential,
        start: Tensor,
        masses: Tensor,
        temperature: float,
        ladder: TemperatureLadder,
        time_step_ps: float,
        friction_per_ps: float,
        generator: torch.Generator,
        seed: int,
        velocities: Tensor | None = None,
    ) -> None:
        self.potential, self.generator, self.ladder = potential, generator, ladder
        dt, friction = time_step_ps, friction_per_ps
        self.half_step = 0.5 * dt
        self.damping = float(np.exp(-friction * dt))
        self.kick = self.half_step * _inverse(masses, start)
        thermal_speed = thermal_speeds(masses, temperature, start)
        self.noise_scale = thermal_speed * (1 - self.damping**2) ** 0.5
        self.temperature = temperature
        self.thermal_speed = thermal_speed

        self.last_good = start
        self.positions = start.clone()
        self.noise = torch.empty_like(start)
        self.heat = torch.as_tensor(ladder.heat).to(start)
        if velocities is None:
            self.velocities = self.noise.normal_(generator=self.generator) * self._speed()
        else:
            self.velocities = velocities.clone()
        self.limit = size_limit(start)
        self.temperature_sum, self.temperature_count = 0.0, 0
        self.energy, self.forces = self.potential.energy_and_forces(self.positions)
        self.blown_up = ~self.energy.isfinite()
        self.hot_checks = torch.zeros_like(self.blown_up, dtype=torch.long)
        self.dynamics = Dynamics(half_step=self.half_step, damping=self.damping, seed=seed)
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
        self.native.advance(self.dynamics, (self.kick, self.noise_scale, self.heat), state)
        self.dynamics.first_step += steps

    def step(self) -> None:
        """Advance by one time step: V R O R V."""
        self.velocities.addcmul_(self.forces, self.kick)
        if self.damping == 1:
            self.positions.add_(self.velocities, alpha=2 * self.half_step)
        else:
            self.positions.add_(self.velocities, alpha=self.half_step)
            self.noise.normal_(generator=self.generator)
            self.velocities.mul_(self.damping).addcmul_(
                self.noise, self.noise_scale * self.heat[:, None, None]
            )
            self.positions.add_(self.velocities, alpha=self.half_step)
        self.energy, self.forces = self.potential.energy_and_forces(self.positions)
        self.velocities.addcmul_(self.forces, self.kick)

    def check(self) -> None:
        """Freeze replicas that blew up since the last check; add to the temperature.

        Checked at frames alone, so that a GPU need not wait at every step: between two frames
        a replica that has blown up may go anywhere, since no other sees it.
        """
        scaled = self._kinetic()
        self.hot_checks = torch.where(scaled > HOTTEST, self.hot_checks + 1, 0)
        near = _largest_distance(self.positions) <= self.limit
        good = self.energy.isfinite() & near & (self.hot_checks < HOT_CHECKS)
        self.blown_up = self.blown_up | ~good
        frozen = self.blown_up[:, None, None]
        self.last_good = torch.where(frozen, self.last_good, self.positions)
        self.positions = self.last_good.clone()
        self.temperature_sum += float(scaled[~self.blown_up].sum())
        self.temperature_count += int((~self.blown_up).sum())

    def exchange(self) -> None:
        """Let replicas trade temperatures; what they have is scaled to what they get."""
        energies = self.energy.cpu().numpy().astype(np.float64)
        scale = self.ladder.attempt(energies, ~self.blown_up.cpu().numpy())
        self.velocities *= torch.as_tensor(scale).to(self.velocities)[:, None, None]
        self.heat = torch.as_tensor(self.ladder.heat).to(self.velocities)

    def cold(self) -> tuple[Tensor, Tensor]:
        """Return positions (L, N, 3) at the lowest temperature, and which blew up there (L,)."""
        if len(self.ladder.factors) == 1:
            return self.last_good, self.blown_up
        rows = torch.as_tensor(self.ladder.cold, device=self.last_good.device)
        return self.last_good[rows], self.blown_up[rows]

    def last(self) -> Tensor:
        """Return positions (R, N, 3) of each ladder by rising temperature; NaN: blew up."""
        rows = torch.as_tensor(self.ladder.by_temperature, device=self.last_good.device)
        return torch.where(self.blown_up[:, None, None], torch.nan, self.last_good)[rows]

    def is_hot(self) -> Tensor:
        """Return whose kinetic energy (R,) is one that chance never reaches."""
        return self._kinetic() > HOTTEST

    def _kinetic(self) -> Tensor:
        """Return the kinetic energy of each replica (R,) over its thermal mean."""
        return (self.velocities / self._speed()).square().mean((1, 2))

    def _speed(self) -> Tensor:
        """Return the thermal speed (R, N, 3) of each component."""
        return self.thermal_speed * self.heat[:, None, None]

    def kinetic_temperature(self) -> float:
        """Return ⟨m v²⟩ / kB over checks, good replicas and all 3N degrees of freedom.

        Of hotter replicas in units of their own temperature.
        """
        if self.temperature_count == 0:
            return float("nan")
        return self.temperature * self.temperature_sum / self.temperature_count


def thermal_speeds(masses: Tensor, temperature: float, like: Tensor) -> Tensor:
    """Return the standard deviation (N, 3) of thermal velocities in Å/ps, of the type of `like`.

    Parameters
    ----------
    masses : Tensor (N,)
        amu.
    temperature : float
        K.
    like : Tensor
    """
    return (thermal_energy(temperature) * _inverse(masses, like)).sqrt()


def _inverse(masses: Tensor, like: Tensor) -> Tensor:
    """Return (N, 3), what makes an acceleration in Å/ps² of a force in kcal/mol/Å."""
    return ACCELERATION / masses.to(like)[:, None].repeat(1, 3)


@contextmanager
def _fitting_threads(positions: Tensor) -> Iterator[None]:
    threads = torch.get_num_threads()
    beads = positions.shape[0] * positions.shape[1]
    torch.set_num_threads(1 if beads <= ONE_THREAD_BEADS else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def size_limit(start: Tensor) -> Tensor:
    """Return (R,), the distance of a bead from its centre, Å, beyond which a replica blew up."""
    return _largest_distance(start) + LARGEST_SPREAD * start.shape[1] ** 0.5


def _largest_distance(positions: Tensor) -> Tensor:
    """Return (R,), the distance of each replica's outermost bead from its centre."""
    centred = positions - positions.mean(1, keepdim=True)
    return torch.linalg.vector_norm(centred, dim=-1).amax(1)
