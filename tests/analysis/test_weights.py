"""Weights that join biased and unbiased trajectories, on a chain whose populations are known."""

import numpy as np
import pytest

from cgfe.analysis.weights import (
    Walkers,
    both_ways,
    combined_weights,
    inverse_variance_share,
    mixed_populations,
)
from cgfe.errors import InputError

BEADS = 4
FOLDED_SHARE = 0.8


def chain(folded: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Four beads on a line, 3 Å apart when folded and 5 Å when not, with thermal noise."""
    spacing = np.where(folded, 3.0, 5.0)[:, None]
    positions = np.zeros((len(folded), BEADS, 3))
    positions[:, :, 0] = spacing * np.arange(BEADS)
    return positions + random.normal(scale=0.15, size=positions.shape)


def two_state(frames: int, rate: float, random: np.random.Generator) -> np.ndarray:
    """A symmetric two-state Markov chain, half folded."""
    return (np.cumsum(random.random(frames) < rate) % 2).astype(bool)


def test_unbiased_frames_get_the_populations_that_the_biased_ones_know() -> None:
    random = np.random.default_rng(0)
    # The bias makes both states equally likely; its weights give 80 % back to the folded one.
    biased = two_state(4000, 0.02, random)
    logs = np.where(biased, np.log(FOLDED_SHARE), np.log(1 - FOLDED_SHARE))
    # Unbiased trajectories stay where they start: seven unfolded, one folded.
    starts = [True] + [False] * 7
    positions = [chain(biased, random)]
    positions += [chain(np.full(500, state), random) for state in starts]
    weights = combined_weights(positions, [logs] + [None] * 8, 1.0)
    folded = np.concatenate([biased, np.repeat(starts, 500)])
    assert weights.mean() == pytest.approx(1)
    share = weights[folded].sum() / weights.sum()
    # The biased run visits each state about 40 times for 50 steps; the odds' standard error is
    # sqrt(2/40) = 0.22, so the share's is 0.8 * 0.2 * 0.22 = 0.04.
    assert share == pytest.approx(FOLDED_SHARE, abs=0.12)
    # The unbiased frames count: raw counts would have given 1/8 to the folded ones.
    unbiased = np.arange(len(weights)) >= 4000
    assert weights[unbiased].sum() > 0.2 * weights.sum()


def test_biased_frames_alone_keep_their_own_weights() -> None:
    random = np.random.default_rng(1)
    state = two_state(500, 0.05, random)
    logs = np.where(state, 1.0, -1.0)
    weights = combined_weights([chain(state, random)], [logs], 1.0)
    np.testing.assert_allclose(weights, np.exp(logs) / np.exp(logs).mean())


def test_unbiased_trajectories_alone_are_weighted_by_their_kinetics() -> None:
    """Started mostly in the wrong state, too short to equilibrate: the rates still tell."""
    random = np.random.default_rng(2)
    up, down = 0.008, 0.002  # folding and unfolding probability of a step: 80 % folded
    positions, folded = [], []
    for number in range(60):
        state, path = number % 6 == 0, []
        for _ in range(200):
            state = random.random() < up if not state else random.random() >= down
            path.append(state)
        folded.append(np.array(path))
        positions.append(chain(folded[-1], random))
    flat = np.concatenate(folded)
    assert flat.mean() < 0.6, "the raw counts must be far from equilibrium"
    weights = combined_weights(positions, [None] * 60, 1.0)
    # About 60 folding and 10 unfolding events: the odds' standard error is near 0.35, the
    # share's 0.8 * 0.2 * 0.35 = 0.06.
    assert weights[flat].sum() / weights.sum() == pytest.approx(FOLDED_SHARE, abs=0.15)


def test_the_more_certain_way_counts_more() -> None:
    """A state that biased pieces agree on and unbiased ones do not follows the bias."""
    random = np.random.default_rng(3)
    biased = [two_state(1000, 0.05, random).astype(int) for _ in range(20)]
    # Unbiased: a few rare jumps, hardly known rates.
    unbiased = [two_state(300, 0.004, random).astype(int) for _ in range(4)]
    logs = [np.zeros(1000)] * 20 + [None] * 4
    share = inverse_variance_share(Walkers.of([*biased, *unbiased], logs, 2, 10), random)
    assert (share < 0.2).all()
    mixed = mixed_populations(np.array([0.9, 0.1]), np.array([0.5, 0.5]), share)
    assert mixed[0] == pytest.approx(0.5, abs=0.12)


def test_a_sample_of_walkers_is_what_those_walkers_alone_are() -> None:
    """Drawing walkers by number gives what a set with copies of them gives, both ways."""
    random = np.random.default_rng(7)
    states = [two_state(300, 0.05, random).astype(int) for _ in range(5)]
    logs = [None, None, None, random.normal(size=300), random.normal(size=300)]
    draws = np.array([2, 0, 1, 0, 2])
    copies = np.repeat(np.arange(5), draws)
    all_walkers = Walkers.of(states, logs, 2, 10)
    some = Walkers.of([states[k] for k in copies], [logs[k] for k in copies], 2, 10)
    share = np.full(2, 0.5)
    population = both_ways(all_walkers, share, draws)
    np.testing.assert_allclose(population, both_ways(some, share), rtol=1e-4)
    weights = all_walkers.frame_weights(population, draws)
    expected = some.frame_weights(population)
    for k, state in ((0, 0), (2, 1), (4, 0)):
        own = (all_walkers.walker == k) & (all_walkers.states == state)
        other = np.isin(some.walker, np.flatnonzero(copies == k)) & (some.states == state)
        got = weights[own].sum() / weights.sum()
        assert got == pytest.approx(expected[other].sum() / expected.sum(), rel=1e-6)
    np.testing.assert_array_equal(
        all_walkers.select(all_walkers.walker < 2).transitions.toarray()[:2],
        all_walkers.transitions.toarray()[:2],
    )


def test_nothing_that_gives_populations_is_refused() -> None:
    states = [np.zeros(100, dtype=int), np.ones(100, dtype=int)]
    with pytest.raises(InputError, match="populations need"):
        both_ways(Walkers.of(states, [None, None], 2, 10), np.ones(2))
