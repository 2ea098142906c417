"""The floor: a perfect model's JS, on walkers whose surface is known."""

import numpy as np
import pytest
from scipy import stats
from scipy.sparse import csr_matrix

from cgfe.analysis.floor import (
    Floor,
    floor_of_surfaces,
    js_of_equals,
    mass_of_walkers,
    sparseness,
)
from cgfe.analysis.metrics import js_divergence
from cgfe.errors import InputError

BINS = 60


def walkers(
    number: int, frames: int, random: np.random.Generator, depth: float = 6.0
) -> np.ndarray:
    """Bins (W, F) of walkers that stay in a bin for about ten frames, then draw another."""
    exact = surface(depth)
    fresh = random.choice(BINS, size=(number, frames), p=exact)
    source = np.where(random.random((number, frames)) < 0.1, np.arange(frames), 0)
    return np.take_along_axis(fresh, np.maximum.accumulate(source, axis=1), axis=1)


def surface(depth: float) -> np.ndarray:
    """Shares of bins whose free energy rises to a depth in kT."""
    weights = np.exp(-np.linspace(0, depth, BINS))
    return weights / weights.sum()


def floor_of(
    walker: np.ndarray, bins: np.ndarray, weights: np.ndarray, resamples: int = 200, seed: int = 0
) -> Floor:
    """The floor of weighted frames whose weights are taken as they are."""
    mass, random = mass_of_walkers(walker, bins, weights), np.random.default_rng(seed)
    number = mass.shape[0]
    draws = random.multinomial(number, np.full(number, 1 / number), size=resamples)
    whole = np.asarray(mass.sum(axis=0)).ravel()
    return floor_of_surfaces(draws @ mass, whole, number, sparseness(mass, draws, random))


@pytest.mark.parametrize(("depth", "tolerance"), [(2.0, 0.03), (6.0, 0.2)])
def test_the_floor_is_what_a_perfect_model_scores(depth: float, tolerance: float) -> None:
    """Where every bin is visited it is right; with a third hardly visited, a sixth too low."""
    random = np.random.default_rng(0)
    exact = np.append(0.0, surface(depth))
    floors, highs, scores, of_samples = [], [], [], []
    for seed in range(60):
        bins = walkers(20, 400, random, depth)
        index = np.repeat(np.arange(20), 400)
        floor = floor_of(index, bins.ravel(), np.ones(bins.size), 60, seed)
        shares = np.bincount(bins.ravel() + 1, minlength=BINS + 1) / bins.size
        floors.append(floor.mean)
        highs.append(floor.high)
        scores.append(js_divergence(shares, exact))
        # A perfect model's own sample of the same size adds as much again.
        own = np.bincount(walkers(20, 400, random, depth).ravel() + 1, minlength=BINS + 1)
        of_samples.append(js_divergence(shares, own))
    error = np.std(scores) / 60**0.5
    measured = np.mean(scores)
    assert np.mean(floors) == pytest.approx(measured, abs=3 * error + tolerance * measured)
    assert np.mean(of_samples) == pytest.approx(2 * np.mean(floors), rel=0.2)
    assert np.mean(np.array(scores) <= highs) > 0.85
    # Halves against halves are four times as far apart.
    bins = walkers(20, 400, random, depth)
    halves = [np.bincount(half.ravel(), minlength=BINS) for half in (bins[:10], bins[10:])]
    assert js_divergence(*halves) > 2 * np.mean(floors)


def test_weights_and_frames_outside_count() -> None:
    index = np.repeat(np.arange(4), 3)
    bins = np.array([0, 1, -1] * 4)
    same = floor_of(index, bins, np.ones(12))
    assert same.mean == pytest.approx(0, abs=1e-15), "walkers that are alike leave no doubt"
    assert same.walkers == 4
    weights = np.where(index == 0, [5.0, 1.0, 1.0] * 4, 1.0)
    assert floor_of(index, bins, weights).mean > 1e-3
    again = floor_of(index, bins, weights)
    assert again == floor_of(index, bins, weights)
    with pytest.raises(InputError, match="at least two"):
        floor_of(np.zeros(12, int), bins, np.ones(12))
    with pytest.raises(InputError, match="at least two"):
        floor_of_surfaces(np.ones((3, 2)), np.ones(2), 1)


def test_two_samples_of_one_surface_are_told_from_two_surfaces() -> None:
    random = np.random.default_rng(1)

    def sample(bins: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        shares = np.stack([np.bincount(b, minlength=BINS) for b in bins]).astype(float)
        draws = random.multinomial(len(bins), np.full(len(bins), 1 / len(bins)), 100)
        return draws @ shares, shares.sum(axis=0), sparseness(csr_matrix(shares), draws, random)

    def by_chance(first: tuple, second: tuple) -> float:
        scale = 20 / 19 * (first[2] + second[2]) / 2
        return scale * float(np.quantile(js_of_equals(first[:2], second[:2]), 0.95))

    beyond = 0
    for _ in range(80):
        pair = [sample(walkers(20, 200, random)) for _ in range(2)]
        beyond += js_divergence(pair[0][1], pair[1][1]) > by_chance(*pair)
    assert beyond <= stats.binom.ppf(0.999, 80, 0.05)
    shifted = sample((walkers(20, 200, random) + 3) % BINS)
    assert js_divergence(pair[0][1], shifted[1]) > by_chance(pair[0], shifted)
