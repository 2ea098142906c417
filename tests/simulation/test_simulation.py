"""LangevinSimulation: known averages, order of the integrator, blow-up, seeds, bad input."""

import gc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cgfe.errors import InputError
from cgfe.kernels.fast_potential import accelerated
from cgfe.model.potential import Potential
from cgfe.model.prior import PriorEnergy
from cgfe.model.prior_terms import HarmonicAngles, HarmonicBonds, Repulsion
from cgfe.model.schnet import CGSchNet, CGSchNetConfig
from cgfe.simulation.langevin import LangevinSimulation, SimulationConfig
from cgfe.units import ACCELERATION, BOLTZMANN, thermal_energy

TEMPERATURE = 300.0
KT = thermal_energy(TEMPERATURE)


class Well(nn.Module):
    """V = k/2 |x|² for each bead by itself."""

    def __init__(self, stiffness: float) -> None:
        super().__init__()
        self.stiffness = stiffness

    def forward(self, positions: Tensor) -> Tensor:
        return 0.5 * self.stiffness * positions.square().sum((1, 2))


class Cliff(nn.Module):
    """A constant force along x; beyond `edge` the energy is not a number."""

    def __init__(self, force: float, edge: float) -> None:
        super().__init__()
        self.force, self.edge = force, edge

    def forward(self, positions: Tensor) -> Tensor:
        along = positions[..., 0]
        return (-self.force * along).where(along < self.edge, float("nan")).sum(1)


def simulation_of(module: nn.Module, masses, fast=False, **options) -> LangevinSimulation:
    """Return a simulation without network; `fast` takes the C++ kernel, where it compiles."""
    potential = Potential(module, None, torch.zeros(len(masses), dtype=torch.long))
    if fast:
        potential = accelerated(potential, torch.zeros(1, len(masses), 3))
    settings = {"time_step_ps": 0.004, "friction_per_ps": 1.0, "seed": 0} | options
    return LangevinSimulation(potential, np.array(masses), TEMPERATURE, **settings)


def chain_prior(beads: int = 6, bond_stiffness: float = 20.0) -> PriorEnergy:
    """Return bonds, angles and (from four beads on) a repulsion; given, not fitted."""
    every = torch.arange(beads)
    pairs = [(i, j) for i in range(beads) for j in range(i + 3, beads)]
    terms = {
        "bonds": HarmonicBonds(
            torch.stack([every[:-1], every[1:]], 1),
            centre=torch.full((beads - 1,), 3.8),
            stiffness=torch.full((beads - 1,), bond_stiffness),
        ),
        "angles": HarmonicAngles(
            torch.stack([every[:-2], every[1:-1], every[2:]], 1),
            centre=torch.full((beads - 2,), -0.2),
            stiffness=torch.full((beads - 2,), 5.0),
        ),
    }
    if pairs:
        distance = torch.full((len(pairs),), 4.0)
        terms["repulsion"] = Repulsion(torch.tensor(pairs), contact_distance=distance)
    return PriorEnergy(terms)


def zigzag(replicas: int, beads: int = 6) -> Tensor:
    one = torch.zeros(beads, 3)
    one[:, 0] = 3.0 * torch.arange(beads)
    one[1::2, 1] = 2.3
    one[::3, 2] = 0.5
    return one.expand(replicas, -1, -1).clone()


def test_harmonic_oscillator_averages():
    # ω Δt = 0.8 for the lighter bead: far beyond what anyone would use, so that an integrator
    # whose error in the positions of a spring is small, and not zero, shows it.
    masses, dt = np.array([50.0, 100.0]), 0.02
    stiffness = (0.8 / dt) ** 2 * masses[0] / ACCELERATION
    simulation = simulation_of(Well(stiffness), masses, time_step_ps=dt, friction_per_ps=5.0)
    start = torch.randn(256, 2, 3, generator=torch.Generator().manual_seed(1))
    # Frames 2 ps apart, ten times the decay time of the energy: independent draws.
    result = simulation.run(start * (KT / stiffness) ** 0.5, 2000, 100)
    squares = result.positions.astype(np.float64) ** 2
    for bead in range(2):
        values = squares[:, :, bead]
        # The mean of n independent squared Gaussians has a relative variance of 2/n.
        assert abs(values.mean() * stiffness / KT - 1) < 4 * (2 / values.size) ** 0.5
    # Velocities at the end of a step: ⟨m v²⟩ = kT (1 - ω²Δt²/4), here 12 % low on average.
    omega_dt_squared = stiffness * ACCELERATION / masses * dt**2
    expected = TEMPERATURE * (1 - omega_dt_squared.mean() / 4)
    tolerance = 4 * TEMPERATURE * (2 / squares.size) ** 0.5
    assert tolerance < 11
    assert abs(result.kinetic_temperature - expected) < tolerance


def test_usual_time_step_gives_the_temperature():
    simulation = simulation_of(Well(20.0), [110.0, 60.0], friction_per_ps=10.0)
    start = torch.randn(128, 2, 3, generator=torch.Generator().manual_seed(2))
    result = simulation.run(start * (KT / 20.0) ** 0.5, 3000, 100)
    # Velocities decay within 25 steps, so frames are independent.
    relative_error = (2 / result.positions.size) ** 0.5
    assert abs(result.kinetic_temperature / TEMPERATURE - 1) < 4 * relative_error
    assert not result.blown_up.any()
    assert result.steps == 3000
    assert result.replica_steps_per_second == pytest.approx(3000 * 128 / result.seconds)


@pytest.mark.parametrize("fast", [False, True])
def test_chain_samples_the_density_that_the_prior_inverts(fast):
    # In three beads bond and angle are independent, with densities r² exp(-V/kT) and, in
    # cos θ on [-1, 1], exp(-V/kT). Without the r² the mean length would be 0.02 Å off.
    prior = chain_prior(3, bond_stiffness=15.0)
    simulation = simulation_of(prior, [100.0] * 3, fast, time_step_ps=0.01, friction_per_ps=3.0)
    result = simulation.run(zigzag(256, 3), 2400, 40)
    frames = torch.from_numpy(result.positions[15:])  # after 6 ps
    for name, low, high, volume in (("bonds", 1, 7, 2), ("angles", -1, 1, 0)):
        term = prior.terms[name]
        values = term.coordinate(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).double()
        # Replicas are independent: the spread of their means gives the error of the mean.
        of_replica = values.mean((0, 2))
        error = float(of_replica.std() / len(of_replica) ** 0.5)
        grid = torch.linspace(low, high, 4001, dtype=torch.float64)
        energy = 0.5 * term.stiffness[0].double() * (grid - term.centre[0].double()) ** 2
        density = grid**volume * torch.exp(-energy / KT)
        exact = float((grid * density).sum() / density.sum())
        assert error < {"bonds": 0.003, "angles": 0.007}[name]
        assert abs(float(of_replica.mean()) - exact) < 4 * error


def test_kernel_has_the_temperature_with_and_without_friction():
    # Two beads on a bond: 3N velocities of 300 K each, in frames 1 ps apart, ten decay times.
    prior = chain_prior(2, bond_stiffness=15.0)
    simulation = simulation_of(prior, [110.0, 60.0], fast=True, friction_per_ps=10.0)
    start = zigzag(128, 2)
    result = simulation.run(start, 5000, 250)
    relative_error = (2 / result.positions[0].size / len(result.positions)) ** 0.5
    assert abs(result.kinetic_temperature / TEMPERATURE - 1) < 4 * relative_error
    # Without friction the kernel goes the same way as torch from the same velocities.
    ends = [
        simulation_of(prior, [110.0, 60.0], fast, friction_per_ps=0.0).run(start, 100, 100)
        for fast in (False, True)
    ]
    assert np.abs(ends[0].positions - ends[1].positions).max() < 1e-3
    assert np.abs(ends[0].positions - start.numpy()).max() > 0.5


def test_energy_error_without_friction_falls_as_the_square_of_the_time_step():
    masses = np.array([100.0, 80.0, 60.0, 120.0, 90.0, 110.0])
    prior = chain_prior(bond_stiffness=100.0).double()

    def total_energy(time_step_ps: float, steps: int) -> float:
        """Return the energy after a run, as the mean over replicas."""
        simulation = simulation_of(
            prior, masses, time_step_ps=time_step_ps, friction_per_ps=0.0, seed=3
        )
        last: list[Tensor] = []
        start = zigzag(8).double()
        result = simulation.run(start, steps, steps, on_frame=lambda _, x: last.append(x))
        kinetic = 0.5 * 3 * len(masses) * BOLTZMANN * result.kinetic_temperature
        return float(prior(last[0]).mean()) + kinetic

    exact = total_energy(1e-7, 1)
    errors = [total_energy(0.016 / n, 20 * n) - exact for n in (1, 2, 4)]
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(4, rel=0.15)  # the next order is Δt⁴
    # No drift: over 25 times as long the error is still an oscillation of that size.
    assert abs(total_energy(0.004, 2000) - exact) < 5 * abs(errors[0]) / 4


@pytest.mark.parametrize("fast", [False, True])
def test_replica_that_flies_apart_is_frozen_and_the_others_go_on(fast):
    masses = [100.0] * 6
    good, bad = zigzag(5), zigzag(5)
    bad[2, 5] = bad[2, 0] + torch.tensor([0.15, 0.0, 0.0])  # deep in the repulsion
    whole, broken = (
        simulation_of(chain_prior(), masses, fast, seed=4).run(start, 300, 50)
        for start in (good, bad)
    )
    assert whole.blown_up.tolist() == [False] * 5
    assert broken.blown_up.tolist() == [False, False, True, False, False]
    others = [0, 1, 3, 4]
    assert np.array_equal(whole.positions[:, others], broken.positions[:, others])
    assert np.array_equal(broken.positions[:, 2], np.repeat(bad[2:3].numpy(), 6, axis=0))
    # The frozen replica does not count: six frames of the others could at most be independent.
    assert broken.kinetic_temperature == pytest.approx(TEMPERATURE, rel=5 * (2 / (4 * 18)) ** 0.5)


def test_replica_whose_energy_turns_nan_keeps_its_last_good_frame():
    # 0.6 kcal/mol/Å moves the bead by about 20 Å in the 4 ps; only the second starts near the edge.
    start = torch.zeros(3, 1, 3)
    start[1, 0, 0] = 994.0
    ended, endless = (
        simulation_of(Cliff(0.6, edge), [100.0], seed=5).run(start, 1000, 50)
        for edge in (1000.0, 1e9)
    )
    assert ended.blown_up.tolist() == [False, True, False]
    assert np.isfinite(ended.positions).all()
    alive = (endless.positions[:, 1, 0, 0] < 1000).sum()
    assert 2 < alive < 18  # it falls in the middle of the run
    assert np.array_equal(ended.positions[:alive, 1], endless.positions[:alive, 1])
    assert (ended.positions[alive:, 1] == ended.positions[alive - 1, 1]).all()
    assert np.array_equal(ended.positions[:, [0, 2]], endless.positions[:, [0, 2]])


@pytest.mark.parametrize(("force", "lost"), [(0.6, False), (6.0, True)])
def test_replica_that_is_far_too_hot_has_blown_up(force: float, lost: bool):
    """A bead that falls for ever is never far from its replica's centre, its own."""
    result = simulation_of(Cliff(force, 1e9), [100.0], seed=5).run(torch.zeros(3, 1, 3), 1000, 50)
    assert result.blown_up.tolist() == [lost] * 3


def test_all_replicas_may_be_bad_from_the_start():
    start = torch.full((2, 1, 3), 5.0)
    result = simulation_of(Cliff(1.0, 0.0), [100.0]).run(start, 100, 50)
    assert result.blown_up.all()
    assert np.array_equal(result.positions, start.expand(2, -1, -1, -1).numpy())
    assert np.isnan(result.kinetic_temperature)


@pytest.mark.parametrize("fast", [False, True])
def test_a_seed_fixes_the_run_and_runs_go_on_in_its_stream(fast):
    start = zigzag(4)

    def simulation(seed: int) -> LangevinSimulation:
        return simulation_of(chain_prior(), [100.0] * 6, fast, seed=seed)

    first, again = simulation(6), simulation(6)
    reference = first.run(start, 100, 50).positions
    assert np.array_equal(reference, again.run(start, 100, 50).positions)
    second = first.run(start, 100, 50).positions
    assert not np.allclose(reference, second)
    assert np.array_equal(second, again.run(start, 100, 50).positions)
    assert not np.allclose(reference, simulation(7).run(start, 100, 50).positions)
    assert torch.equal(start, zigzag(4))  # the start is not written to


@pytest.mark.parametrize("fast", [False, True])
def test_frames_can_be_handed_over_as_they_come(fast):
    kept = simulation_of(chain_prior(), [100.0] * 6, fast).run(zigzag(3), 200, 50)
    frames: list[np.ndarray] = []
    done: list[int] = []

    def keep(number: int, positions: Tensor) -> None:
        assert number == len(frames)
        frames.append(positions.numpy())  # not a copy: a frame is not written to later

    given = simulation_of(chain_prior(), [100.0] * 6, fast).run(
        zigzag(3), 200, 50, progress=done.append, on_frame=keep
    )
    assert kept.positions.shape == (4, 3, 6, 3)
    assert kept.positions.dtype == np.float32
    assert np.array_equal(np.stack(frames), kept.positions)
    assert done == [50, 100, 150, 200]
    assert given.positions.shape == (0, 3, 6, 3)


@pytest.mark.parametrize("fast", [False, True])
def test_inference_mode_changes_nothing(fast):
    torch.manual_seed(0)
    network = CGSchNet(CGSchNetConfig(hidden_channels=8, num_filters=8, num_layers=2))
    prior = chain_prior()

    def run() -> np.ndarray:
        potential = Potential(prior, network, torch.arange(6))
        chosen = accelerated(potential, zigzag(1)) if fast else potential
        simulation = LangevinSimulation(chosen, np.full(6, 100.0), TEMPERATURE, 0.004, 1.0, 0)
        return simulation.run(zigzag(3), 20, 10).positions

    expected = run()
    with torch.inference_mode():
        assert np.array_equal(run(), expected)


@pytest.mark.parametrize("fast", [False, True])
def test_starts_of_another_precision_are_refused(fast):
    simulation = simulation_of(chain_prior(), [100.0] * 6, fast)
    with pytest.raises(InputError, match=r"are torch\.float64.*, expected"):
        simulation.run(zigzag(2).double(), 10, 5)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
@pytest.mark.parametrize("fast", [False, True])
def test_memory_does_not_grow_with_the_steps(fast):
    def pages() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1])

    simulation = simulation_of(chain_prior(), [100.0] * 6, fast)
    start = zigzag(50)

    def run(frames: int) -> int:
        before = pages()
        simulation.run(start, frames, 1, on_frame=lambda *_: None)
        return pages() - before

    run(100)
    # Frames that stayed would take 2,000 x 3,600 bytes: 1,757 pages of 4 kB.
    assert run(2000) < 400


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("replicas", 0),
        ("steps", 0),
        ("steps", 1010),
        ("save_interval", 0),
        ("time_step_ps", 0.0),
        ("time_step_ps", float("nan")),
        ("friction_per_ps", -1.0),
        ("burn_in", 1.0),
        ("burn_in", -0.1),
        ("seed", -1),
    ],
)
def test_nonsense_in_the_config_is_named(name, value):
    SimulationConfig().check()
    with pytest.raises(InputError, match=f"^{name} is {value}, expected"):
        SimulationConfig(**{name: value}).check()


def test_unusable_starts_and_masses_are_refused():
    simulation = simulation_of(Well(1.0), [100.0, 50.0])
    with pytest.raises(InputError, match=r"shape \(4, 3, 3\), expected \(replicas, 2, 3\)"):
        simulation.run(torch.zeros(4, 3, 3), 100, 50)
    with pytest.raises(InputError, match="not finite"):
        simulation.run(torch.full((4, 2, 3), float("nan")), 100, 50)
    with pytest.raises(InputError, match="steps is 70"):
        simulation.run(torch.zeros(4, 2, 3), 70, 50)
    potential = Potential(Well(1.0), None, torch.zeros(2, dtype=torch.long))
    for masses in (np.ones(3), np.array([1.0, -1.0])):
        with pytest.raises(InputError, match="expected 2 positive ones"):
            LangevinSimulation(potential, masses, TEMPERATURE, 0.004, 1.0, 0)
    with pytest.raises(InputError, match="temperature is 0"):
        LangevinSimulation(potential, np.ones(2), 0.0, 0.004, 1.0, 0)
