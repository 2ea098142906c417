"""A model's ensemble against the reference's: every figure with its interval and its floor.

*Interval.* A figure such as a JS divergence is what two finite samples give. Its interval is for
that figure's expectation, over other samples of the same sizes: trajectories of the reference and
replicas of the model are drawn again, each by themselves; the two variances add, and Student's t
takes the degrees of freedom of Welch and Satterthwaite.

*Floor.* What a perfect model would score here. Its true ensemble is the reference's, so it differs
from the reference by two sampling errors: that of the reference, drawn again and compared with the
whole (cgfe.analysis.floor), and that of a simulation of this size, from the model's own replicas.
To second order JS is a quadratic form in the errors, so the two parts add; W1, ΔF and the error of
macrostates are linear, so their squares add. KL and the mean squared difference of F have no floor:
they rest on bins that one of the two has missed, which no bootstrap sample of it can have (it told
a fifth of what a perfect model scored in a trial).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import rel_entr

from cgfe.analysis.ensemble import Ensemble, Totals, profile_edges
from cgfe.analysis.floor import sparseness
from cgfe.analysis.free_energy import TICGrid
from cgfe.analysis.intervals import LEVEL
from cgfe.analysis.metrics import FREE_ENERGY_CEILING_KT, PSEUDO_COUNT
from cgfe.array_types import FloatArray, IntArray

RESAMPLES = 200
FLOORED = ("js", "w1_tic1", "w1_tic2", "delta_f_kt", "macrostate_error_kt")
SIGNED = "delta_f_kt"

Figures = dict[str, FloatArray]


@dataclass(frozen=True)
class Comparison:
    """Figures of a model, their intervals, and what a perfect one would score.

    Attributes
    ----------
    metrics : dict
        `js`, `kl_reference_model` (what is outside the grid counts as one more bin), `mse_kt2`,
        `w1_tic1`, `w1_tic2` (Wasserstein-1 distances, in units of the TICs), `delta_f_kt` (the
        model's ΔF(folded - unfolded) minus the reference's; NaN without a native structure),
        `macrostate_error_kt` (mean absolute error of F = -ln p over states that the reference
        visits; NaN without states), `coverage`, `outside` (share of the model's frames).
    intervals : dict
        (low, high), 95 %, of the same; infinite with fewer than two trajectories or replicas.
    floor : dict
        Of `js` in mean; of `w1_tic1`, `w1_tic2`, `delta_f_kt` and `macrostate_error_kt` the root
        mean square.
    floor_high : dict
        Its 95 % quantile.
    resampled : dict of arrays (R,)
        The metrics of bootstrap samples of both. Those of the reference are the same ones for
        every model that is compared with it, so that its error cancels in differences.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    floor: dict[str, float]
    floor_high: dict[str, float]
    resampled: Figures


def compare_totals(
    reference: Totals, model: Totals, grid: TICGrid, states: IntArray | None = None
) -> Figures:
    """Return the metrics of shares, or of each of R bootstrap samples, as arrays (R,).

    Parameters
    ----------
    reference, model : Totals
    grid : TICGrid
    states : int array (n1, n2), optional
        Of each bin, from 0 on, as `cgfe.analysis.basins.basins` finds them.
    """
    p, q = reference.joint, model.joint
    inside_p, inside_q = p[..., 1:], q[..., 1:]
    w1 = []
    for edges, first, second in zip(
        profile_edges(grid), reference.profiles, model.profiles, strict=True
    ):
        w1.append(np.abs(np.cumsum(first - second, axis=-1)).sum(axis=-1) * (edges[1] - edges[0]))
    shape = np.broadcast_shapes(p.shape[:-1], q.shape[:-1])
    found = {
        "js": js_of_shares(p, q),
        "kl_reference_model": _kl(p, q),
        "mse_kt2": mse_kt2(inside_p, inside_q),
        "w1_tic1": w1[0],
        "w1_tic2": w1[1],
        "delta_f_kt": _delta_f(model.folded, shape) - _delta_f(reference.folded, shape),
        "macrostate_error_kt": macrostate_error_kt(inside_p, inside_q, states),
        "coverage": np.where(inside_q > 0, inside_p, 0).sum(-1)
        / np.maximum(inside_p.sum(-1), np.finfo(np.float64).tiny),
        "outside": q[..., 0],
    }
    return {key: np.broadcast_to(value, shape) for key, value in found.items()}


def compare_ensembles(
    reference: Ensemble,
    model: Ensemble,
    seed: int = 0,
    resamples: int = RESAMPLES,
    states: IntArray | None = None,
) -> Comparison:
    """Compare a model's replicas with the reference's trajectories, on the reference's grid.

    Parameters
    ----------
    reference, model : Ensemble
        On the same grid.
    seed : int
        Of the model's bootstrap; the reference's is the same for all models.
    resamples : int
    states
        As for `compare_totals`.
    """
    grid = reference.grid
    common, own = np.random.default_rng(0), np.random.default_rng([seed, 1])
    reference_draws = reference.draws(resamples, common)
    p, p_drawn = reference.totals(), reference.totals(reference_draws)
    q, q_drawn = model.totals(), model.totals(model.draws(resamples, own))
    metrics = {key: float(value) for key, value in compare_totals(p, q, grid, states).items()}
    of_reference = compare_totals(p_drawn, q, grid, states)
    of_model = compare_totals(p, q_drawn, grid, states)
    parts = [(of_reference, len(reference)), (of_model, len(model))]
    # A perfect model: what is drawn again against the whole that it was drawn from.
    floors = [
        (
            _unsigned(compare_totals(p, p_drawn, grid, states)),
            len(reference),
            reference,
            reference_draws,
        ),
        (_unsigned(compare_totals(q, q_drawn, grid, states)), len(model), None, None),
    ]
    floor, high = _floors(floors, common)
    return Comparison(
        metrics,
        {
            key: interval_of(value, [(x[key], n) for x, n in parts], key == SIGNED)
            for key, value in metrics.items()
        },
        floor,
        high,
        compare_totals(p_drawn, q_drawn, grid, states),
    )


def mse_kt2(p_reference: FloatArray, p_model: FloatArray) -> FloatArray:
    """Return the mean squared difference of F in kT² over the bins that the reference visits.

    F = -ln p, 0 at its least over the bins that both visit, is cut off at the ceiling; then the
    model's is shifted so that the means over the bins that both visit agree. Bins that only the
    reference visits have the model at the ceiling: a missed minimum counts ceiling², a missed bin
    near the ceiling hardly anything. Bins count equally, not by their probability. Cut off after
    the shift, a model that differs only where nothing can be known would be shifted everywhere.

    Parameters
    ----------
    p_reference, p_model : arrays (..., B)
    """
    visited, shared = p_reference > 0, (p_reference > 0) & (p_model > 0)
    reference = _cut(p_reference, shared | visited)
    model = _cut(p_model, shared)
    count = np.maximum(shared.sum(-1, keepdims=True), 1)
    shift = np.where(shared, reference - model, 0).sum(-1, keepdims=True) / count
    model = np.where(shared, model + shift, FREE_ENERGY_CEILING_KT)
    squares = np.where(visited, (model - reference) ** 2, 0)
    mean: FloatArray = squares.sum(-1) / np.maximum(visited.sum(-1), 1)
    return mean


def _cut(probability: FloatArray, counted: NDArray[np.bool_]) -> FloatArray:
    """Return F in kT from its least over the bins that count, at most the ceiling."""
    kept = np.where(counted, probability, 0.0)
    largest = kept.max(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        free_energy = np.log(largest) - np.log(kept)
    return np.where(counted, np.minimum(free_energy, FREE_ENERGY_CEILING_KT), 0.0)


def js_of_shares(p: FloatArray, q: FloatArray) -> FloatArray:
    """Return the JS divergence (...) of shares (..., B), each 1 in all, in nats."""
    middle = (p + q) / 2
    divergence: FloatArray = (rel_entr(p, middle) + rel_entr(q, middle)).sum(-1) / 2
    return divergence


def _kl(p: FloatArray, q: FloatArray) -> FloatArray:
    p, q = p + PSEUDO_COUNT, q + PSEUDO_COUNT
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    divergence: FloatArray = rel_entr(p, q).sum(-1)
    return divergence


def _delta_f(folded: FloatArray | None, shape: tuple[int, ...]) -> FloatArray:
    if folded is None:
        return np.full(shape, np.nan)
    with np.errstate(divide="ignore"):
        difference = np.log(1 - folded) - np.log(folded)
    return np.clip(difference, -FREE_ENERGY_CEILING_KT, FREE_ENERGY_CEILING_KT)


def macrostate_error_kt(p: FloatArray, q: FloatArray, states: IntArray | None) -> FloatArray:
    """Return the mean |F_model - F_reference| (...) of the states that the reference visits.

    Parameters
    ----------
    p, q : array (..., B)
        Shares of the reference's and the model's frames in each bin. F is cut off at the ceiling.
    states : int array (n1, n2), optional
        Without them there is no value.
    """
    if states is None:
        return np.full(np.broadcast_shapes(p.shape[:-1], q.shape[:-1]), np.nan)
    member = np.equal.outer(states.ravel(), np.arange(states.max() + 1)).astype(np.float64)
    reference, model = p @ member, q @ member
    with np.errstate(divide="ignore"):
        energies = [
            np.minimum(-np.log(shares), FREE_ENERGY_CEILING_KT) for shares in (reference, model)
        ]
    errors = np.where(reference > 0, np.abs(energies[1] - energies[0]), 0)
    mean: FloatArray = errors.sum(-1) / np.maximum((reference > 0).sum(-1), 1)
    return mean


def _unsigned(figures: Figures) -> Figures:
    return {key: np.abs(figures[key]) for key in FLOORED}


def _variance(values: FloatArray, number: int) -> float:
    """Return the variance of a figure; draws with replacement have (n - 1) / n of it."""
    return float(values.var(ddof=1)) * undercount(number) if number > 1 else float("inf")


def interval_of(
    value: float, parts: list[tuple[FloatArray, int]], signed: bool = False
) -> tuple[float, float]:
    """Return the 95 % interval of a figure of two samples.

    Parameters
    ----------
    value : float
        Of both as they are.
    parts : list of (array (R,), int)
        The figure with one of them drawn again, and how many trajectories that one has.
    signed : bool
        Whether it may be below 0.
    """
    variances = [_variance(values, number) for values, number in parts]
    total = sum(variances)
    if not np.isfinite(total):
        return (float("-inf") if signed else 0.0), float("inf")
    freedom = sum(v**2 / (n - 1) for v, (_, n) in zip(variances, parts, strict=True))
    quantile = stats.t.ppf((1 + LEVEL) / 2, total**2 / freedom) if freedom > 0 else 0.0
    half = float(quantile * np.sqrt(total))
    low = value - half if signed else max(0.0, value - half)
    return low, value + half


def floor_of(
    parts: list[tuple[FloatArray, float]], quadratic: bool, random: np.random.Generator
) -> tuple[float, float]:
    """Return what a perfect model would score: in mean, or root mean square, and at most (95 %).

    Parameters
    ----------
    parts : list of (array (R,), float)
        The figure of a sample that was drawn again against the whole that it was drawn from, and
        how many times as large its square (the figure itself, if quadratic) should be.
    quadratic : bool
        JS is quadratic in the errors of shares, so that the parts add, and has ln 2 at most; of
        others the squares add.
    """
    if not np.isfinite([scale for _, scale in parts]).all():
        return float("inf"), float("inf")
    samples = [(values if quadratic else values**2) * scale for values, scale in parts]
    together = samples[0] + random.permutation(samples[1])
    if quadratic:
        together = np.minimum(together, np.log(2))
    root = np.asarray if quadratic else np.sqrt
    return float(root(together.mean())), float(root(np.quantile(together, LEVEL)))


def undercount(number: int) -> float:
    """Return how many times too small a variance by draws with replacement is."""
    return number / (number - 1) if number > 1 else float("inf")


def _floors(
    parts: list[tuple[Figures, int, Ensemble | None, NDArray[np.int64] | None]],
    random: np.random.Generator,
) -> tuple[dict[str, float], dict[str, float]]:
    mean, high = {}, {}
    scales = []
    for _, number, ensemble, draws in parts:
        scale = undercount(number)
        if ensemble is not None and draws is not None:
            scale *= sparseness(ensemble.joint, draws, random, ensemble.kind)
        scales.append(scale)
    for key in FLOORED:
        values = [(figures[key], scale) for (figures, *_), scale in zip(parts, scales, strict=True)]
        mean[key], high[key] = floor_of(values, key == "js", random)
    return mean, high
