"""`validate` and `test` of a checkpoint whose frames, or mean forces, are gone."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from cgfe.data.frames import CGFrames
from cgfe.simulation.results import FreeEnergyResult
from tests.training.test_training import SIZES, cgfe

CHECKPOINT = "--ckpt_path=run/checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def folder(tiny: CGFrames, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that was compared with mean forces, and its frames in `frames.h5`."""
    folder = tmp_path_factory.mktemp("without")
    tiny.save(folder / "frames.h5")
    means = as_mean_forces(tiny)
    means.save(folder / "means.h5")
    config = SIZES.format(frames="frames.h5", cache="cache")
    (folder / "tiny.yaml").write_text(config)
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
    cgfe(folder, "fit", "--config=tiny.yaml", "--run_dir=run", "--data.mean_forces=means.h5",
         *short)  # fmt: skip
    return folder


def as_mean_forces(frames: CGFrames) -> CGFrames:
    """Take frames' own forces as means, with their first trajectories held out."""
    import dataclasses

    chosen = np.arange(0, len(frames), 40)
    assert frames.forces is not None
    names = np.unique(frames.trajectory_index)
    forces = frames.forces[chosen]
    return dataclasses.replace(
        frames,
        positions=frames.positions[chosen],
        forces=forces,
        force_standard_errors=np.full_like(forces, 0.3),
        trajectory_index=frames.trajectory_index[chosen],
        weights=None,
        all_atom_energies=None,
        biased_trajectories=np.zeros(0, np.int32),
        validation_trajectories=names[:2],
        test_trajectories=names[2:4],
    )
