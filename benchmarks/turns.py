"""Measuring in turns: variants of one thing run one after the other, again and again.

Load of other processes then meets all variants alike, and the ratio of two variants within one
turn says more than either time by itself.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

Work = Callable[[int], int]
"""Does something the given number of times; returns how many units it did."""
Advance = Callable[[float], None]
"""Told the share that is done of a section."""

MOST_CALLS = 100_000


@dataclass
class Row:
    """One variant of one case, measured in turns.

    Parameters
    ----------
    section, case, variant : str
    seconds : list of float
        For one unit of work, in each turn.
    per_unit : float
        Items in one unit (frames of a batch, replicas of a step), for the rate.
    items : str
        What the rate counts.
    facts : dict
        Plain values to keep with it.
    """

    section: str
    case: str
    variant: str
    seconds: list[float]
    per_unit: float = 1.0
    items: str = "calls"
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> tuple[float, float, float]:
        """Items per second: lower quartile, median, upper quartile over the turns."""
        return quartiles([self.per_unit / s for s in self.seconds])

    def times_faster_than(self, other: "Row") -> tuple[float, float, float]:
        """Return the quartiles of the other's time an item over this one's, turn by turn."""
        own = [s / self.per_unit for s in self.seconds]
        others = [s / other.per_unit for s in other.seconds]
        return quartiles([b / a for a, b in zip(own, others, strict=True)])

    def to_json(self) -> dict[str, Any]:
        """Return plain values: the rate's quartiles, and the times of every turn."""
        return {
            "section": self.section,
            "case": self.case,
            "variant": self.variant,
            "seconds": self.seconds,
            "per_unit": self.per_unit,
            "items": self.items,
            "items_per_second": list(self.rate),
            **self.facts,
        }


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile; a single value thrice."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def take_turns(
    variants: Mapping[str, Work], turns: int, turn_seconds: float, advance: Advance | None = None
) -> dict[str, list[float]]:
    """Return each variant's seconds per unit in each turn.

    Parameters
    ----------
    variants : mapping from name to Work
    turns : int
    turn_seconds : float
        Aim for one variant in one turn; work that takes longer is done once.
    advance : callable, optional
        Told the share that is done.
    """
    calls = {name: _calls(work, turn_seconds) for name, work in variants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    done = 0
    for turn in range(turns):
        # Another one begins each turn, so that none always follows the same other.
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds[name].append(_seconds_per_unit(variants[name], calls[name]))
            done += 1
            if advance is not None:
                advance(done / (turns * len(names)))
    return seconds


def _calls(work: Work, turn_seconds: float) -> int:
    """Return the number of calls that fill a turn; the first call warms up."""
    began = time.perf_counter()
    work(1)
    if time.perf_counter() - began > 5 * turn_seconds:
        return 1
    calls = 1
    # One call of something short is mostly overhead, so the number is found in steps.
    while True:
        began = time.perf_counter()
        work(calls)
        took = time.perf_counter() - began
        wanted = max(1, min(MOST_CALLS, int(calls * turn_seconds / max(took, 1e-9))))
        if took > 0.1 * turn_seconds or wanted <= calls:
            return wanted
        calls = min(wanted, 10 * calls)


def _seconds_per_unit(work: Work, calls: int) -> float:
    began = time.perf_counter()
    units = work(calls)
    return (time.perf_counter() - began) / units


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch use this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_threads(work: Work, number: int) -> Work:
    """Return the same work, done on this many threads."""

    def limited(calls: int) -> int:
        with threads(number):
            return work(calls)

    return limited
