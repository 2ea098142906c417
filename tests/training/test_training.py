"""End-to-end runs of the command line on a small piece of real data."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mdtraj
import numpy as np
import pytest
import torch

from cgfe.data.frames import CGFrames
from cgfe.errors import InputError
from cgfe.simulation.results import FreeEnergyResult, PriorResult
from cgfe.simulation.structure import ERRORS
from cgfe.training.callbacks.free_energy_validation import FreeEnergyValidation
from cgfe.training.checkpoints import Checkpoints, read_checkpoint
from cgfe.training.judging import METRICS
from cgfe.training.module import CGForceField

SIZES = """
seed_everything: 1
data:
  frames: {frames}
  batch_size: 64
  block_ps: 50
  cache_dir: {cache}
  reference: {{tica_lag_ps: 5, bins: 12, starts: "${{data.batch_size}}"}}
model:
  network: {{hidden_channels: 16, num_filters: 16, num_layers: 1, num_radial: 8}}
  loss: {{energy_weight: 0.1, gauge: learned}}
  optimizer: {{class_path: torch.optim.Adam, init_args: {{lr: 0.005}}}}
  scheduler:
    class_path: torch.optim.lr_scheduler.StepLR
    init_args: {{step_size: 1, gamma: 0.7}}
trainer: {{max_epochs: 3, enable_progress_bar: false, accelerator: cpu}}
free_energy:
  every_n_epochs: 3
  simulation: {{replicas: 8, steps: 200, save_interval: 20}}
"""


def cgfe(folder: Path, *words: str, code: int = 0, **environment: str) -> str:
    """Run the command line in `folder`; return what it printed."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "WANDB", "CGFE"))}
    done = subprocess.run(
        [sys.executable, "-m", "cgfe", *words],
        cwd=folder,
        env={**clean, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the config and a finished run `whole`."""
    folder = tmp_path_factory.mktemp("training")
    (folder / "tiny.yaml").write_text(SIZES.format(frames=tiny_file, cache=folder / "cache"))
    printed = cgfe(folder, "fit", "--config", "tiny.yaml", "--run_dir", "whole")
    assert "report: whole/report.html" in printed
    assert "weights_only" not in printed
    return folder


def rows(run: Path) -> dict[tuple[str, int], float]:
    """Every logged value by (name, step)."""
    with open(run / "metrics.csv", newline="") as file:
        return {
            (key, int(row["step"])): float(value)
            for row in csv.DictReader(file)
            for key, value in row.items()
            if value and key != "step"
        }


def test_run_directory_holds_everything(folder: Path) -> None:
    run = folder / "whole"
    content = json.loads((run / "free_energy.json").read_text())
    assert {*FreeEnergyResult.load(run).metrics} == {*METRICS, *ERRORS}
    assert {*ERRORS} < {*FreeEnergyResult.load(run).training}
    for key in METRICS:
        assert isinstance(content[key], float), key
        if key not in ("js_train", "blown_up", "heating", "split_half_js"):
            low, high = content["intervals"][key]
            assert low <= content[key] <= high, key
        if key != "heating":
            assert isinstance(content["prior"][key], float), key
    result = FreeEnergyResult.load(run)
    assert np.isfinite(result.structure_model).all()
    heat = result.simulation["kinetic_temperature_kelvin"] / (1 + content["heating"])
    assert heat == pytest.approx(300, rel=1e-6)
    assert np.nanmax(result.contacts_reference) <= 1
    # The network's force loss is of the same frames and noise as the prior's.
    forces = [value for (key, _), value in rows(run).items() if key == "validation/force_mse"]
    assert content["simulation"]["prior_force_mse"] == pytest.approx(forces[-1], rel=0.5)
    assert set(content["trapping"]) >= {"share", "memory", "deepest", "bonds"}
    assert (run / "report.html").stat().st_size > 10_000
    assert list((run / "figures").glob("*.png"))
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"last.ckpt", "best-0002.ckpt"}
    logged = {key for key, _ in rows(run)}
    for stage in ("train", "validation"):
        assert {f"{stage}/loss", f"{stage}/force_mse", f"{stage}/energy_mse"} <= logged
    told = {key for key in logged if key.startswith("free_energy/")}
    assert told == FreeEnergyValidation().names(["tiny"])


def test_loss_falls_and_is_the_weighted_sum(folder: Path) -> None:
    logged = rows(folder / "whole")
    losses = [value for (key, _), value in sorted(logged.items(), key=lambda x: x[0][1])
              if key == "train/loss"]  # fmt: skip
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    for (key, step), value in logged.items():
        if key == "train/loss":
            force = logged["train/force_mse", step]
            energy = logged["train/energy_mse", step]
            assert value == pytest.approx(0.9 * force + 0.1 * energy, rel=1e-4)


def test_terms_are_logged_at_weight_zero(folder: Path) -> None:
    words = ["--model.loss.energy_weight=0", "--trainer.max_epochs=1"]
    words += ["--free_energy.every_n_epochs=0", "--run_dir=zero"]
    cgfe(folder, "fit", "--config", "tiny.yaml", *words)
    logged = {key: value for (key, _), value in rows(folder / "zero").items()}
    assert logged["train/energy_mse"] > 0
    assert logged["train/loss"] == pytest.approx(logged["train/force_mse"])


def as_mean_forces(frames: CGFrames) -> CGFrames:
    """Take the forces of every 40th frame as means, with trajectories held out."""
    chosen, names = np.arange(0, len(frames), 40), np.unique(frames.trajectory_index)
    assert frames.forces is not None
    forces = frames.forces[chosen]
    errors = np.random.default_rng(5).uniform(0.2, 0.6, forces.shape).astype(np.float32)
    return replace(
        frames,
        positions=frames.positions[chosen],
        forces=forces,
        force_standard_errors=errors,
        trajectory_index=frames.trajectory_index[chosen],
        all_atom_energies=None,
        weights=None,
        biased_trajectories=np.zeros(0, np.int32),
        validation_trajectories=names[:2],
        test_trajectories=names[2:5],
    )


@pytest.mark.slow
def test_mean_forces_are_compared_with_in_validation_test_and_report(
    folder: Path, tiny: CGFrames, tmp_path: Path
) -> None:
    means = as_mean_forces(tiny)
    errors, names = means.force_standard_errors, np.unique(tiny.trajectory_index)
    assert errors is not None
    means.save(tmp_path / "means.h5")
    file = f"--data.mean_forces={tmp_path / 'means.h5'}"
    words = ["--trainer.max_epochs=1", "--run_dir=means", file]
    words.append(f"--data.cache_dir={tmp_path / 'cache'}")
    cgfe(folder, "fit", "--config", "tiny.yaml", *words)
    logged = {key: value for (key, _), value in rows(folder / "means").items()}
    module = CGForceField.load(folder / "means" / "checkpoints" / "last.ckpt")

    def error(part: np.ndarray, prior: bool) -> float:
        own = np.isin(means.trajectory_index, part)
        potential = module.potential()
        network = potential.network
        potential.network = None if prior else network
        _, forces = potential.energy_and_forces(torch.from_numpy(means.positions[own]))
        assert means.forces is not None
        squares = (forces.numpy().astype(float) - means.forces[own]) ** 2
        return float((squares - errors[own].astype(float) ** 2).mean())

    held = names[:2]
    assert logged["validation/mean_force_mse"] == pytest.approx(error(held, False), rel=1e-4)
    assert logged["validation/mean_force_mse_prior"] == pytest.approx(error(held, True), rel=1e-4)
    printed = cgfe(folder, "test", "--ckpt_path", "means/checkpoints/last.ckpt")
    assert "mean_force_mse" in printed
    result = FreeEnergyResult.load(folder / "means" / "test")
    held = names[2:5]
    assert result.metrics["mean_force_mse"] == pytest.approx(error(held, False), rel=1e-4)
    assert result.prior["mean_force_mse"] == pytest.approx(error(held, True), rel=1e-4)
    low, high = result.intervals["mean_force_mse"]
    assert low < result.metrics["mean_force_mse"] < high
    assert "mean forces" in (folder / "means" / "report.html").read_text()


def test_files_that_hold_no_mean_forces_are_refused(folder: Path, tiny_file: Path) -> None:
    words = ["--run_dir=refused", f"--data.mean_forces={tiny_file}"]
    printed = cgfe(folder, "fit", "--config", "tiny.yaml", *words, code=2)
    assert "force_standard_errors" in printed
    assert "Traceback" not in printed


@pytest.mark.slow
def test_losses_are_listed_trained_and_validated(folder: Path) -> None:
    words = ["--model.loss=null", "--model.losses.force.weight=0.9"]
    words += ["--model.losses.mean_energy.weight=0.1", "--model.losses.mean_energy.gauge=learned"]
    words += ["--trainer.max_epochs=1", "--free_energy.every_n_epochs=0", "--run_dir=listed"]
    cgfe(folder, "fit", "--config", "tiny.yaml", *words)
    logged = {key: value for (key, _), value in rows(folder / "listed").items()}
    terms = 0.9 * logged["train/force_mse"] + 0.1 * logged["train/mean_energy_mse"]
    assert logged["train/loss"] == pytest.approx(terms, rel=1e-4)
    printed = cgfe(folder, "validate", "--ckpt_path", "listed/checkpoints/last.ckpt")
    (line,) = [x for x in printed.splitlines() if x.startswith("validation/mean_energy_mse ")]
    expected = logged["validation/mean_energy_mse"]
    assert float(line.split()[1]) == pytest.approx(expected, rel=1e-4)
    printed = cgfe(folder, "info", "listed/checkpoints/last.ckpt")
    assert "mean_energy_mse weight=0.1" in printed


@pytest.mark.slow
def test_killed_fit_goes_on_as_if_nothing_had_happened(folder: Path) -> None:
    """kill -9 after the first epoch's checkpoint; then the same weights, schedule and rows."""
    command = [sys.executable, "-c", KILLED, "fit", "--config", "tiny.yaml", "--run_dir", "killed"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == -9, done.stdout + done.stderr
    printed = cgfe(folder, "fit", "--ckpt_path", "last", "--run_dir", "killed")
    assert "report: killed/report.html" in printed
    whole, resumed = (
        read_checkpoint(folder / name / "checkpoints" / "last.ckpt") for name in ("whole", "killed")
    )
    assert whole["global_step"] == resumed["global_step"]
    for key, value in whole["state_dict"].items():
        torch.testing.assert_close(resumed["state_dict"][key], value, rtol=0, atol=0)
    torch.testing.assert_close(
        resumed["optimizer_states"], whole["optimizer_states"], rtol=0, atol=0
    )
    assert whole["lr_schedulers"] == resumed["lr_schedulers"]
    first, second = rows(folder / "whole"), rows(folder / "killed")
    assert first.keys() == second.keys()
    for key, value in first.items():
        if not key[0].endswith(("seconds", "share_of_time", "per_second")):
            assert second[key] == pytest.approx(value, rel=1e-6), key


# Runs the command line and kills its own process, as `kill -9` would, in the middle of the
# second epoch.
KILLED = """
import os, signal, sys
import cgfe.training.module
step = cgfe.training.module.CGForceField.training_step
def until_second_epoch(self, batch, index):
    if self.trainer.current_epoch == 1 and index == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, index)
cgfe.training.module.CGForceField.training_step = until_second_epoch
from cgfe.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_mid_epoch_checkpoint_goes_on_at_the_next_batch(folder: Path) -> None:
    """A checkpoint from the middle of an epoch continues with the batches not yet seen."""
    words = ["--checkpoint.every_n_train_steps=4", "--checkpoint.monitor=step"]
    words += ["--checkpoint.mode=max", "--checkpoint.save_top_k=-1"]
    words += ["--checkpoint.filename=step{step}", "--free_energy.every_n_epochs=0"]
    cgfe(folder, "fit", "--config", "tiny.yaml", "--run_dir", "steps", *words)
    steps = len(list((folder / "steps" / "checkpoints").glob("step*.ckpt")))
    assert steps >= 2
    words[-1] = "--free_energy.every_n_epochs=0"
    middle = str(folder / "steps" / "checkpoints" / "step4.ckpt")
    cgfe(folder, "fit", "--config", "tiny.yaml", "--run_dir", "from4", "--ckpt_path", middle,
         "--free_energy.every_n_epochs=0")  # fmt: skip
    whole, resumed = (
        read_checkpoint(folder / name / "checkpoints" / "last.ckpt") for name in ("steps", "from4")
    )
    assert whole["global_step"] == resumed["global_step"]
    for key, value in whole["state_dict"].items():
        torch.testing.assert_close(resumed["state_dict"][key], value, rtol=0, atol=0)


@pytest.mark.slow  # goes on with the run of the test before
def test_a_resumed_runs_config_starts_a_clean_run(folder: Path) -> None:
    """Nothing of the old run's place, checkpoint or seeds stays in its config.yaml."""
    words = ["--trainer.max_epochs=1", "--free_energy.every_n_epochs=0", "--seed_everything=5"]
    cgfe(folder, "fit", "--config", "killed/config.yaml", "--run_dir", "anew", *words)
    whole, anew = (
        read_checkpoint(folder / name / "checkpoints" / "last.ckpt") for name in ("whole", "anew")
    )
    assert anew["global_step"] == whole["global_step"] / 3
    assert "order_seed: null" in (folder / "anew" / "config.yaml").read_text()


def test_training_survives_a_model_whose_replicas_all_blow_up(folder: Path) -> None:
    words = ["--trainer.max_epochs=1", "--run_dir=blown", "--free_energy.compare_prior=false"]
    cgfe(folder, "fit", "--config", "tiny.yaml", *words, "--free_energy.simulation.time_step_ps=5")
    result = FreeEnergyResult.load(folder / "blown")
    assert result.metrics["blown_up"] == 1
    assert result.metrics["js"] == pytest.approx(np.log(2))
    assert (folder / "blown" / "report.html").exists()
    # One epoch of three: the last one is simulated even where it is not due.
    assert (folder / "blown" / "checkpoints" / "best-0000.ckpt").exists()


def test_validate_repeats_the_comparison_and_prints_it(folder: Path) -> None:
    first = FreeEnergyResult.load(folder / "whole")
    # The prior is not simulated again: what the fit found is in the cache.
    (path,) = (folder / "cache").glob("prior-*.npz")
    prior = PriorResult.load(path)
    assert prior.metrics == pytest.approx(first.prior, nan_ok=True, rel=1e-12)
    replace(prior, metrics=prior.metrics | {"js": 0.125}).save(path)
    printed = cgfe(folder, "validate", "--ckpt_path", "whole/checkpoints/last.ckpt")
    prior.save(path)
    again = FreeEnergyResult.load(folder / "whole" / "validate")
    assert again.metrics == pytest.approx(first.metrics, nan_ok=True, rel=1e-5)
    assert again.prior["js"] == 0.125
    assert f"{first.metrics['js']:.3g}" in printed
    drawn = [{x.name for x in (folder / "whole" / sub / "figures").iterdir()}
             for sub in ("", "validate")]  # fmt: skip
    assert drawn[0] >= drawn[1] > set()
    assert "JS divergence" in printed


def test_validate_honours_a_changed_loss(folder: Path) -> None:
    """Nothing of the checkpoint overrides the command line in silence."""
    words = ["--model.loss.energy_weight=1", "--free_energy.every_n_epochs=0"]
    printed = cgfe(folder, "validate", "--ckpt_path", "whole/checkpoints/last.ckpt", *words)
    values = {
        key: float(line.split()[1])
        for line in printed.splitlines()
        for key in ("loss", "energy_mse")
        if line.startswith(f"validation/{key} ")
    }
    assert values["loss"] == pytest.approx(values["energy_mse"])


def test_a_test_repeats_the_simulation_that_ended_the_fit(folder: Path) -> None:
    final = ["--free_energy.final.replicas=6", "--free_energy.final.steps=100"]
    words = ["--trainer.max_epochs=1", "--run_dir=ended", *final]
    cgfe(folder, "fit", "--config", "tiny.yaml", *words)
    ended = FreeEnergyResult.load(folder / "ended")
    checkpoint = ["--ckpt_path", "ended/checkpoints/last.ckpt"]
    cgfe(folder, "test", *checkpoint)
    again = FreeEnergyResult.load(folder / "ended" / "test")
    assert again.simulation["steps"] == ended.simulation["steps"] == 100
    assert again.metrics == pytest.approx(ended.metrics, rel=1e-3, nan_ok=True)
    assert again.prior == pytest.approx(ended.prior, nan_ok=True)
    cgfe(folder, "test", *checkpoint, "--free_energy.final.steps=150", "--run_dir=longer")
    assert FreeEnergyResult.load(folder / "longer").simulation["steps"] == 150


def test_predictions_are_the_gradient_of_the_energy(folder: Path) -> None:
    import h5py

    cgfe(folder, "predict", "--ckpt_path", "whole/checkpoints/last.ckpt")
    model = CGForceField.load(folder / "whole" / "checkpoints" / "last.ckpt")
    with h5py.File(folder / "whole" / "predict" / "predictions-tiny.h5") as file:
        positions, energy, forces = (file[k][()] for k in ("positions", "energy", "forces"))
    expected, gradient = model.potential().energy_and_forces(torch.from_numpy(positions))
    np.testing.assert_allclose(energy, expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(forces, gradient, rtol=1e-3, atol=1e-2)


def test_test_reports_the_held_out_losses(folder: Path) -> None:
    words = ["test", "--ckpt_path", "whole/checkpoints/last.ckpt"]
    done = subprocess.run(
        [sys.executable, "-c", COUNTED, *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "test/force_mse" in done.stdout
    assert (folder / "whole" / "test" / "free_energy.json").is_file()
    cgfe(folder, *words, "--free_energy.every_n_epochs=0", "--run_dir=nothing")
    assert not (folder / "nothing").exists()
    assert "checkpoint read 1 times" in done.stdout


COUNTED = """
import sys
import torch
load, reads = torch.load, []
def counted(path, *rest, **options):
    reads.append(path)
    return load(path, *rest, **options)
torch.load = counted
from cgfe.cli import main
code = main(sys.argv[1:])
print(f"checkpoint read {len(reads)} times")
sys.exit(code)
"""


def test_a_damaged_judgement_of_a_prior_is_told(tmp_path: Path) -> None:
    found = PriorResult({"js": 0.5, "delta_f_kt": np.nan}, np.eye(3))
    found.save(tmp_path / "prior.npz")
    again = PriorResult.load(tmp_path / "prior.npz")
    assert again.metrics == pytest.approx(found.metrics, nan_ok=True)
    np.testing.assert_array_equal(again.density, found.density)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "prior.npz").read_bytes()[:200])
    np.savez(tmp_path / "other.npz", density=np.eye(3))
    np.savez(tmp_path / "code.npz", density=np.eye(3), metrics=np.array([print], dtype=object))
    for name in ("cut", "other", "code", "none"):
        with pytest.raises(InputError, match="no readable judgement of a prior"):
            PriorResult.load(tmp_path / f"{name}.npz")


def test_a_checkpoint_that_was_read_is_handed_on_once(tmp_path: Path) -> None:
    torch.save({"epoch": 1}, tmp_path / "a.ckpt")
    path = str(tmp_path / "a.ckpt")
    content = read_checkpoint(path)
    known = Checkpoints(path, content)
    assert known.load_checkpoint(path, weights_only=True) is content
    assert known.load_checkpoint(path) == content
    assert known.load_checkpoint(path) is not content
    torch.save({"epoch": 2}, tmp_path / "b.ckpt")
    assert known.load_checkpoint(tmp_path / "b.ckpt") == {"epoch": 2}


@pytest.mark.parametrize("suffix", ["xtc", "dcd", "h5"])
def test_simulated_trajectories_open_in_mdtraj(suffix: str, folder: Path) -> None:
    words = ["--ckpt_path", "whole/checkpoints/last.ckpt", "--output", f"out/t.{suffix}"]
    words += ["--steps", "100", "--save_interval", "20", "--seed", "4"]
    cgfe(folder, "simulate", *words)
    path = folder / "out" / f"t.{suffix}"
    topology = {} if suffix == "h5" else {"top": str(path.with_suffix(".pdb"))}
    trajectory = mdtraj.load(str(path), **topology)
    assert trajectory.xyz.shape == (5, 10, 3)
    bond = np.linalg.norm(np.diff(trajectory.xyz, axis=1), axis=-1)
    np.testing.assert_allclose(bond, 0.385, atol=0.06)
    first = [residue.name for residue in trajectory.topology.residues]
    assert first == ["TYR", "TYR", "ASP", "PRO", "GLU", "THR", "GLY", "THR", "TRP", "TYR"]


@pytest.mark.slow
def test_replicas_have_a_file_each_and_seeds_repeat(folder: Path) -> None:
    words = ["--ckpt_path", "whole/checkpoints/last.ckpt", "--steps", "40", "--replicas", "2"]
    words += ["--save_interval", "20", "--output"]
    for name in ("first", "second"):
        cgfe(folder, "simulate", *words, f"{name}/t.xtc")
    loaded = [
        mdtraj.load(str(folder / name / f"t-00{i}.xtc"), top=str(folder / "first" / "t.pdb")).xyz
        for name in ("first", "second")
        for i in (0, 1)
    ]
    np.testing.assert_array_equal(loaded[0], loaded[2])
    np.testing.assert_array_equal(loaded[1], loaded[3])
    assert np.abs(loaded[0] - loaded[1]).max() > 0.01


@pytest.mark.slow
def test_two_processes_train_and_share_the_replicas(folder: Path) -> None:
    words = ["--trainer.devices=2", "--trainer.strategy=ddp", "--run_dir=ddp"]
    words += ["--trainer.max_epochs=1", "--free_energy.every_n_epochs=1"]
    printed = cgfe(folder, "fit", "--config", "tiny.yaml", *words)
    assert printed.count("report: ddp/report.html") == 1
    result = FreeEnergyResult.load(folder / "ddp")
    assert result.simulation["replicas"] == 12  # two whole ladders of three for each process
    assert 6 < sum(result.trapping["began"]) <= 12  # each process's own are told apart
    step = read_checkpoint(folder / "ddp" / "checkpoints" / "last.ckpt")["global_step"]
    alone = read_checkpoint(folder / "whole" / "checkpoints" / "last.ckpt")["global_step"] / 3
    assert step == alone // 2


@pytest.mark.slow
def test_two_proteins_train_one_network(
    folder: Path, first_beads: Callable[[int], CGFrames]
) -> None:
    first_beads(8).save(folder / "shorter.h5")
    config = (folder / "tiny.yaml").read_text()
    both = config.replace("frames: ", "frames: [").replace("/tiny.h5", "/tiny.h5, shorter.h5]")
    (folder / "two.yaml").write_text(both)
    words = ["--trainer.max_epochs=1", "--free_energy.every_n_epochs=1", "--run_dir=two"]
    cgfe(folder, "fit", "--config", "two.yaml", *words)
    first = FreeEnergyResult.load(folder / "two")
    second = FreeEnergyResult.load(folder / "two", "-shorter")
    assert (first.system, second.system) == ("tiny", "shorter")
    assert len(second.residue_names) == 8
    assert np.isnan(second.metrics["delta_f_kt"])
    logged = {key for key, _ in rows(folder / "two")}
    assert {"free_energy/js", "free_energy/shorter/js"} <= logged
    assert "shorter" in (folder / "two" / "report.html").read_text()
    words = ["--output", "two.xtc", "--system", "shorter", "--steps", "40"]
    words += ["--save_interval", "20", "--ckpt_path", "two/checkpoints/last.ckpt"]
    cgfe(folder, "simulate", *words)
    assert mdtraj.load(str(folder / "two.xtc"), top=str(folder / "two.pdb")).n_atoms == 8


@pytest.mark.slow
def test_slurm_signal_saves_and_requeues(folder: Path) -> None:
    """SIGTERM under SLURM: Lightning saves, calls scontrol requeue, and the job goes on."""
    tools = folder / "tools"
    tools.mkdir()
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {folder}/scontrol.log\n')
    (tools / "scontrol").chmod(0o755)
    slurm = {
        "SLURM_JOB_ID": "17",
        "SLURM_NTASKS": "1",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_JOB_NAME": "train",
        "SLURM_NTASKS_PER_NODE": "1",
        "PATH": f"{tools}:{os.environ['PATH']}",
    }
    command = [sys.executable, "-c", SIGNALLED, "fit", "--config", "tiny.yaml"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **slurm}
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=300)
    assert (folder / "scontrol.log").read_text().strip() == "requeue 17"
    run = folder / "runs" / "tiny-17"
    assert list(run.glob("hpc_ckpt_*.ckpt"))
    printed = cgfe(folder, "fit", "--config", "tiny.yaml", **slurm)
    assert "report: runs/tiny-17/report.html" in printed
    whole, resumed = (
        read_checkpoint(path / "checkpoints" / "last.ckpt") for path in (folder / "whole", run)
    )
    for key, value in whole["state_dict"].items():
        torch.testing.assert_close(resumed["state_dict"][key], value, rtol=0, atol=0)


SIGNALLED = KILLED.replace("SIGKILL", "SIGTERM")
