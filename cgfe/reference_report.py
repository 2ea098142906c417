"""The report on a reference: one page that says whether it can tell models apart."""

import math
from pathlib import Path
from typing import Any

from cgfe.convergence import TARGET_DELTA_F_KT, TARGET_JS, Convergence
from cgfe.convergence_plots import (
    plot_chapman_kolmogorov,
    plot_growth,
    plot_timescales,
    plot_ways,
)
from cgfe.metrics import FOLDED_RMSD
from cgfe.pages import figure, short, write_page

PAGE = "reference_report.html.j2"
WAYS = {"all": "all together", "msm": "unbiased trajectories (MSM)", "bias": "biased trajectories"}


def write_reference_report(result: Convergence, name: str, size: str, output: Path) -> Path:
    """Write the page of a reference's convergence.

    Parameters
    ----------
    result : Convergence
    name : str
        Of the frames file.
    size : str
        Of the file, as text.
    output : Path
        HTML file to write.
    """
    figures = [
        figure(lambda: plot_ways(result), "Free-energy surface by each way to the weights"),
        figure(
            lambda: plot_growth(result),
            "JS divergence between two disjoint parts, each with weights of its own, against "
            "their size",
        ),
    ]
    if len(result.timescales.lags_ps):
        figures.append(
            figure(
                lambda: plot_timescales(result),
                "Implied timescales of the MSM against its lag, with 95 % bootstrap bands; below "
                "the dotted line nothing can be seen",
            )
        )
    if result.chapman_kolmogorov:
        figures.append(
            figure(
                lambda: plot_chapman_kolmogorov(result),
                "Chapman-Kolmogorov test: the MSM's prediction against MSMs at longer lags",
            )
        )
    write_page(
        output,
        PAGE,
        name=name,
        tone="good" if result.converged else "fair" if _useful(result) else "bad",
        headline=headline(result),
        details=details(result),
        facts=_facts(result, size),
        rows=_rows(result),
        figures=figures,
    )
    return output


def headline(result: Convergence) -> str:
    """Say in one sentence whether models can be told apart."""
    if result.converged:
        return "Converged: models that differ by more than the figures below can be told apart."
    if _useful(result):
        return (
            "Not converged: it tells a model that loses a basin from one that does not, but no "
            "finer."
        )
    return "Not converged: its halves differ as much as models do, so it decides nothing yet."


def details(result: Convergence) -> list[str]:
    """Say in words what stands behind the headline."""
    said = [
        f"Halves of the trajectories differ by JS {short(result.js_walkers)} (target "
        f"{TARGET_JS:g}), halves of time by {short(result.js_time)}: errors of models below "
        "that are noise."
    ]
    if "all" in result.delta_f_kt:
        value, low, high = result.delta_f_kt["all"]
        said.append(
            f"F(folded) - F(unfolded) is {value:.2f} kT, 95 % interval {low:.2f} to {high:.2f} "
            f"(target ± {TARGET_DELTA_F_KT:g})."
        )
    if math.isfinite(result.agreement_js):
        said.append(_agreement(result))
    elif result.biased in (0, result.trajectories):
        kind = "biased" if result.biased else "unbiased"
        said.append(f"All trajectories are {kind}, so no second way checks the weights.")
    if not result.converged:
        said.append(_more(result))
    return said


def _useful(result: Convergence) -> bool:
    # Two ensembles without any overlap have ln 2.
    return result.js_walkers < 0.5 * math.log(2)


def _agreement(result: Convergence) -> str:
    found = f"Unbiased and biased sampling differ by JS {short(result.agreement_js)}"
    if not {"msm", "bias"} <= result.delta_f_kt.keys():
        return f"{found}."
    (a, a_low, a_high), (b, b_low, b_high) = (result.delta_f_kt[k] for k in ("msm", "bias"))
    overlap = a_low <= b_high and b_low <= a_high
    agrees = "agree within their intervals" if overlap else "contradict each other"
    return (
        f"{found}; their ΔF, {a:.2f} ({a_low:.2f} to {a_high:.2f}) and {b:.2f} ({b_low:.2f} to "
        f"{b_high:.2f}) kT, {agrees}."
    )


def _more(result: Convergence) -> str:
    trend, least, _ = result.more_ns()
    found = f"It needs at least {_ns(least)} more"
    if math.isfinite(trend) and trend > 1.2 * least:
        return f"{found}, and {_ns(trend)} if JS goes on falling as slowly as it does now."
    if not math.isfinite(trend):
        return f"{found}; so far JS does not fall with more sampling."
    return f"{found}."


def _ns(value: float) -> str:
    return f"{value / 1000:.1f} µs" if value >= 1000 else f"{math.ceil(value)} ns"


def _facts(result: Convergence, size: str) -> list[tuple[str, str]]:
    return [
        ("sampling", f"{result.nanoseconds:.1f} ns"),
        ("trajectories", f"{result.trajectories}, {result.biased} of them biased"),
        ("frames", f"{result.frames:,}"),
        ("effective frames", f"{result.effective_frames:,.0f}"),
        ("frames without weight", f"{result.weightless:,}"),
        ("beads", str(result.beads)),
        ("file", size),
        ("folded", f"Cα RMSD ≤ {FOLDED_RMSD:g} Å"),
    ]


def _rows(result: Convergence) -> list[dict[str, Any]]:
    """Return ΔF by each way, as table rows."""
    return [
        {"label": WAYS[name], "value": value, "low": low, "high": high}
        for name, (value, low, high) in result.delta_f_kt.items()
    ]
