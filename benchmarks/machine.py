"""The machine's own ceilings, and what it is."""

import ctypes
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
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
MULTIPLY_ADDS = "multiply-adds in registers"
WIDTHS = {"narrow": 8, "wide": 16}
"""Numbers in a vector."""
ROUNDS = 100_000
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
    """Return the rates of multiply-adds in registers, of a matrix product, and of a triad.

    The first, compiled where there is a compiler, is the ceiling. The float32 matrix product of
    torch may keep to half of what the vector units can do. Of the triad's, a = b + 2 c, memory
    traffic two reads and a write are counted, as in STREAM.
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

    works: dict[tuple[str, str, int], Work] = {}
    sizes = {"matrix product": 2.0 * MATRIX**3, "triad": 3.0 * 4 * TRIAD}
    for count in thread_counts():
        works["matrix product", "torch", count] = on_threads(multiply, count)
        works["triad", "torch", count] = on_threads(triad, count)
    for width, (work, flops) in multiply_adds().items():
        sizes[MULTIPLY_ADDS] = flops
        for count in thread_counts():
            works[MULTIPLY_ADDS, width, count] = _in_parallel(work, count)
    seconds = take_turns({str(key): w for key, w in works.items()}, turns, turn_seconds, advance)
    rows = []
    for key in works:
        case, kind, count = key
        # Each thread runs the whole loop.
        flops = sizes[case] * (WIDTHS[kind] * count if case == MULTIPLY_ADDS else 1)
        items = "bytes" if case == "triad" else "float32 operations"
        name = f"{count} threads" if kind == "torch" else f"{count} threads, {kind} vectors"
        facts = {"threads": count}
        rows.append(Row("machine", case, name, seconds[str(key)], flops, items, facts))
    return rows


def peak_flops(rows: list[Row], threads: int) -> float | None:
    """Return the most float32 operations per second that any loop reached, if measured."""
    rates = [row.rate[1] for row in rows if row.case != "triad" and row.facts["threads"] == threads]
    return max(rates, default=None)


def multiply_adds() -> dict[str, tuple[Work, float]]:
    """Return the compiled loops with the operations of a call, a vector's lane; or nothing.

    The names are those of `WIDTHS`.
    """
    compiler = next((c for c in ("c++", "g++", "clang++") if shutil.which(c)), None)
    if compiler is None:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peak.so"
        wide = ["-mprefer-vector-width=512"] if platform.machine() in ("x86_64", "AMD64") else []
        options = ["-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC", *wide]
        source = Path(__file__).with_name("peak.cpp")
        try:
            subprocess.run(
                [compiler, *options, str(source), "-o", str(path)], check=True, capture_output=True
            )
            library = ctypes.CDLL(str(path))
        except (OSError, subprocess.CalledProcessError):
            return {}
    return {
        name: (_loop(getattr(library, name)), 2.0 * library.chains() * ROUNDS) for name in WIDTHS
    }


def _loop(function: Any) -> Work:
    function.argtypes = [ctypes.c_long]
    function.restype = ctypes.c_float

    def work(calls: int) -> int:
        function(calls * ROUNDS)
        return calls

    return work


def _in_parallel(work: Work, number: int) -> Work:
    """Return the same work, done whole on each of `number` threads (ctypes frees the lock)."""
    if number == 1:
        return work
    pool = ThreadPoolExecutor(number)

    def all_of_them(calls: int) -> int:
        list(pool.map(work, [calls] * number))
        return calls

    return all_of_them


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
