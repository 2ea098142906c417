"""A run that goes on elsewhere: ends, another run from them, and the packed frames joined."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cgfe.all_atom.batched import BatchedSystem
from cgfe.all_atom.chunks import chunk_files, read_chunk
from cgfe.all_atom.config import SamplerConfig
from cgfe.all_atom.ends import save_ends
from cgfe.all_atom.pack import pack_runs
from cgfe.all_atom.sampler import sample
from cgfe.cli import main
from cgfe.data.frames import CGFrames
from cgfe.data.join import join
from cgfe.errors import InputError

pytestmark = pytest.mark.skipif(not BatchedSystem.available(), reason="needs a C++ compiler")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> SamplerConfig:
    config = SamplerConfig(
        output=str(tmp_path_factory.mktemp("stretch") / "first"),
        sequence="GYG",
        walkers=2,
        nanoseconds=0.02,
        chunk_frames=10,
        equilibration_ps=0.4,
        engine="batched",
    )
    sample(config, progress=False)
    return config


def test_second_stretch_begins_where_the_first_ended(first: SamplerConfig, tmp_path: Path) -> None:
    ends = tmp_path / "ends.h5"
    save_ends(first, ends)
    second = replace(
        first, output=str(tmp_path / "second"), continues=str(ends), seed=2,
        frame_interval_ps=0.004, nanoseconds=0.00004, chunk_frames=10,
    )  # fmt: skip
    sample(second, progress=False)
    for walker in range(2):
        last = read_chunk(chunk_files(Path(first.output), walker)[-1])
        place = last["end_positions"] * 10
        begun = read_chunk(chunk_files(tmp_path / "second", walker)[0])["positions"][0]
        # One step of 4 fs away.
        assert np.abs(begun - (place - place.mean(axis=0))).max() < 0.15
    with pytest.raises(InputError, match=r"seed is 1, which .* has used already"):
        sample(replace(second, output=str(tmp_path / "x"), seed=1), progress=False)
    with pytest.raises(InputError, match="is of sequence GYG, the config has GGG"):
        sample(replace(second, output=str(tmp_path / "y"), sequence="GGG"), progress=False)
    with pytest.raises(InputError, match="needs engine batched"):
        sample(replace(second, output=str(tmp_path / "z"), engine="openmm"), progress=False)
    assert not any((tmp_path / name).exists() for name in "xyz")
    save_ends(second, tmp_path / "again.h5")
    third = replace(second, output=str(tmp_path / "t"), continues=str(tmp_path / "again.h5"))
    for seed in (1, 2):
        with pytest.raises(InputError, match=f"seed is {seed}, which"):
            sample(replace(third, seed=seed, output=str(tmp_path / "u")), progress=False)


def test_run_that_has_begun_needs_the_ends_no_more(first: SamplerConfig, tmp_path: Path) -> None:
    """Its own ends still tell all seeds that were used."""
    ends = tmp_path / "ends.h5"
    save_ends(first, ends)
    second = replace(first, output=str(tmp_path / "b"), continues=str(ends), seed=2)
    sample(replace(second, nanoseconds=0.01), progress=False)
    ends.unlink()
    chunk_files(tmp_path / "b", 0)[0].unlink()
    sample(second, progress=False)
    assert len(chunk_files(tmp_path / "b", 0)) == 2
    save_ends(second, tmp_path / "again.h5")
    third = replace(second, output=str(tmp_path / "c"), continues=str(tmp_path / "again.h5"))
    with pytest.raises(InputError, match="seed is 1, which"):
        sample(replace(third, seed=1), progress=False)


def test_stretches_are_joined_by_trajectory(first: SamplerConfig) -> None:
    one = pack_runs([first.output], weights="counts")
    other = replace(one, positions=one.positions + 1, source="second", name="second")
    both = join([one, other])
    assert len(both) == 2 * len(one)
    pieces, of_one = both.trajectory_slices(), one.trajectory_slices()
    for piece, own in zip(pieces, of_one, strict=True):
        expected = np.concatenate([one.positions[own], one.positions[own] + 1])
        np.testing.assert_array_equal(both.positions[piece], expected)
    assert both.source.endswith("; second")
    with pytest.raises(InputError, match=r"second and .* differ in temperature_kelvin; not joined"):
        join([one, replace(other, temperature_kelvin=310.0)])
    with pytest.raises(InputError, match="only one has forces"):
        join([one, replace(other, forces=None)])
    with pytest.raises(InputError, match="is there twice"):
        join([one, one])
    with pytest.raises(InputError, match="are of other walkers"):
        join([one, replace(other, trajectory_index=other.trajectory_index + 1)])
    with pytest.raises(InputError, match="pack with --weights counts"):
        join([one, replace(other, weights=np.ones(len(other)))])


def test_commands_pack_ends_and_join(first: SamplerConfig, tmp_path: Path) -> None:
    frames, ends, joined = (str(tmp_path / name) for name in ("a.h5", "ends.h5", "joined.h5"))
    pack = ["pack", "--runs", first.output, "--output", frames, "--weights", "counts"]
    assert main([*pack, "--ends", ends]) == 0
    second = replace(first, output=str(tmp_path / "second"), continues=ends, seed=2)
    sample(replace(second, nanoseconds=0.01), progress=False)
    again = str(tmp_path / "b.h5")
    assert main(["pack", "--runs", second.output, "--output", again, "--weights", "counts"]) == 0
    with pytest.raises(InputError, match=r"continues another .* join them by cgfe pack --join"):
        pack_runs([first.output, second.output])
    assert main(["pack", "--join", frames, again, "--output", joined]) == 0
    lengths = [s.stop - s.start for s in CGFrames.load(joined).trajectory_slices()]
    assert lengths == [30, 30]
    assert main(["pack", "--join", frames, "--output", joined, "--ends", ends]) == 2
    assert main(["pack", "--join", frames, again, "--output", joined, "--every-ps", "2"]) == 2
    assert main(["pack", "--output", joined]) == 2


def test_walkers_stay_in_the_part_that_their_first_run_dealt_them_to(tmp_path: Path) -> None:
    starts = ["extended", "extended", "coil", "coil", "extended", "coil"]
    first = SamplerConfig(
        output=str(tmp_path / "first"), sequence="GGG", walkers=6, starts=starts, engine="batched",
        nanoseconds=0.002, chunk_frames=2, equilibration_ps=0.1,
    )  # fmt: skip
    sample(first, progress=False)
    save_ends(first, tmp_path / "ends.h5")
    second = replace(
        first, output=str(tmp_path / "second"), continues=str(tmp_path / "ends.h5"), seed=2,
        starts=["extended"],
    )  # fmt: skip
    sample(second, progress=False)
    packed = [
        pack_runs([run.output], validation=0.34, test=0.33, weights="counts")
        for run in (first, second)
    ]
    assert len(join(packed)) == 24
    assert len(packed[0].validation_trajectories) == 2
