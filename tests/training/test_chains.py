"""Chains: where they begin, how they move, what ends them, and what a checkpoint holds."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cgfe.analysis.free_energy import TICGrid
from cgfe.data.frames import CGFrames
from cgfe.errors import InputError
from cgfe.kernels.fast_potential import FastPotential
from cgfe.reference.reference import Reference
from cgfe.simulation.evaluation import judge
from cgfe.simulation.langevin import LangevinSimulation
from cgfe.simulation.state import size_limit
from cgfe.training.arrays import system_tensors
from cgfe.training.losses import ChainConfig, Losses, RelativeEntropy, Turn
from cgfe.training.losses import chains as chains_file
from cgfe.training.losses.chains import Chains, shares_of_starts
from cgfe.training.module import CGForceField
from cgfe.units import ACCELERATION, thermal_energy
from tests.training.small_models import NETWORK


def module_of(reference: Reference, seed: int = 5, **options: Any) -> CGForceField:
    torch.manual_seed(0)
    config = replace(ChainConfig(number=16, steps=10, every=1), **options)
    losses = Losses(relative_entropy=RelativeEntropy(), chains=config)
    module = CGForceField(NETWORK, losses=losses)
    module.set_references([reference], ["tiny"], seed=seed)
    change(module)
    module.choose_grid()
    return module


def change(module: CGForceField) -> None:
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.network.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=random)


def chains_of(module: CGForceField) -> Chains:
    assert module.loss is not None
    assert module.loss.chains is not None
    return module.loss.chains


def sorted_rows(positions: torch.Tensor) -> np.ndarray:
    centred = positions - positions.mean(1, keepdim=True)
    return np.unique(np.round(centred.flatten(1).numpy(), 3), axis=0)


def test_a_move_is_dynamics_of_so_many_steps_that_keeps_velocities(reference: Reference) -> None:
    """Without friction it conserves the energy, and goes back when velocities are turned round."""
    module = module_of(reference, friction_per_ps=0.0, time_step_ps=0.002, steps=200)
    chains = chains_of(module)
    before, masses = chains.positions(0).clone(), torch.from_numpy(reference.system.masses)

    def total() -> np.ndarray:
        potential, _ = module.potential(0).energy_and_forces(chains.positions(0))
        squares = masses[:, None] * chains.velocities(0).square()
        return (potential + squares.sum((1, 2)) / (2 * ACCELERATION)).numpy()

    first = total()
    assert chains.advance(0)
    assert (chains.positions(0) - before).abs().mean() > 0.3
    np.testing.assert_allclose(total(), first, atol=0.05 * first.std())
    chains.velocities(0).neg_()
    assert chains.advance(1)
    # Their centre moves, and is taken away.
    torch.testing.assert_close(chains.positions(0), before, rtol=0, atol=0.02)
    assert chains.moves == 2


def test_chains_come_to_the_equilibrium_of_the_model_as_it_is_now(reference: Reference) -> None:
    """Mean potential energy and temperature, against a simulation from the same starts."""
    module = module_of(reference, number=256, steps=100, friction_per_ps=1.0)
    chains, potential = chains_of(module), module.potential(0)
    for _ in range(10):
        chains.advance(0)
    system = reference.system
    masses = torch.from_numpy(system.masses)
    other = LangevinSimulation(potential, masses, system.temperature_kelvin, 0.016, 1.0, seed=9)
    other.potential = module.simulated(0)
    shares = shares_of_starts(reference)
    rows = np.random.default_rng(1).choice(len(shares), 256, p=shares)
    run = other.run(torch.from_numpy(reference.starts.positions[rows]), 1000, 1000)
    energies = [
        potential.energy_and_forces(x)[0].numpy()
        for x in (chains.positions(0), torch.from_numpy(run.positions[-1]))
    ]
    error = np.hypot(*(x.std() / np.sqrt(len(x)) for x in energies))
    assert abs(energies[0].mean() - energies[1].mean()) < 4.5 * error
    kinetic = (masses[:, None] * chains.velocities(0).square()).mean((1, 2)) / ACCELERATION
    kt = thermal_energy(system.temperature_kelvin)
    assert abs(kinetic.mean() / kt - 1) < 4.5 * kinetic.std() / kt / len(kinetic) ** 0.5


def test_they_move_with_the_network_as_it_is_now(reference: Reference) -> None:
    one, other = module_of(reference), module_of(reference)
    change(other)
    for module in (one, other):
        assert chains_of(module).advance(0)
    ends = [chains_of(module).positions(0) for module in (one, other)]
    assert (ends[0] - ends[1]).abs().max() > 0.01


def test_the_simulated_potential_is_the_model(reference: Reference) -> None:
    """By tables on the grid of training, or as it is where there is none."""
    module, positions = module_of(reference), torch.from_numpy(reference.starts.positions)
    expected = module.potential(0).energy_and_forces(positions)
    for fast in (True, False):
        module.grid.intervals = module.grid.intervals if fast else None
        potential = module.simulated(0)
        assert isinstance(potential, FastPotential) == fast
        for one, other in zip(potential.energy_and_forces(positions), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-3)
    before = chains_of(module).positions(0).clone()
    assert chains_of(module).advance(0)
    assert (chains_of(module).positions(0) - before).abs().mean() > 0.01


def test_they_move_after_so_many_batches_of_training_alone(
    tiny: CGFrames, reference: Reference
) -> None:
    module = module_of(reference, every=3)
    batch, chains = system_tensors(tiny, reference, 0).batch(torch.arange(4)), chains_of(module)
    assert module.loss is not None
    moved = []
    for part, number in [("train", n) for n in range(7)] + [("validation", 2), ("test", 2)]:
        before = int(chains.moves)
        module.loss(*module.energy_and_forces(batch), batch, Turn(part, number))  # type: ignore[arg-type]
        moved.append(int(chains.moves) - before)
    assert moved == [0, 0, 1, 0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_begins_anew_at_starts(reference: Reference, share: float) -> None:
    """Seen by moves that are too short to go anywhere."""
    module = module_of(reference, number=200, steps=1, time_step_ps=1e-7, refreshed=share)
    chains = chains_of(module)
    with torch.no_grad():
        chains.positions(0).mul_(1.01)
    before = chains.positions(0).clone()
    chains.advance(0)
    anew = (chains.positions(0) - before).abs().amax((1, 2)) > 1e-3
    assert abs(anew.double().mean() - share) <= 4.5 * (share * (1 - share) / 200) ** 0.5
    starts = sorted_rows(torch.from_numpy(reference.starts.positions))
    both = np.concatenate([starts, sorted_rows(chains.positions(0)[anew])])
    assert len(np.unique(np.round(both, 2), axis=0)) == len(np.unique(np.round(starts, 2), axis=0))


def test_a_chain_that_blew_up_begins_anew(reference: Reference) -> None:
    chains = chains_of(module_of(reference))
    with torch.no_grad():
        chains.positions(0)[3, 0, 0] = 1e30
        chains.velocities(0)[5] = float("nan")
    chains.advance(0)
    assert chains.lost.item() == pytest.approx(2 / 16)
    positions, velocities = chains.positions(0), chains.velocities(0)
    assert positions.isfinite().all()
    assert velocities.isfinite().all()
    assert positions.abs().max() < 50
    starts = reference.starts.positions - reference.starts.positions.mean(1, keepdims=True)
    for lost in (3, 5):
        nearest = np.abs(starts - positions[lost].numpy()).max((1, 2)).min()
        assert nearest == pytest.approx(0, abs=1e-4)


def test_a_chain_that_flies_apart_move_by_move_begins_anew(reference: Reference) -> None:
    """As no single move would show: limits are of the starts."""
    chains = chains_of(module_of(reference, steps=1, time_step_ps=1e-7))
    scale = size_limit(torch.from_numpy(reference.starts.positions)).max()
    with torch.no_grad():
        for lost, factor in ((3, 1.01), (5, 0.99)):
            far = chains.positions(0)[lost]
            far *= factor * scale / torch.linalg.vector_norm(far, dim=-1).max()
    chains.advance(0)
    assert chains.lost.item() == pytest.approx(1 / 16)
    assert chains.positions(0)[3].abs().max() < 50 < chains.positions(0)[5].abs().max()
    chains.advance(1)
    assert chains.lost.item() == 0


def test_a_chain_that_stays_hot_begins_anew(reference: Reference) -> None:
    """Not one that began hot alone: friction cools it within the move."""
    for friction, steps, lost in ((0.0, 2, 1 / 16), (50.0, 40, 0.0)):
        chains = chains_of(module_of(reference, friction_per_ps=friction, steps=steps))
        with torch.no_grad():
            chains.velocities(0)[3] *= 10
        chains.advance(0)
        assert chains.lost.item() == pytest.approx(lost)


def test_weights_follow_a_model_that_changes_between_moves(reference: Reference) -> None:
    """By the energies of the models before and after, where the chains were; else they stand."""
    module = module_of(reference, number=64, effective=0.01, steps=1)
    chains = chains_of(module)
    chains.advance(0)
    assert (chains.weights(0) == 1).all()  # they have begun here
    chains.advance(1)
    torch.testing.assert_close(chains.weights(0), torch.ones(64), rtol=0, atol=2e-3)
    where = chains.positions(0).clone()
    energies = [module.potential(0).energy_and_forces(where)[0]]
    change(module)
    energies.append(module.potential(0).energy_and_forces(where)[0])
    kt = thermal_energy(reference.system.temperature_kelvin)
    expected = torch.softmax((energies[0] - energies[1]).double() / kt, 0) * 64
    assert expected.std() > 0.02
    chains.advance(2)
    torch.testing.assert_close(chains.weights(0).double(), expected, rtol=0.01, atol=0)
    weights = chains.weights(0).numpy()
    assert chains.counting.item() == pytest.approx(weights.sum() ** 2 / 64 / (weights**2).sum())
    alike = module_of(reference, effective=0.0)
    for number in range(2):
        chains_of(alike).advance(number)
        change(alike)
    assert (chains_of(alike).weights(0) == 1).all()


def test_a_jump_of_the_model_and_a_new_beginning_leave_no_weights(
    tiny: CGFrames, reference: Reference
) -> None:
    module = module_of(reference, steps=1)
    chains = chains_of(module)
    chains.advance(0)
    chains.get_buffer("log_weights_0")[0] = 0.5
    before = torch.softmax(chains.get_buffer("log_weights_0"), 0)
    with torch.no_grad():
        for parameter in module.network.parameters():
            parameter *= 20
    chains.advance(1)
    after = torch.softmax(chains.get_buffer("log_weights_0"), 0)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=0)
    assert chains.counting < 0.1
    with torch.no_grad():
        chains.positions(0)[3, 0, 0] = 1e30
    chains.advance(2)
    assert chains.weights(0)[3] == pytest.approx(1.0)
    visited = tiny.positions[:40].reshape(5, 8, *tiny.positions.shape[1:])
    module.learn(0, judge(reference, visited, np.zeros(8, dtype=bool), 0.0, "train"))
    assert (chains.weights(0) == 1).all()
    assert chains.get_buffer("energies_0").isnan().all()


def test_few_that_count_are_drawn_anew_by_weight(reference: Reference) -> None:
    module = module_of(reference, effective=0.9, steps=1, time_step_ps=1e-5)
    chains = chains_of(module)
    chains.advance(0)
    with torch.no_grad():
        chains.get_buffer("log_weights_0")[:8] = -30.0
    before = chains.positions(0)[8:].clone()
    chains.advance(1)
    assert chains.counting.item() == pytest.approx(0.5, abs=1e-3)
    assert (chains.weights(0) == 1).all()
    torch.testing.assert_close(
        chains.positions(0), before.repeat_interleave(2, 0), rtol=0, atol=1e-3
    )


def test_starts_stand_for_the_density_next_to_them() -> None:
    grid = TICGrid((np.arange(5.0), np.arange(3.0)))  # centres 0.5 to 3.5, and 0.5, 1.5
    density = np.array([[0.1, 0.0], [0.2, 0.0], [0.0, 0.3], [0.4, 0.0]])
    starts = np.zeros((3, 1, 3))
    starts[:, 0, :2] = [[0.5, 0.5], [3.5, 0.5], [2.5, 1.4]]
    reference: Any = SimpleNamespace(
        projection=SimpleNamespace(grid=grid, tica=SimpleNamespace(project=lambda x: x[:, 0])),
        ensembles=SimpleNamespace(train=SimpleNamespace(probability=density)),
        starts=SimpleNamespace(positions=starts),
    )
    assert shares_of_starts(reference).tolist() == pytest.approx([0.3, 0.4, 0.3])


def test_after_a_simulation_they_are_where_it_was(tiny: CGFrames, reference: Reference) -> None:
    module = module_of(reference)
    chains, before = chains_of(module), chains_of(module).positions(0).clone()
    visited = tiny.positions[:40].reshape(5, 8, *tiny.positions.shape[1:])
    module.learn(0, judge(reference, visited, np.ones(8, dtype=bool), 0.0, "train"))
    torch.testing.assert_close(chains.positions(0), before, rtol=0, atol=0)
    module.learn(0, judge(reference, visited, np.zeros(8, dtype=bool), 0.0, "train"))
    assert len(sorted_rows(chains.positions(0))) == 16, "none twice"
    both = np.concatenate(
        [sorted_rows(torch.from_numpy(tiny.positions[:40])), sorted_rows(chains.positions(0))]
    )
    assert len(np.unique(np.round(both, 2), axis=0)) == 40
    few = visited[:1, :4]
    module.learn(0, judge(reference, few, np.zeros(4, dtype=bool), 0.0, "train"))
    assert len(sorted_rows(chains.positions(0))) <= 4


def test_a_checkpoint_holds_all(reference: Reference) -> None:
    """Of another seed, to tell that what they draw is a matter of the seed too."""
    module, other, third = (module_of(reference, seed, refreshed=0.2) for seed in (5, 5, 6))
    chains_of(module).advance(0)
    for copy in (other, third):
        copy.load_state_dict(module.state_dict())
    for field in (module, other, third):
        chains_of(field).advance(1)
    ends = [chains_of(field).state_dict() for field in (module, other, third)]
    torch.testing.assert_close(ends[1], ends[0], rtol=0, atol=0)
    assert (ends[2]["positions_0"] != ends[0]["positions_0"]).any()


def test_another_number_is_told(reference: Reference) -> None:
    module, other = module_of(reference), module_of(reference, number=12)
    checkpoint: dict[str, Any] = {"epoch": 0, "global_step": 1, "state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    with pytest.raises(InputError, match=r"chains.energies_0, \(16,\) where it is \(12,"):
        other.on_load_checkpoint(checkpoint)


def test_processes_share_them(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    chains = chains_of(module_of(reference))
    own = []
    for rank in range(3):
        monkeypatch.setattr(chains_file, "process", lambda rank=rank: (rank, 3))
        own.append(chains.own(0))
        assert chains.energies(0).shape == (len(own[-1]),)
    assert {len(x) for x in own} == {5, 6}
    torch.testing.assert_close(torch.cat(own), chains.positions(0), rtol=0, atol=0)
    with pytest.raises(InputError, match=r"chains.number is 4, expected two for each process, 6"):
        module_of(reference, number=4)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("number", 1, "at least 2 and at most"),
        ("steps", 0, "at least 1"),
        ("every", 0, "at least 1"),
        ("refreshed", 1.5, "at least 0 and at most 1"),
        ("refreshed", float("nan"), "at least 0 and at most 1"),
        ("effective", -0.1, "at least 0 and at most 1"),
        ("effective", float("nan"), "at least 0 and at most 1"),
        ("time_step_ps", 0.0, "a positive finite value"),
        ("friction_per_ps", -1.0, "a finite value of at least 0"),
    ],
)
def test_nonsense_is_refused(option: str, value: float, expected: str) -> None:
    config = ChainConfig(**{option: value})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"model.losses.chains.{option} is {value}, expected"):
        Losses(relative_entropy=RelativeEntropy(), chains=config).check()
    with pytest.raises(InputError, match=expected):
        config.check()
