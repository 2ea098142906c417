"""Energies and forces for training: tabulated filters and gradients written out by hand.

A loss that holds forces needs the derivatives of forces in the parameters. Autograd gets them by
differentiating twice. Here they are one more pass: with gradients g_E of the energies E and g_F of
the forces F, the gradient of the loss in the parameters is that of

    S = Σ_b g_E,b E_b + E',

where E' is the derivative of Σ E along the direction v = -g_F of the positions. Energies and
their derivatives along v are evaluated together, as dual numbers; the adjoints of all derivatives
in E' are those of the values in E, known from the forces, so one way back through the values is
left. All that is in training.cpp; here is what surrounds it.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cgfe.kernels.accuracy import coarsest_grid, in_float64
from cgfe.kernels.simulation import pointer
from cgfe.kernels.tables import activation_number, network_arrays
from cgfe.model.schnet import CGSchNet, CGSchNetConfig
from cgfe.native import library

GRIDS = tuple(int(512 * 1.125**step) for step in range(18))
"""Tables are made anew in each step: finer ones cost more than they save."""
NAMES = {torch.float32: "float", torch.float64: "double"}


def is_supported(positions: Tensor) -> bool:
    """Return whether the kernels run on this device, in this precision."""
    known = positions.device.type == "cpu" and positions.dtype in NAMES
    # Autocast rounds the results of matrix products.
    return known and not torch.is_autocast_enabled("cpu") and _library() is not None


def energy_and_forces(
    network: CGSchNet, positions: Tensor, bead_types: Tensor, intervals: int
) -> tuple[Tensor, Tensor]:
    """Return energies (B,) in kcal/mol and forces (B, N, 3) in kcal/mol/Å.

    Both can be differentiated once in the network's parameters, not in the positions.

    Parameters
    ----------
    network : CGSchNet
    positions : Tensor (B, N, 3)
        Å, such that `is_supported`.
    bead_types : LongTensor (N,)
    intervals : int
        Of the filters' grid.
    """
    arrays = network_arrays(network, bead_types, intervals)
    energy, forces = _EnergyAndForces.apply(
        network.config, positions.detach().contiguous(), *arrays
    )
    return energy, forces


def sufficient_intervals(
    network: CGSchNet, systems: Sequence[tuple[Tensor, Tensor]], first: int | None = None
) -> tuple[int | None, float]:
    """Return the coarsest grid that holds the tolerance, and its error.

    Parameters and results are those of `coarsest_grid`; grids have 512 intervals and on, each an
    eighth more, since tables are a good part of a step's cost. Rounding is left out: all is
    evaluated in float64. With `first`, no grid is tried that is coarser.
    """
    exact = in_float64(network)
    return coarsest_grid(
        exact,
        systems,
        lambda frames, types, n: energy_and_forces(exact, frames, types, n),
        [intervals for intervals in GRIDS if intervals >= (first or 0)],
    )


class _EnergyAndForces(torch.autograd.Function):
    """training.cpp as one function of the network's arrays."""

    @staticmethod
    def forward(
        ctx: Any, config: CGSchNetConfig, positions: Tensor, *arrays: Tensor
    ) -> tuple[Tensor, Tensor]:
        arrays = tuple(array.contiguous() for array in arrays)
        sizes = _sizes(config, positions, arrays)
        count = _function("kept", positions)
        count.restype = ctypes.c_int64
        kept = Kept(count(ctypes.byref(sizes)), positions)
        energies, forces = positions.new_empty(len(positions)), torch.empty_like(positions)
        _function("evaluate", positions)(
            *(ctypes.byref(sizes), _pointers(arrays)),
            *map(pointer, (positions, kept.memory, energies, forces)),
        )
        ctx.config, ctx.kept = config, kept
        ctx.save_for_backward(positions, *arrays)
        return energies, forces

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        positions, *arrays = ctx.saved_tensors
        sizes = _sizes(ctx.config, positions, arrays)
        of_arrays = [torch.empty_like(array) for array in arrays]
        of_energies, directions = gradients[0].contiguous(), gradients[1].neg().contiguous()
        _function("differentiate", positions)(
            *(ctypes.byref(sizes), _pointers(arrays)),
            *map(pointer, (positions, ctx.kept.memory, of_energies, directions)),
            _pointers(of_arrays),
        )
        return None, None, *of_arrays


class Kept:
    """Memory for what the way forth keeps for the way back; later steps use it again.

    Fresh pages for it, some hundred MB of which the C library returns to the system each time,
    cost a quarter of a step.
    """

    free: ClassVar[list[Tensor]] = []
    most_free: ClassVar[int] = 2

    def __init__(self, numbers: int, like: Tensor) -> None:
        others = []
        while self.free:
            memory = self.free.pop()  # no other thread can take the same
            if memory.dtype == like.dtype and len(memory) >= numbers:
                break
            others.append(memory)
        else:
            memory = like.new_empty(numbers)
        self.free.extend(others)
        self.memory = memory

    def __del__(self) -> None:
        self.free.append(self.memory)
        del self.free[: -self.most_free]


class _Sizes(ctypes.Structure):
    """As in training.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("frames", "beads", "layers", "hidden", "filters")),
        *((name, ctypes.c_int64) for name in ("half", "intervals", "activation", "threads")),
        ("cutoff", ctypes.c_double),
    )


def _sizes(config: CGSchNetConfig, positions: Tensor, arrays: Sequence[Tensor]) -> _Sizes:
    assert all(x.is_contiguous() and x.dtype == positions.dtype for x in (positions, *arrays))
    frames, beads, _ = positions.shape
    return _Sizes(
        frames=frames,
        beads=beads,
        layers=config.num_layers,
        hidden=config.hidden_channels,
        filters=config.num_filters,
        half=config.hidden_channels // 2,
        intervals=arrays[1].shape[1] - 1,
        activation=activation_number(config),
        threads=torch.get_num_threads(),
        cutoff=config.cutoff,
    )


def _library() -> ctypes.CDLL | None:
    return library("training", "-fopenmp")


def _function(name: str, like: Tensor) -> "ctypes._NamedFuncPointer":
    native = _library()
    assert native is not None, "asked for where is_supported is false"
    found: ctypes._NamedFuncPointer = getattr(native, f"{name}_{NAMES[like.dtype]}")
    return found


def _pointers(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))
