"""Ending on SIGTERM where it does no harm: between two pieces of work."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ended = threading.Event()


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block at its next `end_if_asked`, so that no half-written file stays.

    An exception raised by the handler itself is lost where it comes in the middle of a finaliser,
    or of a callback from C.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may choose what signals do
        return
    _ended.clear()
    before = signal.signal(signal.SIGTERM, lambda number, frame: _ended.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _ended.clear()


def end_if_asked() -> None:
    """Raise SystemExit, 143 as a shell tells it, if SIGTERM has come."""
    if _ended.is_set():
        raise SystemExit(128 + signal.SIGTERM)
