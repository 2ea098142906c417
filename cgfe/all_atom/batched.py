"""Many walkers of one peptide at a time: the C++ kernel peptide.cpp, one walker in each lane.

Units in this module are OpenMM's (nm, ps, kJ/mol, amu), since the parameters are.
"""

import ctypes
import os
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import openmm
from numpy.typing import NDArray

from cgfe.all_atom.bias_table import BiasTable
from cgfe.all_atom.parameters import Layout, Parameters
from cgfe.native import in_parallel, library

KERNEL = "peptide"
BOLTZMANN_KJ = 0.00831446261815324
"""kJ/mol/K."""
TERMS = ("bonds", "angles", "torsions", "pairs", "solvent")
"""In the order of peptide.h."""


class _Sizes(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("atoms", "bonds", "angles", "torsions", "clusters")),
        ("remove_motion", ctypes.c_int32),
        ("far", ctypes.c_float),
    )


class _Steps(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_int64),
        ("time_step", ctypes.c_float),
        ("friction", ctypes.c_float),
        ("average_every", ctypes.c_int32),
    )


_ARRAYS = (
    *("positions", "velocities", "forces", "random", "thermal", "energies", "force_sums"),
    *("bias", "variables"),
)


class _State(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in _ARRAYS)


@dataclass(frozen=True)
class Dynamics:
    """How `BatchedSystem.advance` steps.

    Attributes
    ----------
    steps : int
    time_step_ps, friction_per_ps : float
        Of LangevinMiddle; without friction there is no noise.
    average_every : int
        After every so many steps the forces are added to `Walkers.force_sums`; 0: never.
    """

    steps: int
    time_step_ps: float
    friction_per_ps: float
    average_every: int = 0


class Walkers:
    """Positions, velocities and random streams of W walkers; the kernel's arrays behind them.

    Walkers w // lanes share a vector. Which series a Born integral takes is decided for a whole
    vector, so the last bits of a walker's trajectory depend on who shares its vector.

    Attributes
    ----------
    bias_table : BiasTable, optional
        A bias that moves all walkers, but is no part of `forces` and `energies`. It may change
        between calls.
    """

    def __init__(self, positions: NDArray[np.floating], lanes: int) -> None:
        self.count, self.atoms, _ = positions.shape
        self.lanes = lanes
        self.vectors = -(-self.count // lanes)
        shape = (self.vectors, self.atoms, 3, lanes)
        self._arrays = {
            "positions": _aligned(shape, np.float32),
            "velocities": _aligned(shape, np.float32),
            "forces": _aligned(shape, np.float32),
            "random": _aligned((self.vectors, 4, lanes), np.uint32),
            "thermal": _aligned((self.vectors, lanes), np.float32),
            "energies": _aligned((self.vectors, len(TERMS), lanes), np.float64),
            "force_sums": _aligned(shape, np.float64),
            "bias": _aligned((self.vectors, lanes), np.float64),
            "variables": _aligned((self.vectors, 2, lanes), np.float64),
        }
        self.bias_table: BiasTable | None = None
        self.state = _State(**{name: self._arrays[name].ctypes.data for name in _ARRAYS})
        self.positions = positions
        self.temperatures = np.full(self.count, 300.0)
        self.seed(np.arange(self.count, dtype=np.uint64))

    @property
    def positions(self) -> NDArray[np.float32]:
        """(W, A, 3), nm."""
        return self._walkers("positions")

    @positions.setter
    def positions(self, values: NDArray[np.floating]) -> None:
        self._set("positions", values)

    @property
    def velocities(self) -> NDArray[np.float32]:
        """(W, A, 3), nm/ps."""
        return self._walkers("velocities")

    @velocities.setter
    def velocities(self, values: NDArray[np.floating]) -> None:
        self._set("velocities", values)

    @property
    def forces(self) -> NDArray[np.float32]:
        """(W, A, 3), kJ/mol/nm, at the positions of the last call."""
        return self._walkers("forces")

    @property
    def energy_terms(self) -> NDArray[np.float64]:
        """(W, 5), kJ/mol, in the order of `TERMS`."""
        return self._of_walkers("energies")

    @property
    def energies(self) -> NDArray[np.float64]:
        """Potential energies (W,), kJ/mol."""
        return np.asarray(self.energy_terms.sum(axis=1))

    @property
    def bias(self) -> NDArray[np.float64]:
        """Bias energies (W,), kJ/mol, as the table was in the last call; without one 0."""
        return np.array(self._arrays["bias"].reshape(-1)[: self.count])

    @property
    def variables(self) -> NDArray[np.float64]:
        """Variables (W, 2) that the bias depends on, in its units, at the last call's positions."""
        return self._of_walkers("variables")

    @property
    def force_sums(self) -> NDArray[np.float64]:
        """(W, A, 3), kJ/mol/nm, what `Dynamics.average_every` has summed up."""
        return self._walkers("force_sums")

    @force_sums.setter
    def force_sums(self, values: NDArray[np.floating]) -> None:
        self._set("force_sums", values)

    @property
    def temperatures(self) -> NDArray[np.float64]:
        """(W,), K; each walker's own."""
        return self._temperatures

    @temperatures.setter
    def temperatures(self, values: NDArray[np.floating]) -> None:
        self._temperatures = np.asarray(values, dtype=np.float64)
        padded = self._padded(self._temperatures * BOLTZMANN_KJ)
        self._arrays["thermal"][...] = padded.reshape(self.vectors, self.lanes)

    def seed(self, streams: NDArray[np.uint64]) -> None:
        """Start each walker's random stream (W,) anew."""
        words = np.array([np.random.SeedSequence(int(s)).generate_state(4) for s in streams])
        # Lanes that pad a vector repeat the last walker, which nobody sees.
        padded = self._padded(words).reshape(self.vectors, self.lanes, 4)
        self._arrays["random"][...] = padded.transpose(0, 2, 1)

    def thermalise(self, streams: NDArray[np.uint64], masses: NDArray[np.floating]) -> None:
        """Draw velocities at each walker's temperature; the first step takes out what is along
        constraints.

        Parameters
        ----------
        streams : array (W,), uint64
        masses : array (A,)
            amu; infinite for fixed atoms.
        """
        normals = np.stack(
            [np.random.default_rng(int(s)).normal(size=(self.atoms, 3)) for s in streams]
        )
        widths = np.sqrt(BOLTZMANN_KJ * self.temperatures[:, None] / masses)
        self.velocities = normals * widths[..., None]

    def _of_walkers(self, name: str) -> NDArray[Any]:
        """Return an array (vectors, K, lanes) as (W, K)."""
        values = self._arrays[name]
        return np.moveaxis(values, 1, -1).reshape(-1, values.shape[1])[: self.count]

    def _walkers(self, name: str) -> NDArray[Any]:
        array = np.moveaxis(self._arrays[name], -1, 1)
        return array.reshape(-1, self.atoms, 3)[: self.count]

    def _set(self, name: str, values: NDArray[np.floating]) -> None:
        padded = self._padded(np.asarray(values))
        padded = padded.reshape(self.vectors, self.lanes, self.atoms, 3)
        self._arrays[name][...] = np.moveaxis(padded, 1, -1)

    def _padded(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return values (W, ...) with copies of the last walker up to whole vectors."""
        missing = self.vectors * self.lanes - self.count
        return np.concatenate([values, np.repeat(values[-1:], missing, axis=0)])


class BatchedSystem:
    """The force field of a peptide in implicit solvent, in the kernel.

    Parameters
    ----------
    system : openmm.System
        With GBSAOBCForce, as `cgfe.all_atom.system.implicit_solvent_system` makes it.
    fixed : sequence of int
        Atoms that keep their place, as if their mass were infinite.

    Attributes
    ----------
    atoms, lanes : int
        Lanes are the walkers of a vector.
    layout : Layout
        How the kernel was compiled.
    masses : array (A,)
        amu, infinite for fixed atoms.

    Raises
    ------
    UnsupportedSystem
        If the system has anything that the kernel does not know.
    InputError
        If a fixed atom does not exist.
    """

    def __init__(
        self, system: openmm.System, fixed: Sequence[int] = (), options: tuple[str, ...] = ()
    ) -> None:
        kernel = library(KERNEL, *options)
        assert kernel is not None, "asked for where `available` is false"
        self._kernel = kernel
        numbers = [ctypes.c_int32() for _ in range(4)]
        kernel.peptide_layout(*(ctypes.byref(number) for number in numbers))
        self.layout = Layout(*(number.value for number in numbers))
        parameters = Parameters.of_system(system, self.layout, tuple(fixed))
        self.atoms, self.lanes = parameters.counts["atoms"], self.layout.lanes
        self.masses = np.array([system.getParticleMass(i)._value for i in range(self.atoms)])
        self.masses[list(fixed)] = np.inf
        sizes = _Sizes(**parameters.counts, far=parameters.far_nm)
        kernel.peptide_new.restype = ctypes.c_void_p
        self._peptide = ctypes.c_void_p(
            kernel.peptide_new(
                ctypes.byref(sizes), _address(parameters.floats), _address(parameters.integers)
            )
        )
        weakref.finalize(self, kernel.peptide_delete, self._peptide)

    @staticmethod
    def available() -> bool:
        """Say whether the kernel can be compiled here."""
        return library(KERNEL) is not None

    def walkers(self, positions: NDArray[np.floating]) -> Walkers:
        """Return walkers at rest at positions (W, A, 3) in nm, at 300 K."""
        return Walkers(positions, self.lanes)

    def evaluate(self, walkers: Walkers, threads: int = 0) -> None:
        """Bring forces and energies of walkers up to date, and what their bias tells.

        Parameters
        ----------
        threads : int
            0: as many as cores may be used. No number depends on it.
        """
        state, bias = ctypes.byref(walkers.state), _bias(walkers)
        self._in_parallel(
            lambda a, b: self._kernel.peptide_evaluate(self._peptide, state, bias, a, b),
            walkers,
            threads,
        )

    def advance(self, walkers: Walkers, dynamics: Dynamics, threads: int = 0) -> None:
        """Take walkers through LangevinMiddle steps, in place; forces must be up to date.

        Parameters
        ----------
        threads : int
            As in `evaluate`.
        """
        if dynamics.steps < 1:
            return
        state, bias = ctypes.byref(walkers.state), _bias(walkers)
        steps = _Steps(
            dynamics.steps,
            dynamics.time_step_ps,
            dynamics.friction_per_ps,
            dynamics.average_every,
        )
        self._in_parallel(
            lambda a, b: self._kernel.peptide_advance(
                self._peptide, state, ctypes.byref(steps), bias, a, b
            ),
            walkers,
            threads,
        )

    def _in_parallel(
        self, action: Callable[[int, int], None], walkers: Walkers, threads: int
    ) -> None:
        in_parallel(action, walkers.vectors, threads or usable_cores())


def usable_cores() -> int:
    """Return the cores this process may use; macOS does not tell more than their number."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _bias(walkers: Walkers) -> Any:
    """Return what the kernel takes for the walkers' bias."""
    return None if walkers.bias_table is None else ctypes.byref(walkers.bias_table.state)


def _address(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _aligned(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Return zeros at an address that vectors can be loaded from."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, np.uint8)
    first = -raw.ctypes.data % 64
    return raw[first : first + size].view(dtype).reshape(shape)
