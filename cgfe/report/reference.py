"""The report on a reference: one page that says whether it can tell models apart."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from cgfe.analysis.intervals import Interval
from cgfe.analysis.metrics import FOLDED_RMSD
from cgfe.reference.convergence import Convergence
from cgfe.report.convergence_plots import (
    plot_chapman_kolmogorov,
    plot_folded_share,
    plot_growth,
    plot_timescales,
    plot_ways,
)
from cgfe.report.pages import figure, short, write_page
from cgfe.report.verdicts import WAYS, headline, judge, useful

PAGE = "reference_report.html.j2"
TONES = {"yes": "good", "unknown": "fair", "no": "bad"}


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
    verdicts = judge(result)
    converged = all(v.answer == "yes" for v in verdicts)
    write_page(
        output,
        PAGE,
        name=name,
        tone="good" if converged else "fair" if useful(result) else "bad",
        headline=headline(result),
        more="" if converged else more(result),
        verdicts=[(v.question, v.answer, TONES[v.answer], v.words) for v in verdicts],
        facts=_facts(result, size),
        rows=_rows(result),
        figures=_figures(result),
    )
    return output


def _figures(result: Convergence) -> list[dict[str, str]]:
    drawn: list[tuple[Callable[[Convergence], Figure], str]] = [
        (plot_ways, "Free-energy surface by each way to the weights"),
    ]
    if result.folding is not None and result.folding.share is not None:
        drawn.append(
            (
                plot_folded_share,
                "Share of walkers that are folded (by the core they were in last) against time, by "
                "the core they started in; bands are 95 % intervals of the mean over walkers",
            )
        )
    drawn.append(
        (
            plot_growth,
            "JS divergence between two disjoint parts, each with weights of its own, against their "
            "size; the floor is that of the whole",
        )
    )
    if len(result.timescales.lags_ps):
        drawn.append(
            (
                plot_timescales,
                "Implied timescales of the MSM against its lag, with 95 % bands; below the dotted "
                "line nothing can be seen, the dashed one is the lag in use",
            )
        )
    if result.chapman_kolmogorov:
        drawn.append(
            (
                plot_chapman_kolmogorov,
                "Chapman-Kolmogorov test: the MSM's prediction against MSMs at longer lags, with "
                "95 % intervals",
            )
        )
    return [figure(partial(draw, result), caption) for draw, caption in drawn]


def details(result: Convergence) -> list[str]:
    """Say in words what stands behind the headline, a line for each question."""
    lines = [f"{v.question} {v.answer.capitalize()}. {v.words}" for v in judge(result)]
    asks = more(result)
    return [*lines, asks] if asks else lines


def more(result: Convergence) -> str:
    """Say how much more sampling is needed, nothing if none."""
    trend, least = result.more_ns()
    if trend <= 0:
        return ""
    found = f"Surface and ΔF need at least {_ns(least)} more"
    if math.isfinite(trend) and trend > 1.2 * least:
        return f"{found}, and {_ns(trend)} if JS goes on falling as slowly as it does now."
    if not math.isfinite(trend):
        return f"{found}; so far JS does not fall with more sampling."
    return f"{found}."


def _ns(value: float) -> str:
    return f"{value / 1000:.1f} µs" if value >= 1000 else f"{math.ceil(value)} ns"


def _facts(result: Convergence, size: str) -> list[tuple[str, str]]:
    folded = FOLDED_RMSD if result.folding is None else result.folding.folded_rmsd
    facts = [
        ("sampling", _ns(result.nanoseconds)),
        ("trajectories", f"{result.trajectories}, {result.biased} of them biased"),
        ("frames", f"{result.frames:,}"),
        ("effective frames", f"{result.effective_frames:,.0f}"),
        ("frames without weight", f"{result.weightless:,}"),
        ("beads", str(result.beads)),
        ("file", size),
        ("folded", f"Cα RMSD ≤ {folded:g} Å"),
    ]
    if result.against is not None:
        against = result.against
        sampled = f"{against.name}, {_ns(against.nanoseconds)}, {against.trajectories} trajectories"
        facts.append(("second set", sampled))
    return facts


def _rows(result: Convergence) -> list[dict[str, Any]]:
    """Return ΔF by each way, by RMSD and by core, as table rows."""
    ways = dict(result.ways)
    if not result.biased:
        del ways["msm"]  # the same as all
    if result.against is not None:
        ways["against"] = result.against.way
    return [
        {"label": WAYS[name], "by_rmsd": _cells(way.delta_f), "by_core": _cells(way.by_core)}
        for name, way in ways.items()
        if way.delta_f is not None or way.by_core is not None
    ]


def _cells(value: Interval | None) -> str:
    if value is None:
        return short(math.nan)
    return f"{value.value:.2f} ({value.low:.2f} to {value.high:.2f})"
