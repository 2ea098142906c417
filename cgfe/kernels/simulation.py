"""NativeForces: prior and tabulated network in one C++ kernel, for float32 on a CPU."""

import ctypes
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

from cgfe.kernels.tables import TENSORS_OF_LAYER, activation_number, cubic_coefficients
from cgfe.model.prior import TERMS
from cgfe.model.prior_terms import PriorTerm
from cgfe.model.schnet import CGSchNetConfig
from cgfe.native import in_parallel, library

GRIDS = (256, 512, 1024, 2048, 4096, 8192, 16384)
"""Intervals of filter tables; finer ones would leave the caches."""


class _Sizes(ctypes.Structure):
    """Numbers of beads, layers, channels, table intervals and terms, as in simulation.cpp."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("beads", "layers", "hidden", "filters", "half")),
        *((name, ctypes.c_int32) for name in ("intervals", "activation", *TERMS)),
        ("cutoff", ctypes.c_float),
    )


class Dynamics(ctypes.Structure):
    """How `NativeForces.advance` steps, as in simulation.cpp.

    Attributes
    ----------
    half_step : float
        Half a time step in ps.
    damping : float
        What friction leaves of a velocity in a step; 1 is no friction and no noise.
    seed, first_step : int
        Noise depends on these, the replica and the bead alone.
    steps : int
    """

    _fields_ = (
        ("half_step", ctypes.c_float),
        ("damping", ctypes.c_float),
        ("seed", ctypes.c_uint64),
        ("first_step", ctypes.c_uint64),
        ("steps", ctypes.c_int32),
    )


def runs_natively(numbers: Tensor) -> bool:
    """Say whether the kernel takes such numbers: float32, on a CPU, and it can be compiled."""
    fits = numbers.device.type == "cpu" and numbers.dtype == torch.float32
    return fits and library("simulation") is not None


class NativeForces:
    """Energies, forces and Langevin steps of a fixed potential, by the C++ kernel.

    Replicas are spread over torch's number of threads; no result depends on it.

    Parameters
    ----------
    beads : int
    terms : sequence of PriorTerm
        The prior's.
    config : CGSchNetConfig, optional
        Of the network, if there is one.
    arrays : sequence of Tensor
        The network, from `network_arrays`. Best in float64: of differences of float32 values on a
        fine grid little would be left.
    """

    def __init__(
        self,
        beads: int,
        terms: Sequence[PriorTerm],
        config: CGSchNetConfig | None = None,
        arrays: Sequence[Tensor] = (),
    ) -> None:
        kernel = library("simulation")
        assert kernel is not None, "asked for where runs_natively is false"
        self._kernel = kernel
        sizes = _Sizes(beads=beads)
        values = [] if config is None else _network_values(config, arrays, sizes)
        indices = []
        kinds = list(TERMS.values())
        for term in sorted(terms, key=lambda term: kinds.index(type(term))):
            name, count = list(TERMS)[kinds.index(type(term))], len(term.index)
            setattr(sizes, name, getattr(sizes, name) + count)
            columns = [getattr(term, parameter) for parameter in term.parameter_names]
            values.append(torch.cat([c[:, None].flatten(1) for c in columns], dim=1))
            indices.append(term.index)
        floats, integers = _joined(values, torch.float32), _joined(indices, torch.int32)
        kernel.potential_new.restype = ctypes.c_void_p
        pointers = pointer(floats), pointer(integers)
        self._potential = ctypes.c_void_p(kernel.potential_new(ctypes.byref(sizes), *pointers))
        weakref.finalize(self, kernel.potential_delete, self._potential)

    def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return energies (R,) in kcal/mol and forces (R, N, 3) in kcal/mol/Å.

        Parameters
        ----------
        positions : Tensor (R, N, 3), float32
            Å.
        """
        positions = positions.detach().contiguous()
        energies, forces = positions.new_empty(len(positions)), torch.empty_like(positions)
        pointers = [pointer(tensor) for tensor in (positions, energies, forces)]

        def evaluate(begin: int, end: int) -> None:
            self._kernel.potential_evaluate(self._potential, *pointers, begin, end)

        in_parallel(evaluate, len(positions), torch.get_num_threads())
        return energies, forces

    def advance(
        self,
        dynamics: Dynamics,
        scales: tuple[Tensor, Tensor, Tensor],
        state: tuple[Tensor, Tensor, Tensor, Tensor],
    ) -> None:
        """Take all replicas through some BAOAB steps, in place.

        Parameters
        ----------
        dynamics : Dynamics
        scales : Tensor (N, 3), (N, 3), (R,)
            What half a step's force adds to a velocity, and a standard normal number; the last,
            of each replica, multiplies the second.
        state : Tensor (R, N, 3), (R, N, 3), (R,), (R, N, 3)
            Positions in Å, velocities in Å/ps, energies, and the forces at the positions; all
            contiguous and float32.
        """
        pointers = [pointer(tensor) for tensor in (*scales, *state)]

        def steps(begin: int, end: int) -> None:
            self._kernel.potential_advance(
                self._potential, ctypes.byref(dynamics), *pointers, begin, end
            )

        in_parallel(steps, len(state[0]), torch.get_num_threads())


def _network_values(
    config: CGSchNetConfig, arrays: Sequence[Tensor], sizes: _Sizes
) -> list[Tensor]:
    """Return the network's numbers in the order in which the kernel reads them."""
    embedded, tables, *weights = arrays
    polynomials = cubic_coefficients(tables)
    sizes.layers, sizes.intervals = polynomials.shape[:2]
    sizes.hidden, sizes.filters = config.hidden_channels, config.num_filters
    sizes.half, sizes.cutoff = config.hidden_channels // 2, config.cutoff
    sizes.activation = activation_number(config)
    values = [embedded]
    for layer, table in enumerate(polynomials):
        first = TENSORS_OF_LAYER * layer
        values += [*weights[first : first + TENSORS_OF_LAYER], table]
    return values + weights[TENSORS_OF_LAYER * sizes.layers :]


def _joined(tensors: list[Tensor], dtype: torch.dtype) -> Tensor:
    # Never empty: an empty tensor has no address.
    return torch.cat([*(t.flatten().to("cpu", dtype) for t in tensors), torch.zeros(1).to(dtype)])


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    """Return the address of a tensor's numbers; the tensor must be kept while it is used."""
    return ctypes.c_void_p(tensor.data_ptr())
