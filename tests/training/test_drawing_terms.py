"""Terms that draw for themselves, and chains: after a kill, and in two processes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import Batch

from cgfe.data.frames import CGFrames
from cgfe.model.schnet import CGSchNetConfig
from cgfe.reference.config import ReferenceConfig
from cgfe.training.checkpoints import read_checkpoint
from cgfe.training.datamodule import CGFramesDataModule
from cgfe.training.losses import (
    ChainConfig,
    ContrastiveEstimation,
    ForceMatching,
    ImpliedFES,
    Losses,
    MeanForceMatching,
    ProjectedMeanForce,
    RelativeEntropy,
    Turn,
    chains,
)
from cgfe.training.module import CGForceField
from tests.training.test_processes import FIRST_STEP, TWO, ran_apart
from tests.training.test_training import SIZES, as_mean_forces, cgfe, rows

pytestmark = pytest.mark.slow

LOSSES = """
data: {mean_forces: means.h5}
model:
  loss: null
  losses:
    force: {weight: 0.5}
    mean_force: {weight: 0.5, batch_size: 8}
    contrastive:
      weighted: true
      weight: 0.5
      batch_size: 16
      simulation: {replicas: 8, steps: 200, save_interval: 20}
    projected_mean_force: {weight: 0.01, groups: 4}
    relative_entropy: {weight: 0.5, weighted: true}
    implied_fes: {weight: 0.5, weighted: true, memory: 5}
    chains: {number: 17, steps: 6, every: 4, refreshed: 0.1}
trainer: {max_epochs: 3}
free_energy: {every_n_epochs: 1}
"""
WORDS = ("fit", "--config=tiny.yaml", "--config=losses.yaml")

# Checkpoints at every step, and a kill in the middle of the second epoch.
KILLED_LATER = """
import os, signal, sys
from cgfe.training.callbacks import last_checkpoint
from cgfe.training.module import CGForceField as Field
last_checkpoint.SECONDS, last_checkpoint.FIRST_LOOK = 0.0, 1
step = Field.training_step
def until(self, batch, index):
    if self.current_epoch == 1 and index == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, index)
Field.training_step = until
from cgfe.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def folder(tiny: CGFrames, tiny_file: Path, tmp_path: Path) -> Path:
    """A folder with two configs and a file of mean forces."""
    as_mean_forces(tiny).save(tmp_path / "means.h5")
    (tmp_path / "tiny.yaml").write_text(SIZES.format(frames=tiny_file, cache="cache"))
    (tmp_path / "losses.yaml").write_text(LOSSES)
    return tmp_path


@pytest.mark.slow
def test_a_killed_fit_goes_on_bit_by_bit(folder: Path) -> None:
    """kill -9 in the second epoch, some moves after the chains were at the first one's end."""
    words = (*WORDS, '--model.losses.begin={"implied_fes": 1}')
    cgfe(folder, *words, "--run_dir=whole")
    done = subprocess.run(
        [sys.executable, "-c", KILLED_LATER, *words, "--run_dir=killed"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == -9, done.stdout + done.stderr
    cgfe(folder, "fit", "--ckpt_path=last", "--run_dir=killed")
    whole, resumed = (
        read_checkpoint(folder / name / "checkpoints" / "last.ckpt") for name in ("whole", "killed")
    )
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0, equal_nan=True)
    assert (whole["state_dict"]["loss.terms.contrastive_entropy.counts"] > 4).all()
    assert whole["state_dict"]["loss.chains.moves"].item() > 6
    first, second = rows(folder / "whole"), rows(folder / "killed")
    assert first.keys() == second.keys()
    found = {key for key, value in first.items() if value != 0}
    drawing = ("mean_force_matching_mse", "contrastive_entropy")
    for name in (*drawing, "relative_entropy_gap", "implied_fes_kl"):
        epochs = 2 if name == "implied_fes_kl" else 3
        assert len({step for key, step in found if key == f"train/{name}"}) == epochs, name
    for key, value in first.items():
        # An epoch's mean that was interrupted is of its rest; the last epoch's is whole.
        if key[0].startswith("train/") and key[1] == max(step for _, step in first):
            assert second[key] == pytest.approx(value, rel=1e-6), key


def test_a_step_of_two_processes_has_the_mean_gradient_of_what_both_drew(
    folder: Path, tiny_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--run_dir=two", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=0"]
    done = ran_apart(folder, FIRST_STEP, *WORDS, *TWO, *words, "--trainer.fast_dev_run=1")
    output, _ = done.communicate(timeout=200)
    assert done.returncode == 0, output
    loaded: dict[str, Any] = {
        name: torch.load(folder / f"{name}.pt", weights_only=False)
        for name in ("batch-0", "batch-1", "before", "gradients")
    }
    field = CGForceField(
        CGSchNetConfig(hidden_channels=16, num_filters=16, num_layers=1, num_radial=8),
        losses=Losses(
            ForceMatching(0.5),
            mean_force=MeanForceMatching(0.5, batch_size=8),
            relative_entropy=RelativeEntropy(0.5, weighted=True),
            contrastive=ContrastiveEstimation(0.5, weighted=True, batch_size=16),
            projected_mean_force=ProjectedMeanForce(0.01, groups=4),
            implied_fes=ImpliedFES(0.5, weighted=True, memory=5),
            chains=ChainConfig(number=17, steps=6, every=4),
        ),
    )
    data = CGFramesDataModule(
        str(tiny_file), 64, ReferenceConfig(tica_lag_ps=5, bins=12, starts=64), 50,
        cache_dir=str(folder / "cache"), mean_forces=str(folder / "means.h5"),
    )  # fmt: skip
    data.setup()
    field.set_references(data.references, data.names, data.mean_forces, seed=1)
    field.load_state_dict(loaded["before"])
    field.train()
    assert field.loss is not None
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(chains, "process", lambda rank=rank: (rank, 2))
        batch = Batch(**loaded[f"batch-{rank}"])
        terms = field.loss(*field.energy_and_forces(batch), batch, Turn("train", rank))
        (terms["loss"] / 2).backward()
        drawing = ("mean_force_matching_mse", "contrastive_entropy", "relative_entropy_gap")
        shares.append([terms[name].item() for name in drawing])
    assert all(one != other for one, other in zip(*shares, strict=True)), "both drew the same"
    own: dict[str, Tensor | None] = {key: p.grad for key, p in field.named_parameters()}
    for name, gradient in own.items():
        assert gradient is not None, name
        largest = float(gradient.abs().max())
        torch.testing.assert_close(loaded["gradients"][name], gradient, rtol=1e-4,
                                   atol=1e-5 * largest)  # fmt: skip


# Keeps the end of each process.
BOTH_ENDS = """
import sys
import torch
from cgfe.training.module import CGForceField as Field
def kept(self):
    torch.save(self.state_dict(), f"end-{self.global_rank}.pt")
Field.on_train_end = kept
from cgfe.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_two_processes_end_alike(
    folder: Path, tiny_file: Path, first_beads: Callable[[int], CGFrames]
) -> None:
    """Of two systems, of which each process may have another at a time."""
    first_beads(8).save(folder / "eight.h5")
    words = [*TWO, "--run_dir=two", "--trainer.max_epochs=2", "--trainer.limit_train_batches=8"]
    words += [f"--data.frames=[{tiny_file},eight.h5]", "--model.losses.mean_force=null"]
    # A validation's simulation would put the chains elsewhere, by the same numbers in both.
    words += ["--data.mean_forces=null", "--free_energy.every_n_epochs=0"]
    done = ran_apart(folder, BOTH_ENDS, *WORDS, *words)
    output, _ = done.communicate(timeout=300)
    assert done.returncode == 0, output
    ends = [torch.load(folder / f"end-{rank}.pt", weights_only=True) for rank in (0, 1)]
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=0, equal_nan=True)
    for system in (0, 1):
        positions = ends[0][f"loss.chains.positions_{system}"].numpy()
        assert len(np.unique(positions, axis=0)) == 17, "some process moved none, or as the other"
        assert np.isfinite(positions).all()
    logged = rows(folder / "two")
    for name in ("relative_entropy_gap", "implied_fes_kl"):
        assert any(value != 0 for (key, _), value in logged.items() if key == f"train/{name}")
