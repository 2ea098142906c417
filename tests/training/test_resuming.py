"""Going on with a fit: which run is taken, and what a kill within the first epoch leaves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cgfe.errors import InputError
from cgfe.training.checkpoints import Checkpoints, read_checkpoint
from cgfe.training.runs import last_checkpoint
from tests.training.test_training import SIZES, cgfe, rows

# Checkpoints at every step, and a kill within the first epoch, in the middle of writing one.
KILLED_EARLY = """
import os, signal, sys
import torch
from cgfe.training.callbacks import last_checkpoint
from cgfe.training.module import CGForceField as Field
last_checkpoint.SECONDS, last_checkpoint.FIRST_LOOK = 0.0, 1
step, save = Field.training_step, torch.save
def until(self, batch, index):
    if index == 6:
        torch.save = half
    return step(self, batch, index)
def half(content, path):
    save(content, path)
    size = os.path.getsize(path)
    os.truncate(path, size // 2)
    os.kill(os.getpid(), signal.SIGKILL)
Field.training_step = until
from cgfe.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def folder(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the config and a finished run of two epochs."""
    folder = tmp_path_factory.mktemp("resuming")
    (folder / "tiny.yaml").write_text(SIZES.format(frames=tiny_file, cache=folder / "cache"))
    cgfe(folder, "fit", "--config=tiny.yaml", "--run_dir=runs/whole", *SHORT)
    return folder


KILLED = "--run_dir=runs/killed"
SHORT = ("--trainer.max_epochs=2", "--free_energy.every_n_epochs=0")


@pytest.mark.slow
def test_a_fit_killed_in_its_first_epoch_goes_on_at_its_step(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_EARLY, "fit", "--config=tiny.yaml", *SHORT, KILLED],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == -9, done.stderr
    last = folder / "runs" / "killed" / "checkpoints" / "last.ckpt"
    assert read_checkpoint(last)["global_step"] == 6
    printed = cgfe(folder, "fit", "--ckpt_path=last")
    assert "going on with runs/killed" in printed
    whole, resumed = (
        read_checkpoint(folder / "runs" / name / "checkpoints" / "last.ckpt")
        for name in ("whole", "killed")
    )
    for part in ("global_step", "lr_schedulers", "state_dict", "optimizer_states"):
        if isinstance(whole[part], int):
            assert whole[part] == resumed[part]
        else:
            torch.testing.assert_close(resumed[part], whole[part], rtol=0, atol=0)
    first, second = rows(folder / "runs" / "whole"), rows(folder / "runs" / "killed")
    assert first.keys() == second.keys()
    for key in first:
        if key[0].startswith("validation"):
            assert second[key] == pytest.approx(first[key], rel=1e-6)


def test_a_finished_run_is_refused_unless_it_gets_more_epochs(folder: Path) -> None:
    run = folder / "runs" / "whole"
    os.utime(run / "config.yaml")
    before = (run / "report.html").read_bytes()
    printed = cgfe(folder, "fit", "--ckpt_path=last", code=2)
    assert "runs/whole is finished: it has trained 2 epochs, and trainer.max_epochs is 2" in printed
    assert (run / "report.html").read_bytes() == before
    printed = cgfe(folder, "fit", "--ckpt_path=last", "--trainer.max_epochs=3")
    assert "going on with runs/whole" in printed
    assert "report: " in printed


def test_the_newest_run_is_taken_or_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CGFE_RUN_DIR", raising=False)
    with pytest.raises(InputError, match=r"runs: no last\.ckpt"):
        last_checkpoint()
    for seconds, name in enumerate(("old", "new", "sampled"), start=1):
        config = Path("runs") / name / "config.yaml"
        config.parent.mkdir(parents=True)
        config.write_text("walkers: 3\n" if name == "sampled" else "model:\ntrainer:\n  x: 1\n")
        os.utime(config, (seconds, seconds))
    old, new = (Path("runs") / name / "checkpoints" / "last.ckpt" for name in ("old", "new"))
    old.parent.mkdir()
    old.touch()
    os.utime(old, (1.5, 1.5))
    with pytest.raises(
        InputError, match=r"runs/new, the newest run, has no last\.ckpt yet.*runs/old"
    ):
        last_checkpoint()
    assert last_checkpoint(Path("runs/old")) == old
    new.parent.mkdir()
    new.touch()
    assert last_checkpoint() == new


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    Checkpoints().save_checkpoint({"epoch": 1}, path)
    with pytest.raises(InputError, match=r"a\.ckpt: .*cannot be written"):
        Checkpoints().save_checkpoint({"epoch": Full()}, path)
    assert read_checkpoint(path) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


class Full:
    """Stops the writing of what holds it, as a full disk would."""

    def __reduce__(self) -> str:
        raise OSError(28, "No space left on device")
