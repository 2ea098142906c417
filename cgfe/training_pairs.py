"""The pairs of beads in a training step: training.cpp behind torch tensors."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cgfe.native import in_parallel, library

NAMES = {torch.float32: "float", torch.float64: "double"}


def is_supported(positions: Tensor) -> bool:
    """Return whether the kernels run on this device, in this precision."""
    on_cpu = positions.device.type == "cpu" and positions.dtype in NAMES
    return on_cpu and library("training") is not None


class _Shape(ctypes.Structure):
    _fields_ = (
        ("beads", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("intervals", ctypes.c_int64),
        ("cutoff", ctypes.c_double),
    )


class Pairs:
    """The kernels of training.cpp on frames (B, N, 3); features are (B or 1, N, F)."""

    def __init__(self, positions: Tensor, tables: Tensor, cutoff: float) -> None:
        native = library("training")
        assert native is not None
        self.native, self.type = native, NAMES[positions.dtype]
        self.positions = positions
        self.tables = tables
        self.frames, beads, _ = positions.shape
        self.shape = _Shape(beads, tables.shape[-1], tables.shape[1] - 1, cutoff)

    def convolve(self, layer: int, features: Tensor) -> Tensor:
        """Return m_i = Σ_j W_ij h_j."""
        summed = self._new(features)
        self._call("convolve", features, self.positions, self.tables[layer], features, summed)
        return summed

    def pull(self, layer: int, features: Tensor, of_summed: Tensor, forces: Tensor) -> Tensor:
        """Return the gradient of `features` from that of `summed`; add to the forces."""
        given = self._new(features)
        inputs = (self.positions, self.tables[layer], features, of_summed, given, forces)
        self._call("pull", features, *inputs)
        return given

    def convolve_dual(
        self, layer: int, directions: Tensor, features: Tensor, tangents: Tensor
    ) -> Tensor:
        """Return m'_i = Σ_j W_ij h'_j + W'_ij d'_ij h_j."""
        summed = self._new(features)
        inputs = (self.positions, directions, self.tables[layer], features, tangents, summed)
        self._call("convolve_dual", features, *inputs)
        return summed

    def collect(
        self,
        directions: Tensor,
        features: Tensor,
        tangents: Tensor,
        adjoints: Tensor,
        of_summed: Tensor,
    ) -> Tensor:
        """Return the gradient of a layer's table."""
        threads = torch.get_num_threads()
        parts = features.new_zeros(threads, *self.tables.shape[1:])
        bounds = [self.frames * k // threads for k in range(threads + 1)]
        function = getattr(self.native, f"collect_{self.type}")
        inputs = (self.positions, directions, features, tangents, adjoints, of_summed)

        def part(first: int, last: int) -> None:
            for k in range(first, last):
                of_table = ctypes.c_void_p(parts[k].data_ptr())
                self._run(function, bounds[k], bounds[k + 1], features, inputs, of_table)

        in_parallel(part, threads, threads)
        return parts.sum(0)

    def _new(self, features: Tensor) -> Tensor:
        return features.new_empty(self.frames, *features.shape[1:])

    def _call(self, name: str, features: Tensor, *inputs: Tensor) -> None:
        function = getattr(self.native, f"{name}_{self.type}")

        def part(begin: int, end: int) -> None:
            self._run(function, begin, end, features, inputs)

        in_parallel(part, self.frames, torch.get_num_threads())

    def _run(
        self,
        function: Any,
        begin: int,
        end: int,
        features: Tensor,
        inputs: Sequence[Tensor],
        *last: Any,
    ) -> None:
        stride = features[0].numel() if len(features) == self.frames else 0
        pointers = [ctypes.c_void_p(x.data_ptr()) for x in inputs]
        sizes = [ctypes.c_int64(x) for x in (begin, end, stride)]
        function(ctypes.byref(self.shape), *sizes, *pointers, *last)
