"""TICA: analytic timescales, signs, projections, saved arrays, errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from cgfe.analysis.tica import PAIRS_PER_FEATURE, TICAProjection
from cgfe.errors import InputError
from cgfe.geometry import pair_distances

SLOW_PS, FAST_PS, INTERVAL_PS = 50.0, 2.0, 0.5


def relaxing(steps: int, relaxation_ps: float, random: np.random.Generator) -> np.ndarray:
    """Ornstein-Uhlenbeck path of unit variance, ⟨x(0) x(t)⟩ = exp(-t / relaxation)."""
    keep = np.exp(-INTERVAL_PS / relaxation_ps)
    noise = random.normal(size=steps) * np.sqrt(1 - keep**2)
    path = np.empty(steps)
    path[0] = random.normal()
    for step in range(1, steps):
        path[step] = keep * path[step - 1] + noise[step]
    return path


def three_beads(slow: np.ndarray, fast: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Three beads in line, tumbling: d01 is slow, d12 is fast, d02 is their sum and some noise."""
    positions = np.zeros((len(slow), 3, 3))
    positions[:, 0, 0] = -10 - slow
    positions[:, 2, 0] = 10 + fast
    positions[:, 1, 1] = random.normal(0, 0.5, len(slow))
    rotation = Rotation.random(len(slow), random_state=1).as_matrix()
    return np.einsum("fnd,fed->fne", positions, rotation)


def make_trajectories(number: int, steps: int, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [
        three_beads(
            relaxing(steps, SLOW_PS, random), relaxing(steps, FAST_PS, random), random
        ).astype(np.float32)
        for _ in range(number)
    ]


@pytest.fixture(scope="module")
def trajectories() -> list[np.ndarray]:
    return make_trajectories(8, 5000)


@pytest.fixture(scope="module")
def projection(trajectories: list[np.ndarray]) -> TICAProjection:
    return TICAProjection.fit(trajectories, INTERVAL_PS, lag_ps=2.0, scaling="none")


def test_timescales_are_those_of_the_process(projection: TICAProjection) -> None:
    # The autocorrelation time of an AR(1) path of length T has standard error of about
    # t sqrt(2 t / T) (Bartlett) or less: 0.07 t for the slow, 0.014 t for the fast one.
    total_ps = 8 * 5000 * INTERVAL_PS
    for found, known in zip(projection.timescales_ps, (SLOW_PS, FAST_PS), strict=True):
        assert found == pytest.approx(known, rel=4 * np.sqrt(2 * known / total_ps))


def test_components_are_the_slow_and_the_fast_distance(
    trajectories: list[np.ndarray], projection: TICAProjection
) -> None:
    positions = np.concatenate(trajectories)
    tics = projection.project(positions)
    distances = pair_distances(positions)
    assert np.corrcoef(tics[:, 0], distances[:, 0])[0, 1] > 0.99
    assert np.corrcoef(tics[:, 1], distances[:, 2])[0, 1] > 0.95
    # Unit variance, uncorrelated, mean 0: the lagged pairs leave out only the trajectories' ends.
    np.testing.assert_allclose(np.cov(tics.T), np.eye(2), atol=0.01)
    np.testing.assert_allclose(tics.mean(axis=0), 0, atol=0.01)


def test_kinetic_map_scales_by_the_autocorrelation(
    trajectories: list[np.ndarray], projection: TICAProjection
) -> None:
    scaled = TICAProjection.fit(trajectories, INTERVAL_PS, lag_ps=2.0, scaling="kinetic_map")
    eigenvalues = np.exp(-2.0 / projection.timescales_ps)
    np.testing.assert_allclose(scaled.components, projection.components * eigenvalues)


def test_signs_survive_a_refit_on_other_data(projection: TICAProjection) -> None:
    refit = TICAProjection.fit(make_trajectories(8, 5000, seed=5), INTERVAL_PS, 2.0)
    test = make_trajectories(1, 1000, seed=9)[0]
    first, second = projection.project(test), refit.project(test)
    for tic in (0, 1):
        assert np.corrcoef(first[:, tic], second[:, tic])[0, 1] > 0.9


def test_lagged_pairs_never_cross_trajectories(trajectories: list[np.ndarray]) -> None:
    whole = trajectories[0]
    pieces = TICAProjection.fit([whole[:2500], whole[2500:]], INTERVAL_PS, 2.0)
    joined = TICAProjection.fit([whole], INTERVAL_PS, 2.0)
    assert not np.allclose(pieces.timescales_ps, joined.timescales_ps, rtol=1e-6)
    # A trajectory too short for a lagged pair adds nothing.
    with_short = TICAProjection.fit([whole, trajectories[1][:4]], INTERVAL_PS, 2.0)
    np.testing.assert_array_equal(with_short.components, joined.components)


def test_an_anticorrelated_motion_is_no_slow_component() -> None:
    # d01 changes sides at every frame: its autocorrelation is -0.99, the largest in magnitude.
    random = np.random.default_rng(3)
    flips = (-1.0) ** np.arange(4000) + random.normal(0, 0.1, 4000)
    slow = relaxing(4000, SLOW_PS, random)
    positions = three_beads(flips, slow, random)
    projection = TICAProjection.fit([positions], INTERVAL_PS, INTERVAL_PS, dimensions=1)
    tics, distances = projection.project(positions), pair_distances(positions)
    assert abs(np.corrcoef(tics[:, 0], distances[:, 2])[0, 1]) > 0.99


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000))
def test_invariant_under_rotation_and_translation(seed: int, projection: TICAProjection) -> None:
    random = np.random.default_rng(seed)
    positions = random.normal(0, 5, (4, 3, 3))
    rotation = Rotation.random(random_state=seed).as_matrix()
    moved = positions @ rotation.T + random.normal(0, 10, 3)
    np.testing.assert_allclose(projection.project(moved), projection.project(positions), atol=1e-9)


def test_project_keeps_leading_dimensions(
    projection: TICAProjection, monkeypatch: pytest.MonkeyPatch
) -> None:
    positions = np.random.default_rng(0).normal(0, 5, (6, 7, 3, 3))
    tics = projection.project(positions)
    assert tics.shape == (6, 7, 2)
    assert projection.project(positions[0, 0]).shape == (2,)
    monkeypatch.setattr("cgfe.analysis.tica.CHUNK", 5)
    np.testing.assert_allclose(projection.project(positions), tics, atol=1e-12)


def test_arrays_round_trip(projection: TICAProjection) -> None:
    arrays = projection.to_arrays()
    assert all(array.dtype.kind in "bif" for array in arrays.values())
    again = TICAProjection.from_arrays(arrays)
    positions = np.random.default_rng(0).normal(0, 5, (6, 3, 3))
    np.testing.assert_array_equal(again.project(positions), projection.project(positions))
    np.testing.assert_array_equal(again.timescales_ps, projection.timescales_ps)
    assert (again.lag_ps, again.scaling) == (2.0, "none")


def test_errors_say_what_is_wrong(trajectories: list[np.ndarray]) -> None:
    with pytest.raises(InputError, match="10 frames: a trajectory shorter than the lag time"):
        TICAProjection.fit([trajectories[0][:10]], INTERVAL_PS, 5.0)
    with pytest.raises(InputError, match=r"20 lagged pairs .* 3 distances, expected at least 30"):
        TICAProjection.fit([trajectories[0][:21]], INTERVAL_PS, 0.5)
    assert PAIRS_PER_FEATURE == 10
    for lag_ps in (0.7, 0.0, -1.0):
        with pytest.raises(InputError, match=r"multiple of the frame interval, 0\.5 ps"):
            TICAProjection.fit(trajectories, INTERVAL_PS, lag_ps)
    with pytest.raises(InputError, match="scaling is 'commute'"):
        TICAProjection.fit(trajectories, INTERVAL_PS, 2.0, scaling="commute")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="dimensions is 0"):
        TICAProjection.fit(trajectories, INTERVAL_PS, 2.0, dimensions=0)
    with pytest.raises(InputError, match="expected 4"):
        TICAProjection.fit(trajectories, INTERVAL_PS, 2.0, dimensions=4)
    with pytest.raises(InputError, match="no bead distance that varies"):
        TICAProjection.fit([np.ones_like(trajectories[0])], INTERVAL_PS, 2.0)


def test_another_bead_count_is_refused(projection: TICAProjection) -> None:
    with pytest.raises(InputError, match=r"3 beads, but positions have shape \(2, 4, 3\)"):
        projection.project(np.zeros((2, 4, 3)))
