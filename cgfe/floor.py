"""The floor: what a perfect model would score against a reference that is itself a sample.

A perfect model has the true surface p; the reference shows p̂, from a finite number of walkers.
JS(p, p̂) is the least that can be told. p is unknown, but a bootstrap sample p* stands to p̂ as p̂
stands to p, so JS(p*, p̂), each p* from whole walkers drawn with replacement, estimates it. To
second order JS(p*, p̂) = Σ_b (p*_b - p̂_b)² / 8 p̂_b, whose mean is the sum of the bins' variances;
draws with replacement have (n - 1) / n of the variance, which is given back.

It is the *whole* reference that a model is compared with, so halves against halves would be about
four times too large: each half has twice the variance, and both err. A model's own finite sample
adds its own floor, the same figure from its own replicas.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from cgfe.errors import InputError
from cgfe.metrics import js_divergence

RESAMPLES = 200

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Floor:
    """JS divergence of a perfect model to the reference, in nats.

    Attributes
    ----------
    mean, high : float
        Mean and 95 % quantile over bootstrap samples.
    walkers : int
        That were drawn from.
    """

    mean: float
    high: float
    walkers: int


def reference_floor_js(
    trajectory_index: NDArray[np.integer],
    bins: NDArray[np.integer],
    weights: FloatArray,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Floor:
    """Return the floor of a weighted sample, its weights taken as they are.

    Weights that were estimated from the same walkers have an error of their own;
    `floor_of_surfaces` takes surfaces that were each weighted anew.

    Parameters
    ----------
    trajectory_index : int array (F,)
        Which walker (whole trajectory) a frame belongs to.
    bins : int array (F,)
        Flat bin of each frame; -1, outside of the grid, is one more bin.
    weights : array (F,)
    resamples, seed : int
        Number and seed of the bootstrap samples.

    Raises
    ------
    InputError
        If there is only one trajectory.
    """
    names, walker = np.unique(trajectory_index, return_inverse=True)
    mass = csr_matrix((weights, (walker, np.asarray(bins) + 1)))  # duplicates add up
    draws = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=resamples
    )
    return floor_of_surfaces(draws @ mass, np.asarray(mass.sum(axis=0)).ravel(), len(names))


def floor_of_surfaces(resampled: FloatArray, whole: FloatArray, walkers: int) -> Floor:
    """Return the floor from the surfaces (R, B) of bootstrap samples and the whole's (B,).

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
    scale = walkers / (walkers - 1)
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
