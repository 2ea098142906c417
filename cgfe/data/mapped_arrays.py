"""Arrays too large for the memory: written once to a cache folder, then mapped from disk."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cgfe.errors import InputError
from cgfe.files import make_folder, replacing_folder
from cgfe.progress import Bar

Layout = Mapping[str, tuple[tuple[int, ...], Any]]
"""Shape, whose first dimension is the frame, and dtype of each array."""


def mapped_arrays(folder: Path, layout: Layout) -> dict[str, NDArray[Any]] | None:
    """Return the arrays of a cache folder, mapped from disk read-only.

    None if the folder is missing, or an array in it is missing, truncated or of another layout.
    """
    arrays = {}
    for name, (shape, dtype) in layout.items():
        try:
            array = np.load(array_path(folder, name), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        if array.shape != shape or array.dtype != dtype:
            return None
        arrays[name] = array
    return arrays


def write_arrays(
    folder: Path, layout: Layout, pieces: Iterable[Mapping[str, NDArray[Any]]], task: str
) -> None:
    """Write arrays to a cache folder, which appears complete or not at all.

    Parameters
    ----------
    folder : Path
        What stands there is replaced.
    layout : Layout
    pieces : iterable
        Each holds the next frames of every array.
    task : str
        What the progress bar says.

    Raises
    ------
    InputError
        If the folder cannot be written to or the disk is too small.
    """
    make_folder(folder.parent)
    frames = next(iter(layout.values()))[0][0]
    needed, free = layout_bytes(layout), shutil.disk_usage(folder.parent).free
    if needed > free:
        raise InputError(
            f"{folder.parent}: {free / 2**30:.1f} GB are free, expected {needed / 2**30:.1f} GB "
            "for frames that do not fit into the memory; set data.cache_dir to a larger disk."
        )
    with (
        replacing_folder(folder) as temporary,
        Bar(total=frames, desc=task, unit="frame", unit_scale=True) as bar,
    ):
        # Written, not mapped (numpy.lib.format.open_memmap): a full disk is then an error, where a
        # map ends the process by SIGBUS, and written pages do not count as this process's memory
        # (1.9 GB of frames: 0.17 GB, against 2.1 GB in one map and 0.30 GB mapped anew each time).
        files = {name: array_path(temporary, name).open("wb") for name in layout}
        try:
            for name, (shape, dtype) in layout.items():
                _write_header(files[name], shape, dtype)
            for piece in pieces:
                for name, values in piece.items():
                    _append(files[name], values.astype(layout[name][1], copy=False))
                bar.update(len(next(iter(piece.values()))))
        finally:
            for file in files.values():
                file.close()


def _append(file: IO[bytes], values: NDArray[Any]) -> None:
    try:
        file.write(np.ascontiguousarray(values).data)
    except OSError as error:
        raise InputError(f"{file.name}: cannot be written ({error.strerror}).") from None


def layout_bytes(layout: Layout) -> int:
    """Return the bytes that all arrays take."""
    return sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in layout.values())


def array_path(folder: Path, name: str) -> Path:
    """Return where an array of a cache folder is kept."""
    return folder / f"{name}.npy"


def _write_header(file: IO[bytes], shape: tuple[int, ...], dtype: Any) -> None:
    header = {
        "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
        "fortran_order": False,
        "shape": shape,
    }
    np.lib.format.write_array_header_1_0(file, header)
