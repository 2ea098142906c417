"""Figures of a reference's convergence."""

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from cgfe.convergence import TARGET_JS, Convergence

COLOURS = ("#4a8fd6", "#e0701a", "#3a9a5b")
PLAIN = FuncFormatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "125" else "")
"""Labels 1, 2 and 5 of every decade."""
CEILING_KT = 8.0
TITLES = {"all": "all, weighted together", "msm": "unbiased, MSM weights", "bias": "biased"}


def plot_ways(result: Convergence) -> Figure:
    """Draw the free-energy surfaces by each way to the weights, on the same axes and colours."""
    figure = Figure(figsize=(3.4 * len(result.surfaces) + 0.8, 3.4), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(result.surfaces), sharex=True, sharey=True))
    for axes, (name, probability) in zip(panels, result.surfaces.items(), strict=True):
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
        axes.set(title=TITLES[name], xlabel="TIC 1", ylabel="TIC 2")
        axes.label_outer()
    figure.colorbar(mesh, ax=panels, label="free energy, kT", extend="max")
    return figure


def plot_growth(result: Convergence) -> Figure:
    """Draw JS between two parts against their size, with the target."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.loglog(result.growth_ns, result.growth_js, "o-", color=COLOURS[0], label="two parts")
    axes.axhline(TARGET_JS, color=COLOURS[1], ls="--", label="target for halves")
    axes.set(xlabel="sampling in each part, ns", ylabel="JS divergence, nats")
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
        value, low, high = test.observed
        bars = np.maximum(np.stack([value - low, high - value]), 0)
        axes.errorbar(test.times_ps, value, bars, fmt="o", color=COLOURS[0], label="observed")
        axes.plot(test.times_ps, test.predicted, color=COLOURS[1], label="predicted")
        axes.set(title=test.name, xlabel="time, ps")
    panels[0].set(ylabel="probability of being there again")
    panels[0].legend(frameon=False)
    return figure
