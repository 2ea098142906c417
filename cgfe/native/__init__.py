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
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only

from cgfe.files import cache_folder, replacing

log = logging.getLogger(__name__)
_warn = rank_zero_only(log.warning)

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

    The compiler is `$CXX`, else c++, g++ or clang++; it gets further `options` of the source if it
    knows them. The file is kept in the user's cache, or for this process alone where that cannot
    be written or loaded from. Without a compiler, the first call says so once.
    """
    compiler = _compiler()
    if compiler is None:
        return None
    text = _with_headers((files("cgfe") / "native" / f"{name}.cpp").read_text())
    wide = WIDE if platform.machine() in ("x86_64", "AMD64") else ()
    reason = ""
    for more in dict.fromkeys((options, ())):
        command = [*compiler, *FLAGS, *LOOSE, *SHARED, *wide, *more]
        facts = [text, _processor(), *platform.libc_ver(), *command]
        key = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
        for folder in (cache_folder, _own_folder):
            try:
                return _loaded(folder() / f"{name}-{key}.so", command, text)
            except (OSError, ValueError) as error:
                reason = reason or str(error)
            except subprocess.CalledProcessError as error:
                reason = reason or error.stderr
                break  # it will not compile elsewhere either
    reason = reason.strip().partition("\n")[0]
    _warn("%s.cpp does not run, so the slower torch path does: %s", name, reason)
    return None


@functools.cache
def _compiler() -> list[str] | None:
    """Return the command of a C++ compiler; where there is none, say so."""
    for words in (shlex.split(os.environ.get("CXX", "")), ["c++"], ["g++"], ["clang++"]):
        if words and shutil.which(words[0]):
            return words
    _warn("no C++ compiler found ($CXX, c++, g++, clang++): the slower torch path runs")
    return None


def _loaded(path: Path, command: list[str], text: str) -> ctypes.CDLL:
    """Return the library at `path`; compile it where it is missing or cannot be loaded."""
    if path.exists():
        try:
            return ctypes.CDLL(str(path))
        except OSError:  # half a file, or of another system that shares this folder
            path.unlink(missing_ok=True)
    rank_zero_info(f"Compiling {path.stem.partition('-')[0]}.cpp for this processor, once.")
    with replacing(path) as temporary:
        subprocess.run(
            [*command, "-x", "c++", "-", "-o", str(temporary)],
            input=text,
            text=True,
            check=True,
            capture_output=True,
        )
    return ctypes.CDLL(str(path))


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="cgfe-")


def _own_folder() -> Path:
    return Path(_temporary().name)


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


if hasattr(os, "register_at_fork"):
    # A forked process has the pool, but none of its threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)


@functools.cache
def _processor() -> str:
    """Return what tells CPUs apart for the compiler: nodes of a cluster share one cache."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()} {platform.platform()}"
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features"))}))
