"""Convergence figures on chains whose populations and kinetics are known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cgfe.analysis.core_sets import FOLDED, SurvivalTest
from cgfe.analysis.floor import Floor
from cgfe.analysis.folding import FoldedShare
from cgfe.analysis.intervals import Interval
from cgfe.cli import main
from cgfe.data.frames import CGFrames
from cgfe.data.join import side_by_side
from cgfe.errors import InputError
from cgfe.reference.convergence import Convergence, analyse
from cgfe.report.reference import details, more
from cgfe.report.verdicts import Verdict, headline, judge

BEADS = 5
FOLDED_SHARE = 0.7
NATIVE = 3.0 * np.eye(1, 3)[0] * np.arange(BEADS)[:, None]


def chain(folded: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Five beads on a line, 3 Å apart when folded and 6 Å when not, with thermal noise."""
    positions = np.zeros((len(folded), BEADS, 3))
    positions[:, :, 0] = np.where(folded, 3.0, 6.0)[:, None] * np.arange(BEADS)
    return (positions + random.normal(scale=0.15, size=positions.shape)).astype(np.float32)


def walk(frames: int, folding: float, unfolding: float, random: np.random.Generator) -> np.ndarray:
    """A two-state Markov chain started from equilibrium."""
    state, path = random.random() < folding / (folding + unfolding), []
    for _ in range(frames):
        path.append(state)
        state = random.random() >= unfolding if state else random.random() < folding
    return np.array(path)


def sampled(unbiased: int, biased: int, seed: int) -> CGFrames:
    """Unbiased walkers of 400 frames, and biased ones of 2,000 in which both states are alike."""
    random = np.random.default_rng(seed)
    paths = [walk(400, 0.07, 0.03, random) for _ in range(unbiased)]
    paths += [walk(2000, 0.05, 0.05, random) for _ in range(biased)]
    index = np.repeat(np.arange(len(paths)), [len(path) for path in paths])
    logs = [np.full(400, np.nan)] * unbiased
    logs += [np.where(p, np.log(FOLDED_SHARE), np.log(1 - FOLDED_SHARE)) for p in paths[unbiased:]]
    return CGFrames(
        positions=np.concatenate([chain(path, random) for path in paths]),
        trajectory_index=index.astype(np.int32),
        residue_names=("ALA",) * BEADS,
        masses=np.full(BEADS, 71.08),
        bonds=np.stack([np.arange(BEADS - 1), np.arange(1, BEADS)], axis=1),
        temperature_kelvin=300.0,
        frame_interval_ps=1.0,
        native_positions=NATIVE,
        bias_log_weights=np.concatenate(logs) if biased else None,
        biased_trajectories=np.arange(unbiased, unbiased + biased, dtype=np.int32),
    )


EXACT = -np.log(FOLDED_SHARE / (1 - FOLDED_SHARE))


@pytest.fixture(scope="module")
def both() -> Convergence:
    return analyse(sampled(40, 6, 0))


def by_question(result: Convergence) -> dict[str, Verdict]:
    return {verdict.question: verdict for verdict in judge(result)}


def test_every_way_finds_the_free_energy_within_its_interval(both: Convergence) -> None:
    assert set(both.ways) == {"all", "msm", "bias", "counts", "rates"}
    for name, way in both.ways.items():
        # The cores and the RMSD cut part these states alike.
        for found in (way.delta_f, way.by_core):
            if found is None:
                continue
            # Chance leaves 5 % outside each interval; the seed is fixed and the margin half.
            margin = found.half_width / 2
            assert found.low - margin < EXACT < found.high + margin, name
            assert found.half_width < 0.6
    assert both.trajectories == 46
    assert both.biased == 6
    assert both.nanoseconds == pytest.approx(28.0)
    ways = by_question(both)["Two ways agree?"]
    assert ways.answer == "yes", ways.words
    pair = both.agreements[0]
    assert (pair.first, pair.second, pair.independent) == ("msm", "bias", True)
    assert 0 < pair.js < pair.js_by_chance


def test_more_sampling_brings_the_parts_together(both: Convergence) -> None:
    assert (np.diff(both.growth_js) < 0).all()
    assert both.growth_js[-1] == both.js_walkers
    # Halves are about four times as far apart as the whole from the truth.
    assert 1.5 * both.floor.mean < both.js_walkers < 8 * both.floor.mean
    trend, least = both.more_ns()
    assert 0 <= least <= trend


def test_kinetics_are_those_of_the_chain(both: Convergence) -> None:
    """The relaxation time of the two-state chain is -1 / ln(1 - 0.1) ps."""
    times = both.timescales
    column = list(times.lags_ps).index(5.0)
    assert times.value[column, 0] == pytest.approx(-1 / np.log(0.9), rel=0.3)
    assert times.low[column, 0] <= times.value[column, 0] <= times.high[column, 0]
    for test in both.chapman_kolmogorov:
        np.testing.assert_allclose(test.predicted, test.observed, atol=0.05)
    assert both.folding is not None
    rates = both.folding.rates
    assert rates is not None
    assert rates.folding_per_us.contains(0.07e6)
    assert rates.unfolding_per_us.contains(0.03e6)
    # 16 ns hold about 0.021 events of each kind per ps.
    assert 250 < rates.foldings < 420


def test_a_wrong_bias_weight_is_seen_as_a_contradiction() -> None:
    frames = sampled(40, 6, 1)
    assert frames.bias_log_weights is not None
    wrong = replace(frames, bias_log_weights=-4 * frames.bias_log_weights)
    verdict = by_question(analyse(wrong))["Two ways agree?"]
    assert verdict.answer == "no"
    assert "contradict each other" in verdict.words


@pytest.fixture(scope="module")
def unbiased() -> CGFrames:
    return sampled(30, 0, 2)


def test_one_kind_of_sampling_has_nothing_independent_to_agree_with(unbiased: CGFrames) -> None:
    result = analyse(unbiased)
    assert set(result.ways) == {"all", "msm", "counts", "rates"}
    assert not any(agreement.independent for agreement in result.agreements)
    verdict = by_question(result)["Two ways agree?"]
    assert verdict.answer == "unknown"
    assert "no independent way" in verdict.words
    assert not headline(result).startswith("Converged")


def test_a_second_set_is_an_independent_way(unbiased: CGFrames) -> None:
    result = analyse(unbiased, against=replace(sampled(30, 0, 7), name="second"))
    assert result.against is not None
    assert result.against.name == "second"
    last = result.agreements[-1]
    assert (last.first, last.second, last.independent) == ("all", "against", True)
    assert by_question(result)["Two ways agree?"].answer == "yes"
    # Walkers that are all weighted as if under a bias they never had: another free energy.
    other = sampled(30, 4, 8)
    assert other.bias_log_weights is not None
    against = replace(
        other,
        bias_log_weights=np.nan_to_num(-3 * other.bias_log_weights, nan=-5.0),
        biased_trajectories=np.arange(34, dtype=np.int32),
    )
    verdict = by_question(analyse(unbiased, against=against))["Two ways agree?"]
    assert verdict.answer == "no", verdict.words
    with pytest.raises(InputError, match="temperature_kelvin is 310"):
        analyse(unbiased, against=replace(unbiased, temperature_kelvin=310.0))


def test_a_second_set_of_several_samplings(unbiased: CGFrames) -> None:
    """Ladders of replica exchange, whose frames hop between replicas."""

    def ladders(seed: int) -> CGFrames:
        frames = sampled(0, 5, seed)
        logs = np.zeros(len(frames))
        replica = np.arange(len(frames)) % 2 + 2 * frames.trajectory_index
        return replace(frames, bias_log_weights=logs, replica_index=replica, name=f"set {seed}")

    both = side_by_side([ladders(3), ladders(4)])
    assert len(both.trajectory_slices()) == len(both.biased_trajectories) == 10
    assert both.replica_index is not None
    np.testing.assert_array_equal(np.unique(both.replica_index), np.arange(20))
    np.testing.assert_array_equal(both.positions[10_000:], ladders(4).positions)
    result = analyse(unbiased, against=both)
    assert result.against is not None
    assert (result.against.name, result.against.trajectories) == ("set 3, set 4", 10)
    assert result.against.hops is not None
    # Of 20,000 frames, every other one's replica the same: it changes sides with probability
    # 0.05 × 0.95 × 2, at every second step, from each side half of the time.
    expected = 20_000 * 0.095 / 2
    for number in result.against.hops:
        assert abs(number - expected) < 5 * np.sqrt(expected)
    words = by_question(result)["Two ways agree?"].words
    assert f"replicas folded {result.against.hops[0]} times and unfolded" in words


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "second is there twice"),
        ({"positions": 0, "temperature_kelvin": 310.0}, "second and frames differ in temperature"),
        ({"positions": 0, "frame_interval_ps": 2.0}, "second and frames differ in frame_interval"),
        ({"positions": 0, "bias_log_weights": None}, "only one has bias_log_weights"),
    ],
)
def test_samplings_that_do_not_belong_together(change: dict[str, Any], message: str) -> None:
    first = sampled(2, 2, 3)
    if "positions" in change:
        change = change | {"positions": first.positions + 1}
    with pytest.raises(InputError, match=message):
        side_by_side([first, replace(first, **change, name="second")])


def interval_of(half: float) -> Interval:
    return Interval(0.0, -half, half)


def test_the_verdict_follows_the_figures(both: Convergence) -> None:
    known = replace(both.ways["all"], delta_f=interval_of(0.1))
    flat = replace(both.timescales, growth=np.zeros(2), growth_half=np.full(2, 0.1))
    flat = replace(flat, lags_ps=np.array([both.timescales.msm_lag_ps, 100.0, 200.0]),
                   value=np.ones((3, 3)))  # fmt: skip
    tests = [
        replace(t, predicted=t.observed, difference_half=np.zeros(len(t.observed)))
        for t in both.chapman_kolmogorov
    ]
    good = replace(
        both,
        floor=Floor(0.005, 0.01, 40),
        ways={**both.ways, "all": known},
        timescales=flat,
        chapman_kolmogorov=tests,
    )
    assert {v.answer for v in judge(good)} == {"yes"}, judge(good)
    assert headline(good).startswith("Converged")
    assert more(good) == ""
    wide = replace(good, ways={**good.ways, "all": replace(known, delta_f=interval_of(0.4))})
    # The interval is twice too wide: four times the sampling.
    assert wide.more_ns()[1] == pytest.approx(3 * both.nanoseconds)
    assert "ΔF is too uncertain" in headline(wide)
    few = replace(good, floor=Floor(0.005, 0.01, 4))
    assert headline(few) == "Not known to be converged; undecided: surface known."
    assert "decides nothing" in headline(replace(wide, js_walkers=0.6))
    slow = replace(good, floor=Floor(0.2, 0.3, 40), growth_js=np.full(4, 0.2))
    assert slow.more_ns()[0] == np.inf
    assert "does not fall" in " ".join(details(slow))
    rising = replace(flat, growth=np.array([0.1, 0.6]))
    assert "timescales rise" in headline(replace(good, timescales=rising))
    vague = replace(flat, growth_half=np.array([0.1, 0.9]))
    assert "timescales flat" in headline(replace(good, timescales=vague))
    off = [replace(t, predicted=t.observed - 0.3) for t in tests]
    assert "Chapman-Kolmogorov test fails" in headline(replace(good, chapman_kolmogorov=off))


def test_too_few_transitions_and_memory_make_no_agreement(both: Convergence) -> None:
    folding = both.folding
    assert folding is not None
    assert folding.rates is not None
    few = replace(folding, rates=replace(folding.rates, foldings=4))
    verdicts = by_question(replace(both, folding=few))
    assert verdicts["Enough transitions?"].answer == "no"
    assert "Too few transitions to know" in verdicts["Enough transitions?"].words
    assert verdicts["Two ways agree?"].answer == "unknown"
    assert "no agreement to rely on" in verdicts["Two ways agree?"].words
    split = SurvivalTest(FOLDED, (0, 7), (8.7, 5.0), 1e-3)
    verdicts = by_question(replace(both, folding=replace(folding, survival=[split])))
    assert verdicts["States without memory?"].answer == "no"
    assert "two kinds" in verdicts["States without memory?"].words
    never = by_question(replace(both, folding=replace(folding, rates=None)))
    assert never["Enough transitions?"].answer == "no"


def test_starts_are_forgotten_when_groups_have_met_and_enough_is_seen(both: Convergence) -> None:
    folding = both.folding
    assert folding is not None

    def answer(*differences: tuple[float, float]) -> str:
        steps = [(float(k), Interval(w, w - 0.3, w + 0.3), Interval(r, r - 0.3, r + 0.3))
                 for k, (w, r) in enumerate(differences)]  # fmt: skip
        share = FoldedShare(np.zeros(1), np.zeros((2, 1)), np.zeros((2, 1)), (16, 16), steps)
        found = by_question(replace(both, folding=replace(folding, share=share)))
        return found["Starts forgotten?"].answer + str(share.met_ns)

    assert answer((0.9, 0.5), (0.2, 0.1), (0.1, 0.1)) == "yes1.0"
    assert answer((0.9, 0.5), (0.2, 0.4), (0.1, 0.4)) == "noNone"
    # No window shows it yet: the groups may be meeting.
    assert answer((0.9, 0.5), (0.5, 0.4), (0.5, 0.2)) == "unknownNone"


def test_without_a_native_structure_only_the_surface_is_judged() -> None:
    result = analyse(replace(sampled(12, 2, 5), native_positions=None))
    assert result.folding is None
    assert set(by_question(result)) == {
        "Surface known?",
        "Two ways agree?",
        "Timescales flat in the lag?",
        "Chapman-Kolmogorov test passed?",
    }


def test_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sampled(12, 2, 3).save(tmp_path / "frames.h5")
    sampled(12, 0, 4).save(tmp_path / "second.h5")
    page = tmp_path / "page.html"
    words = ["reference-report", str(tmp_path / "frames.h5"), "--output", str(page)]
    sampled(12, 0, 5).save(tmp_path / "third.h5")
    others = [str(tmp_path / "second.h5"), str(tmp_path / "third.h5")]
    assert main([*words, "--against", *others]) == 0
    assert "reference report: " in capsys.readouterr().out
    html = page.read_text()
    for text in (
        "Chapman-Kolmogorov",
        "second.h5, ",
        "24 trajectories",
        "Share of walkers",
        "rates between core sets",
    ):
        assert text in html
    assert "http" not in html.replace("http-equiv", "")
    assert main([*words, "--against", str(tmp_path / "frames.h5")]) == 2
    assert "the same file" in capsys.readouterr().err


def test_biased_frames_without_their_own_weights_are_refused() -> None:
    frames = replace(sampled(5, 2, 4), bias_log_weights=None)
    with pytest.raises(InputError, match="pack the runs again"):
        analyse(frames)
