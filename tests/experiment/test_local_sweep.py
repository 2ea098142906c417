"""Local sweeps: every point once, whatever fails, is killed, or runs beside."""

import csv
import fcntl
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from cgfe.cli import main
from cgfe.errors import InputError
from cgfe.experiment import runner
from cgfe.experiment import study as study_file
from cgfe.experiment.first_point import check_first_point
from cgfe.experiment.runner import run_sweep, write_results
from cgfe.experiment.study import SweepStudy
from cgfe.experiment.sweep_file import SweepFile

ROOT = Path(__file__).resolve().parents[2]

# Stands in for a training: writes the metric of some epochs, slowly, and goes on where it was.
TRAINING = """
import csv, os, sys, time
from pathlib import Path
given = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:])
folder, x = Path(given["run_dir"]), float(given["x"])
with open("begun.txt", "a") as file:
    file.write(f"{given['x']} {given.get('ckpt_path', 'new')} {os.environ['OMP_NUM_THREADS']}\\n")
if given.get("fail_at") == given["x"]:
    sys.exit("this point is broken")
first = 0
if "ckpt_path" in given:
    first = int(Path(given["ckpt_path"]).read_text())
(folder / "checkpoints").mkdir(exist_ok=True)
for epoch in range(first, int(given["epochs"])):
    time.sleep(float(given["seconds"]))
    rows = [{"epoch": e, "step": e, "score": x + 1 / (e + 1)} for e in range(epoch + 1)]
    with open(folder / "metrics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["epoch", "step", "score"])
        writer.writeheader()
        writer.writerows(rows)
    (folder / "checkpoints" / "last.ckpt").write_text(str(epoch + 1))
(folder / "report.html").write_text("done")
"""


def sweep_of(folder: Path, **changes: Any) -> Path:
    """Write a sweep file over x of a quick stand-in for training."""
    (folder / "training.py").write_text(TRAINING)
    content = {
        "method": "grid",
        "metric": {"name": "score", "goal": "minimize"},
        "parameters": {
            "x": {"values": [3.0, 1.0, 2.0]},
            "epochs": {"value": 2},
            "seconds": {"value": 0.0},
        },
        "command": ["${env}", "${interpreter}", "training.py", "${args}"],
    }
    for key, value in changes.items():
        if key in ("x", "epochs", "seconds", "fail_at"):
            content["parameters"][key] = value  # type: ignore[index]
        else:
            content[key] = value
    path = folder / "quick.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def begun(folder: Path) -> list[list[str]]:
    return [line.split() for line in (folder / "begun.txt").read_text().splitlines()]


def results(folder: Path, runs: str = "runs") -> list[dict[str, str]]:
    with open(folder / runs / "sweep-quick" / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.05)


def test_the_papers_sweep_is_read() -> None:
    sweep = SweepFile.load(ROOT / "sweeps" / "energy_weight.yaml")
    points = sweep.grid()
    assert len(points) == 99
    weights = [point["model.loss.energy_weight"] for point in points]
    assert weights == sorted(weights)
    words = sweep.arguments(points[-1], ["--run_dir=there"])
    assert words[:5] == ["/usr/bin/env", sys.executable, "-m", "cgfe", "fit"]
    for word in ("--model.loss.energy_weight=1.0", "--seed_everything=8", "--run_dir=there"):
        assert word in words
    assert "--model.loss.gauge=fixed" in words


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda p: p.stem)
def test_sweeps_name_config_files_that_are_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    files = SweepFile.load(path).config_files()
    assert files
    assert all(file.is_file() for file in files)


def test_the_labels_sweep_has_every_variant_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    sweep = SweepFile.load("sweeps/labels.yaml")
    points = sweep.grid()
    assert len(points) == len({tuple(point.values()) for point in points}) == 90
    of_one = [
        p for p in points if (p["seed_everything"], p["model.loss.energy_weight"]) == (1, 0.5)
    ]
    assert {point["config"] for point in of_one} == {
        *map(str, Path("configs/labels").glob("*.yaml"))
    }
    seen = set()
    for point in of_one:
        words = sweep.arguments(point, ["--print_config"])
        with pytest.raises(SystemExit, match="0"):  # the config is printed
            main(words[words.index("fit") :])
        config = yaml.safe_load(capsys.readouterr().out)
        loss, reference = config["model"]["loss"], config["data"]["reference"]
        assert loss["energy_weight"] == 0.5
        seen.add((reference["label_estimator"], loss["energy_target"], loss["gauge"]))
    assert seen == {
        ("marginal", "delta", "fixed"),
        ("joint", "delta", "fixed"),
        ("marginal", "delta", "learned"),
        ("marginal", "total", "fixed"),
        ("marginal", "total", "learned"),
    }


def test_the_terms_sweep_has_every_file_and_each_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    sweep = SweepFile.load("sweeps/energy_terms.yaml")
    points = [point for point in sweep.grid() if point["seed_everything"] == 3]
    files = {str(path) for path in Path("configs/terms").glob("*.yaml")}
    assert {point["config"] for point in points} == files - {"configs/terms/paper.yaml"}
    seen = []
    for point in points:
        words = sweep.arguments(point, ["--print_config"])
        with pytest.raises(SystemExit, match="0"):  # the config is printed
            main(words[words.index("fit") :])
        config = yaml.safe_load(capsys.readouterr().out)
        given = yaml.safe_load(Path(point["config"]).read_text())["model"]["losses"]
        assert _holds(config["model"]["losses"], given)
        assert config["model"]["loss"] is None
        assert config["seed_everything"] == 3
        assert config["free_energy"]["final"]["steps"] == 400000
        assert config["free_energy"]["every_n_epochs"] <= config["trainer"]["max_epochs"]
        seen.append(frozenset(given))
    assert len({*seen}) == len(points)


def _holds(found: Any, given: Any) -> bool:
    if not isinstance(given, dict):
        return bool(found == given)
    return all(_holds(found[name], value) for name, value in given.items())


def test_every_kind_of_parameter(tmp_path: Path) -> None:
    path = sweep_of(tmp_path, method="random", run_cap=2)
    content = yaml.safe_load(path.read_text())
    content["parameters"] |= {
        "whole": {"min": 1, "max": 5},
        "rate": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
        "model": {"parameters": {"loss": {"parameters": {"weight": {"values": [None, 1]}}}}},
    }
    path.write_text(yaml.safe_dump(content))
    space = SweepFile.load(path).space
    assert space["whole"] == IntDistribution(1, 5)
    assert space["rate"] == FloatDistribution(1e-4, 1e-2, log=True)
    assert space["model.loss.weight"] == CategoricalDistribution([None, 1])
    assert "--model.loss.weight=null" in SweepFile.load(path).arguments({"model.loss.weight": None})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "luck"}, "method is 'luck'"),
        ({"metric": {"name": "score", "goal": "less"}}, "metric.goal is 'less'"),
        ({"x": {"values": []}}, "parameters.x.values"),
        ({"parameters": {}}, "parameters is empty"),
        ({"x": {"min": 0.0, "max": 1.0}}, "parameters.x has a range, but method is grid"),
        ({"x": {"min": 1, "max": "many"}}, "parameters.x.max is 'many'"),
        ({"x": {"distribution": "beta", "min": 0, "max": 1}}, "distribution is 'beta'"),
        ({"x": 5}, "parameters.x is 5"),
        ({"early_terminate": {"type": "envelope"}}, "expected type hyperband"),
        ({"run_cap": 0}, "run_cap is 0"),
        ({"speed": 3}, "speed is not known"),
        ({"command": ["${interpreter}", "${nothing}"]}, "${nothing} is not known"),
        ({"method": "random"}, "method random has no end"),
    ],
)
def test_bad_files(
    changes: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(sweep_of(tmp_path, **changes))]) == 2
    error = capsys.readouterr().err
    assert error.startswith("cgfe: error:")
    assert error.count("\n") == 1
    assert said in error


FIT = ["${interpreter}", "-m", "cgfe", "fit", "--config", "base.yaml", "${args}"]


@pytest.mark.parametrize(
    ("metric", "parameters", "said"),
    [
        ("final/scor", {}, "metric.name is final/scor, expected final/ and one of js, "),
        ("js", {}, "metric.name is js, expected one of train/..., "),
        ("validation/forc_mse", {}, "metric.name is validation/forc_mse, expected validation/ and"),
        ("final/helix/js", {}, "metric.name is final/helix/js, but the systems of data.frames are"),
        (
            "final/chignolin/js",
            {},
            "are chignolin, whose metrics have no name of their own, and no",
        ),
        ("final/js", {"model.loss.energy_wieght": 0.1}, "energy_wieght"),
        ("final/js", {"free_energy.final": None}, "metric.name is final/js, expected one of"),
        ("final/js", {"config": "none.yaml"}, "none.yaml"),
    ],
)
def test_a_wrong_parameter_or_metric_is_told_before_anything_runs(
    metric: str,
    parameters: dict[str, Any],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "base.yaml").write_text("free_energy: {final: {replicas: 6}}\n")
    given = {"seed_everything": {"values": [0, 1]}, "data.frames": {"value": "chignolin"}}
    given |= {name: {"value": value} for name, value in parameters.items()}
    path = sweep_of(tmp_path, metric={"name": metric}, parameters=given, command=FIT)
    assert main(["sweep", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert not (tmp_path / "runs").exists()


def test_a_good_first_point_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "base.yaml").write_text("free_energy: {final: {replicas: 6}}\n")
    given = {"seed_everything": {"values": [0, 1]}, "data.frames": {"value": "chignolin"}}
    for metric in ("final/js", "free_energy/js_rmsd", "validation/force_mse"):
        path = sweep_of(tmp_path, metric={"name": metric}, parameters=given, command=FIT)
        check_first_point(SweepFile.load(path))
    given["data.frames"] = {"value": ["chignolin", "helix"]}
    path = sweep_of(tmp_path, metric={"name": "final/helix/js"}, parameters=given, command=FIT)
    check_first_point(SweepFile.load(path))


def test_a_folder_of_something_else_is_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A results folder has a sweep.yaml too, but no study."""
    path = sweep_of(tmp_path)
    for name, kept in (("notes", "run-0000/notes.txt"), ("results", "run-0000/free_energy.json")):
        folder = tmp_path / name
        (folder / "run-0000").mkdir(parents=True)
        (folder / kept).write_text("mine")
        if name == "results":
            (folder / "sweep.yaml").write_text(path.read_text())
        before = sorted(folder.rglob("*"))
        assert main(["sweep", str(path), "--folder", str(folder)]) == 2
        assert "holds something else than a sweep's study (run-0000)" in capsys.readouterr().err
        assert sorted(folder.rglob("*")) == before


def test_a_refused_config_leaves_the_folder_free(tmp_path: Path) -> None:
    path = sweep_of(tmp_path, command=["true", "--config", "bsae.yaml", "${args}"])
    assert main(["sweep", str(path)]) == 2
    sweep_of(tmp_path)
    assert main(["sweep", str(path)]) == 0
    assert len(begun(tmp_path)) == 3


@pytest.mark.parametrize("broken", ["study.db", "sweep.yaml", "held", "locked"])
def test_a_study_that_cannot_be_used_is_one_sentence(
    broken: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(study_file, "PATIENCE_SECONDS", 0.2)
    path, folder = sweep_of(tmp_path), tmp_path / "runs" / "sweep-quick"
    assert main(["sweep", str(path)]) == 0
    capsys.readouterr()
    kept = results(tmp_path)
    if broken == "held":
        holder = sqlite3.connect(folder / "study.db", isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
    elif broken == "locked":
        lock = open(folder / "lock", "w")  # noqa: SIM115
        fcntl.flock(lock, fcntl.LOCK_EX)
    else:
        (folder / broken).write_text("{ nothing of the kind " * 100)
    assert main(["sweep", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    where = folder.relative_to(tmp_path) / ("study.db" if broken == "held" else broken)
    assert str(where).replace("locked", "lock") in error
    assert results(tmp_path) == kept


@pytest.mark.parametrize("name", ["config", "data.frames"])
def test_two_files_of_one_name_are_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sweep_of(tmp_path)
    content = yaml.safe_load(path.read_text())
    content["parameters"][name] = {"values": ["a/b.yaml", "c/b.yaml"]}
    path.write_text(yaml.safe_dump(content))
    assert main(["sweep", str(path)]) == 2
    assert f"parameters.{name}.values has two files b; expected" in capsys.readouterr().err


def test_missing_files_and_bad_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sweep_of(tmp_path)
    for words in (["no.yaml"], ["training.py"], [str(path), "--jobs", "0"]):
        assert main(["sweep", *words]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_grid_runs_once_and_a_failure_harms_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sweep_of(tmp_path, fail_at={"value": 1.0})
    assert main(["sweep", str(path), "--jobs", "2"]) == 2
    assert "1 of 3 runs failed" in capsys.readouterr().err
    assert sorted(line[0] for line in begun(tmp_path)) == ["1.0", "2.0", "3.0"]
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert {int(line[2]) for line in begun(tmp_path)} == {threads}
    rows = {row["x"]: row for row in results(tmp_path)}
    assert rows["1.0"]["state"] == "fail"
    assert "this point is broken" in rows["1.0"]["error"]
    assert float(rows["3.0"]["score"]) == 3.5
    # Called again it has nothing to do; asked to, it runs the failed point once more.
    assert main(["sweep", str(path)]) == 2
    assert len(begun(tmp_path)) == 3
    assert main(["sweep", str(path), "--retry-failed"]) == 2
    assert [line[0] for line in begun(tmp_path)[3:]] == ["1.0"]
    assert len(results(tmp_path)) == 3
    # The folder belongs to this file.
    sweep_of(tmp_path, x={"values": [7.0, 8.0]})
    assert main(["sweep", str(path)]) == 2
    assert "another file" in capsys.readouterr().err


def test_a_log_goes_on_between_two_ends_of_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cgfe.progress.LOG_SECONDS", 0.0)
    path = sweep_of(tmp_path, x={"values": [1.0, 2.0]}, epochs={"value": 1}, seconds={"value": 2})
    assert main(["sweep", str(path)]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "1 of 2 done" in line]
    assert len(lines) > 2
    assert ", ," not in lines[0]


def test_a_changed_config_file_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of one sweep would differ in what it does not vary."""
    monkeypatch.chdir(tmp_path)
    base, one, other = (tmp_path / name for name in ("base.yaml", "one.yaml", "other.yaml"))
    parameters: dict[str, Any] = {
        "config": {"values": ["one.yaml", "other.yaml"]},
        "x": {"value": 1.0},
    }
    command = ["true", "--config", "base.yaml", "${args}"]
    path = sweep_of(tmp_path, parameters=parameters, command=command)
    base.write_text("a: 1  # of all\nb: {c: 2e-5}\n")
    one.write_text("d: 3\n")
    assert main(["sweep", str(path)]) == 2
    assert "other.yaml, which the sweep's runs read, cannot be read" in capsys.readouterr().err
    other.write_text("d: 4\n")
    sweep, folder = SweepFile.load(path), tmp_path / "runs" / "other"
    SweepStudy(sweep, folder, None, 0)
    base.write_text("b: {c: 2e-5}\na: 1\n")
    path.write_text(f"# again\n{path.read_text()}")
    sweep = SweepFile.load(path)
    SweepStudy(sweep, folder, None, 0)
    for changed in (base, other):
        before = changed.read_text()
        changed.write_text("d: 5\n")
        with pytest.raises(InputError, match=f"{changed.name} is not what it was when the sweep"):
            SweepStudy(sweep, folder, None, 0)
        changed.write_text(before)
    third = tmp_path / "third.yaml"
    third.write_text("d: 6\n")
    parameters["config"]["values"].append("third.yaml")
    sweep = SweepFile.load(sweep_of(tmp_path, parameters=parameters, command=command))
    assert SweepStudy(sweep, folder, None, 0).counts().total == 3
    for changed in (base, other, third):
        before = changed.read_text()
        changed.write_text("d: 5\n")
        with pytest.raises(InputError, match=f"{changed.name} is not what it was when the sweep"):
            SweepStudy(sweep, folder, None, 0)
        changed.write_text(before)


def test_a_grid_grows(tmp_path: Path) -> None:
    """By values of what was varied, and of what was not; what has run is not run again."""
    path = sweep_of(tmp_path, fail_at={"value": "1.0"})
    assert main(["sweep", str(path)]) == 2
    before = results(tmp_path)
    assert {row["state"] for row in before} == {"complete", "fail"}
    longer = {"x": {"values": [0.5, 1.0, 2.0, 3.0]}, "epochs": {"values": [1, 2]}}
    sweep_of(tmp_path, fail_at={"value": "1.0"}, **longer)
    assert main(["sweep", str(path)]) == 2
    after = results(tmp_path)
    found = [(float(row["x"]), int(row["epochs"]), row["run"][-4:]) for row in after]
    assert found[:3] == [(3.0, 2, "0000"), (1.0, 2, "0001"), (2.0, 2, "0002")]
    expected = {(x, epochs) for x in (0.5, 1.0, 2.0, 3.0) for epochs in (1, 2)}
    assert sorted(f[:2] for f in found) == sorted(expected)
    assert len({f[2] for f in found}) == 8
    assert [row["seconds"] for row in after[:3]] == [row["seconds"] for row in before]
    assert len(begun(tmp_path)) == 8
    # What had failed can still be run again, in its own folder.
    assert main(["sweep", str(path), "--retry-failed"]) == 2
    assert len(begun(tmp_path)) == 10
    assert sorted(row["run"] for row in results(tmp_path)) == sorted(row["run"] for row in after)


def test_an_interrupted_run_of_a_grid_that_grows_goes_on(tmp_path: Path) -> None:
    path = sweep_of(tmp_path, epochs={"value": 40}, seconds={"value": 0.1})
    process = _cgfe(path)
    last = tmp_path / "runs/sweep-quick/run-0000/checkpoints/last.ckpt"
    _wait_for(lambda: last.is_file() and int(last.read_text() or 0) > 1)
    # While a run is under way nothing is changed.
    sweep_of(tmp_path, x={"values": [3.0, 1.0, 2.0, 0.5]}, epochs={"value": 40})
    refused = "is not the same grid with further values"  # its seconds are others
    with pytest.raises(InputError, match=refused):
        _study(path)
    longer = {"x": {"values": [3.0, 1.0, 2.0, 0.5]}, "epochs": {"value": 40}}
    sweep_of(tmp_path, **longer, seconds={"value": 0.1})
    with pytest.raises(InputError, match="further values, but runs are under way"):
        _study(path)
    process.terminate()
    assert process.wait(60) == 143
    assert run_sweep(_study(path), jobs=4, progress=False) == 0
    again = [line for line in begun(tmp_path)[1:] if line[0] == "3.0"]
    assert [Path(line[1]).name for line in again] == ["last.ckpt"]
    assert len(begun(tmp_path)) == 5
    assert {row["state"] for row in results(tmp_path)} == {"complete"}


@pytest.mark.parametrize(
    "change",
    [
        {"x": {"values": [3.0, 1.0]}},
        {"x": {"value": 3.0}},
        {"epochs": {"value": 3}},
        {"fail_at": {"value": "9"}},
        {"metric": {"name": "score", "goal": "maximize"}},
        {"method": "random", "run_cap": 5},
    ],
)
def test_what_is_no_growth_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = sweep_of(tmp_path)
    assert main(["sweep", str(path)]) == 0
    kept = [path.read_bytes() for path in sorted((tmp_path / "runs/sweep-quick").glob("s*"))]
    sweep_of(tmp_path, **change)
    with pytest.raises(InputError, match="not the same grid with further values"):
        _study(path, 5)
    assert kept == [
        path.read_bytes() for path in sorted((tmp_path / "runs/sweep-quick").glob("s*"))
    ]
    assert len(begun(tmp_path)) == 3


def _cgfe(path: Path, *words: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "cgfe", "sweep", str(path), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        # A shell's background jobs ignore it, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def _wait_for(found: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_study_that_another_process_is_just_making_is_no_other_folder(tmp_path: Path) -> None:
    """SQLite keeps a journal beside its file while a transaction is under way."""
    path = sweep_of(tmp_path, x={"values": [0.0]}, seconds={"value": 0.0})
    folder = tmp_path / "runs/sweep-quick"
    folder.mkdir(parents=True)
    (folder / "study.db-journal").touch()
    assert _cgfe(path).wait(120) == 0
    assert len(begun(tmp_path)) == 1


def test_two_sweeps_share_a_study(tmp_path: Path) -> None:
    path = sweep_of(tmp_path, x={"values": [float(k) for k in range(8)]}, seconds={"value": 0.2})
    both = [_cgfe(path) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    assert sorted(line[0] for line in begun(tmp_path)) == [f"{k:.1f}" for k in range(8)]
    assert {row["state"] for row in results(tmp_path)} == {"complete"}


@pytest.mark.parametrize(
    ("number", "code", "together"),
    [(signal.SIGINT, 130, False), (signal.SIGTERM, 143, False), (signal.SIGTERM, 143, True)],
)
def test_an_ended_sweep_goes_on_from_checkpoints(
    tmp_path: Path, number: signal.Signals, code: int, together: bool
) -> None:
    """Whether it is signalled alone, or its runs with it, as a cluster does."""
    path = sweep_of(tmp_path, epochs={"value": 40}, seconds={"value": 0.1})
    process = _cgfe(path)
    last = tmp_path / "runs/sweep-quick/run-0000/checkpoints/last.ckpt"
    _wait_for(lambda: last.is_file() and int(last.read_text() or 0) > 3)
    if together:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        if not children.is_file():
            process.kill()
            pytest.skip("children are not told here")
        runs = children.read_text().split()
        assert runs
        for run in runs:
            os.kill(int(run), number)
    process.send_signal(number)
    assert process.wait(60) == code
    study = _study(path)
    claim = study.claim()
    assert claim is not None
    write_results(study)
    waiting = [row["x"] for row in results(tmp_path) if row["state"] == "waiting"]
    assert waiting == ["3.0"]
    claim.release()
    at = int(last.read_text())
    assert at < 40  # its run was ended with it
    assert run_sweep(_study(path), jobs=3, progress=False) == 0
    again = [line for line in begun(tmp_path)[1:] if line[0] == "3.0"]
    assert [Path(line[1]).name for line in again] == ["last.ckpt"]
    assert len(begun(tmp_path)) == 4
    assert {row["state"] for row in results(tmp_path)} == {"complete"}


def test_runs_of_a_killed_sweep_go_on_and_are_not_run_twice(tmp_path: Path) -> None:
    path = sweep_of(tmp_path, epochs={"value": 30}, seconds={"value": 0.1})
    process = _cgfe(path)
    _wait_for((tmp_path / "begun.txt").is_file)
    process.kill()
    process.wait()
    study = _study(path)
    assert study.counts().running == 1
    claim = study.claim()  # the next one, since the first is still at work
    assert claim is not None
    assert claim.point == {"x": 1.0}
    claim.release()
    _wait_for((tmp_path / "runs/sweep-quick/run-0000/report.html").is_file)
    assert run_sweep(study, jobs=2, progress=False) == 0
    assert sorted(line[0] for line in begun(tmp_path)) == ["1.0", "2.0", "3.0"]
    assert {row["state"] for row in results(tmp_path)} == {"complete"}


def _study(path: Path, count: int | None = None) -> SweepStudy:
    sweep = SweepFile.load(path)
    return SweepStudy(sweep, Path("runs") / f"sweep-{sweep.name}", count, seed=0)


def test_bayesian_search_finds_the_better_half(tmp_path: Path) -> None:
    path = sweep_of(tmp_path, method="bayes", x={"min": 0.0, "max": 100.0}, epochs={"value": 1})
    study = _study(path, count=16)
    assert run_sweep(study, jobs=1, progress=False) == 0  # one at a time: the same points again
    found = [trial.params["x"] for trial in study.trials()]
    assert len(found) == 16
    # Ten random points, then six that the model of them chose: of uniform ones five or six would
    # lie in the lower third with a chance of 0.02.
    assert sorted(found[10:])[4] < 34


HYPERBAND = {"type": "hyperband", "min_iter": 1, "max_iter": 9, "eta": 3}


def test_early_termination_finds_what_is_behind(tmp_path: Path) -> None:
    path = sweep_of(
        tmp_path, x={"values": [float(k) for k in range(18)]}, early_terminate=HYPERBAND
    )
    study = _study(path)
    lengths = []
    while claim := study.claim():
        values = []
        for epoch in range(9):
            values.append(claim.point["x"] + 1 / (epoch + 1))
            if behind := study.is_behind(claim, values):
                break
        study.finish(claim, values, stopped=behind)
        lengths.append(len(values))
    # Runs come from best to worst: the first is never behind, and of each bracket that has rungs
    # all later ones end at the first of them; rungs are at 1, 3 and 9 values.
    assert lengths[0] == 9
    assert {1, 3} <= set(lengths) <= {1, 3, 9}
    states = {trial.params["x"]: trial.state for trial in study.trials()}
    assert states[0.0] == TrialState.COMPLETE
    assert TrialState.PRUNED in states.values()


def test_runs_that_are_behind_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "READ_SECONDS", 0.05)
    monkeypatch.setattr(
        SweepStudy, "is_behind", lambda _, claim, values: claim.point["x"] > 1 and len(values) > 1
    )
    path = sweep_of(
        tmp_path,
        x={"values": [1.0, 2.0]},
        epochs={"value": 60},
        seconds={"value": 0.1},
        early_terminate=HYPERBAND,
    )
    study = _study(path)
    assert run_sweep(study, jobs=2, progress=False) == 0
    states = {row["x"]: (row["state"], float(row["epoch"])) for row in results(tmp_path)}
    assert states["1.0"] == ("complete", 59)
    assert states["2.0"][0] == "pruned"
    assert states["2.0"][1] < 59
