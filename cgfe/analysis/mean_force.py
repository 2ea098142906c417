"""The squared error of forces against means that have errors of their own.

A mean over a finite time, F̄ = -∇W + ε with ⟨ε²⟩ = σ², gives ⟨(f - F̄)²⟩ = (f + ∇W)² + σ² for forces
f that do not depend on ε, so that (f - F̄)² - σ² is without bias, σ² being estimated by (F̄₁ - F̄₂)²/4
of the two halves of the time. In expectation that is (f - F̄₁)(f - F̄₂), the product of the halves'
residuals.
"""

import numpy as np

from cgfe.analysis.intervals import Interval, interval
from cgfe.array_types import FloatArray, IntArray, RealArray

RESAMPLES = 1000


def mean_force_error(
    forces: RealArray,
    means: RealArray,
    errors: RealArray,
    trajectory: IntArray,
    weights: FloatArray | None = None,
    seed: int = 0,
) -> Interval:
    """Return the mean squared error of forces, (kcal/mol/Å)², free of the means' own.

    Parameters
    ----------
    forces : array (C, N, 3)
        Of a model, kcal/mol/Å.
    means, errors : array (C, N, 3)
        Mean forces and their standard errors.
    trajectory : int array (C,)
        What is drawn again for the interval: configurations of one trajectory are not independent.
    weights : array (C,), optional
        By which configurations count; alike by default.
    seed : int
        Of the bootstrap.

    Returns
    -------
    Interval
        Of the mean over components, beads and configurations. It may be below 0 by chance.
    """
    squares = (np.asarray(forces, np.float64) - means) ** 2 - np.asarray(errors, np.float64) ** 2
    each = squares.mean(axis=(1, 2))
    counted = np.ones(len(each)) if weights is None else weights
    _, own = np.unique(trajectory, return_inverse=True)
    sums = np.stack([np.bincount(own, counted * each), np.bincount(own, counted)])
    number = sums.shape[1]
    random = np.random.default_rng(seed)
    drawn = random.multinomial(number, np.full(number, 1 / number), size=RESAMPLES) @ sums.T
    resampled = drawn[:, 0] / np.maximum(drawn[:, 1], np.finfo(float).tiny)
    return interval(float(sums[0].sum() / sums[1].sum()), resampled, number)
