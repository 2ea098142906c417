"""Progress bars that redraw themselves in a terminal and write a line now and then into a log."""

import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

LOG_SECONDS = 30.0
"""Time between two lines of a bar where its output is no terminal."""

if TYPE_CHECKING:
    _Tqdm = tqdm[Any]
else:
    _Tqdm = tqdm


class Bar(_Tqdm):
    """tqdm's bar; without a terminal, a line each `LOG_SECONDS` and, with `leave`, one at the end.

    Parameters
    ----------
    *args, **kwargs
        tqdm's; `file` only by its name.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        isatty = getattr(kwargs.get("file") or sys.stderr, "isatty", None)
        self._in_log = isatty is None or not isatty()
        self._told = time.monotonic()
        if self._in_log:
            kwargs["smoothing"] = 0  # the mean speed: lines are far apart
        super().__init__(*args, **kwargs)

    # All that tqdm writes comes through these three, whatever asks for it: an update, a postfix,
    # its monitor's thread, a message beside the bar.
    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        """Show the bar, or in a log the next line if it is time; return whether it was shown."""
        if not self._in_log:
            in_terminal: Any = super().display
            return in_terminal(msg, pos)
        closing = self.disable
        if msg is not None or (not closing and time.monotonic() - self._told < LOG_SECONDS):
            return False
        self._told = time.monotonic()
        self.fp.write(str(self) + ("" if closing else "\n"))  # close() itself ends its line
        if not closing:
            self.fp.flush()
        return True

    def clear(self, *args: Any, **kwargs: Any) -> None:
        """Make room for a message, which in a log has its own line."""
        if not self._in_log:
            super().clear(*args, **kwargs)

    def close(self) -> None:
        """End the bar."""
        shown = not getattr(self, "disable", True)
        super().close()
        if shown and self._in_log:
            with suppress(ValueError):  # the file is closed
                self.fp.flush()
