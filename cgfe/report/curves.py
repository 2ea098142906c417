"""Loss terms and metrics of a training against the epoch."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cgfe.report.plots import PRIOR_COLOUR, TERM_LABELS

STAGES = ("train", "validation", "test")
"""All that is logged behind these are loss terms."""


def plot_curves(
    rows: Sequence[Mapping[str, float]], priors: Mapping[str, float] | None = None
) -> Figure:
    """Draw each loss term and free-energy metric against the epoch, one panel each.

    Parameters
    ----------
    rows : sequence of mapping
        Columns as logged (`train/force_mse`, `validation/loss`, `free_energy/js`, for further
        systems `free_energy/NAME/js`), with `epoch`; a row holds some of them. Columns of other
        names are no curves.
    priors : mapping, optional
        What the prior alone has of a term, drawn as a line; of mean forces the rows tell it.
    """
    curves = curves_of(rows)
    levels = dict(priors or {})
    if "mean_force_mse" in curves and "mean_force_mse_prior" in curves:
        told = curves.pop("mean_force_mse_prior")
        levels["mean_force_mse"] = next(iter(told.values()))[-1][1]
    columns = min(3, max(len(curves), 1))
    lines = -(-max(len(curves), 1) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.5 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (term, series) in zip(panels, curves.items(), strict=False):
        for name, points in series.items():
            epochs, values = np.array(points).T
            # Free-energy metrics are few; a single point would not show as a line.
            marker = "o" if len(points) < 30 else None
            style = {"color": mpl.rcParams["text.color"]} if name == "train" else {}
            axes.plot(epochs, values, marker=marker, ms=3.5, lw=1.5, label=name, **style)
        values = np.array([value for points in series.values() for _, value in points])
        if term in levels and np.isfinite(levels[term]):
            axes.axhline(levels[term], color=PRIOR_COLOUR, ls="--", lw=1.2, label="prior alone")
        if values.min() > 0 and values.max() > 20 * values.min():
            axes.set_yscale("log")
        axes.set_title(TERM_LABELS.get(term, term), fontsize=9)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(axes.lines) > 1:
            axes.legend(frameon=False, fontsize=8)
    for axes in panels[len(curves) :]:
        axes.set_axis_off()
    return figure


def curves_of(
    rows: Sequence[Mapping[str, float]],
) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Sort finite values into {term: {series: [(epoch, value), ...]}}.

    In TERM_LABELS' order, terms of the user's own last.
    """
    found: dict[str, dict[str, list[tuple[float, float]]]] = {term: {} for term in TERM_LABELS}
    for row in rows:
        for column, value in row.items():
            stage, _, rest = column.partition("/")
            *system, term = rest.split("/")
            known = term in found or stage in STAGES
            if known and np.isfinite(value) and "epoch" in row:
                series = "/".join(system) or {"free_energy": "first system"}.get(stage, stage)
                found.setdefault(term, {}).setdefault(series, []).append((row["epoch"], value))
    return {term: series for term, series in found.items() if series}
