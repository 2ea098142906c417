"""One figure of all results."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

Rows = list[dict[str, Any]]
COLOURS = {
    "cgfe": "C0",
    "cgfe, autograd": "C9",
    "PyG": "C1",
    "torchmd-net": "C2",
    "torchmd-net, pairs given": "C8",
}


def plot(results: dict[str, Any], path: Path) -> None:
    """Draw what there is of training, simulation, scaling, memory and pipeline."""
    figure, axes = pyplot.subplots(2, 3, figsize=(16, 9), layout="constrained")
    rows: Rows = results["rows"]
    _training(axes[0, 0], rows, results["comparisons"])
    _simulation(axes[0, 1], rows)
    _pipeline(axes[0, 2], rows)
    _scaling(axes[1, 0], rows, "replicas")
    _scaling(axes[1, 1], rows, "beads")
    _memory(axes[1, 2], rows)
    network, machine = results["settings"]["network"], results["machine"]
    figure.suptitle(
        f"{network['hidden_channels']} channels, {network['num_layers']} layers; "
        f"{machine['processor']}, {machine['cores']} cores; medians and quartiles over turns"
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _of(rows: Rows, *sections: str) -> Rows:
    return [row for row in rows if row["section"] in sections]


def _errors(rows: Rows) -> tuple[list[float], list[list[float]]]:
    """Return medians, and the distances of both quartiles from them."""
    rates = [row["items_per_second"] for row in rows]
    below = [middle - low for low, middle, _ in rates]
    above = [high - middle for _, middle, high in rates]
    return [middle for _, middle, _ in rates], [below, above]


def _training(axes: Axes, rows: Rows, comparisons: Rows) -> None:
    own = _of(rows, "training")
    axes.set_title("training step: frames/s")
    if not own:
        return _nothing(axes)
    medians, errors = _errors(own)
    names = [row["variant"] for row in own]
    axes.barh(names, medians, xerr=errors, color=[COLOURS[name] for name in names])
    ratios = {c["other"]: c["times_faster"][1] for c in comparisons if c["section"] == "training"}
    for position, name in enumerate(names):
        text = f" cgfe ÷ {ratios[name]:.2f}" if name in ratios else ""
        axes.text(medians[position], position, text, va="bottom")
    axes.margins(x=0.2)
    axes.invert_yaxis()


def _simulation(axes: Axes, rows: Rows) -> None:
    own = _of(rows, "simulation")
    axes.set_title("simulation: replica-steps/s")
    if not own:
        return _nothing(axes)
    cases = list(dict.fromkeys(row["case"] for row in own))
    variants = list(dict.fromkeys(row["variant"] for row in own))
    height = 0.8 / len(variants)
    for number, variant in enumerate(variants):
        chosen = [row for row in own if row["variant"] == variant]
        medians, errors = _errors(chosen)
        places = [cases.index(row["case"]) + height * number for row in chosen]
        axes.barh(places, medians, height, xerr=errors, label=variant, color=COLOURS.get(variant))
    axes.set_xscale("log")
    axes.set_yticks([k + height * (len(variants) - 1) / 2 for k in range(len(cases))], cases)
    axes.invert_yaxis()
    axes.set_xlim(right=30 * axes.get_xlim()[1])  # room for the legend
    axes.legend(fontsize="small", loc="lower right")


def _scaling(axes: Axes, rows: Rows, kind: str) -> None:
    own = _of(rows, f"scaling over {kind}")
    axes.set_title(f"cgfe simulation over {kind}: replica-steps/s")
    if not own:
        return _nothing(axes)
    for variant in dict.fromkeys(row["variant"] for row in own):
        chosen = [row for row in own if row["variant"] == variant]
        medians, errors = _errors(chosen)
        axes.errorbar(
            [row[kind] for row in chosen], medians, yerr=errors, marker="o", label=variant
        )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    fixed = "beads" if kind == "replicas" else "replicas"
    axes.set_xlabel(f"{kind} (at {own[0][fixed]} {fixed})")
    axes.legend()


def _memory(axes: Axes, rows: Rows) -> None:
    own = _of(rows, "memory over replicas", "memory over beads")
    axes.set_title("simulation's own peak memory: MB")
    if not own:
        return _nothing(axes)
    for kind in ("replicas", "beads"):
        chosen = _of(own, f"memory over {kind}")
        axes.plot(
            [row["replicas"] * row["beads"] ** 2 for row in chosen],
            [max(row["own_mb"], 0.1) for row in chosen],
            marker="o",
            label=f"over {kind}",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(bottom=10)
    axes.set_xlabel("replicas × beads²")
    axes.legend()


def _pipeline(axes: Axes, rows: Rows) -> None:
    own = [row for row in _of(rows, "pipeline") if row["case"] != "loading"]
    axes.set_title("pipeline: seconds")
    if not own:
        return _nothing(axes)
    seconds = [row["per_unit"] / row["items_per_second"][1] for row in own]
    names = [row["variant"].replace(", ", "\n") for row in own]
    axes.bar_label(axes.barh(names, seconds), fmt="%.2g", padding=3)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.invert_yaxis()


def _nothing(axes: Axes) -> None:
    axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)
    axes.set_axis_off()
