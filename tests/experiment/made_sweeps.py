"""Made sweeps whose truth is known: seeds, replicas and a reference of few walkers."""

from collections.abc import Callable

import numpy as np

from cgfe.experiment.figures import IntArray, SweepFigures, resample_runs

Random = np.random.Generator
Noise = Callable[[Random, tuple[int, ...]], np.ndarray]


def normal(random: Random, shape: tuple[int, ...]) -> np.ndarray:
    return random.normal(size=shape)


def heavy_tailed(random: Random, shape: tuple[int, ...]) -> np.ndarray:
    """Student's t at 3 degrees of freedom, variance 1."""
    return random.standard_t(3, size=shape) / 3**0.5


def skewed(random: Random, shape: tuple[int, ...]) -> np.ndarray:
    """Log-normal (σ = 1), mean 0, variance 1."""
    raw = np.exp(random.normal(size=shape)) - np.exp(0.5)
    return raw / np.sqrt(np.exp(2) - np.exp(1))


def failing(random: Random, shape: tuple[int, ...]) -> np.ndarray:
    """Normal, but one run in ten is five standard deviations worse; mean 0, variance 1."""
    raw = random.normal(size=shape) + 5 * (random.random(shape) < 0.1) - 0.5
    return raw / (1 + 25 * 0.09) ** 0.5


def binomial_error(share: float, experiments: int) -> float:
    return float(np.sqrt(share * (1 - share) / experiments))


def make_sweep(
    random: Random,
    truth: np.ndarray,
    seeds: int,
    noise: Noise = normal,
    walkers: int = 16,
    replicas: int = 8,
    reference_error: float = 1.0,
    response: np.ndarray | None = None,
    resamples: int = 100,
) -> SweepFigures:
    """Figures truth (K,) + seed noise (variance 1) + replicas' (1/2) + reference's error.

    The reference's error is the mean over its walkers, of standard deviation `reference_error`;
    each setting answers to it by `response` (K,), 1 where it is not given.
    """
    settings = len(truth)
    own = noise(random, (settings, seeds)) + truth[:, None]
    deviations = random.normal(size=(settings, seeds, replicas)) * (replicas / 2) ** 0.5
    reference = random.normal(size=walkers) * walkers**0.5 * reference_error
    response = np.ones(settings) if response is None else response

    def figure(row: int, column: int, drawn: IntArray, drawn_replicas: IntArray) -> np.ndarray:
        shared = drawn @ reference / walkers * response[row]
        return own[row, column] + shared + drawn_replicas @ deviations[row, column] / replicas

    figures = own + deviations.mean(axis=2) + reference.mean() * response[:, None]
    present = np.ones(figures.shape, dtype=bool)
    seed = int(random.integers(2**31))
    resampled = resample_runs(figure, present, walkers, replicas, resamples, seed)
    return SweepFigures(list(range(settings)), figures, resampled, walkers)
