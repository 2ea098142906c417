"""The progress bar of a sampling run; dynamics goes piece by piece."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from cgfe.ending import end_if_asked
from cgfe.progress import Bar

if TYPE_CHECKING:  # the workers of OpenMM's engine have no use for torch
    from cgfe.all_atom.batched import BatchedSystem, Dynamics, Walkers
    from cgfe.all_atom.config import SamplerConfig

PIECE_STEPS = 500
"""Steps of dynamics after which a bar moves and a signal is heard."""


class SamplingBar:
    """A bar in ns of all walkers together."""

    def __init__(self, config: "SamplerConfig", done_ns: float, bar: Bar) -> None:
        self.total_ns = config.walkers * config.chunks * config.chunk_ns
        self._first = done_ns
        self._started = time.monotonic()
        self._bar = bar
        self.show(done_ns)

    def show(self, done_ns: float) -> None:
        """Say that so much is sampled by now."""
        days = max(time.monotonic() - self._started, 1e-9) / 86400
        self._bar.set_postfix_str(
            f"{done_ns:.2f} of {self.total_ns:.2f} ns, {(done_ns - self._first) / days:.0f} ns/day",
            refresh=False,
        )
        # A chunk that is computed again counts for nothing new.
        self._bar.update(max(0.0, min(done_ns, self.total_ns) - self._bar.n))

    def ticker(self, done_ns: float, ns_per_step: float) -> Callable[[int], None]:
        """Return a function that counts steps on from `done_ns` and shows them.

        Making starts takes time too, which is no part of the speed.
        """
        steps = 0
        if done_ns == self._first:
            self._started = time.monotonic()

        def moved(more: int) -> None:
            nonlocal steps
            steps += more
            self.show(done_ns + steps * ns_per_step)

        return moved


@contextmanager
def sampling_bar(config: "SamplerConfig", done_ns: float, progress: bool) -> Iterator[SamplingBar]:
    """Show a bar that starts at what is on disk; its speed counts from here."""
    bar_format = "{desc}: {percentage:3.0f}% |{bar}| {elapsed} < {remaining} {postfix}"
    total = config.walkers * config.chunks * config.chunk_ns
    with Bar(
        total=total,
        initial=min(done_ns, total),
        disable=not progress,
        bar_format=bar_format,
        desc="sampling",
    ) as bar:
        yield SamplingBar(config, done_ns, bar)


def advance_in_pieces(
    kernel: "BatchedSystem",
    walkers: "Walkers",
    dynamics: "Dynamics",
    threads: int = 0,
    moved: Callable[[int], None] | None = None,
) -> None:
    """Take walkers through dynamics, `PIECE_STEPS` at a time.

    Cut or not, the bits are the same as long as `Dynamics.average_every` divides `PIECE_STEPS`:
    the kernel counts from the beginning of each call.

    Parameters
    ----------
    kernel : BatchedSystem
    walkers : Walkers
        With forces up to date.
    dynamics : Dynamics
    threads : int
        As in `BatchedSystem.advance`.
    moved : callable, optional
        Told the steps of each piece when it is done.

    Raises
    ------
    SystemExit
        After a piece, if SIGTERM has come (`end_if_asked`).
    """
    for done in range(0, dynamics.steps, PIECE_STEPS):
        piece = replace(dynamics, steps=min(PIECE_STEPS, dynamics.steps - done))
        kernel.advance(walkers, piece, threads)
        end_if_asked()
        if moved is not None:
            moved(piece.steps)
