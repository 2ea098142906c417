"""Metrics with answers known in closed form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgfe.analysis.free_energy import TICGrid
from cgfe.analysis.metrics import (
    independent_frames,
    js_divergence,
    kl_divergence,
    split_half_js,
)


def test_js_and_kl_by_hand() -> None:
    p, q = np.array([1.0, 3.0]), np.array([3.0, 1.0])
    assert kl_divergence(p, q, 0.0) == pytest.approx(0.5 * np.log(3))
    by_hand = 0.25 * np.log(0.25 / 0.5) + 0.75 * np.log(0.75 / 0.5)
    assert js_divergence(p, q) == pytest.approx(by_hand)
    assert js_divergence(np.array([1.0, 0, 0]), np.array([0, 2.0, 5.0])) == pytest.approx(np.log(2))


def test_kl_pseudo_count_bounds_a_missed_bin() -> None:
    p, q, count = np.array([1.0, 0.0]), np.array([0.0, 1.0]), 1e-3
    known = (1 - count) * 0 + ((1 + count) * np.log((1 + count) / count)) / (1 + 2 * count)
    known += count * np.log(count / (1 + count)) / (1 + 2 * count)
    assert kl_divergence(p, q, count) == pytest.approx(known)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000))
def test_divergence_properties(seed: int) -> None:
    random = np.random.default_rng(seed)
    p, q = random.random((2, 5, 6)) * (random.random((2, 5, 6)) > 0.3) + 1e-9
    assert js_divergence(p, p) == pytest.approx(0, abs=1e-12)
    assert kl_divergence(p, 7 * p) == pytest.approx(0, abs=1e-12)
    assert js_divergence(p, q) == pytest.approx(js_divergence(q, p))
    assert 0 <= js_divergence(p, q) <= np.log(2)
    assert kl_divergence(p, q) >= 0


def test_split_half_js_tells_replicas_that_disagree() -> None:
    random = np.random.default_rng(0)
    agreeing = random.normal(size=(500, 10, 2))
    grid = TICGrid.from_samples(agreeing.reshape(-1, 2), bins=10)
    disagreeing = np.abs(agreeing) * np.where(np.arange(10) % 2, 1, -1)[:, None]
    # Each of K bins adds about 1/(4 n) to the JS divergence of two samples of n frames.
    assert split_half_js(agreeing, grid) < 2 * 100 / (4 * 2500)
    assert split_half_js(disagreeing, grid) > 0.6
    drifting = np.sort(agreeing[:, :1], axis=0)
    assert split_half_js(drifting, grid) > 0.4  # but for the bin on the median


def test_independent_frames_of_an_autoregressive_process() -> None:
    random = np.random.default_rng(0)
    frames, replicas, keep = 4000, 16, 0.9
    noise = random.normal(size=(frames, replicas, 2)) * np.sqrt(1 - keep**2)
    path = np.empty_like(noise)
    path[0] = random.normal(size=(replicas, 2))
    for step in range(1, frames):
        path[step] = keep * path[step - 1] + noise[step]
    known = frames * replicas * (1 - keep) / (1 + keep)
    # The summed correlation time has a relative error near √(2 (2 w + 1) / F), w = 60 lags
    # (Sokal 1997, equation 3.19): 6 %.
    assert independent_frames(path) == pytest.approx(known, rel=0.25)
    assert independent_frames(noise) == pytest.approx(frames * replicas, rel=0.1)
    # Replicas stuck in different places are worth about one frame each.
    stuck = noise + 10 * random.normal(size=(replicas, 2))
    assert independent_frames(stuck) < 2 * replicas
    assert independent_frames(np.ones((10, 4, 2))) <= 4
