"""Opening HDF5 files that nobody vouches for, and writing them to disks that may be full.

The HDF5 library trusts what it reads: a few changed bytes can make it run for ever or crash the
process, and no exception tells. So a file is looked through by a forked child first, which takes
a few milliseconds; a child that hangs or dies has told what is needed.

Nor does it come through a write that fails: it tries again at each close, for ever in the end.
So it writes through Python, which notes the error and lets the library finish.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from cgfe.children import CAN_FORK, in_child
from cgfe.errors import InputError
from cgfe.files import DISK_FULL, replacing

LOOK_SECONDS = 20.0
"""A whole file is looked through in milliseconds, on a slow network disk in a second or two."""
LOOK_BYTES = 2**30
"""Memory that a child may take more than this process has."""
LARGEST_RATIO = 1100
"""Deflate makes bytes at most 1,032 times as few; an array that claims more is a damaged one."""

_looked_through: set[tuple[str, int, int]] = set()
"""Path, size and time of change of files that were found readable."""


@contextmanager
def open_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading.

    Raises
    ------
    InputError
        If the file is missing, truncated, damaged or no HDF5 file, or the block asks for data
        that cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    _look_through(path)
    try:
        file = h5py.File(path, "r")
    except OSError:
        raise InputError(f"{path}: not a readable HDF5 file; it may be truncated.") from None
    with file:
        try:
            yield file
        except (OSError, RuntimeError, MemoryError) as error:
            if getattr(error, "errno", None) in DISK_FULL:
                raise  # of what the block writes
            raise InputError(f"{path}: data cannot be read; it may be truncated.") from None


class DiskFile(io.FileIO):
    """A file that the HDF5 library writes through, to which a full disk is no error until `check`.

    Parameters
    ----------
    path : Path
    name : str
        What errors call it.
    mode : str
        `w` or, of a file that is there, `r+`.
    """

    def __init__(self, path: Path, name: str, mode: str = "w") -> None:
        super().__init__(path, "w+" if mode == "w" else "r+")
        self._name = name
        self._error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of `data`, or note why not."""
        rest = memoryview(data).cast("B")
        length = len(rest)
        try:
            while len(rest) and self._error is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self._error = error
        return length

    def truncate(self, size: int | None = None) -> int:
        """Change the size, or note why not."""
        try:
            return super().truncate(size)
        except OSError as error:
            self._error = self._error or error
            return size or 0

    def check(self) -> None:
        """Raise InputError if anything could not be written."""
        if self._error is not None:
            raise InputError(f"{self._name}: cannot be written ({self._error.strerror}).")


@contextmanager
def writing_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """Yield a new HDF5 file, which appears complete if the block succeeds, or not at all.

    Raises
    ------
    InputError
        If the disk is full, or the file cannot be made.
    """
    with (
        replacing(path) as temporary,
        DiskFile(temporary, str(path)) as disk,
        h5py_file(disk, "w") as file,
    ):
        yield file


@contextmanager
def h5py_file(disk: DiskFile, mode: str) -> Iterator[h5py.File]:
    """Open a DiskFile; what goes wrong after a write has failed is that failure's doing.

    Raises
    ------
    InputError
        If anything could not be written.
    """
    try:
        with h5py.File(disk, mode) as file:
            yield file
    except Exception:
        disk.check()
        raise
    disk.check()


def _look_through(path: Path) -> None:
    """Raise InputError if a child process that reads all but the data fails, hangs or dies."""
    if not CAN_FORK:
        return
    status = path.stat()
    key = (str(path.resolve()), status.st_size, status.st_mtime_ns)
    if key in _looked_through:
        return
    answer = in_child(lambda: _fault_of(path), LOOK_SECONDS)
    if answer is None:
        raise InputError(f"{path}: it makes the HDF5 library hang or crash, so it is damaged.")
    if answer:
        raise InputError(f"{path}: {answer}")
    _looked_through.add(key)


def _fault_of(path: Path) -> str:
    """Return what is wrong with everything but the data of a file, "" for nothing."""
    size = path.stat().st_size

    def look(name: str, thing: h5py.Group | h5py.Dataset) -> str | None:
        for key in thing.attrs:
            thing.attrs[key]
        if not isinstance(thing, h5py.Dataset):
            return None
        # Of other filters the ratio is not known.
        known = {"gzip", "lzf", None} >= {thing.compression}
        if thing.chunks is not None:
            thing.id.get_num_chunks()
        if thing.dtype.kind == "O" and thing.size is not None and thing.size < 1000:
            thing[()]
        if known and thing.size is not None and thing.nbytes > LARGEST_RATIO * size:
            return (
                f"{name.strip('/')} has shape {thing.shape}, more than {size} bytes of a file can "
                "hold; it is damaged."
            )
        return None

    import resource  # which Windows lacks

    # A damaged size must not take the machine's memory.
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    taken = pages * resource.getpagesize() + LOOK_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (taken, resource.getrlimit(resource.RLIMIT_AS)[1]))
    try:
        with h5py.File(path, "r") as file:
            return look("/", file) or file.visititems(look) or ""
    except Exception:
        # Whatever the library or h5py make of a damaged file.
        return "not a readable HDF5 file; it may be truncated."
