"""Writing files so that a reader never sees half of one."""

import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from platformdirs import user_cache_path

from cgfe.errors import InputError

ABANDONED_SECONDS = 3600
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space, over the quota, over the limit of a file's size."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` if the block succeeds.

    The temporary name keeps the suffix, since writers choose their format by it.

    Raises
    ------
    InputError
        If the folder cannot be made or written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid4().hex}{path.suffix}")
    make_folder(path.parent)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
