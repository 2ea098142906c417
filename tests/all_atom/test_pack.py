"""Packing: which walkers go where, whose weights are whose, and the rounded values of the file."""

import dataclasses
from pathlib import Path

import h5py
import numpy as np
import pytest

from cgfe.all_atom.config import SamplerConfig
from cgfe.all_atom.dealing import dealt
from cgfe.all_atom.mapped import FORCE_STEP, POSITION_STEP
from cgfe.all_atom.pack import pack_runs
from cgfe.all_atom.sampler import sample
from cgfe.data.frames import CGFrames
from cgfe.data.splits import SplitConfig, split_frames
from cgfe.errors import InputError
from cgfe.training.arrays import stored_frames


@pytest.mark.parametrize("order", ["alternating", "one after the other"])
def test_walkers_of_each_start_go_to_each_part(order: str) -> None:
    groups = ["folded", "melted"] * 16 if order == "alternating" else ["a"] * 20 + ["b"] * 12
    parts = dealt(groups, 0.25, 0.25)
    assert [len(parts[name]) for name in ("training", "validation", "test")] == [16, 8, 8]
    np.testing.assert_array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(32))
    for numbers in parts.values():
        for group in set(groups):
            own = sum(groups[k] == group for k in numbers)
            expected = groups.count(group) * len(numbers) / 32
            assert abs(own - expected) < 1


@pytest.mark.parametrize(
    ("validation", "test", "message"),
    [(0.6, 0.4, "leave nothing"), (-0.1, 0.0, "validation share is -0.1"), (0.0, 0.1, "too few")],
)
def test_shares_that_cannot_be_dealt_are_refused(
    validation: float, test: float, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        dealt(["a", "a"], validation, test)


def test_packed_frames_are_spaced_and_rounded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = SamplerConfig(
        output=str(tmp_path / "run"),
        sequence="AGA",
        caps=True,
        walkers=8,
        nanoseconds=0.02,
        chunk_frames=7,
        equilibration_ps=0.4,
        starts=["extended", "helix"],
    )
    sample(config, progress=False)
    every = pack_runs([config.output], "constraint_aware", weights="counts")
    frames = pack_runs(
        [config.output], "constraint_aware", discard_ns=0.003, every_ps=4.0, validation=0.25,
        test=0.25, weights="counts",
    )  # fmt: skip
    assert every.residue_names == ("ALA", "GLY", "ALA")
    assert frames.frame_interval_ps == 4.0
    assert frames.weights is None
    assert len(frames.validation_trajectories) == len(frames.test_trajectories) == 2
    # 21 frames of a walker, the first three of them dropped.
    chosen = [s.start + k for s in every.trajectory_slices() for k in range(3 + 3, 21, 4)]
    np.testing.assert_array_equal(frames.positions, every.positions[chosen])
    np.testing.assert_array_equal(frames.forces, every.forces[chosen])
    # So short that no kinetics are known.
    assert pack_runs([config.output], "constraint_aware", test=0.25).weights is None
    assert "raw counts stand for equilibrium (weights of the training part" in caplog.text
    with pytest.raises(InputError, match="weights of the training part"):
        pack_runs([config.output], "constraint_aware", test=0.25, weights="training")
    with pytest.raises(InputError, match=r"every-ps is 2\.5; expected a multiple"):
        pack_runs([config.output], every_ps=2.5)
    with pytest.raises(InputError, match=r"hairpin, holds TYR-.* but the runs are of ALA-GLY-ALA"):
        pack_runs([config.output], native="folded")
    with pytest.raises(InputError, match="nothing left after the discarded 1 ns"):
        pack_runs([config.output], discard_ns=1.0)
    frames.save(tmp_path / "frames.h5")
    with h5py.File(tmp_path / "frames.h5") as file:
        assert file["positions"].dtype == np.int16
        assert file["positions"].attrs["step"] == POSITION_STEP
        assert file["forces"].attrs["step"] == FORCE_STEP
    back = CGFrames.load(tmp_path / "frames.h5")
    streamed = stored_frames(tmp_path / "frames.h5", tmp_path / "cache")
    for other in (back, streamed):
        for name in ("positions", "forces"):
            values = getattr(other, name)
            assert values.dtype == np.float32
            np.testing.assert_array_equal(values, getattr(frames, name))
    assert back.position_step == POSITION_STEP
    np.testing.assert_array_equal(back.validation_trajectories, frames.validation_trajectories)


def test_values_that_are_no_multiples_are_kept_as_they_are(tiny: CGFrames, tmp_path: Path) -> None:
    claimed = dataclasses.replace(
        tiny, positions=tiny.positions + np.float32(1e-4), position_step=POSITION_STEP
    )
    claimed.save(tmp_path / "frames.h5")
    back = CGFrames.load(tmp_path / "frames.h5")
    np.testing.assert_array_equal(back.positions, claimed.positions)
    assert back.position_step == 0
    # A chain too long for two bytes.
    far = dataclasses.replace(
        tiny, positions=np.round(tiny.positions) * np.float32(100), position_step=POSITION_STEP
    )
    far.save(tmp_path / "far.h5")
    np.testing.assert_array_equal(CGFrames.load(tmp_path / "far.h5").positions, far.positions)


def test_named_trajectories_are_the_validation_split(tiny: CGFrames) -> None:
    numbers = np.unique(tiny.trajectory_index)
    named = dataclasses.replace(
        tiny, validation_trajectories=numbers[:1], test_trajectories=numbers[1:3]
    )
    split = split_frames(named, SplitConfig(0.2, 0.1, 50, seed=0))
    parts = [
        {int(tiny.trajectory_index[piece.start]) for piece in part}
        for part in (split.train, split.validation, split.test)
    ]
    assert parts == [set(numbers[3:]), set(numbers[:1]), set(numbers[1:3])]
    assert (
        sum(s.stop - s.start for s in split.train)
        == np.isin(tiny.trajectory_index, numbers[3:]).sum()
    )
    with pytest.raises(InputError, match="for validation and for test"):
        dataclasses.replace(
            tiny, validation_trajectories=numbers[:1], test_trajectories=numbers[:1]
        )
