"""Ensembles compared: figures against direct ones, intervals and floors against repeated truth."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, wasserstein_distance

from cgfe.analysis.comparison import compare_ensembles, compare_totals, mse_kt2
from cgfe.analysis.ensemble import PROFILE_BINS, Ensemble
from cgfe.analysis.free_energy import TICGrid
from cgfe.analysis.metrics import js_divergence, kl_divergence
from cgfe.errors import InputError

GRID = TICGrid((np.linspace(-6, 6, 13), np.linspace(-4, 4, 9)))
FRAMES = 40
STATES = np.repeat([[0], [1], [2]], [5, 5, 2], axis=0) + np.zeros((1, 8), np.int64)
"""By the first TIC: below -1, up to 4, above."""


def sample(
    trajectories: int, random: np.random.Generator, folded_share: float = 0.4
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Two basins; a trajectory has its own share of them, as if it changed only now and then."""
    share = random.beta(4 * folded_share, 4 * (1 - folded_share), trajectories)
    folded = random.random((trajectories, FRAMES)) < share[:, None]
    centre = np.where(folded, -2.0, 1.5)
    tics = np.stack([centre, 0 * centre], axis=-1) + random.normal(size=(*centre.shape, 2))
    trajectory = np.repeat(np.arange(trajectories), FRAMES)
    return tics.reshape(-1, 2), trajectory, folded.ravel()


def ensemble(trajectories: int, random: np.random.Generator, share: float = 0.4) -> Ensemble:
    tics, trajectory, folded = sample(trajectories, random, share)
    return Ensemble.from_samples(GRID, tics, trajectory, None, folded)


def test_figures_are_those_of_the_frames() -> None:
    random = np.random.default_rng(1)
    (tics, trajectory, folded), (others, other, also) = sample(9, random), sample(5, random, 0.7)
    weights = random.random(len(tics))
    tics[3] = [20.0, 0.0]  # outside
    reference = Ensemble.from_samples(GRID, tics, trajectory, weights, folded)
    model = Ensemble.from_samples(GRID, others, other, None, also)
    found = compare_totals(reference.totals(), model.totals(), GRID, STATES)
    p, outside = GRID.histogram(tics, weights)
    q, lost = GRID.histogram(others)
    whole, other_whole = np.append(p, outside), np.append(q, lost)
    assert outside > 0
    assert found["js"] == pytest.approx(js_divergence(whole, other_whole))
    assert found["kl_reference_model"] == pytest.approx(kl_divergence(whole, other_whole))
    assert found["coverage"] == pytest.approx(p[q > 0].sum() / p.sum())
    assert found["outside"] == pytest.approx(lost)
    share, other_share = weights[folded].sum() / weights.sum(), also.mean()
    difference = np.log(share / (1 - share)) - np.log(other_share / (1 - other_share))
    assert found["delta_f_kt"] == pytest.approx(difference)
    energies = [
        [-np.log(shares[k == STATES].sum()) for k in range(3)]
        for shares in (p.reshape(STATES.shape), q.reshape(STATES.shape))
    ]
    assert found["macrostate_error_kt"] == pytest.approx(np.abs(np.subtract(*energies)).mean())
    tics[3, 0] = 12.0  # beyond the profile: counts at its end
    for axis, key in enumerate(("w1_tic1", "w1_tic2")):
        exact = wasserstein_distance(tics[:, axis], others[:, axis], weights)
        width = 2 * np.ptp(GRID.edges[axis]) / PROFILE_BINS
        assert found[key] == pytest.approx(exact, abs=width)


def test_an_ensemble_is_no_way_from_itself_and_far_from_one_outside() -> None:
    random = np.random.default_rng(10)
    tics, trajectory, folded = sample(6, random)
    whole = Ensemble.from_samples(GRID, tics, trajectory, None, folded)
    found = compare_totals(whole.totals(), whole.totals(), GRID, STATES)
    perfect = dict.fromkeys(found, 0.0) | {"coverage": 1.0}
    assert {key: float(value) for key, value in found.items()} == pytest.approx(perfect, abs=1e-12)
    away = Ensemble.from_samples(GRID, tics + 100, trajectory, None, np.zeros(len(tics), bool))
    found = compare_totals(whole.totals(), away.totals(), GRID, STATES)
    assert found["js"] == pytest.approx(np.log(2))
    assert (found["coverage"], found["outside"]) == (0, 1)
    assert found["delta_f_kt"] > 7  # never folded: the ceiling of 8 kT, less the reference's own
    assert found["mse_kt2"] > 10
    assert found["macrostate_error_kt"] > 5  # none of the states: each at the ceiling
    assert np.isnan(compare_totals(whole.totals(), away.totals(), GRID)["macrostate_error_kt"])


def test_bootstrap_samples_are_sums_of_trajectories() -> None:
    random = np.random.default_rng(2)
    tics, trajectory, folded = sample(4, random)
    whole = Ensemble.from_samples(GRID, tics, trajectory, None, folded)
    draws = np.array([[2, 0, 1, 1], [1, 1, 1, 1]])
    chosen = np.concatenate([np.flatnonzero(trajectory == k) for k in (0, 0, 2, 3)])
    by_hand = Ensemble.from_samples(GRID, tics[chosen], 0 * chosen, None, folded[chosen]).totals()
    drawn = whole.totals(draws)
    assert drawn.joint[0] == pytest.approx(by_hand.joint)
    assert drawn.profiles[1][0] == pytest.approx(by_hand.profiles[1])
    assert drawn.folded is not None
    assert drawn.folded[0] == pytest.approx(by_hand.folded)
    assert drawn.joint[1] == pytest.approx(whole.totals().joint)


def test_trajectories_are_drawn_among_their_kind() -> None:
    tics, trajectory, _ = sample(6, np.random.default_rng(3))
    kind = np.array([0, 0, 1, 1, 1, 1])
    whole = Ensemble.from_samples(GRID, tics, trajectory, kind=kind)
    draws = whole.draws(50, np.random.default_rng(0))
    assert (draws[:, kind == 0].sum(1) == 2).all()
    assert (draws[:, kind == 1].sum(1) == 4).all()
    assert len(np.unique(draws, axis=0)) > 10


def test_arrays_come_back() -> None:
    whole = ensemble(5, np.random.default_rng(4))
    again = Ensemble.from_arrays(whole.to_arrays(), GRID)
    draws = whole.draws(3, np.random.default_rng(0))
    assert (again.totals(draws).joint == whole.totals(draws).joint).all()
    assert (again.totals(draws).profiles[0] == whole.totals(draws).profiles[0]).all()
    bare = Ensemble.from_samples(GRID, *sample(2, np.random.default_rng(5))[:2])
    assert Ensemble.from_arrays(bare.to_arrays(), GRID).folded is None
    assert np.isnan(compare_totals(whole.totals(), bare.totals(), GRID)["delta_f_kt"])


def test_an_ensemble_needs_weight() -> None:
    with pytest.raises(InputError, match="needs frames with weight"):
        Ensemble.from_samples(GRID, np.zeros((2, 2)), np.zeros(2, int), np.zeros(2))


def test_mse_of_known_surfaces() -> None:
    free = np.array([0.0, 1.0, 2.0, 3.0])
    reference = np.exp(-free)
    assert mse_kt2(reference, 0.3 * reference) == pytest.approx(0, abs=1e-20)
    tilted = np.exp(-(free + np.array([0.5, -0.5, 0.5, -0.5])))
    assert mse_kt2(reference, tilted) == pytest.approx(0.25)
    missed = np.where(free == 0, 0, reference)  # the minimum, at the ceiling of 8 kT
    expected = (64 + 3 * 0) / 4
    assert mse_kt2(reference, missed) == pytest.approx(expected, abs=0.6)


def test_mse_counts_nothing_above_the_ceiling() -> None:
    """A model that is equal below 8 kT and capped at 9, where half of the bins lie higher."""
    free = np.linspace(0, 18, 100)
    assert mse_kt2(np.exp(-free), np.exp(-np.minimum(free, 9.0))) == pytest.approx(0, abs=1e-12)


EXPERIMENTS, RESAMPLES = 100, 100
KT = ("delta_f_kt", "macrostate_error_kt")
BOTH = np.minimum(STATES, 1)
"""Two basins; what lies above 4 is too rare to be known."""


@pytest.mark.parametrize(("share", "replicas"), [(0.4, 16), (0.6, 24)])
def test_intervals_hold_the_expectation(share: float, replicas: int) -> None:
    random = np.random.default_rng(6)
    found = [
        compare_ensembles(
            ensemble(20, random), ensemble(replicas, random, share), k, RESAMPLES, BOTH
        )
        for k in range(EXPERIMENTS)
    ]
    for key in ("js", "kl_reference_model", "mse_kt2", "w1_tic1", *KT):
        truth = np.mean([x.metrics[key] for x in found])
        error = np.std([x.metrics[key] for x in found]) / EXPERIMENTS**0.5
        held = [
            x.intervals[key][0] - 2 * error <= truth <= x.intervals[key][1] + 2 * error
            for x in found
        ]
        # 95 %, less three of its own standard errors of so many experiments.
        assert np.mean(held) >= 0.95 - 3 * (0.95 * 0.05 / EXPERIMENTS) ** 0.5, key


def test_the_floor_is_what_a_perfect_model_scores() -> None:
    random = np.random.default_rng(7)
    found = [
        compare_ensembles(ensemble(20, random), ensemble(30, random), k, RESAMPLES, BOTH)
        for k in range(EXPERIMENTS)
    ]
    for key in ("js", "w1_tic1", "w1_tic2", *KT):
        scores = np.abs([x.metrics[key] for x in found])
        scored = scores.mean() if key == "js" else np.mean(scores**2) ** 0.5
        told = np.mean([x.floor[key] for x in found])
        assert told == pytest.approx(scored, rel=0.15), key
        above = sum(x.metrics[key] > x.floor_high[key] for x in found)
        if key == "js":
            assert above <= binom.ppf(0.9987, EXPERIMENTS, 0.08)
            assert above > 0


def test_the_floor_counts_states_that_a_perfect_model_misses() -> None:
    """One trajectory of twelve is all that shows a state: a third of the samples miss it."""
    tics = np.full((12 * FRAMES, 2), -2.0)
    trajectory = np.repeat(np.arange(12), FRAMES)
    tics[trajectory == 0] = [2.0, 0.0]
    whole = Ensemble.from_samples(GRID, tics, trajectory)
    found = compare_ensembles(whole, whole, 0, RESAMPLES, BOTH)
    assert found.metrics["macrostate_error_kt"] == 0
    # Its F is at the ceiling of 8 kT then, 5.5 kT off, half of that in the mean of two states.
    assert found.floor["macrostate_error_kt"] > (1 / 3 * 2.7**2) ** 0.5


def test_one_trajectory_tells_no_error() -> None:
    random = np.random.default_rng(8)
    found = compare_ensembles(ensemble(1, random), ensemble(3, random))
    assert found.intervals["js"] == (0.0, np.inf)
    assert found.intervals["delta_f_kt"] == (-np.inf, np.inf)
    assert np.isinf(found.floor["js"])


def test_the_reference_is_drawn_alike_for_every_model() -> None:
    random = np.random.default_rng(9)
    reference, model = ensemble(10, random), ensemble(10, random, 0.6)
    other = ensemble(10, random, 0.6)
    first, again = (compare_ensembles(reference, model, seed) for seed in (1, 1))
    second = compare_ensembles(reference, other, 2)
    assert (first.resampled["js"] == again.resampled["js"]).all()
    shared = np.corrcoef(first.resampled["delta_f_kt"], second.resampled["delta_f_kt"])[0, 1]
    assert shared > 0.3
