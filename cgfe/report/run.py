"""The report of a run: one self-contained HTML page made from the run's saved files alone."""

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cgfe.errors import InputError
from cgfe.report.curves import plot_curves
from cgfe.report.pages import data_uri, figure, short, write_page
from cgfe.report.plots import TERM_LABELS, plot_profiles, plot_surfaces
from cgfe.report.run_verdict import COMPARED_WITH, verdict
from cgfe.report.structure import plot_contacts, plot_distributions
from cgfe.report.traces import plot_traces
from cgfe.report.trapping import trapping_section
from cgfe.simulation.results import FreeEnergyResult
from cgfe.simulation.structure import CONTACT, ERRORS

BETTER = {
    "js": "lower",
    "js_train": "lower",
    "kl_reference_model": "lower",
    "mse_kt2": "lower",
    "w1_tic1": "lower",
    "w1_tic2": "lower",
    "delta_f_kt": "near 0",
    "macrostate_error_kt": "lower",
    "mean_force_mse": "lower",
    **dict.fromkeys(ERRORS, "lower"),
    "coverage": "higher",
    "outside": "lower",
    "blown_up": "lower",
    "heating": "near 0",
    "split_half_js": "lower",
}
"""Which way each metric is good."""

PAGE = "report.html.j2"
CURVES = (
    "Loss terms and metrics against epoch. The force MSE is of single frames’ forces, mostly "
    "thermal noise that no model can remove, so that a good one lies little below the line of "
    "the prior; the error of mean forces has no such noise, and a perfect model has 0."
)


def write_report(run_dir: str | Path, output: str | Path | None = None) -> Path:
    """Write the report of a run.

    An unfinished run, without a free-energy result, gets its curves and a sentence that says
    so. Nothing on the page is loaded from elsewhere.

    Parameters
    ----------
    run_dir : path
        Folder of a run: config.yaml, metrics.csv, free_energy.json and .npz, and for further
        systems free_energy-NAME.json and .npz; prior_fit.png, prior_fit-NAME.png are shown
        where they exist.
    output : path, optional
        `run_dir`/report.html by default.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    InputError
        If `run_dir` is no run, holds no result yet, or the page cannot be written.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected the folder of a run.")
    suffixes = _suffixes(folder)
    rows = read_metrics(folder / "metrics.csv")
    config = folder / "config.yaml"
    if not suffixes and not rows:
        if not config.is_file():
            raise InputError(
                f"{folder}: not the folder of a run, nor of a sweep; it holds none of config.yaml, "
                "metrics.csv, free_energy.json, sweep.yaml, nor folders of runs."
            )
        raise InputError(
            f"{folder}: the run has no result yet; metrics.csv has no row and there is no "
            "free_energy.json."
        )
    target = Path(output) if output is not None else folder / "report.html"
    write_page(
        target,
        PAGE,
        name=folder.resolve().name,
        systems=[_system(folder, suffix) for suffix in suffixes],
        curves=figure(lambda: plot_curves(rows, _priors(folder, suffixes)), CURVES)
        if rows
        else None,
        last_epoch=max((row["epoch"] for row in rows if "epoch" in row), default=None),
        config=config.read_text(errors="replace") if config.is_file() else None,
    )
    return target


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read Lightning's metrics.csv: one row a step, by step, without its empty cells.

    A step may stand there several times, with different columns or again after the run was
    resumed; of each column the last value counts. A missing file has no rows.

    Raises
    ------
    InputError
        If it is no table.
    """
    if not path.is_file():
        return []
    merged: dict[float, dict[str, float]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for cells in csv.DictReader(file):
                parsed = {key: _parse(cell) for key, cell in cells.items()}
                row = {key: number for key, number in parsed.items() if number is not None}
                merged.setdefault(row.get("step", -1.0), {}).update(row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable table ({error}).") from None
    return [merged[step] for step in sorted(merged)]


BESIDE = {"prior": "prior alone", "training": "training frames", "floor": "floor"}
"""What stands beside a model's metrics, and its heading."""


def metric_table(result: FreeEnergyResult) -> str:
    """Return the metrics of one system as a plain-text table, for the terminal."""
    beside = {key: name for key, name in BESIDE.items() if getattr(result, key)}
    header = ("", "model", "95 %", *beside.values(), "better")
    lines = [header]
    for row in _rows(result):
        values = [short(row["model"]), row["interval"], *(short(row[key]) for key in beside)]
        lines.append((row["label"], *values, row["better"]))
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    text = [
        "  ".join(
            [line[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        ).rstrip()
        for line in lines
    ]
    rule = "-" * max(len(line) for line in text)
    title = f"{result.system}: free-energy error from {COMPARED_WITH[result.compared_with]}"
    return "\n".join([title, text[0], rule, *text[1:]])


def _system(folder: Path, suffix: str) -> dict[str, Any]:
    result = FreeEnergyResult.load(folder, suffix)
    figures = [
        figure(
            lambda: plot_surfaces(result),
            "Free-energy surfaces on the same axes and colours, and their difference "
            "(red: the model puts the region too high)",
        ),
        figure(lambda: plot_profiles(result), "Free energy along each TIC"),
    ]
    if len(result.structure_tics):
        figures.append(
            figure(
                lambda: plot_traces(result),
                "Cα traces at the minima marked on the surfaces, the model's superposed on the "
                "reference's (grey)",
            )
        )
    if len(result.structure_edges):
        figures.append(
            figure(
                lambda: plot_distributions([("model", result)]),
                "Distributions of structures, all bonds, angles and dihedrals of a kind together",
            )
        )
        figures.append(
            figure(
                lambda: plot_contacts([("model", result)]),
                f"Probability that beads three or more bonds apart are within {CONTACT:g} Å, and "
                "the difference (red: in contact too often)",
            )
        )
    saved = folder / f"prior_fit{suffix}.png"
    if saved.is_file():
        source = data_uri(saved.read_bytes())
        figures.append({"caption": "Fit of the prior", "light": source, "dark": source})
    return {
        "name": result.system,
        "verdict": verdict(result),
        "rows": _rows(result),
        "beside": {key: name for key, name in BESIDE.items() if getattr(result, key)},
        "figures": figures,
        "trapping": trapping_section(result.trapping),
        "simulation": _facts(result.simulation),
    }


def _rows(result: FreeEnergyResult) -> list[dict[str, Any]]:
    """Return one row a metric; a metric that this file does not know comes last, by its key."""
    known = [key for key in BETTER if key in result.metrics]
    return [
        {
            "key": key,
            "label": TERM_LABELS.get(key, key),
            "better": BETTER.get(key, ""),
            "model": result.metrics[key],
            "interval": _between(result.intervals.get(key)),
            **{name: getattr(result, name).get(key, math.nan) for name in BESIDE},
        }
        for key in [*known, *(key for key in result.metrics if key not in BETTER)]
    ]


def _between(ends: tuple[float, float] | None) -> str:
    """Return an interval as text, nothing where it is not known."""
    if ends is None or not all(map(math.isfinite, ends)):
        return ""
    return f"{short(ends[0])} to {short(ends[1])}"


def _facts(simulation: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the simulation's settings and cost as pairs of name and text."""
    facts = [
        (key.replace("_", " "), _fact(value))
        for key, value in simulation.items()
        if value is not None
    ]
    if {"steps", "time_step_ps"} <= simulation.keys():
        length = simulation["steps"] * simulation["time_step_ps"]
        facts.append(("length of a replica ps", _fact(length)))
    return facts


def _fact(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else short(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _priors(folder: Path, suffixes: list[str]) -> dict[str, float]:
    """Return the force loss of the prior alone, of all systems together, where a result has it."""
    for suffix in suffixes:
        value = FreeEnergyResult.load(folder, suffix).simulation.get("prior_force_mse")
        if value is not None:
            return {"force_mse": value}
    return {}


def _suffixes(folder: Path) -> list[str]:
    """Return the suffixes of the results in `folder`, the first system's empty one first."""
    return sorted(
        path.stem.removeprefix("free_energy")
        for pattern in ("free_energy.json", "free_energy-*.json")
        for path in folder.glob(pattern)
    )


def _parse(cell: Any) -> float | None:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return None
