"""The verdict in words, and the whole procedure on surfaces whose distances are known."""

import numpy as np
import pytest
from scipy.special import rel_entr

from cgfe.analysis.floor import Floor
from cgfe.analysis.metrics import js_divergence
from cgfe.experiment.comparisons import compare
from cgfe.experiment.figures import IntArray, SweepFigures, resample_runs
from cgfe.experiment.intervals import setting_means
from cgfe.experiment.verdict import decide
from tests.experiment.made_sweeps import binomial_error, make_sweep


def made(shift: float, seeds: int, settings: int = 11, seed: int = 0) -> SweepFigures:
    """JS of 0.15 on average, a spread of 0.02, weights above 0.7 worse by a shift."""
    random = np.random.default_rng(seed)
    weights = np.arange(settings) / 10
    noise = 0.02 * random.normal(size=(settings, seeds))
    mean = 0.15 + shift * (weights > 0.7)
    figures = mean[:, None] + noise - noise.mean(axis=1, keepdims=True)
    return SweepFigures(weights.tolist(), figures)


def test_settings_that_are_worse() -> None:
    found = decide(made(0.1, 8), 0.0)
    assert (found.better, found.worse, found.same) == ((), (0.8, 0.9, 1.0), ())
    assert found.headline == (
        "In JS, of 10 settings 3 are worse than energy weight 0, 7 cannot be told from it."
    )
    first = next(s for s in found.sentences if s.startswith("Energy weight 0.8 is worse by 0."))
    assert "8 paired seeds, p = 0.0078 for all settings together" in first
    assert "smallest possible 0.0078" in first
    told = " ".join(found.sentences)
    assert "Not told from energy weight 0: energy weight 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7;" in told
    assert "JS rises with energy weight (rank correlation 0." in told
    assert "smallest p of 8 seeds, 0.0078, is too large for 10 comparisons; it takes 9" in told


def test_settings_that_are_better() -> None:
    sweep = made(-0.1, 9)
    found = decide(sweep, 0.0)
    assert (found.better, found.worse) == ((0.8, 0.9, 1.0), ())
    assert any(s.startswith("Energy weight 1 is better by 0.") for s in found.sentences)
    assert "JS falls with energy weight" in " ".join(found.sentences)
    assert not any("Holm's correction could have shown none" in s for s in found.sentences)


def test_no_difference_and_how_large_one_would_have_had_to_be() -> None:
    found = decide(made(0.0, 8, 4), 0.0)
    assert found.headline == "No setting can be told from energy weight 0 in JS."
    sizes = [c.detectable for c in found.comparisons]
    words = f"difference of these would have had to be {min(sizes):.2g} to {max(sizes):.2g} nat"
    assert words in " ".join(found.sentences)
    assert all(0.02 < size < 0.08 for size in sizes)
    assert "No trend of JS with energy weight can be told" in " ".join(found.sentences)


def test_too_few_seeds_is_said() -> None:
    found = decide(made(0.3, 5), 0.0)
    assert (found.better, found.worse) == ((), ())
    assert found.headline == (
        "Nothing can be told in JS: a test of 5 seeds cannot reach 5 %, it takes 6."
    )
    told = " ".join(found.sentences)
    assert "Of these energy weight 0.8, 0.9, 1 have intervals without zero" in told
    assert "smallest p of 5 paired seeds is 0.062; it takes at least 6 seeds" in told


def test_missing_runs_are_said() -> None:
    sweep = made(0.0, 8, 3)
    sweep.figures[1, 2:4] = np.nan
    sweep.figures[2, 1:] = np.nan
    found = decide(sweep, 0.0)
    told = " ".join(found.sentences)
    assert "Runs without a figure: 2 of energy weight 0.1, 7 of energy weight 0.2; pairs" in told
    assert "no difference of energy weight 0.2 could have been shown" in told


def test_the_same_within_a_resolution() -> None:
    found = decide(made(0.1, 8), 0.0, resolution=0.06)
    assert found.same
    assert set(found.same).isdisjoint(found.worse)
    assert any(s.startswith("Within 0.06 nat of energy weight 0, each") for s in found.sentences)
    assert f"{len(found.same)} are the same as energy weight 0" in found.headline


@pytest.mark.parametrize(
    ("high", "words"), [(0.2, "at the floor: it"), (0.14, "perhaps at the"), (0.01, "above the")]
)
def test_where_the_best_stands_to_the_floor(high: float, words: str) -> None:
    last = decide(made(0.0, 8, 2), 0.0, Floor(0.9 * high, high, 32)).sentences[-1]
    assert words in last
    assert last.startswith("Lowest mean: energy weight 0")
    assert "chosen among 2" in last


def test_error_rate_and_power_of_the_verdict() -> None:
    """With seeds, replicas and a reference that settings answer to unequally."""
    experiments = 100
    random = np.random.default_rng(1)
    response = np.array([1.0, 1.2, 0.8, 1.0])
    called, shown = 0, 0
    for _ in range(experiments):
        none = make_sweep(
            random, np.zeros(4), 8, response=response, reference_error=2.0, resamples=60
        )
        verdict = decide(none, 0)
        called += bool(verdict.better or verdict.worse)
        needed = verdict.comparisons[2].detectable
        there = SweepFigures(
            none.settings,
            none.figures + np.array([0, 0, 0, needed])[:, None],
            none.resampled,
            none.walkers,
        )
        shown += 3 in decide(there, 0).worse
    assert called / experiments <= 0.05 + 3 * binomial_error(0.05, experiments)
    # The spread that the difference was told from is an estimate, and chooses with its own noise.
    assert 0.65 <= shown / experiments <= 0.9


BINS, WALKERS, REPLICAS, SEEDS = 20, 16, 8, 6


def surface(tilt: float) -> np.ndarray:
    weights = np.exp(-np.linspace(0, 2, BINS) - tilt * np.linspace(-1, 1, BINS) ** 2)
    return weights / weights.sum()


def walkers_of(shares: np.ndarray, number: int, random: np.random.Generator) -> np.ndarray:
    """Masses (number, B) of walkers that each linger: about 40 independent frames."""
    return random.multinomial(40, random.dirichlet(60 * shares, size=number)).astype(float)


def js_many(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    p, q = (x / x.sum(axis=-1, keepdims=True) for x in (p, q))
    middle = (p + q) / 2
    return (rel_entr(p, middle).sum(axis=-1) + rel_entr(q, middle).sum(axis=-1)) / 2


def test_js_of_models_against_a_reference_of_few_walkers() -> None:
    """Differences of JS hold the truth, though each JS is raised by both samples' errors."""
    random = np.random.default_rng(2)
    truth = surface(0.0)
    tilts = np.array([1.0, 1.0, 2.0])
    experiments = 120
    held, called, above = np.zeros(2), 0, []
    mean_js = [
        np.mean([js_divergence(surface(t + 0.2 * z), truth) for z in random.normal(size=500)])
        for t in tilts
    ]
    for number in range(experiments):
        reference = walkers_of(truth, WALKERS, random)
        masses = np.array([
            [walkers_of(surface(t + 0.2 * random.normal()), REPLICAS, random) for _ in range(SEEDS)]
            for t in tilts
        ])  # fmt: skip

        def figure(k: int, s: int, drawn: IntArray, own: IntArray) -> np.ndarray:
            return js_many(own @ masses[k, s], drawn @ reference)  # noqa: B023

        figures = js_many(masses.sum(axis=2), reference.sum(axis=0))
        present = np.ones(figures.shape, bool)
        resampled = resample_runs(figure, present, WALKERS, REPLICAS, 60, number)
        sweep = SweepFigures(tilts.cumsum().tolist(), figures, resampled, WALKERS)
        first, second = compare(sweep, 1.0)
        held += [first.difference.contains(0), second.difference.contains(mean_js[2] - mean_js[0])]
        called += first.p_joint <= 0.05
        above.append(setting_means(sweep)[0].mean.value - mean_js[0])
    error = 3 * binomial_error(0.95, experiments)
    assert (held / experiments >= 0.95 - error).all()
    assert called / experiments <= 0.05 + error
    assert np.mean(above) > 0.002
