"""Figures of a reference's convergence."""

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from cgfe.reference.convergence import TARGET_JS, Convergence
from cgfe.report.verdicts import WAYS

COLOURS = ("#4a8fd6", "#e0701a", "#3a9a5b")
PLAIN = FuncFormatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "125" else "")
"""Labels 1, 2 and 5 of every decade."""
CEILING_KT = 8.0


def plot_ways(result: Convergence) -> Figure:
    """Draw the free-energy surfaces by each way to the weights, on the same axes and colours."""
    surfaces = {name: way.surface for name, way in result.ways.items() if way.surface is not None}
    if not result.biased:
        del surfaces["msm"]  # the same as all
    if result.against is not None and result.against.way.surface is not None:
        surfaces["against"] = result.against.way.surface
    figure = Figure(figsize=(max(8.0, 3.4 * len(surfaces) + 0.8), 3.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(surfaces), sharex=True, sharey=True))
    for axes, (name, shares) in zip(panels, surfaces.items(), strict=True):
        probability = shares[1:].reshape(result.grid.shape)  # without what is outside
        with np.errstate(divide="ignore"):
            energy = -np.log(probability / probability.max())
        mesh = axes.pcolormesh(
            *result.grid.edges,
            np.ma.masked_invalid(energy).T,
            cmap="viridis",
            vmin=0,
            vmax=CEILING_KT,
            rasterized=True,
        )
        axes.set(title=WAYS[name], xlabel="TIC 1", ylabel="TIC 2")
        axes.label_outer()
    figure.colorbar(mesh, ax=panels, label="free energy, kT", extend="max")
    return figure


def plot_folded_share(result: Convergence) -> Figure:
    """Draw the folded share against time of walkers that started folded, and unfolded."""
    assert result.folding is not None
    share = result.folding.share
    assert share is not None
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    for group, (name, colour) in enumerate(zip(("folded", "unfolded"), COLOURS, strict=False)):
        label = f"{share.walkers[group]} started {name}"
        axes.plot(share.times_ns, share.share[group], color=colour, label=label)
        low, high = share.share[group] - share.half[group], share.share[group] + share.half[group]
        axes.fill_between(
            share.times_ns, np.clip(low, 0, 1), np.clip(high, 0, 1), color=colour, alpha=0.2, lw=0
        )
    if share.met_ns is not None:
        axes.axvline(share.met_ns, color=mpl.rcParams["text.color"], ls="--", lw=0.8, label="met")
    axes.set(xlabel="time, ns", ylabel="folded share", ylim=(-0.02, 1.02))
    axes.legend(frameon=False)
    return figure


def plot_growth(result: Convergence) -> Figure:
    """Draw JS between two parts against their size, with the target."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.loglog(result.growth_ns, result.growth_js, "o-", color=COLOURS[0], label="two parts")
    floor = result.floor
    axes.errorbar(
        result.nanoseconds,
        floor.mean,
        np.array([[0.0], [max(floor.high - floor.mean, 0.0)]]),
        fmt="s",
        color=COLOURS[2],
        label="floor, and its 95 % quantile",
    )
    axes.axhline(TARGET_JS, color=COLOURS[1], ls="--", label="target for the floor")
    axes.set(xlabel="sampling, ns", ylabel="JS divergence, nats")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PLAIN)
        axis.set_minor_formatter(PLAIN)
    axes.legend(frameon=False)
    return figure


def plot_timescales(result: Convergence) -> Figure:
    """Draw the MSM's implied timescales against its lag, with bootstrap bands."""
    times = result.timescales
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    for mode, colour in enumerate(COLOURS[: times.value.shape[1]]):
        axes.plot(times.lags_ps, times.value[:, mode] / 1000, "o-", ms=3.5, color=colour)
        low, high = times.low[:, mode] / 1000, times.high[:, mode] / 1000
        axes.fill_between(times.lags_ps, low, high, color=colour, alpha=0.2, lw=0)
    # A process faster than the lag cannot be seen.
    axes.plot(times.lags_ps, times.lags_ps / 1000, color=mpl.rcParams["text.color"], ls=":")
    axes.axvline(times.msm_lag_ps, color=mpl.rcParams["text.color"], ls="--", lw=0.8)
    axes.set(xlabel="lag, ps", ylabel="implied timescale, ns", xscale="log", yscale="log")
    axes.xaxis.set_major_formatter(PLAIN)
    axes.xaxis.set_minor_formatter(PLAIN)
    return figure


def plot_chapman_kolmogorov(result: Convergence) -> Figure:
    """Draw predicted and observed probabilities of being in a set again."""
    tests = result.chapman_kolmogorov
    figure = Figure(figsize=(4 * max(len(tests), 1), 3.2), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, max(len(tests), 1), sharey=True))
    for axes, test in zip(panels, tests, strict=False):
        half = np.where(np.isfinite(test.observed_half), test.observed_half, 0)
        axes.errorbar(
            test.times_ps, test.observed, half, fmt="o", color=COLOURS[0], label="observed"
        )
        axes.plot(test.times_ps, test.predicted, color=COLOURS[1], label="predicted")
        half = np.where(np.isfinite(test.predicted_half), test.predicted_half, 0)
        low, high = test.predicted - half, test.predicted + half
        axes.fill_between(test.times_ps, low, high, color=COLOURS[1], alpha=0.2, lw=0)
        axes.set(title=test.name, xlabel="time, ps")
    panels[0].set(ylabel="probability of being there again")
    panels[0].legend(frameon=False)
    return figure
