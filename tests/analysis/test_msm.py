"""Markov state models of chains whose transition matrix is known."""

import numpy as np
import pytest

from cgfe.analysis.msm import (
    States,
    estimate,
    implied_timescales_ps,
    msm_lag_ps,
    populations,
    transition_counts,
)
from cgfe.errors import InputError

MATRIX = np.array([[0.97, 0.03, 0.0], [0.02, 0.95, 0.03], [0.0, 0.01, 0.99]])
"""Reversible, with stationary populations 2 : 3 : 9."""
STATIONARY = np.array([2, 3, 9]) / 14


def trajectories(count: int, frames: int, random: np.random.Generator) -> list[np.ndarray]:
    """Chains started evenly over the states, not from equilibrium."""
    cumulative = MATRIX.cumsum(axis=1)
    found = []
    for number in range(count):
        state, path = number % 3, []
        for _ in range(frames):
            path.append(state)
            state = int(np.searchsorted(cumulative[state], random.random()))
        found.append(np.array(path))
    return found


def test_populations_and_timescales_are_the_chains() -> None:
    random = np.random.default_rng(0)
    chains = trajectories(60, 400, random)
    found = populations(estimate(chains, 5), 4)
    assert found[3] == 0
    # About 24,000 steps with a correlation time of some 40: 600 independent ones.
    np.testing.assert_allclose(found[:3], STATIONARY, atol=4 * (0.25 / 600) ** 0.5)
    exact = -2.0 / np.log(np.sort(np.linalg.eigvals(MATRIX).real)[::-1][1:])
    joined, number = np.concatenate(chains), np.repeat(np.arange(60), 400)
    for lag in (1, 5, 20):  # a chain is Markovian at every lag
        counts = transition_counts(joined, number, lag, 3)
        assert counts.sum() == 60 * (400 - lag), "no pair crosses two trajectories"
        times = implied_timescales_ps(counts.sum(axis=0).reshape(3, 3), lag, 2.0, 3)
        np.testing.assert_allclose(times[:2], exact, rtol=0.25)
        assert np.isnan(times[2])


def test_unconnected_or_short_is_refused() -> None:
    with pytest.raises(InputError, match="longer unbiased trajectory"):
        estimate([np.zeros(5, dtype=int)], 10)
    with pytest.raises(InputError, match="there and back"):
        estimate([np.array([0] * 50 + [1] * 50)], 5)


def test_states_follow_the_slow_motion() -> None:
    random = np.random.default_rng(2)
    folded = (np.cumsum(random.random(3000) < 0.01) % 2).astype(bool)
    positions = np.zeros((3000, 4, 3))
    positions[:, :, 0] = np.where(folded, 3.0, 5.0)[:, None] * np.arange(4)
    positions += random.normal(scale=0.1, size=positions.shape)
    states = States.fit([positions[:1500], positions[1500:]], [], 1.0)
    assigned = states.assign(positions)
    share = np.bincount(assigned, folded, len(states)) / np.bincount(
        assigned, minlength=len(states)
    )
    assert ((share < 0.02) | (share > 0.98)).all()


def test_the_lag_is_as_long_as_the_walkers_allow() -> None:
    assert msm_lag_ps([]) == 50
    assert msm_lag_ps([1000.0] * 3) == 50
    assert msm_lag_ps([24_000.0, 24_000.0, 1e6]) == 1000
    assert msm_lag_ps([1e6]) == 5000
