"""Further figures of a sweep's settings, and which of them differ from the baseline's."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from cgfe.analysis.intervals import Interval
from cgfe.array_types import FloatArray
from cgfe.experiment.figures import FEWEST_SEEDS
from cgfe.experiment.intervals import mean_interval


@dataclass(frozen=True)
class FurtherFigure:
    """One figure of every setting.

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


def compare_figures(
    figures: Mapping[str, FloatArray], labels: Mapping[str, str], baseline: int
) -> tuple[FurtherFigure, ...]:
    """Return means over seeds, and which settings differ from the baseline's row.

    They differ where a t test of the paired differences has p < 0.05 / N, with N comparisons in
    all (Bonferroni): that any of them does by chance has 5 %.

    Parameters
    ----------
    figures : mapping of array (K, S)
    labels : mapping of str
        Of each key.
    baseline : int
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
        found.append(FurtherFigure(key, labels[key], values, means, tuple(apart)))
    return tuple(found)


def _chance(differences: FloatArray) -> float:
    """Return the two-sided p of a t test that their mean is 0."""
    mean = float(differences.mean())
    error = float(differences.std(ddof=1)) / len(differences) ** 0.5
    if error == 0:
        return float(mean == 0)
    return float(2 * stats.t.sf(abs(mean) / error, len(differences) - 1))
