"""Which models are kept as the best ones, and where the learning rate goes."""

from pathlib import Path

import pytest
import yaml

from cgfe.training.callbacks.free_energy_validation import FreeEnergyValidation
from tests.training.test_training import SIZES, cgfe, rows

CONFIG = Path(__file__).parents[2] / "configs" / "chignolin.yaml"


@pytest.fixture(scope="module")
def folder(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the config and a run of 4 epochs, simulated after every second one."""
    folder = tmp_path_factory.mktemp("best")
    config = yaml.safe_load(SIZES.format(frames=tiny_file, cache=folder / "cache"))
    config["model"]["scheduler"] = yaml.safe_load(CONFIG.read_text())["model"]["scheduler"]
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    words = ["--trainer.max_epochs=4", "--free_energy.every_n_epochs=2", "--run_dir=run"]
    cgfe(folder, "fit", "--config=tiny.yaml", "--checkpoint.save_top_k=3", *words)
    return folder


def test_only_epochs_that_were_simulated_are_kept_by_their_js(folder: Path) -> None:
    kept = {path.name for path in (folder / "run" / "checkpoints").glob("best*")}
    assert kept == {"best-0001.ckpt", "best-0003.ckpt"}


def test_all_that_can_be_monitored_is_known(folder: Path) -> None:
    logged = {key for key, _ in rows(folder / "run")}
    known = FreeEnergyValidation().names(["tiny"])
    assert known == {key for key in logged if key.startswith("free_energy/")}
    assert FreeEnergyValidation(every_n_epochs=0).names(["tiny"]) == set()
    assert "free_energy/second/js" in FreeEnergyValidation().names(["tiny", "second"])


def test_what_is_never_logged_cannot_be_monitored(folder: Path) -> None:
    words = ["--checkpoint.monitor=free_energy/jss", "--run_dir=never"]
    printed = cgfe(folder, "fit", "--config=tiny.yaml", *words, code=2)
    assert "checkpoint.monitor is 'free_energy/jss', expected one of epoch, free_energy/" in printed
    assert "validation/energy_mse, validation/force_mse, validation/loss." in printed
    assert not (folder / "never").exists()
    words = ["--checkpoint.monitor=free_energy/outside", "--free_energy.every_n_epochs=0"]
    printed = cgfe(folder, "fit", "--config=tiny.yaml", *words, "--run_dir=never", code=2)
    assert "checkpoint.monitor is 'free_energy/outside'" in printed


def test_the_loss_of_training_can_be_monitored(folder: Path) -> None:
    words = ["--checkpoint.monitor=train/loss", "--checkpoint.save_top_k=-1", "--run_dir=train"]
    words += ["--trainer.max_epochs=2", "--free_energy.every_n_epochs=0"]
    cgfe(folder, "fit", "--config=tiny.yaml", *words)
    kept = {path.name for path in (folder / "train" / "checkpoints").glob("best*")}
    assert kept == {"best-0000.ckpt", "best-0001.ckpt"}


@pytest.mark.slow
def test_the_learning_rate_falls_through_all_epochs_and_through_added_ones(folder: Path) -> None:
    def rates() -> list[float]:
        found = {step: x for (name, step), x in rows(folder / "run").items() if name == "lr-Adam"}
        return [found[step] for step in sorted(found)]

    first = rates()
    assert len(first) == 4
    assert first == sorted(first, reverse=True)
    assert first[-1] < 0.2 * first[0]
    assert "T_max: ${trainer.max_epochs}" in (folder / "run" / "config.yaml").read_text()
    words = ["--ckpt_path=last", "--run_dir=run", "--free_energy.every_n_epochs=0"]
    printed = cgfe(folder, "fit", *words, "--trainer.max_epochs=6")
    assert rates() == sorted(rates(), reverse=True)
    assert len(rates()) == 6
    assert "climbs" not in printed
    printed = cgfe(folder, "fit", *words, "--trainer.max_epochs=7",
                   "--model.scheduler.init_args.T_max=6")  # fmt: skip
    assert "The learning rate climbs again after epoch 6 of 7" in printed
