"""The equilibrium check on replicas that hop between two basins at a known rate."""

from collections import Counter

import numpy as np

from cgfe.analysis.comparison import compare_totals
from cgfe.analysis.ensemble import Ensemble
from cgfe.analysis.equilibrium import check_equilibrium
from cgfe.analysis.free_energy import TICGrid
from cgfe.analysis.metrics import independent_frames

GRID = TICGrid((np.linspace(-6, 6, 13), np.linspace(-4, 4, 9)))
REPLICAS, FRAMES, EXPERIMENTS = 32, 400, 60


def replicas(rate: float, settled: bool, random: np.random.Generator) -> np.ndarray:
    """Return tics (frames, replicas, 2), from both basins evenly or all from the first."""
    state = random.random(REPLICAS) < 0.5 if settled else np.zeros(REPLICAS, bool)
    states = np.empty((FRAMES, REPLICAS), bool)
    for frame in range(FRAMES):
        state = state ^ (random.random(REPLICAS) < rate)
        states[frame] = state
    noise = random.normal(size=(FRAMES, REPLICAS, 2))
    return np.stack([np.where(states, 2.0, -2.0), np.zeros(states.shape)], axis=-1) + noise


def ensemble(tics: np.ndarray) -> Ensemble:
    return Ensemble.from_samples(GRID, tics.reshape(-1, 2), np.tile(np.arange(REPLICAS), len(tics)))


def verdicts(rate: float, settled: bool) -> Counter[str]:
    random = np.random.default_rng(0)
    shifted = replicas(0.05, True, random) + np.array([0.8, 0])  # the model is wrong in any case
    reference = ensemble(shifted)
    found: Counter[str] = Counter()
    for seed in range(EXPERIMENTS):
        tics = replicas(rate, settled, random)
        js = float(compare_totals(reference.totals(), ensemble(tics).totals(), GRID)["js"])
        halves = (ensemble(tics[: FRAMES // 2]), ensemble(tics[FRAMES // 2 :]))
        times = independent_frames(tics) / REPLICAS
        found[check_equilibrium(reference, halves, js, times, seed).reached] += 1
    return found


def test_long_simulations_are_at_equilibrium() -> None:
    found = verdicts(0.05, settled=True)
    assert found["no"] <= 9  # 5 % of 60, and three of its standard deviations
    assert found["yes"] >= EXPERIMENTS // 2


def test_replicas_that_still_drift_or_never_left_are_not() -> None:
    assert verdicts(0.002, settled=False)["yes"] == 0
    assert verdicts(0.0, settled=True)["yes"] == 0
