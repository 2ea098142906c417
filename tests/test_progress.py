"""Progress bars: redrawn in a terminal, a few lines in a log."""

import io
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tqdm import tqdm

import cgfe.progress
from cgfe.progress import Bar

CONFIG = str(Path(__file__).parents[1] / "configs" / "chignolin.yaml")


def lines(text: str) -> list[str]:
    """Split where a line is broken or drawn anew."""
    return [line for line in re.split(r"[\r\n]", text) if line.strip()]


def test_fast_updates_are_one_line_in_a_log() -> None:
    log = io.StringIO()
    with Bar(total=1000, desc="counting", file=log, mininterval=0) as bar:
        for number in range(1000):
            bar.set_postfix_str(str(number))
            bar.update(1)
    assert "\r" not in log.getvalue()
    assert log.getvalue().endswith("\n")
    (line,) = lines(log.getvalue())
    assert "counting: 100%" in line
    assert "1000/1000" in line


def test_a_bar_that_leaves_nothing_writes_nothing() -> None:
    log = io.StringIO()
    with Bar(range(100), leave=False, file=log) as bar:
        assert list(bar) == list(range(100))
    assert log.getvalue() == ""


def test_a_line_each_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(cgfe.progress.time, "monotonic", lambda: now)
    log = io.StringIO()
    with Bar(total=100, file=log, mininterval=0, miniters=1) as bar:
        for _ in range(100):
            now += 1.0
            bar.update(1)
    counts = [re.search(r"(\d+)/100", line) for line in log.getvalue().splitlines()]
    assert [found and int(found[1]) for found in counts] == [30, 60, 90, 100]


def test_messages_beside_bars_keep_their_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    with Bar(total=2, desc="outer", file=log) as outer, Bar(total=2, file=log, leave=False):
        tqdm.write("a message", file=log)
        outer.update(2)
    message, bar = log.getvalue().splitlines()
    assert message == "a message"
    assert bar.startswith("outer: 100%")


def test_a_terminal_is_redrawn() -> None:
    reading, writing = pty.openpty()
    with open(writing, "w") as terminal, Bar(total=20, file=terminal, mininterval=0) as bar:
        for _ in range(20):
            bar.update(1)
            time.sleep(0.001)
    drawn = os.read(reading, 100_000).decode()
    os.close(reading)
    assert drawn.count("\r") > 20 > 3 > drawn.count("\n")


def test_a_fit_writes_few_lines_into_a_log(tiny_file: Path, tmp_path: Path) -> None:
    cut = ["--data.frames", str(tiny_file), "--data.block_ps", "50", "--data.batch_size", "32"]
    cut += ["--data.reference.tica_lag_ps", "5", "--trainer.accelerator", "cpu"]
    cut += ["--model.network.hidden_channels", "8", "--model.network.num_filters", "8"]
    cut += ["--free_energy.every_n_epochs", "1", "--free_energy.final", "null"]
    cut += ["--free_energy.simulation.steps", "400", "--free_energy.simulation.replicas", "4"]
    cut += ["--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "true"]
    log = tmp_path / "log"
    with log.open("w") as file:
        words = [sys.executable, "-m", "cgfe", "fit", "--config", CONFIG, *cut]
        ended = subprocess.run(
            words,
            cwd=tmp_path,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(Path(cgfe.progress.__file__).parents[1])},
        )
    written = log.read_text()
    assert ended.returncode == 0, written
    assert "Epoch 1: 100%" in written
    assert "\r" not in written
    assert len(lines(written)) < 30, written
