"""What the fuzz test does to files, and how it watches what comes of them.

Every case is made from its seed alone, so a number in a failure's message makes it again.
"""

import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
import torch

from cgfe.children import in_child
from cgfe.errors import InputError

SECONDS = 60.0
LONGEST_SENTENCE = 600
RESULT, SENTENCE = "result", "sentence"

MARKS = (
    b"TREE",
    b"HEAP",
    b"SNOD",
    b"GCOL",
    b"\x89HDF",
    b"PK\x01\x02",
    b"PK\x03\x04",
    b"PK\x05\x06",
)
"""Where HDF5 and zip keep what the rest is found by: bytes there do more than among numbers."""

NONSENSE: tuple[Any, ...] = (
    *(0, -1, 1, 2, 10**6, 2**31, -(2**63), 0.5, -0.5, 1e-300, 1e30, 1e308),
    *(float("nan"), float("inf"), float("-inf"), True, False),
    *("", "text", "null", "1", "\u03b1", "a" * 300, "[1, 2]", "{}", "chignolin"),
)


class Tally:
    """Counts of outcomes, and the cases that ended in none of the two good ways."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.counts: Counter[str] = Counter()
        self.bad: list[str] = []

    def control(self, use: Callable[[], object]) -> None:
        """Check that what nothing was done to gives a result."""
        found = in_child(lambda: outcome(use), SECONDS)
        assert found == RESULT, found

    def watch(self, seed: int, use: Callable[[], object]) -> None:
        """Run `use` in a child process and count what comes of it."""
        found = in_child(lambda: outcome(use), SECONDS)
        if found is None:
            found = "hangs or crashes"
        kind = found.partition(":")[0]
        if kind in (RESULT, SENTENCE):
            self.counts[kind] += 1
        else:
            self.counts["anything else"] += 1
            self.bad.append(f"{self.kind} {seed}: {found}")

    def __str__(self) -> str:
        names = (RESULT, SENTENCE, "anything else")
        told = ", ".join(f"{self.counts[name]} {name}" for name in names)
        return f"{self.kind}: {sum(self.counts.values())} cases: {told}"

    def check(self) -> None:
        """Raise AssertionError with the first bad cases, if there are any."""
        print(f"\n{self}", flush=True)
        # One of each way to fail.
        different = {case.partition(": ")[2]: case for case in reversed(self.bad)}
        assert not self.bad, "\n".join([str(self), *list(different.values())[:80]])


def outcome(use: Callable[[], object]) -> str:
    """Return how a use of bad input ends: result, sentence, or what else."""
    try:
        use()
        return RESULT
    except InputError as error:
        text = str(error)
        if "\n" in text.strip() or not 10 < len(text) < LONGEST_SENTENCE:
            return f"no sentence: {text[:500]!r}"
        return f"{SENTENCE}: {text}"
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in where if "/cgfe/" in frame.filename][-2:]
        places = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(ours))
        return f"{type(error).__name__}: {str(error)[:300]} ({places})"


def with_other_bytes(content: bytes, random: Random) -> bytes:
    """Return a file's bytes with a few changed, or cut off."""
    data = bytearray(content)
    marks = [at for mark in MARKS for at in _places(content, mark)] or [0]
    for _ in range(random.choice([1, 1, 2, 3, 8])):
        at = random.randrange(len(data))
        if random.random() < 0.7:
            at = (random.choice(marks) + random.randrange(600)) % len(data)
        length = random.choice([1, 2, 4, 8, 40])
        data[at : at + length] = random.choice([
            bytes([data[at] ^ (1 << random.randrange(8))]),
            bytes([(data[at] + random.choice([1, -1])) % 256]),
            random.randbytes(length),
            random.choice([b"\xff", b"\0", b"\x7f"]) * length,
            data[(start := random.randrange(len(data))) : start + length],
        ])  # fmt: skip
    if random.random() < 0.1:
        del data[random.randrange(len(data)) :]
    return bytes(data)


def _places(content: bytes, mark: bytes) -> list[int]:
    found, at = [], content.find(mark)
    while at >= 0 and len(found) < 1000:
        found.append(at)
        at = content.find(mark, at + 1)
    return found


def with_other_members(path: Path, random: Random) -> None:
    """Drop, replace or change an array or attribute of an HDF5 file."""
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        arrays = [name for name in names if isinstance(file[name], h5py.Dataset)]
        if random.random() < 0.4:
            holder = file[random.choice(["/", random.choice(names)])]
            key = random.choice([*holder.attrs, "step", "units"])
            if random.random() < 0.2:
                holder.attrs.pop(key, None)
            else:
                holder.attrs[key] = random.choice(
                    [*NONSENSE[:20], [1, 2], b"bytes", h5py.Empty("f")]
                )
            return
        name = random.choice(arrays)
        values = file[name][()] if file[name].shape is not None else np.zeros(1)
        kind = random.randrange(5)
        if kind == 0:
            del file[name]
        elif kind == 1:
            del file[name]
            file[name] = random.choice([h5py.SoftLink("/positions"), h5py.SoftLink("/none"),
                                        h5py.ExternalLink("/dev/zero", "/"), "text", 1.5,
                                        h5py.Empty("f8")])  # fmt: skip
        elif kind == 2:
            del file[name]
            file.create_group(name)
        else:
            changed = other_array(np.asarray(values), random)
            del file[name]
            try:
                file[name] = changed
            except TypeError:  # no type of HDF5
                file[name] = "text"


def other_array(values: np.ndarray, random: Random) -> np.ndarray:
    """Return an array of another shape or type, or with other values."""
    kind = random.randrange(6)
    if kind == 0:
        return random.choice([values[:-1], values[..., :-1], values[None], values.ravel(),
                              values[:0], values[:1]]) if values.ndim else values[None]  # fmt: skip
    if kind == 1 and values.dtype.kind in "biuf":
        types = ("c16", "f2", "f8", "i1", "u8", "i4", "S3", "?")
        with np.errstate(all="ignore"):
            return values.astype(random.choice(types))
    if values.dtype.kind not in "iuf" or not values.size:
        return np.zeros(random.choice([(), (3,), (2, 2)]))
    changed = values.astype(np.float64 if values.dtype.kind == "f" else np.int64)
    numbers = [x for x in NONSENSE if isinstance(x, float if changed.dtype.kind == "f" else int)]
    number: Any = random.choice(numbers)
    with np.errstate(all="ignore"):
        if kind == 2:
            changed[...] = number
        elif kind == 3:
            changed = changed * number if changed.dtype.kind == "f" else changed + number % 1000
        else:
            changed.flat[[random.randrange(changed.size) for _ in range(3)]] = number
        return changed.astype(values.dtype) if random.random() < 0.7 else changed


def with_other_values(tree: Any, random: Random) -> Any:
    """Return nested dictionaries and lists with one thing dropped, added or replaced."""
    if isinstance(tree, dict) and tree and random.random() < 0.85:
        key = random.choice(list(tree))
        kind = random.random()
        changed = dict(tree)
        if kind < 0.15:
            del changed[key]
        elif kind < 0.25:
            changed[random.choice(["unknown", 5, key])] = random.choice(NONSENSE)
        else:
            changed[key] = with_other_values(tree[key], random)
        return changed
    if isinstance(tree, list) and tree and random.random() < 0.7:
        at = random.randrange(len(tree))
        return [*tree[:at], with_other_values(tree[at], random), *tree[at + 1 :]]
    if isinstance(tree, torch.Tensor) and random.random() < 0.7:
        return torch.as_tensor(_tensor_ready(other_array(tree.numpy(), random)))
    return random.choice([*NONSENSE, None, {}, [], {"a": 1}, [1.0]])


def _tensor_ready(values: np.ndarray) -> np.ndarray:
    return np.zeros(2) if values.dtype.kind in "SUO" else values
