"""A sweep goes on elsewhere from its exported results: what has finished is not run again."""

from pathlib import Path
from typing import Any

import pytest

from cgfe.cli import main
from cgfe.experiment import runner
from cgfe.experiment.exported import ExportedRun, exported_runs
from cgfe.experiment.sweep_file import SweepFile
from tests.experiment.test_local_sweep import ROOT, begun, results, sweep_of

FOLDER = "runs/sweep-quick"


def _sweep(folder: Path, x: list[float], broken: float = 3.0) -> Path:
    parameters: dict[str, Any] = {
        **{"x": {"values": x}, "seed_everything": {"values": [0, 1]}},
        **{"epochs": {"value": 2}, "seconds": {"value": 0.0}, "fail_at": {"value": str(broken)}},
    }
    command = ["${env}", "${interpreter}", "training.py", "--config=base.yaml", "${args}"]
    return sweep_of(folder, parameters=parameters, command=command)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep whose own folder is gone, of which 3.0 has failed; results/ has the others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.05)
    (tmp_path / "base.yaml").write_text("a: 1\n")
    path = _sweep(tmp_path, [3.0, 1.0, 2.0])
    assert main(["sweep", str(path), "--jobs", "2"]) == 2
    assert main(["report", FOLDER, "--metric", "score", "--export", "results"]) == 0
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    (tmp_path / "begun.txt").unlink()
    return path


def test_a_sweep_goes_on_from_its_export(path: Path, tmp_path: Path) -> None:
    _sweep(tmp_path, [3.0, 1.0, 2.0, 0.5])
    words = ["sweep", str(path), "--jobs", "2", "--from", "results"]
    assert main(words) == 2
    assert sorted(line[0] for line in begun(tmp_path)) == ["0.5", "0.5", "3.0", "3.0"]
    rows = results(tmp_path)
    states = {(row["x"], row["seed_everything"]): row["state"] for row in rows}
    assert len(rows) == len(states) == 8
    assert {x for (x, _), state in states.items() if state == "fail"} == {"3.0"}
    assert len({row["run"] for row in rows}) == 8
    # Runs keep their names, files, metric and times.
    before = results(tmp_path, "elsewhere")
    kept = {Path(row["run"]).name: row for row in before if row["state"] == "complete"}
    after = {Path(row["run"]).name: row for row in rows}
    for name, row in kept.items():
        assert {**after[name], "seconds": ""} == {**row, "run": after[name]["run"], "seconds": ""}
        assert float(after[name]["seconds"]) == pytest.approx(float(row["seconds"]))
        own = (tmp_path / "elsewhere" / "sweep-quick" / name / "metrics.csv").read_bytes()
        assert (tmp_path / FOLDER / name / "metrics.csv").read_bytes() == own
    # Told again, nothing is copied or run twice; and the whole can be exported onto the old one.
    assert main(words) == 2
    assert len(begun(tmp_path)) == 4
    assert main(["report", FOLDER, "--metric", "score", "--export", "results"]) == 0


def test_a_copy_that_was_interrupted_goes_on(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, copied = ExportedRun.copy, []

    def twice(run: ExportedRun, target: Path) -> None:
        copied.append(target)
        if len(copied) == 3:
            raise KeyboardInterrupt
        copy(run, target)

    monkeypatch.setattr(ExportedRun, "copy", twice)
    words = ["sweep", str(path), "--from", "results"]
    assert main(words) == 130
    assert len(copied) == 3
    assert main(words) == 2
    assert len(copied) == 5  # the third again, and the fourth
    assert {line[0] for line in begun(tmp_path)} == {"3.0"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("no folder", "has no sweep.yaml"),
        ("older", "has no configs.json, expected what `cgfe report --export` writes"),
        ("config", "base.yaml is not what it was when the sweep in results began"),
        ("kept", "configs.json: cannot be read"),
        ("other", "holds a sweep of another file than"),
        ("value", "results.csv does not fit"),
        ("run", "names run-0002, which is not there"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, said: str
) -> None:
    results_ = tmp_path / "results"
    match change:
        case "no folder":
            results_.rename(tmp_path / "moved")
        case "older":
            (results_ / "configs.json").unlink()
        case "config":
            (tmp_path / "base.yaml").write_text("a: 2\n")
        case "kept":
            (results_ / "configs.json").write_text("{")
        case "other":
            _sweep(tmp_path, [3.0, 1.0])
        case "value":
            rows = (results_ / "results.csv").read_text()
            (results_ / "results.csv").write_text(rows.replace(",1.0,", ",7.0,"))
        case "run":
            (results_ / "run-0002").rename(tmp_path / "run")
    capsys.readouterr()
    assert main(["sweep", str(path), "--from", "results"]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "begun.txt").exists()


@pytest.mark.parametrize("name", ["data_efficiency", "energy_terms"])
def test_the_guide_goes_on_from_these_results(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not whole yet, and stay of use as long as their configs are as they were."""
    monkeypatch.chdir(ROOT)
    sweep = SweepFile.load(f"sweeps/{name}.yaml")
    runs = exported_runs(Path("results") / name, sweep)
    points = [tuple(run.point.values()) for run in runs]
    assert 0 < len({*points}) == len(points) < len(sweep.grid())
    assert all(run.point in sweep.grid() for run in runs)
    assert all(run.value > 0 and run.seconds > 60 for run in runs)
