"""What the runs' last simulations left in free_energy.json and .npz beside the figure itself.

With it stand what a perfect model would score, and the figure on bootstrap samples of which those
of the reference are common to all runs. They are used where they are of the very figure that is
told: its value there is the one that was logged.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from cgfe.analysis.floor import Floor
from cgfe.experiment.figures import FloatArray
from cgfe.experiment.runs import Run
from cgfe.report.run import BETTER
from cgfe.simulation.results import RESAMPLED

SIMULATED = ("free_energy", "final")
"""What stands before the metrics of a simulation."""
WALKERS = "reference_trajectories"
"""In a result's `simulation`: how many trajectories the figure's bootstrap drew from."""
SAME = 1e-4
"""Relative; metrics are logged in single precision."""


def is_simulated(metric: str) -> bool:
    """Return whether a metric is one of a simulation."""
    return metric.partition("/")[0] in SIMULATED


def key_of(metric: str) -> str:
    """Return a metric's name without what stands before it."""
    return metric.rpartition("/")[2]


Saved = tuple[Mapping[str, Any], FloatArray | None]


def read_saved(run: Run, metric: str) -> Saved | None:
    """Return a run's saved result and its figure's samples, if they are of the one that is told.

    The samples are made such that lower is better, as the figure itself is.
    """
    if not is_simulated(metric):
        return None
    system = metric.split("/")[1:-1]
    path = run.folder / f"free_energy{'-' + '/'.join(system) if system else ''}.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        own = content.get(key_of(metric))
    except (OSError, ValueError, AttributeError):
        return None
    if own is None or not math.isclose(run.metrics[metric], own, rel_tol=SAME, abs_tol=1e-9):
        return None
    samples = _samples(path.with_suffix(".npz"), key_of(metric))
    return content, None if samples is None else _turned(samples, key_of(metric), own)


def _turned(samples: FloatArray, key: str, value: float) -> FloatArray:
    match BETTER.get(key):
        case "higher":
            return 1 - samples
        case "near 0":  # |x| near the value: samples on the other side of 0 do not fold back
            return samples if value >= 0 else -samples
    return samples


def _samples(path: Path, key: str) -> FloatArray | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = np.asarray(file[f"{key}{RESAMPLED}"], dtype=np.float64)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
    return found if found.ndim == 1 and len(found) > 1 else None


def common_samples(
    shape: tuple[int, ...],
    saved: Mapping[tuple[int, int], Saved | None],
) -> tuple[FloatArray | None, int | None]:
    """Return a figure (K, S, R) of samples that all runs share, if every run has them."""
    results = list(saved.values())
    if any(r is None or r[1] is None for r in results):
        return None, None
    known = [(content, samples) for content, samples in filter(None, results)]
    kinds = {
        (
            content.get("compared_with"),
            content.get("simulation", {}).get(WALKERS),
            0 if samples is None else len(samples),
        )
        for content, samples in known
    }
    walkers = next(iter(kinds))[1]
    if len(kinds) > 1 or walkers is None or walkers < 2:
        return None, None
    resampled = np.full((*shape, next(iter(kinds))[2]), np.nan)
    for place, (_, samples) in zip(saved, known, strict=True):
        resampled[place] = samples
    present = list(zip(*saved, strict=True))
    return (
        (resampled, int(walkers)) if np.isfinite(resampled[tuple(present)]).all() else (None, None)
    )


def mean_floor(
    saved: Mapping[tuple[int, int], Saved | None], metric: str, walkers: int | None
) -> Floor | None:
    """Return what a perfect model would score in mean over the runs that tell it.

    A file without `floor_high` compared halves of the reference, which is no floor.
    """
    key = key_of(metric)
    told = [
        (content["floor"].get(key), content["floor_high"].get(key))
        for content, _ in filter(None, saved.values())
        if "floor_high" in content
    ]
    ends = np.array([pair for pair in told if None not in pair], dtype=np.float64)
    if not len(ends) or not np.isfinite(ends).all():
        return None
    mean, high = ends.mean(axis=0)
    return Floor(float(mean), float(high), walkers or 0)
