"""Made experiments by the thousand behind the tables of `cgfe.experiment`.

Run by hand (`python -m tests.experiment.coverage_study`, five minutes on one core); the tests
repeat a small part of it.
"""

from collections.abc import Iterator

import numpy as np
from scipy import special, stats

from cgfe.experiment.sign_flips import flip_test, holm
from tests.experiment.made_sweeps import Noise, Random, failing, heavy_tailed, normal, skewed

RESAMPLES = 400


def mildly_skewed(random: Random, shape: tuple[int, ...]) -> np.ndarray:
    """Log-normal (σ = 0.5) of mean 0."""
    return np.exp(0.5 * random.normal(size=shape)) - np.exp(0.125)


def exponential(random: Random, shape: tuple[int, ...]) -> np.ndarray:
    return random.exponential(size=shape) - 1


def differences(random: Random, shape: tuple[int, ...]) -> np.ndarray:
    return skewed(random, shape) - skewed(random, shape)


Ends = tuple[np.ndarray, np.ndarray]


def intervals(x: np.ndarray, random: Random) -> Iterator[tuple[str, Ends]]:
    """Four 95 % intervals of the means of samples (E, n)."""
    seeds = x.shape[1]
    mean, error = x.mean(axis=1), x.std(axis=1, ddof=1) / seeds**0.5
    half = stats.t.ppf(0.975, seeds - 1) * error
    yield "t", (mean - half, mean + half)
    drawn = random.integers(seeds, size=(len(x), RESAMPLES, seeds))
    sample = x[np.arange(len(x))[:, None, None], drawn]
    means = np.sort(sample.mean(axis=2), axis=1)
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    yield "percentiles", (low, high)
    below = (means < mean[:, None]).mean(axis=1) + (means == mean[:, None]).mean(axis=1) / 2
    bias = special.ndtri(np.clip(below, 1e-3, 1 - 1e-3))
    centred = x - mean[:, None]
    acceleration = (centred**3).sum(axis=1) / 6 / (centred**2).sum(axis=1) ** 1.5
    ends = []
    for z in (-1.96, 1.96):
        share = special.ndtr(bias + (bias + z) / (1 - acceleration * (bias + z)))
        column = np.clip((share * RESAMPLES).astype(int), 0, RESAMPLES - 1)
        ends.append(means[np.arange(len(x)), column])
    yield "BCa", (ends[0], ends[1])
    with np.errstate(all="ignore"):
        t = (sample.mean(axis=2) - mean[:, None]) * seeds**0.5 / sample.std(axis=2, ddof=1)
    low, high = np.quantile(
        np.nan_to_num(t, posinf=1e9, neginf=-1e9), [0.025, 0.975], axis=1, method="nearest"
    )
    yield "bootstrap-t", (mean - high * error, mean - low * error)


def coverage(noise: Noise, seeds: int, random: Random, batches: int = 8) -> dict[str, float]:
    """Share of 500 experiments a batch whose interval holds the mean, 0."""
    held: dict[str, list[float]] = {}
    for _ in range(batches):
        for name, (low, high) in intervals(noise(random, (500, seeds)), random):
            held.setdefault(name, []).append(float(np.mean((low <= 0) & (high >= 0))))
    return {name: float(np.mean(shares)) for name, shares in held.items()}


def error_rates(
    noise: Noise, seeds: int, settings: int, random: Random, baseline: float = 1.0
) -> np.ndarray:
    """Shares of 1,500 experiments in which one setting's p, Holm's, and the joint test err."""
    errors = np.zeros(3)
    for _ in range(1500):
        made = noise(random, (settings + 1, seeds))
        p, together = flip_test(made[1:] - baseline * made[0])
        errors += [p[0] <= 0.05, holm(p).min() <= 0.05, together.min() <= 0.05]
    return errors / 1500


def shared_error_rates(
    seeds: int, settings: int, walkers: int, variance: float, random: Random
) -> np.ndarray:
    """Shares of 500 experiments with a shared error in which the joint test errs, and flips alone.

    Differences have variance 1 and correlate by 1/2, so do their shared errors, whose covariance
    is known from as many walkers.
    """
    covariance = variance * (np.eye(settings) + 1) / 2
    root = np.linalg.cholesky(covariance)
    errors = np.zeros(2)
    for _ in range(500):
        made = random.normal(size=(settings + 1, seeds)) / 2**0.5
        found = made[1:] - made[0] + (root @ random.normal(size=settings))[:, None]
        estimate = covariance * random.chisquare(walkers - 1) / (walkers - 1)
        p = [flip_test(found, estimate, walkers)[1].min(), flip_test(found)[1].min()]
        errors += [value <= 0.05 for value in p]
    return errors / 500


if __name__ == "__main__":
    generator = np.random.default_rng(0)
    for distribution in (normal, heavy_tailed, mildly_skewed, skewed, failing, differences):
        for number in (3, 5, 8):
            shares = coverage(distribution, number, generator)
            print(distribution.__name__, number, {k: round(v, 3) for k, v in shares.items()})
    for distribution in (normal, heavy_tailed, skewed, exponential):
        for number, count in ((6, 10), (8, 10), (8, 3), (10, 10)):
            for wide in (1.0, 3.0):
                rates = error_rates(distribution, number, count, generator, wide)
                print(distribution.__name__, number, count, f"baseline x {wide:g}", rates.round(3))
    for number in (6, 8):
        for walkers in (8, 16, 64):
            for variance in (0.01, 0.05, 0.125, 0.5, 2.0):
                for count in (1, 4):
                    rates = shared_error_rates(number, count, walkers, variance, generator)
                    print("shared", number, walkers, variance, count, rates)
