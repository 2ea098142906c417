"""A network's energies, forces and gradients in training: training.cpp behind torch tensors."""

import ctypes
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from cgfe.kernels.simulation import ACTIVATIONS, pointer
from cgfe.model.schnet import CGSchNetConfig
from cgfe.native import library

NAMES = {torch.float32: "float", torch.float64: "double"}


def is_supported(positions: Tensor) -> bool:
    """Return whether the kernels run on this device, in this precision."""
    known = positions.device.type == "cpu" and positions.dtype in NAMES
    # Autocast rounds the results of matrix products.
    return known and not torch.is_autocast_enabled("cpu") and _library() is not None


class _Sizes(ctypes.Structure):
    """As in training.cpp."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("frames", "beads", "layers", "hidden", "filters")),
        *((name, ctypes.c_int64) for name in ("half", "intervals", "activation", "threads")),
        ("cutoff", ctypes.c_double),
    )


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


def evaluate(
    config: CGSchNetConfig, positions: Tensor, parameters: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Kept]:
    """Return energies (B,), forces (B, N, 3), and what `differentiate` needs of the way.

    Parameters
    ----------
    config : CGSchNetConfig
    positions : Tensor (B, N, 3)
        Å, such that `is_supported`.
    parameters : sequence of Tensor
        Embedded beads (N, H); tables (L, G, 3, F) with value, rise to the next point, and slope
        (per interval) of each layer's filters on an even grid from 0 to the cutoff; of each layer
        the weights of `to_filters` and `update`, and those of the output.
    """
    sizes = _sizes(config, positions, parameters)
    count = _function("kept", positions)
    count.restype = ctypes.c_int64
    kept = Kept(count(ctypes.byref(sizes)), positions)
    energies, forces = positions.new_empty(len(positions)), torch.empty_like(positions)
    _function("evaluate", positions)(
        *(ctypes.byref(sizes), _pointers(parameters)),
        *map(pointer, (positions, kept.memory, energies, forces)),
    )
    return energies, forces, kept


def differentiate(
    config: CGSchNetConfig,
    positions: Tensor,
    parameters: Sequence[Tensor],
    kept: Kept,
    of_energies: Tensor,
    of_forces: Tensor,
) -> list[Tensor]:
    """Return the gradients of all parameters from those of energies (B,) and forces (B, N, 3)."""
    sizes = _sizes(config, positions, parameters)
    gradients = [torch.empty_like(parameter) for parameter in parameters]
    of_energies, directions = of_energies.contiguous(), of_forces.neg().contiguous()
    _function("differentiate", positions)(
        *(ctypes.byref(sizes), _pointers(parameters)),
        *map(pointer, (positions, kept.memory, of_energies, directions)),
        _pointers(gradients),
    )
    return gradients


def _sizes(config: CGSchNetConfig, positions: Tensor, parameters: Sequence[Tensor]) -> _Sizes:
    assert all(x.is_contiguous() and x.dtype == positions.dtype for x in (positions, *parameters))
    frames, beads, _ = positions.shape
    return _Sizes(
        frames=frames,
        beads=beads,
        layers=config.num_layers,
        hidden=config.hidden_channels,
        filters=config.num_filters,
        half=config.hidden_channels // 2,
        intervals=parameters[1].shape[1] - 1,
        activation=ACTIVATIONS.index(config.activation),
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
