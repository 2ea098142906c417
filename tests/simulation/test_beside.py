"""What stands beside a model's figures."""

import numpy as np
import pytest

from cgfe.analysis.comparison import compare_ensembles
from cgfe.data.frames import CGFrames
from cgfe.data.splits import Split
from cgfe.reference.config import ReferenceConfig
from cgfe.reference.reference import Reference
from cgfe.report.run import metric_table
from cgfe.report.run_verdict import verdict
from cgfe.simulation.evaluation import free_energy_result, judge
from cgfe.simulation.results import FreeEnergyResult


@pytest.fixture(scope="module")
def reference(tiny: CGFrames) -> Reference:
    slices = tiny.trajectory_slices()
    split = Split(slices[:4], slices[4:], [])
    return Reference.fit(tiny, split, ReferenceConfig(tica_lag_ps=5, bins=12, starts=32))


def judged(reference: Reference, frames: CGFrames, chosen: list[slice]) -> FreeEnergyResult:
    positions = np.stack([frames.positions[s] for s in chosen], axis=1)
    judgement = judge(reference, positions, np.zeros(len(chosen), dtype=bool), 0.0)
    return free_energy_result("x", reference, judgement, None, {"steps": 1})


def test_a_model_that_learned_the_training_frames_by_heart_scores_as_they_do(
    reference: Reference, tiny: CGFrames, tmp_path
) -> None:
    slices = tiny.trajectory_slices()
    by_heart = judged(reference, tiny, slices[:4])
    perfect = judged(reference, tiny, slices[4:])
    for name in ("js", "w1_tic1", "delta_f_kt"):
        expected = compare_ensembles(reference.ensembles.validation, reference.ensembles.train)
        assert by_heart.training[name] == pytest.approx(expected.metrics[name])
    assert by_heart.training["js"] > 0.01
    # The tiny set's weights make its ensemble differ a little from plain frames.
    assert abs(by_heart.metrics["js"] - by_heart.training["js"]) < abs(
        perfect.metrics["js"] - perfect.training["js"]
    )
    by_heart.save(tmp_path)
    assert FreeEnergyResult.load(tmp_path).training == pytest.approx(by_heart.training, nan_ok=True)
    assert "training frames" in metric_table(by_heart)
    assert "the training frames themselves score" in verdict(by_heart).headline


def test_against_the_training_frames_nothing_stands_beside(tiny: CGFrames) -> None:
    config = ReferenceConfig(tica_lag_ps=5, bins=12, starts=32)
    alone = Reference.fit(tiny, Split(tiny.trajectory_slices(), [], []), config)
    found = judged(alone, tiny, tiny.trajectory_slices())
    assert found.training == {}
