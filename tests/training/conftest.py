"""Fixtures of the tests of loss terms: a reference, a batch, and a simulation's judgement."""

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch

from cgfe.data.frames import CGFrames
from cgfe.data.splits import Split
from cgfe.reference.config import ReferenceConfig
from cgfe.reference.reference import Reference
from cgfe.simulation.evaluation import Judgement, judge
from cgfe.training.arrays import system_tensors


@pytest.fixture(scope="session")
def reference(tiny: CGFrames) -> Reference:
    """A reference of all frames of `tiny`."""
    config = ReferenceConfig(tica_lag_ps=5, bins=12, starts=32)
    return Reference.fit(tiny, Split(tiny.trajectory_slices(), [], []), config)


@pytest.fixture
def batch(tiny: CGFrames, reference: Reference) -> Batch:
    """Every seventeenth frame of `tiny`."""
    return system_tensors(tiny, reference, 0).batch(torch.arange(0, len(tiny), 17))


@pytest.fixture(scope="session")
def judgement(tiny: CGFrames, reference: Reference) -> Judgement:
    """Of a model that visits the first half of the frames alone."""
    half = tiny.positions[: len(tiny) // 2]
    positions = half[: len(half) // 8 * 8].reshape(-1, 8, *half.shape[1:])
    return judge(reference, positions, np.zeros(8, dtype=bool), 0.0, "train")
