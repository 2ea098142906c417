"""How models of each setting hold their replicas: the trapping of runs, by setting and seed."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from cgfe.analysis.intervals import Interval
from cgfe.array_types import FloatArray
from cgfe.experiment.figures import FEWEST_SEEDS
from cgfe.experiment.intervals import mean_interval
from cgfe.experiment.saved import Saved


@dataclass(frozen=True)
class TrappingFigure:
    """One figure of trapping.

    Attributes
    ----------
    key, label : str
        `label` as a column's head.
    values : array (K, S)
        Of each setting and seed, NaN where a run does not tell it.
    means : tuple of Interval
        Over seeds, of each setting.
    apart : tuple of bool
        Whether the paired differences of each setting from the baseline are more than chance.
    """

    key: str
    label: str
    values: FloatArray
    means: tuple[Interval, ...]
    apart: tuple[bool, ...]


def _stayed(t: Mapping[str, Any]) -> float:
    return float(t["share"])


def _memory(t: Mapping[str, Any]) -> float:
    return float(t["memory"][0])


def _transitions(t: Mapping[str, Any]) -> float:
    return (t["foldings"] + t["unfoldings"]) / sum(t["began"])


def _deepest(t: Mapping[str, Any]) -> float:
    return float(t["deepest"]["model"] / t["deepest"]["reference"])


def _falling(t: Mapping[str, Any]) -> float:
    return 1 - float(t["bonds"]["monotone"])


FIGURES: dict[str, tuple[str, Callable[[Mapping[str, Any]], float]]] = {
    "stayed": ("never left their start’s state", _stayed),
    "memory": ("memory of the start", _memory),
    "transitions": ("transitions a replica", _transitions),
    "deepest": ("deepest bin, model to reference", _deepest),
    "falling_bonds": ("stretched bonds that fall", _falling),
}


def trapping_figures(
    shape: tuple[int, int], saved: Mapping[tuple[int, int], Saved | None]
) -> dict[str, FloatArray]:
    """Return each figure (K, S) that any run tells, from the runs' saved results."""
    found = {}
    for key, (_, read) in FIGURES.items():
        values = np.full(shape, np.nan)
        for place, result in saved.items():
            if result is not None:
                values[place] = _read(read, result[0].get("trapping", {}))
        if np.isfinite(values).any():
            found[key] = values
    return found


def _read(read: Callable[[Mapping[str, Any]], float], trapping: Mapping[str, Any]) -> float:
    try:
        return read(trapping)
    except (KeyError, TypeError, ZeroDivisionError):
        return math.nan  # an older result, no native structure, or null for no value


def compare_trapping(
    figures: Mapping[str, FloatArray], baseline: int
) -> tuple[TrappingFigure, ...]:
    """Return means over seeds, and which settings differ from the baseline's row.

    They differ where a t test of the paired differences has p < 0.05 / N, with N comparisons in
    all (Bonferroni): that any of them does by chance has 5 %.
    """
    found = []
    number = max(1, len(figures) * (len(next(iter(figures.values()), [])) - 1))
    for key, values in figures.items():
        apart = []
        for row in values:
            paired = row - values[baseline]
            known = paired[np.isfinite(paired)]
            apart.append(len(known) >= FEWEST_SEEDS and _chance(known) < 0.05 / number)
        means = tuple(mean_interval(row[np.isfinite(row)]) for row in values)
        found.append(TrappingFigure(key, FIGURES[key][0], values, means, tuple(apart)))
    return tuple(found)


def _chance(differences: FloatArray) -> float:
    """Return the two-sided p of a t test that their mean is 0."""
    mean = float(differences.mean())
    error = float(differences.std(ddof=1)) / len(differences) ** 0.5
    if error == 0:
        return float(mean == 0)
    return float(2 * stats.t.sf(abs(mean) / error, len(differences) - 1))


def trapping_words(
    figures: tuple[TrappingFigure, ...], settings: Sequence[str], baseline: str
) -> tuple[str, ...]:
    """Say which settings hold their replicas otherwise than the baseline does.

    Parameters
    ----------
    figures : tuple of TrappingFigure
    settings : sequence of str
        K names.
    baseline : str
        Its name, with the option's.
    """
    if not figures:
        return ()
    parts = []
    for figure in figures:
        listed = [
            f"{name} ({figure.means[row].value:.2g})"
            for row, name in enumerate(settings)
            if figure.apart[row]
        ]
        if listed:
            parts.append(f"{figure.label}: {', '.join(listed)}")
    start = f"Trapping against {baseline}, with 5 % of chance for all comparisons together"
    if not parts:
        return (f"{start}: no setting differs in any of {len(figures)} figures.",)
    return (f"{start}, differs in {'; '.join(parts)}.",)
