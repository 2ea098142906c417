"""`validate` and `test` of a checkpoint whose frames, or mean forces, are gone."""

from pathlib import Path

import pytest

from cgfe.data.frames import CGFrames
from cgfe.simulation.results import FreeEnergyResult
from cgfe.simulation.structure import ERRORS
from tests.training.test_training import SIZES, as_mean_forces, cgfe

CHECKPOINT = "--ckpt_path=run/checkpoints/last.ckpt"
LEFT_OUT = "frames.h5: no such file, so the losses of frames are left out"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tiny: CGFrames, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run whose frames are gone, its mean forces, and a file of other frames."""
    folder = tmp_path_factory.mktemp("without")
    tiny.save(folder / "frames.h5")
    as_mean_forces(tiny).save(folder / "means.h5")
    (folder / "tiny.yaml").write_text(SIZES.format(frames="frames.h5", cache="cache"))
    words = ["--data.mean_forces=means.h5", "--trainer.max_epochs=1", "--run_dir=run"]
    cgfe(folder, "fit", "--config=tiny.yaml", *words, "--trainer.limit_train_batches=2")
    (folder / "frames.h5").unlink()
    return folder


def test_a_validation_gives_what_the_fit_gave(folder: Path) -> None:
    first = FreeEnergyResult.load(folder / "run")
    printed = cgfe(folder, "validate", CHECKPOINT)
    assert printed.count(LEFT_OUT) == 1
    assert "validation/loss" not in printed
    again = FreeEnergyResult.load(folder / "run" / "validate")
    # Of structures nothing can be said without frames.
    expected = {key: value for key, value in first.metrics.items() if key not in ERRORS}
    assert {*ERRORS} < {*first.metrics}
    assert again.metrics == pytest.approx(expected, nan_ok=True, rel=1e-5)
    assert again.prior == pytest.approx(first.prior, nan_ok=True, rel=1e-5)
    assert "mean_force_mse" in again.metrics
    assert "validation/mean_force_mse " in printed
    assert list((folder / "run" / "validate" / "figures").glob("free_energy-epoch*.png"))


def test_a_test_without_mean_forces_too(folder: Path) -> None:
    printed = cgfe(folder, "test", CHECKPOINT, "--data.mean_forces=none.h5")
    assert LEFT_OUT in printed
    assert printed.count("none.h5: no such file, so mean forces are not compared with") == 1
    assert "test/loss" not in printed
    result = FreeEnergyResult.load(folder / "run" / "test")
    assert result.metrics["js"] > 0
    assert "mean_force_mse" not in result.metrics


def test_what_needs_the_frames_asks_for_them(folder: Path) -> None:
    for words in (["predict"], ["test", "--free_energy.every_n_epochs=0"]):
        printed = cgfe(folder, *words, CHECKPOINT, code=2)
        assert "cgfe: error: frames.h5: no such file." in printed
