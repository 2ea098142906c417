"""The whole chain on a peptide whose answer is known: walkers, weights, ΔF, floor, verdict.

A small part of `tests.reference.coverage_study`, whose docstring has the results of more.
"""

import numpy as np
import pytest
from scipy import stats

from cgfe.analysis import kinetics
from cgfe.analysis.floor import floor_of_surfaces
from cgfe.analysis.intervals import Interval
from cgfe.analysis.metrics import js_divergence
from cgfe.data.embedded import EMBEDDED
from cgfe.data.frames import CGFrames
from cgfe.reference import convergence
from cgfe.reference.convergence import analyse_sampled
from cgfe.reference.sampled import Sampled
from cgfe.reference.ways import estimate_ways
from cgfe.report.verdicts import headline, judge
from tests.reference.coverage_study import blind, halves, short, with_bias
from tests.reference.made_walkers import Made, make


def answers(data: Sampled) -> dict[str, str]:
    return {verdict.question: verdict.answer for verdict in judge(analyse_sampled(data))}


@pytest.fixture(scope="module")
def right() -> Made:
    return make(0.5, 20.0)


def held(found: list[Interval], truth: float) -> float:
    return float(np.mean([x.contains(truth) for x in found]))


@pytest.mark.parametrize("sample", [halves, with_bias])
def test_intervals_hold_the_truth_and_the_floor_is_a_perfect_models_score(
    right: Made, sample: object
) -> None:
    experiments = 30
    delta_f: dict[str, list[Interval]] = {}
    by_core: dict[str, list[Interval]] = {}
    floors, scores = [], []
    for number in range(experiments):
        random = np.random.default_rng(number)
        data = sample(right, random)  # type: ignore[operator]
        draws = np.array([data.walkers.draw(random) for _ in range(40)])
        assert data.folding is not None
        rates = data.folding.summary(draws, data.walkers.lag).rates
        ways, _ = estimate_ways(data, draws, rates)
        for name, way in ways.items():
            for kept, value in ((delta_f, way.delta_f), (by_core, way.by_core)):
                if value is not None:
                    kept.setdefault(name, []).append(value)
        every = ways["all"]
        assert every.surfaces is not None
        assert every.surface is not None
        floor = floor_of_surfaces(every.surfaces, every.surface, every.walkers, every.sparse)
        floors.append(floor.mean)
        scores.append(js_divergence(every.surface, right.surface))
    least = stats.binom.ppf(0.001, experiments, 0.95) / experiments
    for found, truth in ((delta_f, right.delta_f), (by_core, right.delta_f_by_core())):
        assert {name for name in found if held(found[name], truth) < least} == set()
        assert len(found["msm"]) == experiments
    error = np.hypot(np.std(scores), np.std(floors)) / experiments**0.5
    assert np.mean(floors) == pytest.approx(np.mean(scores), abs=3.5 * error)


def test_intervals_of_short_walkers_are_wrong_and_the_report_says_why() -> None:
    """They hold the truth in 45 % of the cases, as `coverage_study` counts."""
    made = make(0.5, 40.0)
    for number in range(3):
        found = answers(short(made, np.random.default_rng(number)))
        assert found["Starts forgotten?"] == found["Enough transitions?"] == "no"
        assert found["Two ways agree?"] != "yes"


def test_hidden_packing_that_short_walkers_and_a_blind_bias_miss_is_told() -> None:
    """The two ways agree with each other, far from the truth, and the report says no."""
    made = make(0.6, 40.0, hidden=True)
    remembered = 0
    for number in range(4):
        data = blind(made, np.random.default_rng(number))
        found = answers(data)
        assert "no" in found.values()
        assert found["Two ways agree?"] != "yes"
        remembered += found["States without memory?"] == "no"
    assert remembered >= 3


def test_the_embedded_set_is_not_converged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convergence, "BOOTSTRAPS", 40)
    monkeypatch.setattr(kinetics, "BOOTSTRAPS", 5)
    monkeypatch.setattr(kinetics, "LAGS_PS", (200.0,))
    monkeypatch.setattr(convergence, "SHARES", (0.5,))
    result = convergence.analyse(CGFrames.load(EMBEDDED["chignolin"]))
    verdicts = {verdict.question: verdict for verdict in judge(result)}
    for question in ("Surface known?", "Folding free energy known?"):
        assert verdicts[question].answer == "no", question
    assert verdicts["Enough transitions?"].answer == "yes"
    assert verdicts["Starts forgotten?"].answer == "yes"
    assert verdicts["Two ways agree?"].answer == "unknown"
    assert headline(result).startswith("Not converged")
