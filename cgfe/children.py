"""Work that may hang or crash the process, done by a forked child first."""

import faulthandler
import os
import select
import signal
import sys
import warnings
from collections.abc import Callable

CAN_FORK = sys.platform == "linux"
"""Elsewhere a fork of a process with threads is not safe, and a fresh child takes 0.2 s."""


def in_child(answer: Callable[[], str], seconds: float) -> str | None:
    """Return a forked child's answer; None if it crashes or takes longer than `seconds`.

    The child gets its own copy of the process at that moment, so `answer` must not need other
    threads or devices, and changes nothing here.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Other threads may hold locks for ever in the child; it touches nothing of theirs.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            faulthandler.disable()
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            os.write(writing, b"." + answer().encode())
        finally:
            os._exit(0)
    os.close(writing)
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    try:
        text = os.read(reading, select.PIPE_BUF) if poll.poll(seconds * 1000) else b""
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return text[1:].decode(errors="replace") if text else None
