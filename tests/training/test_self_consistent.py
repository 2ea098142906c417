"""Self-consistent labels: by hand, at their fixed point, and through a fit that is killed."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch

from cgfe.analysis.free_energy import free_energy_difference
from cgfe.errors import InputError
from cgfe.reference.reference import Reference
from cgfe.simulation.evaluation import Judgement, judge, simulate
from cgfe.simulation.langevin import SimulationConfig
from cgfe.training.checkpoints import read_checkpoint
from cgfe.training.losses import (
    ForceMatching,
    Losses,
    Prediction,
    SelfConsistentEnergy,
    self_consistent,
)
from cgfe.training.module import CGForceField
from cgfe.training.replicas import LastingReplicas
from cgfe.units import thermal_energy
from tests.training.small_models import NETWORK
from tests.training.test_training import KILLED, SIZES, cgfe, rows

LOSSES = """
model: {loss: null, losses: {force: {weight: 1.0}, self_consistent: {weight: 0.5}}}
trainer: {max_epochs: 3}
free_energy: {every_n_epochs: 1}
"""


def module_of(reference: Reference, **settings: float) -> CGForceField:
    torch.manual_seed(0)
    terms = Losses(force=ForceMatching(1.0), self_consistent=SelfConsistentEnergy(**settings))
    module = CGForceField(NETWORK, losses=terms)
    module.set_references([reference], ["tiny"])
    return module


def loss_of(module: CGForceField, batch: Batch) -> torch.Tensor:
    assert module.loss is not None
    energy, forces = module.network.energy_and_forces(batch)
    found: torch.Tensor = module.loss(energy, forces, batch)["self_consistent_mse"]
    return found


def test_a_difference_of_surfaces_by_hand() -> None:
    reference = np.array([[0.2, 0.2], [0.6, 0.0]])
    model = np.array([[1.0, 3.0], [0.0, 4.0]])
    found = free_energy_difference(reference, model, smoothing=0.0)
    assert found[0].tolist() == pytest.approx([np.log(0.125 / 0.2), np.log(0.375 / 0.2)])
    assert found[1, 0] < -1e300, "the model alone has none: its F is infinite"
    assert found[1, 1] == 0, "of no frame"
    smooth = free_energy_difference(reference, model, smoothing=1.0)
    assert np.isfinite(smooth).all()


@pytest.mark.parametrize("seed", range(5))
def test_one_correction_gives_the_reference_where_nothing_else_is_in_the_way(seed: int) -> None:
    """States of random energies in bins: U + F_ref − F has the reference's density exactly."""
    random = np.random.default_rng(seed)
    bins = random.integers(0, 12, size=500)
    energies, target = random.normal(scale=3, size=500), random.dirichlet(np.ones(12))

    def density(energies: np.ndarray) -> np.ndarray:
        found = np.bincount(bins, np.exp(-energies), minlength=12)
        return found / found.sum()

    difference = free_energy_difference(
        target.reshape(3, 4), density(energies).reshape(3, 4), smoothing=0.0
    )
    np.testing.assert_allclose(density(energies + difference.ravel()[bins]), target, rtol=1e-9)


def test_before_a_simulation_it_is_nothing(reference: Reference, batch: Batch) -> None:
    module = module_of(reference)
    loss = loss_of(module, batch)
    assert loss.item() == 0
    energy, forces = module.network.energy_and_forces(batch)
    assert module.loss is not None
    terms = module.loss(energy, forces, batch)
    assert terms["loss"].item() == pytest.approx(terms["force_mse"].item())
    terms["loss"].backward()


@pytest.mark.parametrize("settings", [{}, {"damping": 0.5, "cutoff_kt": 1.0, "smoothing": 0.0}])
def test_by_hand_after_a_simulation(
    reference: Reference, batch: Batch, judgement: Judgement, settings: dict[str, float]
) -> None:
    """The network that was simulated lacks its correction, whatever the constants."""
    module = module_of(reference, **settings)
    module.learn(0, judgement)
    sampled = reference.ensembles.train.probability
    difference = free_energy_difference(
        sampled, judgement.density, settings.get("smoothing", 1.0)
    ).ravel()
    cut = settings.get("cutoff_kt", 4.0)
    correction = np.append(difference.clip(-cut, cut), 0.0) * thermal_energy(300.0)
    lacking = correction[batch.surface_bin.numpy()] * settings.get("damping", 1.0)
    assert lacking.std() > 0.1
    assert loss_of(module, batch).item() == pytest.approx(lacking.var(), rel=1e-3)
    batch.prior_energy = batch.prior_energy + 7.0
    assert loss_of(module, batch).item() == pytest.approx(lacking.var(), rel=1e-3)


def test_a_system_that_blew_up_keeps_its_label(
    reference: Reference, batch: Batch, judgement: Judgement
) -> None:
    """Also where the network was frozen anew for another one."""
    torch.manual_seed(0)
    terms = Losses(force=ForceMatching(1.0), self_consistent=SelfConsistentEnergy())
    module = CGForceField(NETWORK, losses=terms)
    module.set_references([reference, reference], ["one", "other"])
    for system in range(2):
        module.learn(system, judgement)
    batch.system = torch.ones_like(batch.system)
    energy, forces = module.network.energy_and_forces(batch)
    with torch.no_grad():
        for parameter in module.network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    module.learn(0, judgement)
    nothing = replace(judgement, tics=judgement.tics[:0], positions=judgement.positions[:0])
    module.learn(1, nothing)
    assert module.loss is not None
    term = module.loss.terms["self_consistent_mse"]
    fresh = module_of(reference)
    fresh.learn(0, judgement)
    expected = loss_of(fresh, batch.clone().update({"system": torch.zeros_like(batch.system)}))
    assert term(Prediction(energy, forces), batch).item() == pytest.approx(expected.item())


def test_the_label_stays_while_the_network_learns_it(
    reference: Reference, batch: Batch, judgement: Judgement
) -> None:
    module = module_of(reference)
    module.learn(0, judgement)
    optimizer = torch.optim.Adam(module.network.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        energy, forces = module.network.energy_and_forces(batch)
        assert module.loss is not None
        term = module.loss.terms["self_consistent_mse"](Prediction(energy, forces), batch)
        optimizer.zero_grad()
        term.backward()
        optimizer.step()
        losses.append(term.item())
    assert losses[-1] < 0.7 * losses[0], "labels that moved along would never be reached"


def test_a_checkpoint_holds_the_label(
    reference: Reference, batch: Batch, judgement: Judgement
) -> None:
    module = module_of(reference)
    module.learn(0, judgement)
    with torch.no_grad():
        for parameter in module.network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    other = module_of(reference)
    other.load_state_dict(module.state_dict())
    expected = loss_of(module, batch)
    assert expected.item() > 0
    torch.testing.assert_close(loss_of(other, batch), expected)


@pytest.mark.parametrize("name", ["damping", "cutoff_kt", "smoothing"])
def test_nonsense_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"model.losses.self_consistent.{name} is -1"):
        Losses(self_consistent=SelfConsistentEnergy(**{name: -1.0})).check()


def refused(tmp_path: Path, tiny_file: Path, *words: str) -> str:
    """Return what a fit that is refused before it has a folder prints."""
    (tmp_path / "tiny.yaml").write_text(SIZES.format(frames=tiny_file, cache=tmp_path / "cache"))
    (tmp_path / "losses.yaml").write_text(LOSSES)
    configs = ["--config=tiny.yaml", "--config=losses.yaml", "--run_dir=never"]
    printed = cgfe(tmp_path, "fit", *configs, *words, code=2)
    assert not (tmp_path / "never").exists()
    return printed


@pytest.mark.parametrize("name", ["smoothing", "damping", "cutoff_kt"])
def test_what_no_correction_can_be_is_told_by_the_command(
    name: str, tiny_file: Path, tmp_path: Path
) -> None:
    printed = refused(tmp_path, tiny_file, f"--model.losses.self_consistent.{name}=.inf")
    assert f"model.losses.self_consistent.{name} is inf" in printed


@pytest.mark.parametrize(
    ("epoch", "more", "message"),
    [
        (2, [], "relative_entropy: 2, but trainer.max_epochs is 2; expected less"),
        (
            1,
            ["--free_energy.every_n_epochs=2"],
            "is 2; expected a multiple of it",
        ),
        (
            1,
            ["--free_energy.every_n_epochs=0"],
            "is 0; expected a multiple of it",
        ),
        (1, ["--checkpoint.monitor=validation/loss"], "another sum once a term begins"),
    ],
)
def test_a_beginning_that_cannot_be_right_is_refused(
    epoch: int, more: list[str], message: str, tiny_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").write_text(SIZES.format(frames=tiny_file, cache=tmp_path / "cache"))
    words = [
        "fit", "--config=tiny.yaml", "--run_dir=never", "--model.loss=null",
        "--model.losses.force.weight=1", "--model.losses.relative_entropy.weighted=true",
        "--trainer.max_epochs=2", "--free_energy.every_n_epochs=1",
        f'--model.losses.begin={{"relative_entropy": {epoch}}}',
    ]  # fmt: skip
    assert message in cgfe(tmp_path, *words, *more, code=2)
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize("every", [0, 3])
def test_a_term_without_simulations_is_refused(every: int, tiny_file: Path, tmp_path: Path) -> None:
    printed = refused(tmp_path, tiny_file, f"--free_energy.every_n_epochs={every}")
    assert f"free_energy.every_n_epochs is {every}; expected at least 1 and less" in printed


@pytest.mark.parametrize("monitor", ["loss", "self_consistent_mse"])
def test_no_best_checkpoint_is_chosen_by_labels_that_change(
    monitor: str, tiny_file: Path, tmp_path: Path
) -> None:
    words = ["--free_energy.every_n_epochs=1", f"--checkpoint.monitor=validation/{monitor}"]
    assert "each simulation changes what" in refused(tmp_path, tiny_file, *words)


def test_a_model_that_flew_apart_is_no_label(reference: Reference) -> None:
    module = module_of(reference)
    positions = np.repeat(reference.starts.positions[None, :4], 5, axis=0)
    module.learn(0, judge(reference, positions, np.ones(4, dtype=bool), 0.0, "train"))
    assert module.loss is not None
    assert module.loss.terms["self_consistent_mse"].rounds.tolist() == [0]


def test_labels_in_inference_mode_without_a_kernel(
    reference: Reference, batch: Batch, judgement: Judgement, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where a default Trainer validates in inference mode."""
    module = module_of(reference)
    module.learn(0, judgement)
    expected = loss_of(module, batch)
    monkeypatch.setattr(self_consistent, "accelerated", lambda potential, _: potential)
    other = module_of(reference)
    other.load_state_dict(module.state_dict())
    energy, forces = other.network.energy_and_forces(batch)
    with torch.inference_mode():
        assert other.loss is not None
        found = other.loss(energy.clone(), forces.clone(), batch)["self_consistent_mse"]
    torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-5)


def test_damaged_replicas_of_a_checkpoint_are_told() -> None:
    replicas = LastingReplicas()
    for state in ({"last": {}}, {"last": "here", "turn": 1}, {"last": {0: "x"}, "turn": 1}):
        with pytest.raises(InputError, match="the checkpoint's replicas"):
            replicas.load_state_dict(state)
    replicas.load_state_dict({"last": {0: torch.zeros(2, 3, 3)}, "turn": 4})
    assert replicas.turn == 4


def test_a_lost_replica_starts_anew_and_the_others_go_on(reference: Reference) -> None:
    config = SimulationConfig(replicas=6, steps=20, save_interval=10, seed=1)
    first = simulate(reference.potential(), reference, config, "cpu")
    assert first.last.shape == (6, *reference.starts.positions.shape[1:])
    lost = first.last.copy()
    lost[2] = np.nan
    frozen = replace(config, steps=1, save_interval=1, time_step_ps=1e-6, ladder=[1.0])
    again = simulate(reference.potential(), reference, frozen, "cpu", last=lost, turn=1)
    expected = lost.copy()
    expected[2] = reference.starts.deal(6)[2]
    np.testing.assert_allclose(again.last, expected, atol=1e-3)


@pytest.mark.slow
def test_a_killed_fit_goes_on_with_its_labels_and_replicas(tiny_file: Path, tmp_path: Path) -> None:
    """kill -9 in the second epoch, whose labels and replicas are of the first one's end."""
    (tmp_path / "tiny.yaml").write_text(SIZES.format(frames=tiny_file, cache=tmp_path / "cache"))
    (tmp_path / "losses.yaml").write_text(LOSSES)
    words = ["fit", "--config=tiny.yaml", "--config=losses.yaml"]
    cgfe(tmp_path, *words, "--run_dir=whole")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *words, "--run_dir=killed"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == -9, done.stdout + done.stderr
    cgfe(tmp_path, "fit", "--ckpt_path=last", "--run_dir=killed")
    first, second = rows(tmp_path / "whole"), rows(tmp_path / "killed")
    assert first.keys() == second.keys()
    logged = [key for key in first if key[0].endswith(("self_consistent_mse", "free_energy/js"))]
    assert any(first[key] > 0 for key in logged if "self" in key[0])
    for key in logged:
        assert second[key] == pytest.approx(first[key], rel=1e-6), key
    whole, resumed = (
        read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt")
        for name in ("whole", "killed")
    )
    for key, value in whole["state_dict"].items():
        torch.testing.assert_close(resumed["state_dict"][key], value, rtol=0, atol=0)
