"""Errors against noisy means: free of the noise, and with intervals that hold the truth."""

import numpy as np
import pytest
from scipy.stats import binom

from cgfe.analysis.mean_force import mean_force_error

BEADS, EACH, HALF_NOISE = 4, 6, 1.5


def experiment(
    walkers: int, random: np.random.Generator, offset: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A model that is wrong by an amount that differs between walkers; halves with noise."""
    walker = np.repeat(np.arange(walkers), EACH)
    truth = random.normal(0, 5, (len(walker), BEADS, 3))
    wrong = offset * (1 + 0.3 * random.normal(size=walkers))[walker, None, None]
    halves = truth + random.normal(0, HALF_NOISE, (2, *truth.shape))
    errors = np.abs(halves[0] - halves[1]) / 2
    return truth + wrong, halves.mean(0), errors, walker, random.uniform(0.5, 1.5, len(walker))


@pytest.mark.parametrize("offset", [0.0, 1.2])
def test_interval_holds_the_truth_and_the_value_has_no_bias(offset: float) -> None:
    random, number = np.random.default_rng(7), 400
    truth = offset**2 * (1 + 0.3**2)
    found = [mean_force_error(*experiment(9, random, offset)) for _ in range(number)]
    values = np.array([one.value for one in found])
    assert abs(values.mean() - truth) < 4 * values.std() / number**0.5
    covered = sum(one.contains(truth) for one in found)
    low, high = binom.interval(0.999, number, 0.95)
    assert low <= covered <= high + 6  # a little too wide does no harm


def test_value_is_the_product_of_the_halves_in_expectation() -> None:
    random = np.random.default_rng(3)
    forces, first, second = random.normal(size=(3, 50_000, 1, 3))
    walker = np.arange(len(forces)) % 10
    found = mean_force_error(forces, (first + second) / 2, np.abs(first - second) / 2, walker)
    product = ((forces - first) * (forces - second)).mean()
    # Equal term by term: ((a + b)/2)² - ((a - b)/2)² = a b.
    assert found.value == pytest.approx(product, rel=1e-9)


def test_configurations_count_by_weight() -> None:
    means = np.zeros((3, 2, 3))
    forces = means + np.array([1.0, 2.0, 3.0])[:, None, None]
    weights = np.array([1.0, 0.0, 3.0])
    found = mean_force_error(forces, means, 0 * means, np.arange(3), weights)
    assert found.value == pytest.approx((1 + 3 * 9) / 4)
