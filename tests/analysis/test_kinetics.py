"""Timescales and the Chapman-Kolmogorov test of a chain whose transition matrix is known."""

import numpy as np
import pytest

from cgfe.analysis.kinetics import chapman_kolmogorov, timescales
from cgfe.analysis.weights import Walkers

MATRIX = np.array([[0.97, 0.03, 0.0], [0.02, 0.95, 0.03], [0.0, 0.01, 0.99]])
"""Reversible, with stationary populations 2 : 3 : 9; its slow motion is between {0, 1} and {2}."""
STATIONARY = np.array([2, 3, 9]) / 14
LAG = 4
FRAME_INTERVAL_PS = 2.0


def walkers(number: int, frames: int, random: np.random.Generator) -> Walkers:
    """Walkers from equilibrium, and one with a bias that no kinetics may see."""
    cumulative = MATRIX.cumsum(axis=1)
    paths = np.empty((number, frames), dtype=np.int64)
    paths[:, 0] = random.choice(3, size=number, p=STATIONARY)
    for step in range(1, frames):
        draws = random.random((number, 1))
        paths[:, step] = (cumulative[paths[:, step - 1]] < draws).sum(axis=1)
    biased = random.integers(3, size=frames)
    return Walkers.of([*paths, biased], [None] * number + [np.zeros(frames)], 3, LAG)


def staying(side: np.ndarray, frames: int) -> float:
    """The exact probability of being in the set again, from equilibrium within it."""
    inside = STATIONARY * side
    return float(inside @ np.linalg.matrix_power(MATRIX, frames) @ side / inside.sum())


def test_chapman_kolmogorov_is_the_chains() -> None:
    random = np.random.default_rng(0)
    tests = chapman_kolmogorov(walkers(60, 400, random), FRAME_INTERVAL_PS, random)
    sides = [np.array([1.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])]
    # Which side is above 0 is the eigenvector's sign, which is free.
    if tests[0].observed[0] > tests[1].observed[0]:
        sides.reverse()
    for test, side in zip(tests, sides, strict=True):
        np.testing.assert_allclose(test.times_ps, np.array([1, 2, 3, 4, 6]) * LAG * 2.0)
        exact = [staying(side, k * LAG) for k in (1, 2, 3, 4, 6)]
        # Twice the 95 % interval: beyond four standard errors.
        assert (np.abs(test.predicted - exact) < 2 * test.predicted_half).all()
        assert (np.abs(test.observed - exact) < 2 * test.observed_half).all()
        assert (np.abs(test.observed - test.predicted) <= test.difference_half).all()
        assert test.observed_half.max() < 0.1
        # At the shortest time both are one figure.
        assert test.observed[0] == pytest.approx(test.predicted[0], abs=1e-12)
        assert test.difference_half[0] == pytest.approx(0, abs=1e-12)


def test_walkers_without_transitions_back_have_no_test() -> None:
    once = Walkers.of([np.repeat([0, 1], 200)], [None], 2, LAG)
    assert chapman_kolmogorov(once, FRAME_INTERVAL_PS, np.random.default_rng(0)) == []


def test_timescales_are_flat_in_the_lag() -> None:
    random = np.random.default_rng(1)
    found = timescales(walkers(60, 400, random), FRAME_INTERVAL_PS, random)
    exact = -FRAME_INTERVAL_PS / np.log(np.sort(np.linalg.eigvals(MATRIX).real)[1])
    assert found.msm_lag_ps == LAG * FRAME_INTERVAL_PS
    np.testing.assert_array_equal(found.lags_ps, [4, 8, 10, 20, 50, 100])
    known = np.isfinite(found.low[:, 0])
    assert known.all()
    half = np.log(found.high[:, 0] / found.value[:, 0])
    assert (np.abs(np.log(found.value[:, 0] / exact)) < 2 * half).all()
    assert (np.abs(found.growth) < found.growth_half).all()
    assert np.isnan(found.value[:, 2]).all()
