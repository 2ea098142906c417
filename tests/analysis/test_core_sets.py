"""Transitions between core sets, on walkers whose rates are known."""

import numpy as np
import pytest
from scipy import stats

from cgfe.analysis.core_sets import (
    FOLDED,
    UNFOLDED,
    Events,
    Rates,
    SurvivalTest,
    Visits,
    core_of,
    last_core,
)
from cgfe.analysis.folding import FoldedShare, FoldingData, hops_of_replicas
from cgfe.analysis.intervals import half_width, interval


def test_a_walker_keeps_its_state_until_it_is_in_the_other_core() -> None:
    distance = np.array([2.0, 1.0, 3.0, 1.2, 5.0, 3.0, 2.0, 1.4, 4.5, 2.0, 1.0])
    walker = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(core_of(distance[:5]), [0, 1, 0, 1, -1])
    state = last_core(distance, walker)
    np.testing.assert_array_equal(state, [0, 1, 1, 1, -1, -1, -1, 1, -1, -1, 1])
    visits = Visits.of(state, walker)
    np.testing.assert_array_equal(visits.state, [1, -1, 1, -1, 1])
    np.testing.assert_array_equal(visits.frames, [3, 3, 1, 2, 1])
    np.testing.assert_array_equal(visits.ended, [True, True, False, True, False])
    # The first began between the cores, so it was entered.
    np.testing.assert_array_equal(visits.from_start, [False, False, False, True, False])
    events = Events.of(visits, 3, 0.5)
    np.testing.assert_array_equal(events.foldings, [1, 1, 0])
    np.testing.assert_array_equal(events.unfoldings, [1, 0, 0])
    np.testing.assert_array_equal(events.folded_ns, [2.0, 0.5, 0])
    np.testing.assert_array_equal(events.unfolded_ns, [1.5, 1.0, 0])


def test_replicas_are_followed_through_the_frames_of_their_ladder() -> None:
    distance = np.array([1.0, 5.0, 5.0, 2.0, 1.2, 5.0, 1.0, 5.0])
    replica = np.array([0, 1, 0, 1, 0, 1, 1, 7])
    # 0 is folded, unfolded, folded; 1 unfolded until its last frame; 7 was seen once.
    assert hops_of_replicas(distance, replica) == (2, 1)
    assert hops_of_replicas(distance, np.arange(8)) == (0, 0)


def two_state(
    walkers: int, frames: int, fold: float, unfold: float, random: np.random.Generator
) -> np.ndarray:
    """States ±1 (W, F) of two-state walkers, half started in each."""
    state = np.arange(walkers) % 2 == 0
    paths = np.empty((walkers, frames), dtype=np.int64)
    for step in range(frames):
        paths[:, step] = np.where(state, FOLDED, UNFOLDED)
        draw = random.random(walkers)
        state = np.where(state, draw >= unfold, draw < fold)
    return paths


def rates_of(paths: np.ndarray, random: np.random.Generator) -> Rates:
    number = len(paths)
    walker = np.repeat(np.arange(number), paths.shape[1])
    events = Events.of(Visits.of(paths.ravel(), walker), number, 0.1)
    rates = Rates.fit(events, random.multinomial(number, np.full(number, 1 / number), 100))
    assert rates is not None
    return rates


@pytest.mark.parametrize(("fold", "unfold"), [(0.002, 0.002), (0.0006, 0.003)])
def test_intervals_of_rates_hold_the_truth(fold: float, unfold: float) -> None:
    """20 walkers of 1,200 frames: about 24 events of each kind, or 12."""
    random = np.random.default_rng(0)
    held = np.zeros(3)
    experiments = 150
    for _ in range(experiments):
        rates = rates_of(two_state(20, 1200, fold, unfold, random), random)
        held += (
            rates.folding_per_us.contains(fold * 1e4),
            rates.unfolding_per_us.contains(unfold * 1e4),
            rates.delta_f_kt.contains(np.log(unfold / fold)),
        )
    low, high = stats.binom.ppf([0.001, 0.999], experiments, 0.95)
    assert (held >= low).all(), held / experiments
    assert (held <= max(high, 0.99 * experiments)).all(), held / experiments


def test_no_event_is_a_wide_interval_and_no_zero_rate() -> None:
    random = np.random.default_rng(1)
    rates = rates_of(two_state(10, 100, 0.0, 0.0, random), random)
    assert (rates.foldings, rates.unfoldings) == (0, 0)
    # With no event in T the 97.5 % bound of k T is 2.5 (Jeffreys' prior).
    assert rates.folding_per_us.high == pytest.approx(2.51 / 0.05, rel=0.01)
    assert rates.delta_f_kt.half_width > 4
    never = Events(np.zeros(2, int), np.zeros(2, int), np.ones(2), np.zeros(2))
    assert Rates.fit(never, np.ones((5, 2), dtype=np.int64)) is None


def test_survival_accuses_hidden_kinds_and_hardly_ever_a_right_chain() -> None:
    random = np.random.default_rng(2)
    p_values = []
    for _ in range(200):
        paths = two_state(20, 800, 0.004, 0.004, random)
        visits = Visits.of(paths.ravel(), np.repeat(np.arange(20), 800))
        p_values.append(SurvivalTest.fit(visits, FOLDED, 20, 0.1).p_value)
    # An exact test accuses at most as often as it says.
    assert np.sum(np.array(p_values) < 0.05) <= stats.binom.ppf(0.999, 200, 0.05)
    # Walkers that start packed never leave; those that come in leave soon.
    paths = two_state(20, 800, 0.004, 0.02, random)
    paths[:5] = FOLDED
    visits = Visits.of(paths.ravel(), np.repeat(np.arange(20), 800))
    assert SurvivalTest.fit(visits, FOLDED, 20, 0.1).p_value < 0.005


def test_groups_meet_after_the_relaxation_and_not_before() -> None:
    random = np.random.default_rng(3)

    def share(frames: int) -> FoldedShare:
        paths = two_state(64, frames, 0.01, 0.01, random)  # relaxation 50 frames
        start = np.where(np.arange(64) % 2 == 0, FOLDED, UNFOLDED)
        found = FoldedShare.fit(paths.ravel(), np.repeat(np.arange(64), frames), start, 0.1)
        assert found is not None
        return found

    long, short = share(1500), share(40)
    assert short.met_ns is None
    assert long.met_ns is not None
    # Until it is 1/e the difference of two groups of 32 is beyond their error of about 0.12.
    assert 2.0 < long.met_ns < 40.0
    # The share relaxes as (1 + e^(-t/τ)) / 2.
    exact = (1 + np.exp(-long.times_ns / 5.0)) / 2
    assert (np.abs(long.share[0] - exact) < 2 * long.half[0] + 1e-9).all()
    alone = np.full(64, FOLDED)
    state = np.ones(6400, dtype=np.int64)
    assert FoldedShare.fit(state, np.repeat(np.arange(64), 100), alone, 0.1) is None


def test_counts_weigh_the_starts_away() -> None:
    """Walkers of six relaxation times, all but a few started folded, at 50 % folded."""
    random = np.random.default_rng(4)
    values, plain = [], []
    for _ in range(60):
        paths = two_state(40, 300, 0.01, 0.01, random)
        paths = np.concatenate([paths[0::2], two_state(20, 300, 0.01, 0.01, random)[0::2],
                                paths[1:12:2]])  # fmt: skip
        distance = np.where(paths == FOLDED, 1.0, 5.0).ravel()
        walker = np.repeat(np.arange(len(paths)), 300)
        data = FoldingData(distance, walker, np.zeros(len(paths), dtype=bool), 100.0)
        folding = data.summary(np.ones((3, len(paths)), dtype=np.int64), 1)
        weights = data.count_weights(folding.rates)
        assert weights is not None
        values.append(weights[data.state == FOLDED].sum() / weights.sum())
        plain.append((data.state == FOLDED).mean())
    error = np.std(values) / 60**0.5
    assert abs(np.mean(values) - 0.5) < 3.5 * error
    assert np.mean(plain) > 0.5 + 3.5 * error


def test_students_interval_covers_where_percentiles_do_not() -> None:
    """ln of a mean of ten exponential values: skewed, and few."""
    random = np.random.default_rng(5)
    student, percentile = 0, 0
    experiments = 400
    for _ in range(experiments):
        values = random.exponential(size=10)
        samples = np.log(random.choice(values, (200, 10)).mean(axis=1))
        student += interval(np.log(values.mean()), samples, 10).contains(0)
        low, high = np.percentile(samples, [2.5, 97.5])
        percentile += low <= 0 <= high
    assert percentile < stats.binom.ppf(0.001, experiments, 0.95)
    assert student > 0.92 * experiments


def test_samples_without_value_make_nothing_known() -> None:
    assert np.isinf(half_width(np.zeros(50), 1))
    values = np.zeros((50, 2))
    values[:10, 0] = np.nan
    np.testing.assert_array_equal(half_width(values, 10), [np.inf, 0])
    # Three at once need a longer reach than one.
    spread = np.arange(50.0)
    assert half_width(spread, 10, 3) > half_width(spread, 10)
