"""Convergence figures on chains whose populations and kinetics are known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cgfe.cli import main
from cgfe.convergence import Convergence, analyse
from cgfe.errors import InputError
from cgfe.frames import CGFrames
from cgfe.reference_report import details, headline

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


def test_both_ways_find_the_free_energy_within_their_intervals(both: Convergence) -> None:
    for way in ("all", "msm", "bias"):
        value, low, high = both.delta_f_kt[way]
        # Chance leaves 5 % outside each interval; the seed is fixed and the margin half of it.
        margin = (high - low) / 4
        assert low - margin < EXACT < high + margin, way
        assert low <= value <= high
        assert high - low < 1.0
    assert both.agreement_js < 0.1
    assert both.trajectories == 46
    assert both.biased == 6
    assert both.nanoseconds == pytest.approx(28.0)


def test_more_sampling_brings_the_parts_together(both: Convergence) -> None:
    assert (np.diff(both.growth_js) < 0).all()
    assert both.growth_js[-1] == both.js_walkers
    trend, least, _ = both.more_ns()
    assert 0 <= least <= trend


def test_kinetics_are_those_of_the_chain(both: Convergence) -> None:
    """The relaxation time of the two-state chain is -1 / ln(1 - 0.1) ps."""
    times = both.timescales
    column = list(times.lags_ps).index(5.0)
    assert times.value[column, 0] == pytest.approx(-1 / np.log(0.9), rel=0.3)
    assert times.low[column, 0] <= times.value[column, 0] <= times.high[column, 0]
    for test in both.chapman_kolmogorov:
        np.testing.assert_allclose(test.predicted, test.observed[0], atol=0.05)


def test_a_wrong_bias_weight_is_seen_as_a_contradiction() -> None:
    frames = sampled(40, 6, 1)
    assert frames.bias_log_weights is not None
    wrong = replace(frames, bias_log_weights=-4 * frames.bias_log_weights)
    assert "contradict each other" in " ".join(details(analyse(wrong)))


def test_one_kind_of_sampling_has_nothing_to_agree_with() -> None:
    result = analyse(sampled(30, 0, 2))
    assert np.isnan(result.agreement_js)
    assert set(result.delta_f_kt) == {"all", "msm"}
    assert "no second way" in " ".join(details(result))


def test_the_verdict_follows_the_figures(both: Convergence) -> None:
    tight = {"all": (0.0, -0.1, 0.1)}
    good = replace(both, js_walkers=0.01, delta_f_kt=tight)
    assert headline(good).startswith("Converged")
    assert "needs at least" not in " ".join(details(good))
    wide = replace(good, delta_f_kt={"all": (0.0, -0.6, 0.6)})
    # The interval is twice too wide: four times the sampling.
    assert wide.more_ns()[2] == pytest.approx(3 * both.nanoseconds)
    assert not wide.converged
    assert "decides nothing" in headline(replace(both, js_walkers=0.6))
    slow = replace(both, js_walkers=0.2, growth_js=np.full(4, 0.2), growth_ns=np.arange(1.0, 5))
    assert slow.more_ns()[0] == np.inf
    assert "does not fall" in " ".join(details(slow))


def test_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sampled(12, 2, 3).save(tmp_path / "frames.h5")
    page = tmp_path / "page.html"
    words = ["reference-report", str(tmp_path / "frames.h5"), "--output", str(page)]
    assert main(words) == 0
    assert "reference report: " in capsys.readouterr().out
    html = page.read_text()
    assert "Chapman-Kolmogorov" in html
    assert "http" not in html.replace("http-equiv", "")


def test_biased_frames_without_their_own_weights_are_refused() -> None:
    frames = replace(sampled(5, 2, 4), bias_log_weights=None)
    with pytest.raises(InputError, match="pack the runs again"):
        analyse(frames)
