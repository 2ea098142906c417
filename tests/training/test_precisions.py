"""Precisions and schedules that Lightning offers: what can train, trains."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from cgfe.training.checkpoints import read_checkpoint
from cgfe.training.module import CGForceField
from tests.training.test_training import SIZES, cgfe, rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the config."""
    folder = tmp_path_factory.mktemp("precisions")
    (folder / "tiny.yaml").write_text(SIZES.format(frames=tiny_file, cache=folder / "cache"))
    return folder


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed", "16-mixed"])
def test_a_precision_trains_is_judged_and_predicts(folder: Path, precision: str) -> None:
    words = [f"--trainer.precision={precision}", f"--run_dir={precision}", "--trainer.max_epochs=2"]
    cgfe(folder, "fit", "--config=tiny.yaml", *words, "--free_energy.every_n_epochs=2")
    logged = rows(folder / precision)
    losses = [logged[key] for key in sorted(logged, key=lambda x: x[1]) if key[0] == "train/loss"]
    assert losses[1] < losses[0]
    assert logged["free_energy/js", max(step for _, step in logged)] > 0
    last = f"{precision}/checkpoints/last.ckpt"
    cgfe(folder, "predict", f"--ckpt_path={last}")
    model = CGForceField.load(folder / last)
    with h5py.File(folder / precision / "predict" / "predictions-tiny.h5") as file:
        positions, forces = (torch.from_numpy(file[key][()]) for key in ("positions", "forces"))
    expected = model.potential().energy_and_forces(positions.float())[1]
    # Products with 8 bits, 11 bits, or all that there are.
    off = {"bf16-mixed": 2**-6, "16-mixed": 2**-9, "64-true": 1e-4}[precision]
    assert (forces - expected).norm() < off * expected.norm()


@pytest.mark.parametrize("kind", ["torch.optim.lr_scheduler", "lightning.pytorch.cli"])
def test_a_learning_rate_that_waits_for_a_plateau(folder: Path, kind: str) -> None:
    words = [f"--model.scheduler={kind}.ReduceLROnPlateau", "--trainer.max_epochs=4"]
    words += ["--model.scheduler.init_args.patience=0", "--model.scheduler.init_args.threshold=1"]
    words += ["--free_energy.every_n_epochs=0", f"--run_dir={kind}"]
    if kind.startswith("lightning"):
        words.append("--model.scheduler.init_args.monitor=validation/force_mse")
    cgfe(folder, "fit", "--config=tiny.yaml", *words)
    (scheduler,) = read_checkpoint(folder / kind / "checkpoints" / "last.ckpt")["lr_schedulers"]
    # No epoch is better by the whole loss: each after the first lowers the rate tenfold.
    np.testing.assert_allclose(scheduler["_last_lr"], [5e-6], rtol=1e-6)
