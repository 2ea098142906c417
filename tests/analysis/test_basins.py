"""States of surfaces whose basins are known."""

import numpy as np
import pytest

from cgfe.analysis.basins import basins

CENTRES = np.linspace(-2, 2, 40)
SADDLE = 20


def surface(barrier_kt: float, tilt_kt: float = 1.0) -> np.ndarray:
    """Two wells at ±1 of the first coordinate; the deeper one is at -1."""
    x, y = np.meshgrid(CENTRES, CENTRES, indexing="ij")
    energy = (barrier_kt + tilt_kt / 2) * (x**2 - 1) ** 2 + tilt_kt / 2 * x + 2 * y**2
    found: np.ndarray = np.exp(-energy)
    return found / found.sum()


def test_wells_apart_are_two_states_and_meet_at_the_saddle() -> None:
    found = basins(surface(4.0))
    assert set(found.ravel()) == {0, 1}
    assert (found[: SADDLE - 1] == 0).all()
    assert (found[SADDLE + 1 :] == 1).all()


def test_a_low_barrier_keeps_no_wells_apart() -> None:
    assert (basins(surface(0.5)) == 0).all()
    assert set(basins(surface(4.0), barrier_kt=8.0).ravel()) == {0}


def test_noise_of_few_frames_makes_no_state() -> None:
    random = np.random.default_rng(0)
    truth = surface(4.0)
    for _ in range(20):
        counts = random.multinomial(5000, truth.ravel()).reshape(truth.shape) / 5000
        found = basins(counts)
        assert set(found.ravel()) == {0, 1}
        wrong = truth[(found == 1) != (np.arange(40)[:, None] >= SADDLE)].sum()
        assert wrong < 0.01


def test_frames_far_away_go_to_the_nearest_state() -> None:
    alone = surface(4.0)
    alone[:, 35:] = 0
    alone[39, 39] = 0.001
    found = basins(alone)
    assert set(found.ravel()) == {0, 1}
    assert found[39, 39] == 1
    assert found[0, 39] == 0


def test_nothing_has_no_states() -> None:
    with pytest.raises(ValueError, match="a bin with probability"):
        basins(np.zeros((3, 3)))
