"""Metrics with answers known in closed form."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgfe.analysis.free_energy import TICGrid
from cgfe.analysis.metrics import (
    FOLDED_RMSD,
    FREE_ENERGY_CEILING_KT,
    EnsembleSample,
    compare,
    coverage,
    delta_f_kt,
    free_energy_mse_kt2,
    independent_frames,
    js_divergence,
    kl_divergence,
    reference_floor,
    split_half_js,
)

KEYS = {
    "js", "kl_reference_model", "mse_kt2", "w1_tic1", "w1_tic2", "delta_f_kt", "coverage", "outside"
}  # fmt: skip


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


def test_mse_of_known_surfaces() -> None:
    reference = np.exp(-np.array([[0.0, 1.0], [2.0, 3.0]]))
    assert free_energy_mse_kt2(reference, reference) == 0
    # A constant factor is a constant offset of F, which alignment removes.
    assert free_energy_mse_kt2(reference, 0.3 * reference) == pytest.approx(0, abs=1e-20)
    # Offsets ±1 about their mean 0.
    model = np.exp(-np.array([[1.0, 0.0], [3.0, 2.0]]))
    assert free_energy_mse_kt2(reference, model) == pytest.approx(1)
    # Bins that the reference never visits do not count.
    padded = np.append(reference.ravel(), 0), np.append(model.ravel(), 0.5)
    assert free_energy_mse_kt2(*padded) == pytest.approx(1)


def test_mse_counts_missed_bins_at_the_ceiling() -> None:
    reference = np.exp(-np.array([0.0, 1.0, 2.0]))
    missed = np.exp(-np.array([np.inf, 1.0, 2.0]))
    assert free_energy_mse_kt2(reference, missed) == pytest.approx(FREE_ENERGY_CEILING_KT**2 / 3)
    nowhere = free_energy_mse_kt2(reference, np.zeros(3))
    assert nowhere == pytest.approx((8**2 + 7**2 + 6**2) / 3)
    # Beyond the ceiling both count as the ceiling.
    assert free_energy_mse_kt2(np.exp([0.0, -9]), np.exp([0.0, -9])) == 0


def test_delta_f_of_harmonic_wells() -> None:
    # One-dimensional wells k x²/2 + u have F = u + kT/2 ln k + constant. Frames are drawn well
    # by well in that proportion, so ln(n1 / n2) has a binomial standard error.
    random = np.random.default_rng(0)
    stiffness, offset_kt, frames = np.array([4.0, 1.0]), np.array([-1.0, 0.0]), 20_000
    partition = np.exp(-offset_kt) / np.sqrt(stiffness)
    share = partition[0] / partition.sum()
    folded = random.random(frames) < share
    known = -1.0 + 0.5 * np.log(4.0)
    error = 1 / np.sqrt(frames * share * (1 - share))
    assert delta_f_kt(folded) == pytest.approx(known, abs=4 * error)
    # Half the frames at twice the weight: the same ensemble.
    even = np.arange(frames) % 2 == 0
    assert delta_f_kt(folded, np.where(even, 2.0, 0.0)) == delta_f_kt(folded[even])


def test_delta_f_of_a_basin_never_visited_is_the_ceiling() -> None:
    assert delta_f_kt(np.zeros(5, dtype=bool)) == FREE_ENERGY_CEILING_KT
    assert delta_f_kt(np.ones(5, dtype=bool)) == -FREE_ENERGY_CEILING_KT


def test_coverage() -> None:
    assert coverage(np.array([0.5, 0.3, 0.2]), np.array([0.0, 0.9, 0.1])) == pytest.approx(0.5)


def sample(shift: float = 0.0, seed: int = 0, frames: int = 20_000) -> EnsembleSample:
    random = np.random.default_rng(seed)
    tics = random.normal((shift, 0), 1, (frames, 2))
    return EnsembleSample(tics, None, np.where(random.random(frames) < 0.5, 1.0, 5.0))


def test_compare_with_itself() -> None:
    reference = sample()
    result = compare(reference, reference, TICGrid.from_samples(reference.tics))
    assert set(result) == KEYS
    assert result.pop("coverage") == pytest.approx(1)
    assert all(value == pytest.approx(0, abs=1e-10) for value in result.values())


def test_compare_with_a_shifted_gaussian() -> None:
    reference, model = sample(), sample(shift=1.0, seed=1)
    grid = TICGrid.from_samples(reference.tics, bins=20)
    result = compare(reference, model, grid)
    # W1 of a shifted distribution is the shift; its standard error is √(2/F) = 0.01.
    assert result["w1_tic1"] == pytest.approx(1.0, abs=0.04)
    assert result["w1_tic2"] < 0.04
    # KL(N(0,1) ‖ N(1,1)) = 1/2; bins of 0.4 σ and their noise take less than a tenth.
    assert result["kl_reference_model"] == pytest.approx(0.5, abs=0.05)
    # F differs by s1 - 1/2: its variance over the visited bins is that of uniform s1.
    visited = grid.histogram(reference.tics)[0] > 100 / 20_000
    s1 = np.broadcast_to(grid.centres[0][:, None], grid.shape)[visited]
    trimmed = np.where(visited, grid.histogram(reference.tics)[0], 0)
    mse = free_energy_mse_kt2(trimmed, grid.histogram(model.tics)[0])
    assert mse == pytest.approx(s1.var(), rel=0.15)


def test_compare_with_a_model_that_left_the_grid() -> None:
    reference = sample()
    model = EnsembleSample(reference.tics + 100, None, np.full(20_000, FOLDED_RMSD + 1))
    result = compare(reference, model, TICGrid.from_samples(reference.tics))
    assert result["js"] == pytest.approx(np.log(2))
    assert (result["coverage"], result["outside"]) == (0, 1)
    known = FREE_ENERGY_CEILING_KT - delta_f_kt(np.asarray(reference.rmsd) <= FOLDED_RMSD)
    assert result["delta_f_kt"] == pytest.approx(known)
    assert result["mse_kt2"] > 4
    assert np.isfinite(list(result.values())).all()


def test_weights_stand_for_frames() -> None:
    reference, model = sample(), sample(shift=0.3, seed=1, frames=1000)
    grid = TICGrid.from_samples(reference.tics)
    counts = np.random.default_rng(2).integers(0, 4, 1000)
    weighted = EnsembleSample(model.tics, counts.astype(float), model.rmsd)
    repeated = EnsembleSample(
        np.repeat(model.tics, counts, axis=0), None, np.repeat(np.asarray(model.rmsd), counts)
    )
    found, known = compare(reference, weighted, grid), compare(reference, repeated, grid)
    assert found == pytest.approx(known)


def test_delta_f_is_nan_without_a_native_structure() -> None:
    reference = sample()
    grid = TICGrid.from_samples(reference.tics)
    result = compare(reference, EnsembleSample(reference.tics), grid)
    assert np.isnan(result.pop("delta_f_kt"))
    assert np.isfinite(list(result.values())).all()


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


def test_reference_floor_sees_trajectories_that_do_not_mix() -> None:
    reference = sample(frames=4000)
    grid = TICGrid.from_samples(reference.tics, bins=10)
    mixed = reference_floor(reference, np.arange(4000) // 200, grid)
    assert set(mixed) == KEYS
    assert mixed["js"] < 2 * 100 / (4 * 2000)
    order = np.argsort(reference.tics[:, 0])
    stuck = reference_floor(reference.select(order), np.arange(4000) // 200, grid)
    assert stuck["js"] > 10 * mixed["js"]
    # ΔF of two halves of n frames half folded: sd √(8/n) = 0.063, mean modulus 0.8 of that.
    assert 0 < mixed["delta_f_kt"] < 0.15
    assert reference_floor(reference, np.arange(4000) // 200, grid) == mixed


@pytest.mark.parametrize("trajectories", [1, 3])
def test_reference_floor_cuts_few_trajectories_into_blocks(trajectories: int) -> None:
    # Slow drift within each trajectory: halves of blocks differ more than halves of frames.
    frames = 4000
    reference = sample(frames=frames)
    grid = TICGrid.from_samples(reference.tics, bins=10)
    index = np.arange(frames) * trajectories // frames
    iid = reference_floor(reference, index, grid)
    drifting = reference.select(np.argsort(reference.tics[:, 0]))
    assert 0 < iid["js"] < 2 * 100 / (4 * 2000)
    assert reference_floor(drifting, index, grid)["js"] > 10 * iid["js"]


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
