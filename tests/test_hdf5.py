"""HDF5 files that make the library hang or crash: refused in one sentence, in time."""

import os
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

import cgfe.hdf5
from cgfe.children import in_child
from cgfe.errors import InputError
from cgfe.hdf5 import open_hdf5

LINUX = pytest.mark.skipif(not Path("/proc/self").exists(), reason="forks on Linux only")


def write(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["format"] = "frames"
        file["values"] = np.arange(10.0)
    return path


@LINUX
def test_a_byte_that_makes_the_library_run_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "file.h5")
    content = bytearray(path.read_bytes())
    # A text of variable length: its length, where its heap is, and its number there, which is 1.
    length = content.index(b"\x06\0\0\0", content.index(b"format\0"))
    assert content[length + 12] == 1
    content[length + 12] = 2
    path.write_bytes(content)
    monkeypatch.setattr(cgfe.hdf5, "LOOK_SECONDS", 2.0)
    begun = time.monotonic()
    with pytest.raises(InputError, match=r"file\.h5: .*(hang or crash|not a readable)"), \
            open_hdf5(path):  # fmt: skip
        pass
    assert time.monotonic() - begun < 10


@LINUX
@pytest.mark.parametrize("fault", [os.abort, lambda: time.sleep(60)])
def test_children_that_die_or_hang(
    fault: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgfe.hdf5, "LOOK_SECONDS", 0.3)
    monkeypatch.setattr(cgfe.hdf5, "_fault_of", lambda path: fault())  # type: ignore[operator]
    with pytest.raises(InputError, match="hang or crash"), open_hdf5(write(tmp_path / "a.h5")):
        pass


@LINUX
def test_a_child_changes_nothing_here() -> None:
    seen: list[int] = []

    def answer() -> str:
        seen.append(1)
        return str(os.getpid())

    assert in_child(answer, 5) not in (None, str(os.getpid()))
    assert not seen


def test_arrays_that_no_file_can_hold(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("positions", (10**9, 10, 3), dtype="f4", chunks=(1, 10, 3))
    with pytest.raises(InputError, match="bytes of a file can hold"), \
            open_hdf5(tmp_path / "a.h5"):  # fmt: skip
        pass


@LINUX
def test_a_file_is_looked_through_once_and_quickly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.h5")
    calls = []
    monkeypatch.setattr(cgfe.hdf5, "in_child", lambda answer, seconds: calls.append(1) or "")
    for _ in range(3):
        with open_hdf5(path) as file:
            assert len(file["values"]) == 10
    assert len(calls) == 1
    with h5py.File(path, "r+") as file:
        file["more"] = np.arange(1000.0)
    with open_hdf5(path):
        pass
    assert len(calls) == 2
