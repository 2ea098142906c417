"""How models of each setting hold their replicas: the trapping of runs, by setting and seed."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cgfe.array_types import FloatArray
from cgfe.experiment.further import FurtherFigure
from cgfe.experiment.saved import Saved


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


LABELS = {key: label for key, (label, _) in FIGURES.items()}
NOTE = (
    "Replicas are followed while they are at the data’s temperature, between a folded and an "
    "unfolded core; a replica that never left its start’s state is trapped only where the memory "
    "of the start is above 0: that is the folded share of replicas that began folded minus that of "
    "those that began unfolded, in the second half of the time. Deepest bin: the model’s largest "
    "population of a bin over the reference’s. Stretched bonds: share of the scans in which the "
    "energy falls by more than kT."
)
"""What the figures are."""


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


def trapping_words(
    figures: tuple[FurtherFigure, ...], settings: Sequence[str], baseline: str
) -> tuple[str, ...]:
    """Say which settings hold their replicas otherwise than the baseline does.

    Parameters
    ----------
    figures : tuple of FurtherFigure
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
