"""Kernels in C++, compiled on first use for the CPU that runs them and called through ctypes.

A source in this folder is compiled once per machine type and kept in the user's cache. The calls
release Python's lock, so `in_parallel` spreads independent frames over threads. Where no compiler
exists, callers fall back on torch.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

from cgfe.files import cache_folder, replacing

log = logging.getLogger(__name__)

FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp-simd")
LOOSE = (
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-signed-zeros",
    "-fassociative-math",
    "-freciprocal-math",
)
"""What sums need to be vectorised. Not -ffast-math, which as a side effect makes the whole process
flush small numbers to zero, and assumes that nothing is ever infinite."""
SHARED = ("-shared", "-fPIC")
WIDE = ("-mprefer-vector-width=512",)
"""Compilers keep to half of a 512-bit register unless they are told."""


@functools.cache
def library(name: str, *options: str) -> ctypes.CDLL | None:
    """Return the compiled `name`.cpp of this folder, or None where it cannot be compiled.

    The compiler is `$CXX`, else c++, g++ or clang++; it gets further `options` of the source.
    Without a compiler, the first call says so once.
    """
    source = files("cgfe") / "native" / f"{name}.cpp"
    candidates = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    compiler = next((found for c in candidates if c and (found := shutil.which(c))), None)
    if compiler is None:
        log.warning("no C++ compiler found ($CXX, c++, g++, clang++): the slower torch path runs")
        return None
    text = _with_headers(source.read_text())
    wide = WIDE if platform.machine() in ("x86_64", "AMD64") else ()
    command = [compiler, *FLAGS, *LOOSE, *SHARED, *wide, *options]
    key = hashlib.sha256("\n".join([text, _processor(), *command]).encode()).hexdigest()[:16]
    path = cache_folder() / f"{name}-{key}.so"
    try:
        if not path.exists():
            with replacing(path) as temporary:
                subprocess.run(
                    [*command, "-x", "c++", "-", "-o", str(temporary)],
                    input=text,
                    text=True,
                    check=True,
                    capture_output=True,
                )
        return ctypes.CDLL(str(path))
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        log.warning(
            "%s.cpp does not compile, so the slower torch path runs: %s",
            name,
            str(reason).strip().partition("\n")[0],
        )
        return None


def _with_headers(text: str) -> str:
    """Put in the headers of this folder, so that one text is compiled and tells its version."""
    folder, include = files("cgfe") / "native", re.compile('^#include "(.+)"$', re.MULTILINE)
    return include.sub(lambda line: (folder / line[1]).read_text(), text)


def in_parallel(function: Callable[[int, int], None], items: int, threads: int) -> None:
    """Call `function(begin, end)` on even parts of `items`, one in each of `threads` threads."""
    parts = max(1, min(threads, items))
    bounds = [items * k // parts for k in range(parts + 1)]
    if parts == 1:
        function(0, items)
        return
    ahead = [_pool(parts).submit(function, bounds[k], bounds[k + 1]) for k in range(1, parts)]
    function(bounds[0], bounds[1])
    for part in ahead:
        part.result()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="cgfe-native")


@functools.cache
def _processor() -> str:
    """Return what tells CPUs apart for the compiler: nodes of a cluster share one cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.platform()}"
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))
