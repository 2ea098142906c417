"""Tests by sign flips: exact, and as often wrong as they say."""

import numpy as np
import pytest
from scipy import stats

from cgfe.errors import InputError
from cgfe.experiment.comparisons import compare
from cgfe.experiment.figures import SweepFigures
from cgfe.experiment.power import detectable_difference, detectable_effect, fewest_seeds
from cgfe.experiment.sign_flips import flip_test, holm, sign_flips, smallest_p
from cgfe.experiment.trend import trend
from tests.experiment.made_sweeps import (
    Noise,
    binomial_error,
    failing,
    heavy_tailed,
    make_sweep,
    normal,
    skewed,
)

LEVEL = 0.05


def test_p_is_scipys() -> None:
    random = np.random.default_rng(0)
    for seeds in (3, 6, 7):
        values = random.normal(0.5, 1.0, seeds)
        expected = stats.permutation_test(
            (values,), np.mean, permutation_type="samples", n_resamples=np.inf
        )
        p, together = flip_test(values[None])
        assert p[0] == pytest.approx(expected.pvalue)
        assert together[0] == p[0]
    assert flip_test(np.ones((1, 8)))[0][0] == smallest_p(8) == 2 / 2**8
    assert len(np.unique(sign_flips(6), axis=0)) == 32
    assert flip_test(np.zeros((2, 8)))[1].tolist() == [1.0, 1.0]


def test_many_seeds_are_drawn() -> None:
    values = np.random.default_rng(1).normal(0.4, 1.0, (1, 20))
    expected = stats.permutation_test((values[0],), np.mean, permutation_type="samples")
    assert flip_test(values)[0][0] == pytest.approx(expected.pvalue, abs=0.03)
    assert flip_test(values + 10)[0][0] == smallest_p(20) == 2.0**-11


def test_holm() -> None:
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])


def test_a_setting_of_too_few_seeds_hides_no_other() -> None:
    """Two differences that are nearly alike are many times their spread."""
    random = np.random.default_rng(2)
    figures = np.vstack([random.normal(0, 1, (1, 8)), random.normal(-2.5, 1, (2, 8))])
    few = np.where(np.arange(8) < 2, figures[0] - 1.0 - 0.001 * np.arange(8), np.nan)
    alone = compare(SweepFigures((0.0, 1.0, 2.0), figures), 0.0)
    beside = compare(SweepFigures((0.0, 1.0, 2.0, 3.0), np.vstack([figures, few])), 0.0)
    assert [c.p_joint for c in alone] == [c.p_joint for c in beside[:2]] == [2 / 2**8, 2 / 2**8]
    assert [c.detectable for c in alone] == [c.detectable for c in beside[:2]]
    assert np.isnan(beside[2].p_joint)
    assert beside[2].p == beside[2].smallest_p == 0.5
    (only,) = compare(SweepFigures((0.0, 3.0), np.vstack([figures[:1], few])), 0.0)
    assert only.p_joint == 0.5


@pytest.mark.parametrize("seeds", [6, 8, 10])
@pytest.mark.parametrize("noise", [normal, heavy_tailed, skewed, failing])
def test_family_wise_error_rate(noise: Noise, seeds: int) -> None:
    """Ten settings that do not differ, and five of ten that do."""
    experiments = 600
    random = np.random.default_rng(seeds)
    some = np.where(np.arange(10) < 5, 3.0, 0.0)
    errors = np.zeros(3)
    for _ in range(experiments):
        made = noise(random, (11, seeds)) + noise(random, (1, seeds))  # what a seed has in common
        p, together = flip_test(made[1:] - made[0])
        partly = flip_test(made[1:] - made[0] + some[:, None])[1][5:]
        errors += [holm(p).min() <= LEVEL, together.min() <= LEVEL, partly.min() <= LEVEL]
    by_holm, jointly, partly = errors / experiments
    most = LEVEL + 3 * binomial_error(LEVEL, experiments)
    assert max(by_holm, jointly, partly) <= most
    if seeds > 6:  # 2 / 2⁶ and 4 / 2⁶ leave nothing between 3 and 6 %
        assert jointly >= LEVEL - 3 * binomial_error(LEVEL, experiments)
    assert by_holm == 0 or seeds >= fewest_seeds(10, "holm") == 9


@pytest.mark.parametrize(("walkers", "error"), [(8, 1.0), (32, 0.4), (16, 3.0)])
def test_a_reference_error_that_does_not_cancel_is_no_finding(walkers: int, error: float) -> None:
    experiments = 200
    random = np.random.default_rng(walkers)
    response = np.array([1.0, 0.5, 0.0, 2.0])
    errors = np.zeros(2)
    for _ in range(experiments):
        sweep = make_sweep(
            random,
            np.zeros(4),
            8,
            normal,
            walkers,
            reference_error=error,
            response=response,
            resamples=60,
        )
        flips_alone = flip_test(sweep.figures[1:] - sweep.figures[0])[1]
        found = compare(sweep, 0)
        errors += [min(c.p_joint for c in found) <= LEVEL, flips_alone.min() <= LEVEL]
    assert errors[0] / experiments <= LEVEL + 3 * binomial_error(LEVEL, experiments)
    if error >= 1:
        assert errors[1] / experiments > 0.2


@pytest.mark.parametrize(
    ("seeds", "settings", "way"), [(8, 10, "joint"), (6, 3, "joint"), (9, 10, "holm")]
)
def test_power_is_what_was_promised(seeds: int, settings: int, way: str) -> None:
    experiments = 400
    random = np.random.default_rng(7)
    effect = detectable_effect(seeds, settings, way)  # type: ignore[arg-type]
    shown = 0
    for _ in range(experiments):
        made = random.normal(size=(settings + 1, seeds)) / 2**0.5
        made[1] += effect
        p, together = flip_test(made[1:] - made[0])
        shown += (together if way == "joint" else holm(p))[0] <= LEVEL
    # Power and the effect that was told err both, each by its own made experiments.
    assert abs(shown / experiments - 0.8) <= 3 * np.hypot(
        binomial_error(0.8, experiments), binomial_error(0.8, 2000)
    )


@pytest.mark.parametrize(("walkers", "shared"), [(8, 2.0), (16, 0.5), (32, 0.05)])
def test_power_with_a_shared_error(walkers: int, shared: float) -> None:
    """The test does not know the shared variance either, only its estimate from the walkers."""
    experiments, seeds = 400, 8
    random = np.random.default_rng(walkers)
    needed = detectable_difference(1.0, seeds, 1, "joint", shared, walkers)
    shown = 0
    for _ in range(experiments):
        values = needed + random.normal(size=(1, seeds)) + shared**0.5 * random.normal()
        estimate = shared * random.chisquare(walkers - 1) / (walkers - 1)
        shown += flip_test(values, np.array([[estimate]]), walkers)[0][0] <= LEVEL
    assert 0.8 - 3 * binomial_error(0.8, experiments) <= shown / experiments <= 0.92


def test_where_nothing_can_be_shown() -> None:
    assert detectable_effect(5, 1, "joint") == detectable_effect(8, 10, "holm") == np.inf
    assert fewest_seeds(1, "joint") == fewest_seeds(10, "joint") == fewest_seeds(1, "holm") == 6
    assert fewest_seeds(3, "holm") == 7
    assert detectable_effect(8, 10, "joint") < detectable_effect(6, 10, "joint") < 5


def test_missing_runs_take_their_pairs_along() -> None:
    random = np.random.default_rng(9)
    figures = random.normal(size=(3, 9))
    figures[0, 0] = figures[1, 1] = np.nan
    figures[2, 2:] = np.nan
    first, second = compare(SweepFigures(["none", "a", "b"], figures), "none")
    differences = (figures[1] - figures[0])[2:]
    assert (first.seeds, first.missing, second.seeds, second.missing) == (7, 2, 1, 8)
    assert first.difference.value == pytest.approx(differences.mean())
    expected = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf
    )
    assert first.p == pytest.approx(expected.pvalue)
    assert (second.p, second.difference.high, second.detectable) == (1.0, np.inf, np.inf)
    assert first.smallest_p == 2 / 2**7


def test_a_baseline_that_cannot_be_used() -> None:
    figures = np.ones((2, 3))
    figures[0, 1:] = np.nan
    sweep = SweepFigures([0.0, 0.5], figures)
    with pytest.raises(InputError, match=r"one of the settings \[0.0, 0.5\], found 0.1"):
        compare(sweep, 0.1)
    with pytest.raises(InputError, match=r"energy weight 0 needs at least 2 finished runs .* 1\."):
        compare(sweep, 0.0)


@pytest.mark.parametrize("noise", [normal, skewed])
def test_trend(noise: Noise) -> None:
    random = np.random.default_rng(10)
    wrong, held = 0, 0
    for _ in range(600):
        found = trend(SweepFigures(list(range(5)), noise(random, (5, 8))))
        assert found is not None
        wrong += found.p <= LEVEL
        held += found.correlation.contains(0.0)
    assert abs(wrong / 600 - LEVEL) <= 3 * binomial_error(LEVEL, 600)
    assert abs(held / 600 - 0.95) <= 3 * binomial_error(LEVEL, 600)


def test_trend_of_what_rises_and_of_what_has_none() -> None:
    random = np.random.default_rng(11)
    settings = [0.0, 0.1, 0.4, 1.0]
    figures = np.array(settings)[:, None] + 0.01 * random.normal(size=(4, 8))
    figures[1, 3] = np.nan
    found = trend(SweepFigures(settings, figures))
    assert found is not None
    assert (found.correlation.value, found.p, found.seeds) == (1.0, 2 / 2**8, 8)
    figures[:, 5] = random.normal(size=4)
    found = trend(SweepFigures(settings, figures))
    expected = stats.spearmanr(settings, figures[:, 5]).statistic
    assert found is not None
    assert found.correlation.value == pytest.approx((7 + expected) / 8)
    assert trend(SweepFigures(["a", "b", "c"], figures[:3])) is None
    assert trend(SweepFigures(settings[:2], figures[:2])) is None
    # A common push of the reference on all seeds is no trend.
    sweep = make_sweep(random, np.zeros(4), 8, reference_error=9.0, response=np.arange(4.0))
    found = trend(sweep)
    assert found is not None
    assert found.p > LEVEL
