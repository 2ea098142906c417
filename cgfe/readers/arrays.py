"""Reading .npy and .npz arrays a few rows at a time, without ever unpickling."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cgfe.errors import InputError
from cgfe.readers.source import check_numbers, existing

DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError),
    *(KeyError, NotImplementedError, RuntimeError, MemoryError),
)
"""What a damaged archive raises: the last ones where its headers claim encryption, a way of
compression that there is not, or sizes without measure."""
BAD_HEADER = (SyntaxError, TokenError, TypeError)
LARGEST_SMALL = 10**7
"""Numbers of an array that is read as a whole."""


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
    except (*DAMAGED, *BAD_HEADER) as error:
        raise InputError(f"{path}: not a readable array of numbers ({error}).") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: expected a single array (.npy), found an archive.")
    check_numbers(str(path), array.dtype)
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
        except DAMAGED:
            raise InputError(f"{path}: not a readable .npz file; it may be truncated.") from None

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a member that holds numbers, from its header."""
        with self._open(name) as file:
            shape, dtype = self._header(file, name)
        check_numbers(f"{self.path}: {name}", dtype)
        return shape

    def load(self, name: str) -> NDArray[Any]:
        """Return a whole (small) member."""
        with self._open(name) as file:
            shape, _ = self._header(file, name)
        size = int(np.prod(shape, dtype=object))
        if size > LARGEST_SMALL:
            raise InputError(f"{self.path}: {name} has shape {shape}, expected a small array.")
        with self._damage(name), np.load(self.path, allow_pickle=False) as archive:
            return np.array(archive[name])

    def numbers(self, name: str) -> NDArray[Any]:
        """Return a whole (small) member that holds real numbers."""
        values = self.load(name)
        check_numbers(f"{self.path}: {name}", values.dtype)
        return values

    @contextmanager
    def _open(self, name: str) -> Iterator[IO[bytes]]:
        with (
            self._damage(name),
            zipfile.ZipFile(self.path) as archive,
            archive.open(f"{name}.npy") as file,
        ):
            yield file

    @contextmanager
    def _damage(self, name: str) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except DAMAGED as error:
            raise InputError(f"{self.path}: {name} cannot be read ({error}).") from None

    def rows(self, name: str, rows: int) -> Iterator[NDArray[Any]]:
        """Yield consecutive pieces of at most `rows` rows of a member."""
        with self._open(name) as file:
            shape, dtype = self._header(file, name)
            size = dtype.itemsize * int(np.prod(shape[1:]))
            for start in range(0, shape[0], rows):
                number = min(rows, shape[0] - start)
                content = file.read(number * size)
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
        except (*DAMAGED, *BAD_HEADER) as error:
            raise InputError(f"{self.path}: {name} has no readable header ({error}).") from None
        if dtype.hasobject:
            raise InputError(f"{self.path}: {name} holds pickled objects, expected numbers.")
        if fortran_order and len(shape) > 1:
            raise InputError(
                f"{self.path}: {name} is stored in Fortran order; "
                "save it with numpy.ascontiguousarray."
            )
        return tuple(shape), dtype
