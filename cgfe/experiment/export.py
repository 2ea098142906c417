"""A sweep's results in a small folder: what its report is drawn from, and how it was made.

FOLDER/sweep.yaml, configs.json, results.csv   as in the sweep's own folder
       run-NNNN/                      config.yaml, metrics.csv, free_energy.json and .npz
       sweep.html, sweep.json         the report, drawn from these files
       errors.png, differences.png    its figures
       made.json                      commands of every run and of the report, versions
"""

import csv
import json
import platform
import shlex
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from cgfe.errors import InputError
from cgfe.experiment.config_files import KEPT as CONFIGS
from cgfe.experiment.figures import Setting
from cgfe.experiment.growing import has_grown, same_sweep
from cgfe.experiment.results import text_of
from cgfe.experiment.runs import RESULTS, SWEEP_COPY, SweepRuns, read_runs
from cgfe.experiment.sweep_file import SweepFile
from cgfe.experiment.sweep_report import SweepReport, write_sweep_report
from cgfe.files import replacing
from cgfe.report.sweep import plot_differences, plot_errors
from cgfe.version import __version__

KEPT = ("config.yaml", "metrics.csv", "free_energy*.json", "free_energy*.npz")
"""Files of a run."""
MADE = "made.json"
PACKAGES = ("torch", "lightning", "numpy", "scipy", "deeptime", "optuna", "matplotlib")


def export_sweep(
    folder: str | Path,
    target: str | Path,
    metric: str | None = None,
    parameter: str | None = None,
    baseline: str | None = None,
    where: Mapping[str, Setting] | None = None,
) -> SweepReport:
    """Copy what a sweep's report needs into a folder, and write the report there.

    `cgfe report` of that folder draws the same page again, and `cgfe sweep --from` it runs what
    is left elsewhere.

    Parameters
    ----------
    folder : path
        Of `cgfe sweep`.
    target : path
        Made if need be; an older export of the same sweep is replaced file by file.
    metric, parameter, baseline, where
        As for `write_sweep_report`.

    Raises
    ------
    InputError
        As `write_sweep_report` does, or if `target` holds something else.
    """
    folder, target = Path(folder), Path(target)
    if not (folder / SWEEP_COPY).is_file():
        raise InputError(f"--export: {folder} has no {SWEEP_COPY}, expected one of `cgfe sweep`.")
    _check(folder, target)
    # First, as the mark of what the folder holds: whatever stops an export, it can be made again.
    with replacing(target / SWEEP_COPY) as temporary:
        shutil.copyfile(folder / SWEEP_COPY, temporary)
    runs = read_runs(folder)
    for run in runs.runs:
        for path in (path for pattern in KEPT for path in sorted(run.folder.glob(pattern))):
            with replacing(target / run.name / path.name) as temporary:
                shutil.copyfile(path, temporary)
    if (folder / CONFIGS).is_file():
        with replacing(target / CONFIGS) as temporary:
            shutil.copyfile(folder / CONFIGS, temporary)
    _copy_results(folder / RESULTS, target / RESULTS)
    report = write_sweep_report(target, None, metric, parameter, baseline, where)
    for name, draw in (("errors", plot_errors), ("differences", plot_differences)):
        if name == "errors" or report.drawn.comparison_rows:
            with replacing(target / f"{name}.png") as temporary:
                draw(report.drawn).savefig(temporary, dpi=140)
    words = ["cgfe", "report", str(folder), "--export", str(target)]
    for option, value in (("metric", metric), ("parameter", parameter), ("baseline", baseline)):
        words += [] if value is None else [f"--{option}", value]
    for key, setting in (where or {}).items():
        words += ["--where", f"{key}={text_of(setting)}"]
    made = {"report": shlex.join(words), "versions": _versions(), "runs": _commands(runs)}
    with replacing(target / MADE) as temporary:
        temporary.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    return report


def _check(folder: Path, target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise InputError(f"--export: {target} is a file, expected a folder.")
    if target.resolve() == folder.resolve():
        raise InputError(f"--export: {target} is the sweep's own folder, expected another one.")
    if not target.is_dir() or not any(target.iterdir()):
        return
    copy = target / SWEEP_COPY
    own = SweepFile.load(folder / SWEEP_COPY)
    if not copy.is_file() or not (
        same_sweep(copy, own.text) or has_grown(SweepFile.load(copy), own)
    ):
        raise InputError(
            f"--export: {target} holds something else than an export of {folder}; expected a new "
            "folder."
        )


def _copy_results(source: Path, target: Path) -> None:
    """Copy results.csv, its runs by name alone: where they lay says nothing elsewhere."""
    with source.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = [row | {"run": Path(row["run"]).name} for row in reader]
    with replacing(target) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, reader.fieldnames or ())
        writer.writeheader()
        writer.writerows(rows)


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in PACKAGES}
    return {"cgfe": __version__, "python": platform.python_version(), **packages}


def _commands(runs: SweepRuns) -> dict[str, str]:
    """Return the command of each run, without the paths of this machine."""
    sweep = SweepFile.load(runs.folder / SWEEP_COPY)
    named = {sys.executable: "python", "/usr/bin/env": "env"}
    found = {}
    for run in runs.runs:
        point = {k: text_of(v) for k, v in run.parameters.items() if k in sweep.space}
        words = sweep.arguments(point, [f"--run_dir={run.name}"])
        found[run.name] = shlex.join(named.get(word, word) for word in words)
    return found
