"""Grid and surface of known samples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgfe.analysis.free_energy import (
    FreeEnergySurface,
    TICGrid,
    effective_sample_size,
)
from cgfe.errors import InputError


def test_effective_sample_size() -> None:
    assert effective_sample_size(np.full(7, 3.0)) == pytest.approx(7)
    assert effective_sample_size(np.array([1.0, 0.0, 0.0])) == pytest.approx(1)
    assert effective_sample_size(np.array([2.0, 1.0])) == pytest.approx(9 / 5)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), bins=st.integers(1, 12))
def test_histogram_agrees_with_numpy(seed: int, bins: int) -> None:
    random = np.random.default_rng(seed)
    grid = TICGrid.from_samples(random.normal(size=(50, 2)), bins=bins)
    tics, weights = random.normal(size=(200, 2)) * 1.5, random.random(200)
    tics[:3] = [[grid.edges[0][0], grid.edges[1][-1]], [grid.edges[0][-1], 0], [np.nan, 0]]
    probability, outside = grid.histogram(tics, weights)
    known = np.histogram2d(*tics[3:].T, bins=grid.edges, weights=weights[3:])[0]
    known += np.histogram2d(*tics[:2].T, bins=grid.edges, weights=weights[:2])[0]
    np.testing.assert_allclose(probability, known / weights.sum(), atol=1e-14)
    assert outside == pytest.approx(1 - known.sum() / weights.sum())
    low, high = np.array([[edges[0], edges[-1]] for edges in grid.edges]).T
    inside = ((tics >= low) & (tics <= high)).all(axis=1)
    np.testing.assert_array_equal(grid.bin_index(tics) >= 0, inside)


def test_grid_spans_the_frames() -> None:
    tics = np.array([[0.0, 0.0], [1.0, 10.0], [100.0, 100.0]])
    grid = TICGrid.from_samples(tics[:2], bins=11)
    np.testing.assert_allclose(grid.edges[0], np.linspace(-0.05, 1.05, 12))
    np.testing.assert_allclose(grid.edges[1], np.linspace(-0.5, 10.5, 12))
    np.testing.assert_allclose(grid.centres[0][[0, -1]], [0, 1])
    assert grid.shape == (11, 11)
    np.testing.assert_array_equal(grid.bin_index(tics), [0, 120, -1])
    again = TICGrid.from_arrays(grid.to_arrays())
    np.testing.assert_array_equal(again.bin_index(tics), grid.bin_index(tics))


def test_grid_refuses_what_it_cannot_span() -> None:
    with pytest.raises(InputError, match=r"needs two TICs, found an array of shape \(5, 1\)"):
        TICGrid.from_samples(np.zeros((5, 1)), bins=4)
    with pytest.raises(InputError, match="TICs that vary"):
        TICGrid.from_samples(np.zeros((5, 2)), bins=4)


def test_surface_of_known_counts() -> None:
    grid = TICGrid((np.arange(3.0), np.arange(3.0)))
    tics = np.array([[0.5, 0.5]] * 6 + [[1.5, 0.5]] * 2 + [[1.5, 1.5], [5.0, 5.0]])
    weights = np.array([1.0] * 6 + [0.5] * 2 + [0.0, 3.0])
    surface = FreeEnergySurface.from_samples(tics, weights, grid)
    np.testing.assert_allclose(surface.probability, [[0.6, 0], [0.1, 0]])
    assert surface.outside == pytest.approx(0.3)
    np.testing.assert_array_equal(surface.visited, [[True, False], [True, False]])
    np.testing.assert_allclose(surface.free_energy_kt, [[0, np.nan], [np.log(6), np.nan]])
