"""Files appear complete or not at all: full disks, folders in the way, long and foreign names.

A limit on a file's size stands for a full disk: it needs no file system of its own.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import mdtraj
import numpy as np
import pytest

from cgfe.children import in_child
from cgfe.cli import main
from cgfe.data.frames import CGFrames
from cgfe.data.writer import writing_frames
from cgfe.errors import InputError
from cgfe.files import ascii_path, replacing
from cgfe.hdf5 import writing_hdf5
from cgfe.reference.system import BeadSystem
from cgfe.simulation.trajectories import TrajectoryWriter

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")
LIMIT = 200_000


def on_a_full_disk(write: Callable[[], object]) -> str | None:
    """Return what InputError `write` ends in where no file may pass LIMIT; None if it hangs."""

    def limited() -> str:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))
        try:
            write()
        except InputError as error:
            return str(error)
        except BaseException as error:
            return f"{type(error).__name__}: {error}"
        return "written"

    return in_child(limited, 60)


def arrays(path: Path, frames: CGFrames) -> None:
    with writing_hdf5(path) as file:
        for number in range(20):
            file[f"values{number}"] = np.random.default_rng(0).normal(size=10_000)


def at_once(path: Path, frames: CGFrames) -> None:
    noisy = frames.positions + np.random.default_rng(0).normal(size=frames.positions.shape)
    CGFrames(
        positions=noisy.astype(np.float32),
        forces=frames.forces,
        trajectory_index=frames.trajectory_index,
        residue_names=frames.residue_names,
        masses=frames.masses,
        bonds=frames.bonds,
        temperature_kelvin=300,
        frame_interval_ps=1,
    ).save(path)


def in_chunks(path: Path, frames: CGFrames) -> None:
    with writing_frames(path) as writer:
        for _ in range(4):
            piece = CGFrames(
                positions=frames.positions,
                forces=frames.forces,
                trajectory_index=np.zeros(len(frames), np.int32),
                residue_names=frames.residue_names,
                masses=frames.masses,
                bonds=frames.bonds,
                temperature_kelvin=300,
                frame_interval_ps=1,
            )
            writer.append(piece)


def trajectory(path: Path, frames: CGFrames) -> None:
    with replacing(path) as temporary:
        writer = TrajectoryWriter(temporary, BeadSystem.of(frames), str(path))
        try:
            for number in range(3):
                for frame in frames.positions:
                    writer.write(frame, float(number))
        finally:
            writer.close()


@LINUX
@pytest.mark.parametrize(
    ("write", "suffix"),
    [
        *((arrays, "h5"), (at_once, "h5"), (in_chunks, "h5")),
        *((trajectory, "h5"), (trajectory, "xtc"), (trajectory, "dcd")),
    ],
)
def test_full_disk(
    write: Callable[[Path, CGFrames], None], suffix: str, tiny: CGFrames, tmp_path: Path
) -> None:
    path = tmp_path / f"file.{suffix}"
    path.write_text("what was there before")
    said = on_a_full_disk(lambda: write(path, tiny))
    assert said is not None, "it hangs or crashes"
    assert said.startswith(f"{path}: ")
    assert "cannot be written" in said
    assert path.read_text() == "what was there before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", ["h5", "xtc", "dcd"])
def test_foreign_and_long_names(suffix: str, tiny: CGFrames, tmp_path: Path) -> None:
    folder = tmp_path / "Faltung α"
    path = folder / f"{'ö' * 115}{'n' * (24 - len(suffix))}.{suffix}"
    assert len(os.fsencode(path.name)) == 255
    with replacing(path) as temporary:
        writer = TrajectoryWriter(temporary, BeadSystem.of(tiny))
        for number, frame in enumerate(tiny.positions[:30]):
            writer.write(frame, number * 0.5)
        writer.close()
    assert [p.name for p in folder.iterdir()] == [path.name]
    with ascii_path(path) as named:
        top = {} if suffix == "h5" else {"top": tiny.topology()}
        back = mdtraj.load(str(named), **top)
    np.testing.assert_allclose(10 * back.xyz, tiny.positions[:30], atol=0.01)
    assert [a.residue.name for a in back.topology.atoms] == list(tiny.residue_names)
    if suffix != "dcd":
        np.testing.assert_allclose(back.time, np.arange(30) * 0.5)


def test_names_that_are_too_long_and_folders_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 258 bytes, expected 255"), \
            replacing(tmp_path / ("n" * 255 + ".h5")):  # fmt: skip
        pass
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(InputError, match="is a folder"), replacing(tmp_path / "folder.h5"):
        pass


@pytest.mark.parametrize(
    "words",
    [
        ["import", "run.xtc", "--temperature", "300", "--output", "there.h5"],
        ["pack", "--runs", "run", "--output", "there.h5"],
        ["simulate", "--ckpt_path", "last.ckpt", "--output", "there.h5"],
    ],
)
def test_an_output_that_is_a_folder_is_told_before_the_work(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The inputs are missing: whoever looked at them first would say that.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.h5").mkdir()
    assert main(words) == 2
    assert "there.h5: is a folder" in capsys.readouterr().err
    assert not list((tmp_path / "there.h5").iterdir())


def test_hdf5_written_through_python_is_the_same(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(300, 7, 3))
    with writing_hdf5(tmp_path / "a.h5") as file:
        file.create_dataset("values", data=values, compression="gzip", shuffle=True)
        file.attrs["text"] = "Å"
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["values"][()], values)
        assert file.attrs["text"] == "Å"
