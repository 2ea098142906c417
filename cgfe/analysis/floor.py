"""The floor: what a perfect model would score against a reference that is itself a sample.

A perfect model has the true surface p; the reference shows p̂, from a finite number of walkers.
JS(p, p̂) is the least that can be told. p is unknown, but a bootstrap sample p* stands to p̂ as p̂
stands to p, so JS(p*, p̂), each p* from whole walkers drawn with replacement, estimates it. To
second order JS(p*, p̂) = Σ_b (p*_b - p̂_b)² / 8 p̂_b, whose mean is the sum of the bins' variances;
draws with replacement have (n - 1) / n of the variance, which is given back.

It is the *whole* reference that a model is compared with, so halves against halves would be about
four times too large: each half has twice the variance, and both err. A model's own finite sample
adds its own floor, the same figure from its own replicas.

Bins that few walkers visit make a bootstrap too hopeful: it cannot miss what p̂ has missed. How
much is seen from drawing once more: JS(p**, p*) is to JS(p*, p̂) as JS(p*, p̂) is to JS(p̂, p)
(Hall & Martin 1988, doi 10.1093/biomet/75.4.661), so the floor is multiplied by the ratio of the
first two's means.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from cgfe.analysis.metrics import js_divergence
from cgfe.array_types import FloatArray, IntArray
from cgfe.errors import InputError


@dataclass(frozen=True)
class Floor:
    """JS divergence of a perfect model to the reference, in nats.

    Attributes
    ----------
    mean, high : float
        Mean and 95 % quantile.
    walkers : int
        That were drawn from.
    """

    mean: float
    high: float
    walkers: int


def mass_of_walkers(
    walker: NDArray[np.integer], bins: NDArray[np.integer], weights: FloatArray
) -> csr_matrix:
    """Return the weight (W, 1 + B) of each walker's frames outside the grid and in each bin."""
    return csr_matrix((weights, (walker, np.asarray(bins) + 1)))  # duplicates add up


def sparseness(
    mass: csr_matrix,
    draws: IntArray,
    random: np.random.Generator,
    kind: NDArray[np.integer] | None = None,
) -> float:
    """Return how many times too small a bootstrap's JS is for bins that few walkers visit.

    Parameters
    ----------
    mass : sparse array (W, B)
    draws : int array (R, W)
        How often each bootstrap sample holds each walker. Of each it is drawn once more.
    random : Generator
    kind : int array (W,), optional
        Walkers that are drawn among their own kind.
    """
    number = draws.shape[1]
    kind = np.zeros(number, dtype=np.int64) if kind is None else kind
    second = np.zeros_like(draws)
    fewest = number
    for own in (kind == k for k in np.unique(kind)):
        total = int(own.sum())
        fewest = min(fewest, total)
        second[:, own] = random.multinomial(total, draws[:, own] / total)
    once, again = draws @ mass, second @ mass
    whole = np.asarray(mass.sum(axis=0)).ravel()
    kept = [k for k in range(len(draws)) if again[k].sum() > 0]
    if fewest < 2 or not kept:
        return 1.0
    first = np.mean([js_divergence(once[k], whole) for k in kept])
    # Of what a draw keeps of the variance, the next one keeps the same share.
    below = np.mean([js_divergence(again[k], once[k]) for k in kept]) * fewest / (fewest - 1)
    return float(max(first / below, 1.0)) if below > 0 else 1.0


def floor_of_surfaces(
    resampled: FloatArray, whole: FloatArray, walkers: int, sparse: float = 1.0
) -> Floor:
    """Return the floor from the surfaces (R, B) of bootstrap samples and the whole's (B,).

    Parameters
    ----------
    resampled, whole : array (R, B), (B,)
    walkers : int
    sparse : float
        By `sparseness`.

    Raises
    ------
    InputError
        If there is only one trajectory.
    """
    if walkers < 2:
        raise InputError(
            f"a reference's floor needs at least two trajectories to draw from, found {walkers}."
        )
    values = [js_divergence(surface, whole) for surface in resampled if surface.sum() > 0]
    scale = sparse * walkers / (walkers - 1)
    return Floor(scale * float(np.mean(values)), scale * float(np.quantile(values, 0.95)), walkers)


def js_of_equals(
    first: tuple[FloatArray, FloatArray], second: tuple[FloatArray, FloatArray]
) -> FloatArray:
    """Return JS (R,) that two independent samples of one surface would have by chance.

    The common surface is taken as the mean of both; each sample departs from it as its bootstrap
    samples depart from their whole.

    Parameters
    ----------
    first, second : (array (R, B), array (B,))
        Surfaces of bootstrap samples, and of the whole.
    """
    shares = [whole / whole.sum() for _, whole in (first, second)]
    common = (shares[0] + shares[1]) / 2
    departures = [
        surfaces / surfaces.sum(axis=1, keepdims=True) - share
        for (surfaces, _), share in zip((first, second), shares, strict=True)
    ]
    return np.array([
        js_divergence(np.maximum(common + a, 0), np.maximum(common + b, 0))
        for a, b in zip(*departures, strict=True)
    ])  # fmt: skip
