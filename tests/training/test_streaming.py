"""Sets larger than the allowed memory: streamed batches hold what batches in memory hold."""

import dataclasses
import logging
import math
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from cgfe.analysis import tica
from cgfe.data.frames import CGFrames
from cgfe.data.splits import Split
from cgfe.data.writer import writing_frames
from cgfe.errors import InputError
from cgfe.memory import machine_memory
from cgfe.reference import training_frames
from cgfe.reference.config import ReferenceConfig
from cgfe.reference.reference import Reference
from cgfe.reference.training_frames import every
from cgfe.training import streaming
from cgfe.training.arrays import stored_frames
from cgfe.training.batches import FrameLoader
from cgfe.training.datamodule import CGFramesDataModule
from cgfe.training.streaming import StreamedSystem

TINY_GB = 1e-6
FIELDS = ("pos", "forces", "prior_forces", "prior_energy", "energy_label", "weight", "tic_bin",
          "bin_target", "surface_bin", "bead_types", "batch", "ptr")  # fmt: skip


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several windows in the tiny set: some 256 frames in blocks of 10."""
    monkeypatch.setattr(streaming, "WINDOW_BYTES", 100_000)
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 4_000)


Make = Callable[..., CGFramesDataModule]


@pytest.fixture
def make(tiny_file: Path, tmp_path: Path) -> Make:
    """Return a function that sets up a data module, by default one that streams."""

    def module(
        frames: str | list[str] = str(tiny_file),
        memory_gb: float | None = TINY_GB,
        **options: object,
    ) -> CGFramesDataModule:
        data = CGFramesDataModule(
            frames,
            batch_size=32,
            block_ps=50,
            reference=ReferenceConfig(tica_lag_ps=5, bins=12),
            cache_dir=str(tmp_path / "cache"),
            memory_gb=memory_gb,
            **options,  # type: ignore[arg-type]
        )
        data.prepare_data()
        data.setup()
        return data

    return module


def by_frame(loader: FrameLoader) -> dict[bytes, list[np.ndarray]]:
    """What is served of each frame, known by its positions."""
    found = {}
    for batch in loader:
        beads = len(batch.pos) // batch.num_graphs
        for frame in range(batch.num_graphs):
            atoms = slice(frame * beads, (frame + 1) * beads)
            values = [batch[key][atoms].numpy() for key in ("forces", "prior_forces")]
            values += [batch[key][frame].numpy() for key in FIELDS[3:8]]
            key = batch.pos[atoms].numpy().tobytes()
            assert key not in found, "a frame was served twice"
            found[key] = values
    return found


@pytest.mark.parametrize("part", ["train", "val", "test", "predict"])
def test_an_epoch_holds_what_it_holds_in_memory(part: str, make: Make) -> None:
    memory, disk = make(memory_gb=None), make()
    assert (memory.streams(), disk.streams()) == (False, True)
    loaders = [getattr(data, f"{part}_dataloader")() for data in (memory, disk)]
    mine, theirs = map(by_frame, loaders)
    assert mine.keys() == theirs.keys()
    for key, values in mine.items():
        for a, b in zip(values, theirs[key], strict=True):
            np.testing.assert_array_equal(a, b)
    assert [b.num_graphs for b in loaders[0]] == [
        b.num_graphs for b in loaders[1]
    ] or part == "train"
    assert len(loaders[0]) == len(loaders[1]) == len(list(loaders[1]))
    if part == "predict":
        for a, b in zip(*loaders, strict=True):
            assert all(torch.equal(a[key], b[key]) for key in FIELDS)
    mine, theirs = (data.references[0].to_arrays() for data in (memory, disk))
    for key in mine:
        np.testing.assert_array_equal(mine[key], theirs[key], err_msg=key)


def test_strided_training_frames(make: Make) -> None:
    memory, disk = (
        by_frame(make(memory_gb=m, stride=7).train_dataloader()) for m in (None, TINY_GB)
    )
    assert memory.keys() == disk.keys()


@pytest.mark.parametrize("memory_gb", [None, TINY_GB])
def test_an_epoch_of_fewer_frames_can_be_as_long(memory_gb: float | None, make: Make) -> None:
    once, often = (
        make(memory_gb=memory_gb, stride=7, full_epochs=full).train_dataloader()
        for full in (False, True)
    )
    known = by_frame(once)
    counts: Counter[bytes] = Counter()
    for batch in often:
        counts.update(x.numpy().tobytes() for x in batch.pos.unflatten(0, (batch.num_graphs, -1)))
    assert counts.keys() == known.keys()
    whole = make(memory_gb=memory_gb).train_dataloader()
    assert len(often) == len(whole)
    assert sum(counts.values()) == sum(batch.num_graphs for batch in whole)
    assert max(counts.values()) == 7
    assert max(counts.values()) - min(counts.values()) <= 1


def served(data: CGFramesDataModule, batches: int, rank: int = 0, world: int = 1) -> list[list]:
    indices = data.split_indices("train")
    loader = FrameLoader(
        data.systems, indices, 32, True, 3, rank, world, lambda: (batches, math.inf)
    )
    return [batch.energy_label.tolist() for batch in loader]


def test_an_epoch_can_be_entered_anywhere(make: Make) -> None:
    data = make()
    whole = served(data, 0)
    for first in (1, 5, 8, len(whole) - 1):
        assert served(data, first) == whole[first:]
    assert served(data, len(whole)) != whole, "the second epoch has the first's order"


def test_ranks_share_an_epoch_without_overlap(make: Make) -> None:
    data = make()
    whole, parts = served(data, 0), [served(data, 0, rank, 2) for rank in (0, 1)]
    assert len(parts[0]) == len(parts[1]) == len(whole) // 2
    assert [x for pair in zip(*parts, strict=True) for x in pair] == whole[: 2 * (len(whole) // 2)]
    assert served(data, 3, 1, 2) == parts[1][3:]


def test_batches_are_mixed_from_many_blocks(make: Make) -> None:
    """Frames of a batch come from all blocks of a window, and windows from anywhere."""
    system = make().systems[0]
    assert isinstance(system, StreamedSystem)
    frames = torch.arange(2400)
    mixed = system.mixed(frames, 32, torch.Generator().manual_seed(0))
    assert torch.equal(mixed.sort().values, frames)
    window = system.window // 32 * 32
    assert 0 < window < 1200
    blocks = [len((batch // system.block).unique()) for batch in mixed[:window].split(32)]
    assert min(blocks) >= 15
    ahead = (mixed[:window].sort().values.diff() > 1).sum()
    assert ahead > 10, "the blocks of a window are not spread over the set"


def test_several_systems_take_turns(
    make: Make, first_beads: Callable[[int], CGFrames], tiny_file: Path, tmp_path: Path
) -> None:
    first_beads(8).save(tmp_path / "shorter.h5")
    data = make([str(tiny_file), str(tmp_path / "shorter.h5")])
    systems = []
    for batch in data.train_dataloader():
        assert len(batch.pos) == (10, 8)[int(batch.system[0])] * batch.num_graphs
        systems.append(int(batch.system[0]))
    counts = [len(x.split(32)) for x in data.split_indices("train")]
    assert [systems.count(0), systems.count(1)] == counts
    assert np.count_nonzero(np.diff(systems)) > len(systems) // 4


def test_one_line_tells_that_frames_stream(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        make()
    lines = [r.getMessage() for r in caplog.records if "stream" in r.getMessage()]
    assert len(lines) == 1
    assert str(tmp_path / "cache") in lines[0]
    assert re.search(r"take 0\.00 GB", lines[0])


# --- the cache -----------------------------------------------------------------------------


def files_of(cache: Path) -> dict[str, int]:
    return {str(p.relative_to(cache)): p.stat().st_ino for p in cache.rglob("*.npy")}


def test_a_complete_cache_is_used_again(make: Make, tmp_path: Path) -> None:
    make()
    before = files_of(tmp_path / "cache")
    assert len(before) == 9
    make()
    assert files_of(tmp_path / "cache") == before


@pytest.mark.parametrize("name", ["positions", "forces", "prior_forces", "tic_bin"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "header", "other shape"])
def test_a_damaged_cache_is_written_anew(
    name: str, damage: str, make: Make, tmp_path: Path
) -> None:
    expected = by_frame(make().train_dataloader())
    (path,) = (tmp_path / "cache").glob(f"*/{name}.npy")
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "header":
        path.write_bytes(b"nonsense" + content)
    else:
        np.save(path, np.load(path)[:-1])
    found = by_frame(make().train_dataloader())
    assert found.keys() == expected.keys()
    assert path.read_bytes() == content


def test_a_changed_frames_file_is_copied_again(tiny: CGFrames, make: Make, tmp_path: Path) -> None:
    path = tmp_path / "frames.h5"
    tiny.save(path)
    before = by_frame(make(str(path)).train_dataloader())
    with h5py.File(path, "r+") as file:
        file["positions"][...] = file["positions"][()] + 1
    assert by_frame(make(str(path)).train_dataloader()).keys().isdisjoint(before)


KILLED = """
import os, sys
from pathlib import Path
from cgfe.training import arrays as training_arrays
from cgfe.training.arrays import stored_frames
training_arrays.FRAMES_AT_ONCE = 100
def slices(file, complete=training_arrays._slices):
    for number, piece in enumerate(complete(file)):
        if number == 1:
            os._exit(9)
        yield piece
training_arrays._slices = slices
stored_frames(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_killed_preparation_leaves_nothing_that_is_trusted(
    tiny: CGFrames, tiny_file: Path, tmp_path: Path
) -> None:
    path, cache = tmp_path / "chunked.h5", tmp_path / "cache"
    with writing_frames(path) as writer:  # in compressed chunks smaller than the whole
        writer.append(tiny)
    command = [sys.executable, "-c", KILLED, str(path), str(cache)]
    assert subprocess.run(command, check=False, timeout=60).returncode == 9
    (left,) = cache.iterdir()
    assert left.name.startswith(".frames-")
    frames = stored_frames(path, cache)
    np.testing.assert_array_equal(frames.positions, tiny.positions)
    assert left.exists(), "its process may still be writing"
    for old in (*left.iterdir(), left):
        os.utime(old, (0, 0))
    for copy in Path(str(frames.positions.filename)).parent.iterdir():  # type: ignore[attr-defined]
        copy.unlink()
    stored_frames(path, cache)
    assert not left.exists()


# --- bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_senseless_memory_is_refused(value: float, tiny_file: Path) -> None:
    with pytest.raises(InputError, match=r"data.memory_gb is .*, expected a positive finite value"):
        CGFramesDataModule(str(tiny_file), memory_gb=value)


def test_a_full_disk_is_named(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage)
    with pytest.raises(InputError, match=r"0.0 GB are free, expected .* data.cache_dir"):
        make()


class Usage:
    free = 1000


@pytest.mark.parametrize("key", ["positions", "forces"])
def test_values_that_are_not_finite_are_named(
    key: str, tiny: CGFrames, make: Make, tmp_path: Path
) -> None:
    tiny.save(tmp_path / "nan.h5")
    with h5py.File(tmp_path / "nan.h5", "r+") as file:
        file[key][2007, 3] = np.nan
    with pytest.raises(InputError, match=f"{key} are not finite \\(first at index 2007\\)"):
        make(str(tmp_path / "nan.h5"))


@pytest.mark.parametrize("cut", [np.s_[:-1], np.s_[:, :-1], np.s_[:, :, :2]])
def test_forces_of_another_shape_are_named(
    cut: tuple, tiny: CGFrames, make: Make, tmp_path: Path
) -> None:
    tiny.save(tmp_path / "shape.h5")
    with h5py.File(tmp_path / "shape.h5", "r+") as file:
        forces = file["forces"][()][cut]
        del file["forces"]
        file["forces"] = forces
    with pytest.raises(InputError, match="forces have shape"):
        make(str(tmp_path / "shape.h5"))


# --- memory --------------------------------------------------------------------------------


def test_half_the_memory_by_default(tiny_file: Path) -> None:
    data = CGFramesDataModule(str(tiny_file))
    assert data._budget() == machine_memory() / 2
    assert 2**28 < machine_memory() < 2**50
    assert not data.streams()


def test_long_trajectories_are_fitted_in_pieces(
    tiny: CGFrames, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same covariances, whether or not a trajectory is cut between lagged pairs."""
    config = ReferenceConfig(tica_lag_ps=5, bins=12)
    whole = Reference.fit(tiny, Split(tiny.trajectory_slices(), [], []), config)
    monkeypatch.setattr(tica, "CHUNK", 37)
    monkeypatch.setattr(training_frames, "FRAMES_AT_ONCE", 101)
    pieces = Reference.fit(tiny, Split(tiny.trajectory_slices(), [], []), config)
    np.testing.assert_allclose(
        pieces.projection.tica.timescales_ps, whole.projection.tica.timescales_ps, rtol=1e-8
    )
    one, other = pieces.ensembles.train, whole.ensembles.train
    np.testing.assert_allclose(one.joint.toarray(), other.joint.toarray(), atol=1e-8)
    np.testing.assert_array_equal(one.folded, other.folded)
    assert pieces.fingerprint == whole.fingerprint


def test_large_sets_are_fitted_to_strided_frames(
    tiny: CGFrames, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ReferenceConfig(tica_lag_ps=5, bins=12, target_bins=2)
    whole = Reference.fit(tiny, Split(tiny.trajectory_slices(), [], []), config)
    monkeypatch.setattr(training_frames, "FIT_FRAMES", len(tiny))
    same = Reference.fit(tiny, Split(tiny.trajectory_slices(), [], []), config)
    monkeypatch.setattr(training_frames, "FIT_FRAMES", len(tiny) // 2)
    half = Reference.fit(tiny, Split(tiny.trajectory_slices(), [], []), config)
    for key, value in whole.to_arrays().items():
        np.testing.assert_array_equal(same.to_arrays()[key], value, err_msg=key)
        if not key.startswith(("prior/", "labels/bin_energies")):
            np.testing.assert_array_equal(half.to_arrays()[key], value, err_msg=key)
    np.testing.assert_allclose(
        half.prior.to_arrays()["bonds.centre"], whole.prior.to_arrays()["bonds.centre"], atol=0.02
    )
    assert [len(np.arange(n)[every(10, n)]) for n in (1, 10, 11, 20, 21, 99)] == [
        1,
        10,
        6,
        10,
        7,
        10,
    ]


def test_the_prior_is_fitted_in_groups_of_coordinates(
    tiny: CGFrames, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cgfe.model import prior_terms
    from cgfe.model.prior import PriorEnergy

    arguments = (tiny.positions, tiny.bonds, tiny.temperature_kelvin, tiny.weights)
    whole = PriorEnergy.fit(*arguments).to_arrays()
    monkeypatch.setattr(prior_terms, "VALUES_AT_ONCE", 5 * len(tiny))
    for key, value in PriorEnergy.fit(*arguments).to_arrays().items():
        np.testing.assert_allclose(value, whole[key], rtol=1e-5, atol=1e-6, err_msg=key)


MEASURE = """
import sys, threading, time
from cgfe.reference import training_frames
from cgfe.training import streaming
from cgfe.analysis import tica
from cgfe.training import arrays as training_arrays
from cgfe.training.datamodule import CGFramesDataModule
from cgfe.reference.config import ReferenceConfig
streaming.WINDOW_BYTES, streaming.BLOCK_BYTES = 2**20, 2**14
for module in (training_frames, training_arrays):
    module.FRAMES_AT_ONCE = 4096
tica.CHUNK, training_frames.FIT_FRAMES = 4096, 4096
# Pages of mapped files are the system's to drop; what counts is what the process asked for.
def anonymous():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))
peak = 0
def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.002)
threading.Thread(target=watch, daemon=True).start()
def run(path):
    global peak
    peak = 0
    data = CGFramesDataModule(path, 128, ReferenceConfig(tica_lag_ps=5, bins=12), 50,
                              cache_dir="cache", memory_gb=float(sys.argv[3]))
    data.prepare_data()
    data.setup()
    count = sum(batch.num_graphs for batch in data.train_dataloader())
    assert count == len(data.split_indices("train")[0]), count
    return peak
small = run(sys.argv[1])
print("GROWTH", run(sys.argv[2]) - small)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' /proc")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_set(tiny: CGFrames, tmp_path: Path) -> None:
    """Training tensors of 23 MB, of which 1 MB may be in memory."""
    random = np.random.default_rng(0)
    for name, times in (("small", 4), ("large", 25)):
        with writing_frames(tmp_path / f"{name}.h5") as writer:
            for copy in range(times):
                noise = random.normal(scale=0.05, size=tiny.positions.shape).astype(np.float32)
                chunk = {"positions": tiny.positions + noise,
                         "trajectory_index": tiny.trajectory_index + copy * 1000}  # fmt: skip
                writer.append(dataclasses.replace(tiny, weights=None, **chunk))

    def growth(memory_gb: float) -> float:
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, "small.h5", "large.h5", str(memory_gb)],
            cwd=tmp_path, capture_output=True, text=True, timeout=120,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert "GROWTH" in done.stdout, done.stdout + done.stderr
        return float(done.stdout.split()[-1])

    streamed = growth(0.001)
    # Beside the tensors: TICs, weights and the order of an epoch, 100 bytes a frame.
    assert streamed < 11, streamed
    assert growth(1.0) > 18, "the measurement misses what it is there for"
