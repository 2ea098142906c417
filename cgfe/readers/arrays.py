"""Reading .npy and .npz arrays a few rows at a time, without ever unpickling."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cgfe.errors import InputError
from cgfe.readers.source import existing


def npy_array(path: Path) -> NDArray[Any]:
    """Return a read-only memory map of a .npy file.

    Raises
    ------
    InputError
        If it is missing, truncated, no .npy file, or holds pickled objects.
    """
    existing(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{path}: not a readable array of numbers ({error}).") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: expected a single array (.npy), found an archive.")
    return array


def npy_rows(path: Path, rows: int) -> Iterator[NDArray[Any]]:
    """Yield copies of consecutive pieces of at most `rows` rows."""
    for start in range(0, len(npy_array(path)), rows):
        # Mapped anew each time: pages of a map count as this process's memory until it is gone.
        yield np.array(npy_array(path)[start : start + rows])


class Archive:
    """An .npz file whose members are read as streams."""

    def __init__(self, path: str | Path) -> None:
        self.path = existing(path)
        try:
            with zipfile.ZipFile(self.path) as archive:
                self.names = {name.removesuffix(".npy") for name in archive.namelist()}
        except (zipfile.BadZipFile, OSError):
            raise InputError(f"{path}: not a readable .npz file; it may be truncated.") from None

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a member's shape, from its header."""
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{name}.npy") as file:
            return self._header(file, name)[0]

    def load(self, name: str) -> NDArray[Any]:
        """Return a whole (small) member."""
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                return np.array(archive[name])
        except (ValueError, zipfile.BadZipFile, OSError) as error:
            raise InputError(f"{self.path}: {name} cannot be read ({error}).") from None

    def rows(self, name: str, rows: int) -> Iterator[NDArray[Any]]:
        """Yield consecutive pieces of at most `rows` rows of a member."""
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{name}.npy") as file:
            shape, dtype = self._header(file, name)
            size = dtype.itemsize * int(np.prod(shape[1:]))
            for start in range(0, shape[0], rows):
                number = min(rows, shape[0] - start)
                try:
                    content = file.read(number * size)
                except (zipfile.BadZipFile, zipfile.zlib.error, EOFError) as error:  # type: ignore[attr-defined]
                    raise InputError(f"{self.path}: {name} is damaged ({error}).") from None
                if len(content) < number * size:
                    raise InputError(f"{self.path}: {name} is truncated at row {start}.")
                yield np.frombuffer(content, dtype).reshape(number, *shape[1:])

    def _header(self, file: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        try:
            version = np.lib.format.read_magic(file)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, fortran_order, dtype = read(file)
        except (ValueError, KeyError, EOFError) as error:
            raise InputError(f"{self.path}: {name} has no readable header ({error}).") from None
        if dtype.hasobject:
            raise InputError(f"{self.path}: {name} holds pickled objects, expected numbers.")
        if fortran_order and len(shape) > 1:
            raise InputError(
                f"{self.path}: {name} is stored in Fortran order; "
                "save it with numpy.ascontiguousarray."
            )
        return tuple(shape), dtype
