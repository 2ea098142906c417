"""Replicas that stay where they began are counted, through exchange of temperatures too."""

import numpy as np
import pytest

from cgfe.analysis.trapping import follow_replicas

FOLDED, BETWEEN, UNFOLDED = 1.0, 3.0, 6.0  # Å


def alone(*paths: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return RMSD (F, R), who is followed, and the starts, of replicas without exchange."""
    distance = np.array(paths).T
    return distance[1:], np.tile(np.arange(len(paths)), (len(distance) - 1, 1)), distance[0]


def test_stays_and_transitions_are_counted() -> None:
    found = follow_replicas(
        *alone(
            [FOLDED, BETWEEN, FOLDED, BETWEEN, FOLDED],  # never in the other core
            [FOLDED, UNFOLDED, BETWEEN, FOLDED, FOLDED],  # there and back
            [BETWEEN, BETWEEN, UNFOLDED, UNFOLDED, BETWEEN],  # began unfolded, as it went there
            [UNFOLDED, FOLDED, FOLDED, FOLDED, FOLDED],
            [BETWEEN, BETWEEN, BETWEEN, BETWEEN, BETWEEN],  # in no state at all
        )
    )
    assert found.began == (2, 2)
    assert found.stayed == (1, 1)
    assert found.share == 0.5
    assert (found.foldings, found.unfoldings) == (2, 1)
    # In the last two frames all four of the first group are folded, two of four of the second.
    assert found.memory.value == pytest.approx(0.5)


def exchanging(
    fold: float, unfold: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what is seen of 40 ladders of three two-state replicas, half of them begun folded."""
    ladders, length, frames = 40, 3, 600
    state = np.arange(ladders * length) % 2 == 0
    start = np.where(state, FOLDED, UNFOLDED)
    replica = np.arange(ladders) * length + random.integers(length, size=(frames, ladders))
    seen = np.empty((frames, ladders))
    for frame in range(frames):
        draw = random.random(len(state))
        state = np.where(state, draw >= unfold, draw < fold)
        seen[frame] = np.where(state, FOLDED, UNFOLDED)[replica[frame]]
    return seen, replica, start


def test_trapped_replicas_are_told_though_their_ladders_change_state() -> None:
    random = np.random.default_rng(0)
    seen, replica, start = exchanging(0.0, 0.0, random)
    assert (np.ptp(seen, axis=0) > 0).all()  # each ladder shows both states
    found = follow_replicas(seen, replica, start)
    assert found.share == 1
    assert (found.foldings, found.unfoldings) == (0, 0)
    assert found.memory.value == found.memory.low == 1


def test_a_rare_state_is_no_trap() -> None:
    """Most that began unfolded stay, yet none remembers it."""
    random = np.random.default_rng(1)
    found = follow_replicas(*exchanging(0.001, 0.1, random))
    assert found.stayed[0] == 0
    assert found.stayed[1] > 0.4 * found.began[1]
    assert found.memory.contains(0)
    assert found.memory.high < 0.1


def test_memory_has_the_interval_of_its_experiments() -> None:
    """Of made experiments at equilibrium nineteen of twenty hold 0."""
    random = np.random.default_rng(2)
    held = [follow_replicas(*exchanging(0.02, 0.02, random)).memory.contains(0) for _ in range(60)]
    assert sum(held) >= 60 * 0.95 - 3 * (60 * 0.95 * 0.05) ** 0.5


def test_replicas_that_were_never_seen_are_in_no_group() -> None:
    seen = np.full((4, 1), FOLDED)
    found = follow_replicas(seen, np.full((4, 1), 1), np.array([UNFOLDED, FOLDED, UNFOLDED]))
    assert found.began == (1, 0)
    assert np.isnan(found.memory.value)
    nothing = follow_replicas(
        np.full((4, 1), BETWEEN), np.zeros((4, 1), np.int64), np.array([BETWEEN])
    )
    assert np.isnan(nothing.share)
