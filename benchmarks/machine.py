"""The machine's own ceilings, and what it is."""

import ctypes
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.turns import Advance, Row, Work, on_threads, take_turns

MATRIX = 1024
TRIAD = 2**24
"""Numbers in each of three arrays, 64 MB: more than a cache holds."""
MMAP_MAX, TRIM_THRESHOLD, TOP_PAD = -4, -1, -2
"""Names of options in glibc's mallopt."""
PACKAGES = ("cgfe", "torch", "torch-geometric", "torchmd-net", "lightning", "numpy", "pyperf")


def keep_memory() -> bool:
    """Let freed memory stay with the process; return False where the C library cannot.

    By default glibc returns blocks of more than some MB to the system, and the next step pays
    for fresh pages: a third of the time of networks that hold a number for each pair and channel.
    How often that happens depends on what else the process did before, so that variants which
    take turns in one process would disturb each other.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    options = ((MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, 2**26))
    return all(mallopt(name, value) == 1 for name, value in options)


def thread_counts() -> list[int]:
    """Return 1 and 2 threads, or what the machine has of them."""
    return [1, 2] if (os.cpu_count() or 1) > 1 else [1]


def measure(turns: int, turn_seconds: float, advance: Advance | None = None) -> list[Row]:
    """Return the rate of a float32 matrix product and of a triad a = b + 2 c.

    Of the triad's memory traffic two reads and a write are counted, as in STREAM.
    """
    left, right = torch.randn(2, MATRIX, MATRIX).unbind()
    product = torch.empty(MATRIX, MATRIX)
    first, second, third = (torch.randn(TRIAD) for _ in range(3))

    def multiply(calls: int) -> int:
        for _ in range(calls):
            torch.mm(left, right, out=product)
        return calls

    def triad(calls: int) -> int:
        for _ in range(calls):
            torch.add(second, third, alpha=2.0, out=first)
        return calls

    kinds = {
        "matrix product": (multiply, 2 * MATRIX**3, "float32 operations"),
        "triad": (triad, 3 * 4 * TRIAD, "bytes"),
    }
    works: dict[str, Work] = {
        f"{kind}/{count}": on_threads(work, count)
        for kind, (work, _, _) in kinds.items()
        for count in thread_counts()
    }
    seconds = take_turns(works, turns, turn_seconds, advance)
    return [
        Row(
            section="machine",
            case=kind,
            variant=f"{count} threads",
            seconds=seconds[f"{kind}/{count}"],
            per_unit=size,
            items=items,
            facts={"threads": count},
        )
        for kind, (_, size, items) in kinds.items()
        for count in thread_counts()
    ]


def peak_flops(rows: list[Row], threads: int) -> float | None:
    """Return the median float32 operations per second of the matrix product, if measured."""
    for row in rows:
        if row.case == "matrix product" and row.facts["threads"] == threads:
            return row.rate[1]
    return None


def facts() -> dict[str, Any]:
    """Return what the figures depend on: processor, cores, versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
