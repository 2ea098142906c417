"""Intervals over few seeds hold the truth as often as they say."""

import numpy as np
import pytest

from cgfe.errors import InputError
from cgfe.experiment.comparisons import paired_effect
from cgfe.experiment.figures import SweepFigures
from cgfe.experiment.intervals import mean_interval, setting_means, shared_covariance
from tests.experiment.made_sweeps import (
    Noise,
    binomial_error,
    failing,
    heavy_tailed,
    make_sweep,
    normal,
    skewed,
)


@pytest.mark.parametrize("seeds", [3, 5, 8])
@pytest.mark.parametrize(
    ("noise", "least", "most"),
    [
        (normal, 0.95, 0.95),
        (heavy_tailed, 0.95, 0.985),
        (skewed, 0.80, 0.95),
        (failing, 0.88, 0.97),
    ],
)
def test_an_interval_of_seeds_holds_the_mean(
    noise: Noise, least: float, most: float, seeds: int
) -> None:
    """Exact for normal seeds, wide for heavy tails, too narrow where one seed in ten is far off."""
    made = noise(np.random.default_rng(seeds), (1000, seeds))
    held = np.mean([mean_interval(values).contains(0.0) for values in made])
    error = 3 * binomial_error(0.95, 1000)
    assert least - error <= held <= most + error


@pytest.mark.parametrize("noise", [skewed, failing])
def test_an_interval_of_paired_differences_holds_zero_for_skewed_seeds_too(noise: Noise) -> None:
    random = np.random.default_rng(0)
    made = noise(random, (1000, 5)) - noise(random, (1000, 5))
    held = np.mean([mean_interval(values).contains(0.0) for values in made])
    assert 0.95 - 3 * binomial_error(0.95, 1000) <= held <= 0.985


@pytest.mark.parametrize(("seeds", "walkers", "error"), [(5, 16, 0.0), (5, 8, 1.0), (8, 32, 0.5)])
def test_intervals_are_hierarchical(seeds: int, walkers: int, error: float) -> None:
    """Seeds, replicas and the reference's walkers together, none counted twice."""
    experiments = 300
    random = np.random.default_rng(1)
    held, naive = [], []
    for _ in range(experiments):
        sweep = make_sweep(random, np.zeros(1), seeds, walkers=walkers, reference_error=error)
        held.append(setting_means(sweep)[0].mean.contains(0.0))
        naive.append(mean_interval(sweep.figures[0]).contains(0.0))
    tolerance = 3 * binomial_error(0.95, experiments)
    assert np.mean(held) >= 0.95 - tolerance
    assert np.mean(held) <= 0.95 + tolerance + (0.02 if error else 0)  # half widths in squares
    if error == 1.0:
        assert np.mean(naive) < 0.85


def test_the_shared_covariance_leaves_out_what_is_a_runs_own() -> None:
    random = np.random.default_rng(2)
    response = np.array([1.0, 2.0])
    found = []
    for _ in range(100):
        sweep = make_sweep(random, np.zeros(2), 5, response=response, resamples=50)
        assert sweep.resampled is not None
        found.append(shared_covariance(sweep.resampled, 16))
    error = np.std(found, axis=0) / 10
    np.testing.assert_array_less(np.abs(np.mean(found, axis=0) - [[1, 2], [2, 4]]), 3.5 * error)
    sweep.resampled[0, :3] = np.nan
    sweep.resampled[1, 4] = np.nan
    assert shared_covariance(sweep.resampled, 16)[0, 1] == pytest.approx(found[-1][0, 1], rel=0.5)


def test_a_shared_error_cancels_in_differences() -> None:
    sweep = make_sweep(np.random.default_rng(3), np.zeros(2), 6, reference_error=100.0)
    assert sweep.resampled is not None
    covariance = shared_covariance(sweep.resampled[1:] - sweep.resampled[:1], 16)
    assert covariance[0, 0] < 0.1
    assert setting_means(sweep)[0].mean.half_width > 100


@pytest.mark.parametrize(("seeds", "truth"), [(5, 0.0), (8, 1.0), (8, -3.0)])
def test_effect_size(seeds: int, truth: float) -> None:
    made = np.random.default_rng(4).normal(truth, 1.0, (600, seeds)) * 0.01
    found = [paired_effect(values) for values in made]
    held = np.mean([effect.contains(truth) for effect in found])
    assert abs(held - 0.95) <= 3 * binomial_error(0.95, 600)
    values = np.array([effect.value for effect in found])
    assert abs(values.mean() - truth) <= 3 * values.std() / 600**0.5


def test_effect_size_with_a_shared_error_and_where_it_is_unknown() -> None:
    random = np.random.default_rng(5)
    made = random.normal(size=(400, 6)) + 0.5 * random.normal(size=(400, 1))
    held = np.mean([paired_effect(values, 0.25, 32).contains(0.0) for values in made])
    assert held >= 0.95 - 3 * binomial_error(0.95, 400)
    for values in (np.ones(5), np.array([1.0, 2.0])):
        assert not np.isfinite(paired_effect(values).high)
    assert paired_effect(np.array([1.0, 1.0, 1.0, 1.001])).low > 100


def test_input_that_cannot_be_used() -> None:
    one = np.array([[1.0, np.nan], [np.nan, 2.0]])
    with pytest.raises(
        InputError, match=r"at least 2 finished runs of one setting, found at most 1"
    ):
        SweepFigures([0.0, 1.0], one)
    with pytest.raises(InputError, match=r"shape \(settings, seeds\), found \(2,\)"):
        SweepFigures([0.0, 1.0], np.ones(2))
    with pytest.raises(InputError, match="settings must differ"):
        SweepFigures([1.0, 1.0], np.ones((2, 2)))
    with pytest.raises(InputError, match="found None and 3"):
        SweepFigures([0.0, 1.0], np.ones((2, 2)), np.ones((2, 2, 3)))
    with pytest.raises(InputError, match=r"found \(2, 3, 3\)"):
        SweepFigures([0.0, 1.0], np.ones((2, 2)), np.ones((2, 3, 3)), 4)
    with pytest.raises(InputError, match="must be finite"):
        SweepFigures([0.0, 1.0], np.ones((2, 2)), np.full((2, 2, 3), np.nan), 4)
