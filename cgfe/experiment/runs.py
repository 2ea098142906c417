"""The runs of a sweep as its folder holds them: what was varied, how each ended, what it measured.

A local sweep has sweep.yaml, results.csv and run-NNNN/; agents of W&B leave RUN_ID/config.yaml and
metrics.csv alone, so that what was varied is what differs between their configurations.
"""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cgfe.errors import InputError
from cgfe.experiment.figures import Setting
from cgfe.experiment.sweep_file import CONFIG, SweepFile
from cgfe.report.run import read_metrics

SWEEP_COPY = "sweep.yaml"
RESULTS = "results.csv"
SEED = "seed_everything"
FINISHED = "finished"
STATES = {
    "complete": FINISHED,
    "fail": "failed",
    "pruned": "ended early",
    "running": "running",
    "waiting": "not begun",
}
"""Optuna's names, as results.csv has them, in words."""
MISSING = "not begun"
OWN_COLUMNS = ("run", "state", "error")


@dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes
    ----------
    name : str
        Of its folder.
    folder : Path
    state : str
        `finished`, `failed`, `ended early`, `running`, or `unfinished` under W&B.
    error : str
        Why it failed, else empty.
    parameters : dict
        What is varied, and the seed.
    metrics : dict
        The last value of each.
    """

    name: str
    folder: Path
    state: str
    error: str
    parameters: dict[str, Setting]
    metrics: dict[str, float]


@dataclass(frozen=True)
class SweepRuns:
    """All runs of a sweep.

    Attributes
    ----------
    folder : Path
    runs : tuple of Run
    varied : tuple of str
        Parameters that the sweep varies, without the seed.
    not_begun : int
        Points of the grid that no run has.
    """

    folder: Path
    runs: tuple[Run, ...]
    varied: tuple[str, ...]
    not_begun: int

    @property
    def finished(self) -> tuple[Run, ...]:
        """The runs that have ended by themselves."""
        return tuple(run for run in self.runs if run.state == FINISHED)

    def states(self) -> dict[str, int]:
        """Return how many runs there are of each state, the finished ones first."""
        counts = Counter({FINISHED: 0})
        counts.update(run.state for run in self.runs)
        if self.not_begun:
            counts[MISSING] += self.not_begun
        return dict(counts)


def is_sweep(folder: Path) -> bool:
    """Return whether a folder holds the runs of a sweep, rather than one run."""
    if (folder / SWEEP_COPY).is_file():
        return True
    own = any((folder / name).is_file() for name in ("config.yaml", "metrics.csv"))
    return not own and any(folder.glob("*/config.yaml"))


def read_runs(folder: str | Path) -> SweepRuns:
    """Read a sweep's folder.

    Raises
    ------
    InputError
        If it is no sweep's, no run has finished, or finished runs differ in more than what the
        sweep varies.
    """
    folder = Path(folder)
    if not is_sweep(folder):
        raise InputError(
            f"{folder}: not the folder of a sweep; expected {SWEEP_COPY} and {RESULTS}, or folders "
            "of runs with config.yaml."
        )
    found = _local(folder) if (folder / SWEEP_COPY).is_file() else _of_agents(folder)
    if not found.finished:
        states = ", ".join(f"{number} {state}" for state, number in found.states().items())
        raise InputError(f"{folder}: no run of the sweep has finished yet ({states}).")
    return found


def _local(folder: Path) -> SweepRuns:
    sweep = SweepFile.load(folder / SWEEP_COPY)
    rows = _rows(folder / RESULTS)
    parameters = [*sweep.space, *sweep.fixed]
    kept = {*sweep.space, SEED}
    runs = []
    for row in rows:
        name = Path(row["run"]).name  # the sweep's folder may have been moved since
        cells = {key: value for key, value in row.items() if key not in OWN_COLUMNS}
        numbers = {k: number(v) for k, v in cells.items() if k not in parameters}
        runs.append(
            Run(
                name=name,
                folder=folder / name,
                state=STATES.get(row["state"], row["state"]),
                error=row["error"],
                parameters={k: setting(v) for k, v in cells.items() if k in kept},
                metrics={k: v for k, v in numbers.items() if v is not None},
            )
        )
    finished = [run for run in runs if run.state == FINISHED]
    # What files differ in is theirs to say, so that runs of one file are checked among themselves.
    for file in {run.parameters.get(CONFIG) for run in finished}:
        alike = [run for run in finished if run.parameters.get(CONFIG) == file]
        _differ_in_nothing_else(alike, kept)
    points = len(sweep.grid()) if sweep.method == "grid" else 0
    if sweep.run_cap is not None:
        points = min(points, sweep.run_cap)
    varied = tuple(name for name in sweep.space if name != SEED)
    return SweepRuns(folder, tuple(runs), varied, max(0, points - len(runs)))


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    for column in OWN_COLUMNS if rows else ():
        if column not in (reader.fieldnames or ()):
            raise InputError(f"{path}: no column {column}; expected what `cgfe sweep` writes.")
    return rows


def _of_agents(folder: Path) -> SweepRuns:
    configs = {path.parent: _config(path) for path in sorted(folder.glob("*/config.yaml"))}
    varied = _differing(list(configs.values()))
    runs = []
    for run_dir, config in configs.items():
        metrics: dict[str, float] = {}
        for row in read_metrics(run_dir / "metrics.csv"):
            metrics |= row
        # `cgfe fit` writes its report last.
        state = FINISHED if (run_dir / "report.html").is_file() else "unfinished"
        parameters = {k: setting(config.get(k)) for k in {*varied, SEED} if k in config}
        runs.append(Run(run_dir.name, run_dir, state, "", parameters, metrics))
    return SweepRuns(folder, tuple(runs), tuple(k for k in varied if k != SEED), 0)


def _differ_in_nothing_else(runs: Sequence[Run], swept: set[str]) -> None:
    """Refuse runs whose saved configurations differ in what the sweep does not vary."""
    paths = [run.folder / "config.yaml" for run in runs]
    configs = {path: _config(path) for path in paths if path.is_file()}
    for key in _differing(list(configs.values())):
        if not any(key == name or key.startswith(f"{name}.") for name in swept):
            first = next(iter(configs))
            other = next(
                p for p, config in configs.items() if config.get(key) != configs[first].get(key)
            )
            raise InputError(
                f"{other}: {key} is {configs[other].get(key)!r}, but "
                f"{configs[first].get(key)!r} in {first}; the sweep does not vary it, so its "
                "runs cannot be compared."
            )


def _config(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        first = str(error).replace("\n", " ")
        raise InputError(f"{path}: cannot be read ({first}).") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: no configuration of a run.")
    return _flat(content)


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for config in configs for key in config)
    return [k for k in keys if any(config.get(k) != configs[0].get(k) for config in configs)]


def setting(value: Any) -> Setting:
    """Return a parameter's value as a number, or else as text; nothing is `null`."""
    if value is None or value == "":
        return "null"
    found = None if isinstance(value, bool) else number(value)
    return str(value) if found is None else found


def number(cell: Any) -> float | None:
    """Return a cell as a number, None where it is none."""
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None
