"""An export is small, complete, and gives the same report again."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

from cgfe.cli import main
from cgfe.errors import InputError
from cgfe.experiment.export import export_sweep
from cgfe.experiment.sweep_report import write_sweep_report
from tests.experiment.made_results import (
    SEED,
    WEIGHT,
    read_rows,
    rising,
    write_saved,
    write_sweep,
)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep with results, and what runs leave beside them."""
    folder = write_sweep(tmp_path / "sweep-made", failed={(0.5, 2): "no memory"})
    write_saved(folder, 0.02 * np.random.default_rng(0).normal(size=200))
    for run_dir in folder.glob("run-*"):
        (run_dir / "metrics.csv").write_text("epoch,step\n")
        (run_dir / "checkpoints").mkdir()
        (run_dir / "checkpoints" / "last.ckpt").write_bytes(bytes(10_000))
        (run_dir / "report.html").write_text("a page")
    return folder


def test_report_of_an_export_is_that_of_the_sweep(sweep: Path, tmp_path: Path) -> None:
    target = tmp_path / "results" / "energy"
    exported = export_sweep(sweep, target)
    own = write_sweep_report(sweep)
    assert (exported.headline, exported.sentences) == (own.headline, own.sentences)
    first, second = (json.loads(report.numbers.read_text()) for report in (exported, own))
    assert first.pop("sweep") == "energy"
    assert second.pop("sweep") == "sweep-made"
    assert first == second
    again = write_sweep_report(target)
    assert again.sentences == own.sentences
    for name in ("errors.png", "differences.png"):
        assert (target / name).read_bytes().startswith(b"\x89PNG")
    names = {path.name for path in target.rglob("*") if path.is_file()}
    assert names == {
        *("sweep.yaml", "results.csv", "sweep.html", "sweep.json", "made.json"),
        *("errors.png", "differences.png", "metrics.csv", "free_energy.json", "free_energy.npz"),
    }
    assert {row["run"] for row in read_rows(target)} == {f"run-{n:04d}" for n in range(24)}


def test_commands_are_those_of_the_sweep_file(sweep: Path, tmp_path: Path) -> None:
    export_sweep(sweep, tmp_path / "export", "free_energy/js", baseline="0.5")
    made = json.loads((tmp_path / "export" / "made.json").read_text())
    assert len(made["runs"]) == 24
    words = shlex.split(made["runs"]["run-0009"])
    assert words[:3] == ["env", "python", "cgfe"]
    assert {f"--{WEIGHT}=0.5", f"--{SEED}=1", "--run_dir=run-0009"} <= set(words)
    assert made["versions"]["numpy"] == np.__version__
    expected = ["--metric", "free_energy/js", "--baseline", "0.5"]
    places = [str(sweep), "--export", str(tmp_path / "export")]
    assert shlex.split(made["report"]) == ["cgfe", "report", *places, *expected]


def test_exporting_again_replaces_and_nothing_else_is_touched(sweep: Path, tmp_path: Path) -> None:
    target = tmp_path / "export"
    export_sweep(sweep, target)
    (target / "notes.txt").write_text("mine")
    export_sweep(sweep, target)
    assert (target / "notes.txt").read_text() == "mine"
    assert not list(target.rglob(".*"))
    other = write_sweep(tmp_path / "sweep-other", rising, seeds=7)
    with pytest.raises(InputError, match="holds something else than an export of"):
        export_sweep(other, target)
    assert len(read_rows(target)) == 24
    grown = write_sweep(tmp_path / "sweep-grown", rising, seeds=9)
    export_sweep(grown, target)
    assert len(read_rows(target)) == 27


def test_bad_targets_are_one_sentence(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    agents = tmp_path / "sweep-id"
    for number in range(2):
        (agents / f"id{number}").mkdir(parents=True)
        (agents / f"id{number}" / "config.yaml").write_text(f"x: {number}\n")
    for words, said in (
        ([sweep, "--export", sweep], "is the sweep's own folder"),
        ([sweep, "--export", tmp_path / "file"], "is a file, expected a folder"),
        ([sweep, "--export", tmp_path / "full"], "holds something else"),
        ([sweep, "--export", tmp_path / "new", "--output", "a.html"], "expected one of them"),
        ([agents, "--export", tmp_path / "new"], "has no sweep.yaml"),
        ([sweep / "run-0000", "--export", tmp_path / "new"], "--export is for a sweep"),
    ):
        assert main(["report", *map(str, words)]) == 2
        error = capsys.readouterr().err.strip()
        assert said in error
        assert "\n" not in error
    assert not (tmp_path / "new").exists()
    assert main(["report", str(sweep), "--export", str(tmp_path / "new")]) == 0
    assert f"report: {tmp_path / 'new' / 'sweep.html'}" in capsys.readouterr().out
