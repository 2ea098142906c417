"""The pairs of beads in a training step: training.cpp behind torch tensors."""

import ctypes

import torch
from torch import Tensor

from cgfe.native import library

NAMES = {torch.float32: "float", torch.float64: "double"}


def is_supported(positions: Tensor) -> bool:
    """Return whether the kernels run on this device, in this precision."""
    known = positions.device.type == "cpu" and positions.dtype in NAMES
    # Autocast rounds the results of matrix products.
    return known and not torch.is_autocast_enabled("cpu") and _library() is not None


class _Batch(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("frames", "beads", "channels", "intervals")),
        *((name, ctypes.c_int64) for name in ("stride", "threads")),
        ("cutoff", ctypes.c_double),
    )


class Pairs:
    """The kernels on frames of one system.

    Features are (B, N, F), or (1, N, F) where all frames have the same.

    Parameters
    ----------
    positions : Tensor (B, N, 3)
        Å.
    tables : Tensor (L, G, 3, F)
        Value, rise to the next point, and slope (per interval) of each layer's filters on an even
        grid from 0 to the cutoff.
    cutoff : float
        Å.
    """

    def __init__(self, positions: Tensor, tables: Tensor, cutoff: float) -> None:
        self.positions = positions
        self.tables = tables
        self.cutoff = cutoff

    def convolve(self, layer: int, features: Tensor) -> Tensor:
        """Return m_i = Σ_j W_ij h_j."""
        summed = self._new(features)
        self._run("convolve", features, self.positions, self.tables[layer], features, summed)
        return summed

    def pull(self, layer: int, features: Tensor, of_summed: Tensor, forces: Tensor) -> Tensor:
        """Return dE/dh_j = Σ_i W_ij p_i of p = dE/dm, and add to the forces."""
        given = self._new(features)
        inputs = (self.positions, self.tables[layer], features, of_summed, given, forces)
        self._run("pull", features, *inputs)
        return given

    def convolve_dual(
        self, layer: int, directions: Tensor, features: Tensor, tangents: Tensor
    ) -> Tensor:
        """Return m'_i = Σ_j W_ij h'_j + W'_ij d'_ij h_j, along directions of the beads."""
        summed = self._new(features)
        inputs = (self.positions, directions, self.tables[layer], features, tangents, summed)
        self._run("convolve_dual", features, *inputs)
        return summed

    def collect(
        self,
        directions: Tensor,
        features: Tensor,
        tangents: Tensor,
        adjoints: Tensor,
        of_summed: Tensor,
    ) -> Tensor:
        """Return the gradient of a layer's table from the adjoints of m and of m'."""
        parts = features.new_zeros(torch.get_num_threads(), *self.tables.shape[1:])
        inputs = (self.positions, directions, features, tangents, adjoints, of_summed, parts)
        self._run("collect", features, *inputs)
        return parts.sum(0)

    def _new(self, features: Tensor) -> Tensor:
        return features.new_empty(len(self.positions), *features.shape[1:])

    def _run(self, name: str, features: Tensor, *inputs: Tensor) -> None:
        native = _library()
        assert native is not None
        assert all(x.is_contiguous() and x.dtype == features.dtype for x in inputs)
        frames, beads, _ = self.positions.shape
        _, points, _, channels = self.tables.shape
        stride = beads * channels if len(features) == frames else 0
        batch = _Batch(
            frames, beads, channels, points - 1, stride, torch.get_num_threads(), self.cutoff
        )
        function = getattr(native, f"{name}_{NAMES[features.dtype]}")
        function(ctypes.byref(batch), *(ctypes.c_void_p(x.data_ptr()) for x in inputs))


def _library() -> ctypes.CDLL | None:
    return library("training", "-fopenmp")
