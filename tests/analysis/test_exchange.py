"""Exchange of temperatures: the Metropolis rule, who may trade, and round trips."""

import numpy as np
import pytest

from cgfe.analysis.exchange import exchanged, round_trips
from cgfe.units import thermal_energy

KT = np.array([thermal_energy(t) for t in (300.0, 330.0, 360.0)])


def test_exchange_accepts_with_the_metropolis_probability() -> None:
    """Of one pair, and pairs of the other parity stay."""
    number = 4000
    energies = np.tile([-10.0, -11.0, -9.0], (number, 1))  # of replicas in slots 1, 0, 2
    slots = np.tile([1, 0, 2], (number, 1))
    uniforms = np.random.default_rng(0).random((number, 1))
    after = exchanged(slots, energies, 1 / KT, 0, uniforms)
    share = (after != slots).any(axis=1).mean()
    expected = np.exp((1 / KT[0] - 1 / KT[1]) * (-11.0 - -10.0))
    assert 0.1 < expected < 0.9
    assert share == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / number))
    assert (after[:, 2] == 2).all()
    # Downhill always: the hot replica has the lower energy.
    downhill = exchanged(slots, -energies, 1 / KT, 0, np.full((number, 1), 0.999))
    np.testing.assert_array_equal(downhill, np.tile([0, 1, 2], (number, 1)))


def test_attempts_keep_the_joint_distribution() -> None:
    """Slots that are in equilibrium stay so: energies are Gamma distributed, as of oscillators."""
    random, ladders, shape = np.random.default_rng(2), 60_000, 6.0
    slots = np.tile(np.arange(3), (ladders, 1))
    energies = random.gamma(shape, KT, (ladders, 3))
    for attempt in range(6):
        slots = exchanged(slots, energies, 1 / KT, attempt % 2, random.random((ladders, 1)))
    assert (slots != np.arange(3)).mean() > 0.3
    for slot in range(3):
        found = energies[slots == slot]
        error = KT[slot] * np.sqrt(shape / ladders)
        assert found.mean() == pytest.approx(shape * KT[slot], abs=4 * error)
        assert found.std() == pytest.approx(KT[slot] * np.sqrt(shape), rel=0.02)


def test_broken_replicas_keep_their_slot() -> None:
    slots = np.array([[0, 1], [0, 1], [0, 1]])
    energies = np.array([[5.0, -5.0], [np.nan, -5.0], [5.0, -np.inf]])
    whole = np.array([[True, True], [True, True], [True, False]])
    after = exchanged(slots, energies, 1 / KT[:2], 0, np.zeros((3, 1)), whole)
    np.testing.assert_array_equal(after, [[1, 0], [0, 1], [0, 1]])


@pytest.mark.parametrize(
    ("path", "trips"),
    [
        ([0, 1, 2, 1, 0], 1),
        ([2, 1, 0, 1, 2], 0),
        ([1, 1, 1], 0),
        ([0, 2, 2, 0, 0, 2, 0], 2),
        ([], 0),
    ],
)
def test_round_trips_go_up_and_back(path: list[int], trips: int) -> None:
    assert round_trips(np.array(path, dtype=int), 3) == trips
