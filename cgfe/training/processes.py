"""The processes of one training: none goes on where another has ended."""

import os
import threading
import time

SECONDS = 2.0
"""Between looks at the parent."""

ENDED = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
"""What gloo says when a process at the other end is no more."""


def end_with_parent() -> None:
    """End this process when the one that started it has ended, by a kill perhaps.

    Lightning ends the first process of a training when one of the others ends, but not the others
    when the first is killed: they may wait for it, half an hour by torch's default.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(SECONDS)
        os._exit(1)  # the main thread may wait in a collective, which no exception interrupts

    threading.Thread(target=watch, daemon=True).start()


def another_ended(error: RuntimeError) -> bool:
    """Return whether an error says that another process of the training has ended."""
    return any(words in str(error) for words in ENDED)
