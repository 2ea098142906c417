"""Writing files so that a reader never sees half of one."""

import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from platformdirs import user_cache_path

from cgfe.errors import InputError

ABANDONED_SECONDS = 3600
LONGEST_NAME = 255
"""Bytes, on every usual file system."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space, over the quota, over the limit of a file's size."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` if the block succeeds.

    The temporary name keeps the suffix, since writers choose their format by it, and is short,
    since names have a longest length.

    Raises
    ------
    InputError
        If the folder cannot be made or written to, `path` is a folder, or the disk is full.
    """
    path = Path(path)
    check_output(path)
    temporary = path.with_name(f".cgfe-{uuid4().hex}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise InputError(f"{path}: cannot be written ({error.strerror}).") from None
    finally:
        temporary.unlink(missing_ok=True)


def check_output(path: str | Path) -> Path:
    """Check that a file can be written at `path`, before the work for it is done.

    Raises
    ------
    InputError
        If `path` is a folder, its name is too long, or its folder cannot be made or written to.
    """
    path = Path(path)
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise InputError(
            f"{path.name[:40]}...: the name has {len(os.fsencode(path.name))} bytes, expected "
            f"{LONGEST_NAME} at most."
        )
    if path.is_dir():
        raise InputError(f"{path}: is a folder, expected the name of a file to write.")
    make_folder(path.parent)
    return path


@contextmanager
def long_names_told() -> Iterator[None]:
    """Say in one sentence which name of a file is too long, whatever it was asked for.

    Raises
    ------
    InputError
        If the file system refuses a name for its length.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        longest = max(Path(error.filename).parts, key=lambda name: len(os.fsencode(name)))
        size = len(os.fsencode(longest))
        # Of names that are not, the path is.
        found = f"the name has {size} bytes" if size > LONGEST_NAME else "the path is too long"
        raise InputError(
            f"{longest[:40]}...: {found}, expected names of {LONGEST_NAME} bytes at most."
        ) from None


@contextmanager
def ascii_path(path: Path) -> Iterator[Path]:
    """Yield a path in ASCII to the same file, a link to it if need be, for C code that asks so."""
    if str(path).isascii():
        yield path
        return
    with TemporaryDirectory(prefix="cgfe-") as folder:
        link = Path(folder) / f"link{path.suffix}"
        link.symlink_to(path.absolute())
        yield link


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; rename it to `folder` if the block succeeds.

    What stands at `folder` before is removed; what another process puts there meanwhile stays.
    Temporary folders that nobody has written to for an hour were left by processes that were
    killed, and are removed.

    Raises
    ------
    InputError
        If the folder cannot be made or written to.
    """
    make_folder(folder.parent)
    for abandoned in folder.parent.glob(f".{folder.name}.*"):
        newest = max(x.stat().st_mtime for x in (abandoned, *abandoned.iterdir()))
        if newest < time.time() - ABANDONED_SECONDS:
            shutil.rmtree(abandoned, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    temporary = folder.with_name(f".{folder.name}.{uuid4().hex}")
    temporary.mkdir()
    try:
        yield temporary
        with suppress(OSError):  # not empty: another process was faster
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_folder(folder: str | Path) -> Path:
    """Make `folder` with its parents and check that files can be written in it.

    Raises
    ------
    InputError
        If it cannot be made or written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".cgfe-{uuid4().hex}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"{folder}: cannot write to this folder ({error.strerror}).") from None
    return folder


def cache_folder() -> Path:
    """Return the folder of this project in the user's cache."""
    return user_cache_path("cgfe", appauthor=False)
