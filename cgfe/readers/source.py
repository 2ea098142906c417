"""What a reader hands over: a description of the beads and iterators over chunks of frames."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cgfe.array_types import RealArray
from cgfe.errors import InputError

JOINED = "trajectories are not marked in this format: all frames count as one trajectory."
DELTA_ONLY = (
    "there are only delta forces, which lack a prior that is not ours; they are kept as "
    "delta_forces, and the frames have no forces to train on."
)
"""Notes of several formats."""
KCAL = "kcal/mol/angstrom"


@dataclass(frozen=True)
class Chunk:
    """Some consecutive frames of one trajectory: atoms of an all-atom source, else beads."""

    positions: RealArray
    """(n, A, 3) Å"""
    forces: RealArray | None = None
    """(n, A, 3) kcal/mol/Å"""
    delta_forces: RealArray | None = None
    """(n, N, 3) kcal/mol/Å, a foreign prior's forces subtracted"""
    energies: RealArray | None = None
    """(n,) kcal/mol"""
    weights: RealArray | None = None
    """(n,), any scale"""
    times_ps: RealArray | None = None
    """(n,)"""
    box: RealArray | None = None
    """(n, 3, 3) Å, rows are the box vectors"""
    trajectory_index: NDArray[np.integer[Any]] | None = None
    """(n,), if the source numbers trajectories itself"""

    def select(self, rows: slice) -> "Chunk":
        """Return some of the frames."""
        arrays = {key: value for key, value in vars(self).items() if value is not None}
        return Chunk(**{key: value[rows] for key, value in arrays.items()})


@dataclass(frozen=True)
class Beads:
    """The Cα beads of a source."""

    residue_names: tuple[str, ...]
    bonds: NDArray[np.int64]
    """(B, 2)"""
    masses: NDArray[np.float64] | None = None
    """(N,) amu; from the residues when None"""


@dataclass(frozen=True)
class Atoms:
    """How the atoms of an all-atom source's chunks belong to its beads."""

    count: int
    beads: tuple[int, ...]
    """Cα atom of each bead"""
    constraints: tuple[tuple[int, int], ...]
    """X-H bonds"""


Trajectory = Callable[[int], Iterator[Chunk]]
"""Reads one trajectory in chunks of at most that many frames, from its beginning."""


@dataclass(frozen=True)
class Source:
    """One opened source, of which nothing but headers was read yet."""

    name: str
    beads: Beads
    trajectories: Sequence[Trajectory]
    frame_count: int | None
    """None where it cannot be known without reading all"""
    atoms: Atoms | None = None
    """None for a source of Cα beads"""
    has_forces: bool = False
    force_unit: str | None = KCAL
    """Unit of the chunks' forces; None: it is told from their thermal size"""
    documented_unit: str | None = None
    """What the format's description says, where the size does not tell; None: the user must"""
    temperature_kelvin: float | None = None
    """None where the source does not tell"""
    frame_interval_ps: float | None = None
    force_field: str = "unknown"
    notes: tuple[str, ...] = ()
    """What the user should know about this source, one sentence each"""


@dataclass(frozen=True)
class ReaderOptions:
    """What readers may need besides the source itself."""

    topology: str | None = None
    forces: tuple[str, ...] = ()
    """Force files, one per trajectory; ("none",) reads no forces"""
    force_unit: str | None = None
    embedding: str | None = None
    molecule: str | None = None
    used: set[str] = field(default_factory=set)
    """Options that the reader looked at; giving any other is an error"""

    def get(self, key: str) -> Any:
        """Return an option and remember that this format knows it."""
        self.used.add(key)
        return getattr(self, key)

    @property
    def without_forces(self) -> bool:
        """Whether the user wants positions alone."""
        self.used.add("forces")
        return self.forces == ("none",)

    def check_no_force_files(self) -> None:
        """Raise InputError for force files that a format with forces of its own has no use for."""
        if self.forces and not self.without_forces:
            raise InputError("--forces: this format has its own forces; only `none` is allowed.")

    def check_all_used(self, format_name: str) -> None:
        """Raise InputError for a given option that means nothing to this format."""
        for key in ("topology", "forces", "force_unit", "embedding", "molecule"):
            if getattr(self, key) and key not in self.used:
                option = "--" + key.replace("_", "-")
                raise InputError(f"{option} means nothing to format {format_name}; leave it out.")


def single(paths: list[Path], format_name: str, what: str = "file") -> Path:
    """Return the only path; raise InputError if there are several."""
    if len(paths) != 1:
        raise InputError(f"{paths[1]}: format {format_name} takes one {what}.")
    return paths[0]


def check_frames_shape(name: str, shape: tuple[int, ...], beads: int | None = None) -> None:
    """Raise InputError unless `shape` is (frames, `beads`, 3)."""
    wanted = "beads" if beads is None else beads
    if len(shape) != 3 or shape[2] != 3 or (beads is not None and shape[1] != beads):
        raise InputError(f"{name}: shape is {shape}, expected (frames, {wanted}, 3).")


def check_numbers(name: str, dtype: np.dtype[Any]) -> None:
    """Raise InputError unless `dtype` is of real numbers."""
    if dtype.kind not in "fiu":
        found = "complex numbers" if dtype.kind == "c" else f"no numbers (type {dtype})"
        raise InputError(f"{name}: holds {found}, expected real numbers.")


def hdf5_array(group: h5py.Group, key: str, name: str) -> h5py.Dataset:
    """Return an array of real numbers.

    Raises
    ------
    InputError
        If it is missing or something else.
    """
    thing = group.get(key)
    if not isinstance(thing, h5py.Dataset) or thing.shape is None:
        found = "nothing" if thing is None else f"a {type(thing).__name__} of no numbers"
        raise InputError(f"{name}: {key} is {found}, expected an array of numbers.")
    check_numbers(f"{name}: {key}", thing.dtype)
    return thing


def check_same_shape(
    name: str, shape: tuple[int, ...], other: str, expected: tuple[int, ...]
) -> None:
    """Raise InputError with both shapes unless they are equal."""
    if shape != expected:
        raise InputError(f"{name}: shape is {shape}, but {other} has {expected}.")


def existing(path: str | Path) -> Path:
    """Return `path` as Path; raise InputError if there is no such file."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    return path
