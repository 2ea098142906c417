"""NativeForces: prior and tabulated network in one C++ kernel, for float32 on a CPU."""

import ctypes
import weakref
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cgfe.model.prior import TERMS
from cgfe.model.prior_terms import PriorTerm
from cgfe.native import in_parallel, library

if TYPE_CHECKING:
    from cgfe.kernels.tabulated import TabulatedNetwork

ACTIVATIONS = ("tanh", "silu")
"""In the order of simulation.cpp."""


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


def runs_natively(positions: Tensor, network: "TabulatedNetwork | None") -> bool:
    """Say whether the kernel takes such positions: float32, on a CPU, and it can be compiled."""
    dtypes = {positions.dtype} if network is None else {positions.dtype, network.table.dtype}
    fits = positions.device.type == "cpu" and dtypes == {torch.float32}
    return fits and library("simulation") is not None


class NativeForces:
    """Energies, forces and Langevin steps of a fixed potential, by the C++ kernel.

    Replicas are spread over torch's number of threads; no result depends on it.

    Parameters
    ----------
    terms : list of PriorTerm
        The prior's.
    network : TabulatedNetwork or None
    beads : int
    """

    def __init__(
        self, terms: list[PriorTerm], network: "TabulatedNetwork | None", beads: int
    ) -> None:
        kernel = library("simulation")
        assert kernel is not None, "asked for where runs_natively is false"
        self._kernel = kernel
        sizes = _Sizes(beads=beads)
        values = [] if network is None else _network_values(network, sizes)
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
        scales: tuple[Tensor, Tensor],
        state: tuple[Tensor, Tensor, Tensor, Tensor],
    ) -> None:
        """Take all replicas through some BAOAB steps, in place.

        Parameters
        ----------
        dynamics : Dynamics
        scales : Tensor (N, 3), two
            What half a step's force adds to a velocity, and a standard normal number.
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


def _network_values(network: "TabulatedNetwork", sizes: _Sizes) -> list[Tensor]:
    """Return the network's numbers in the order in which the kernel reads them."""
    config = network.network.config
    sizes.layers, sizes.intervals = config.num_layers, network.intervals
    sizes.hidden, sizes.filters = config.hidden_channels, config.num_filters
    sizes.half, sizes.cutoff = config.hidden_channels // 2, config.cutoff
    sizes.activation = ACTIVATIONS.index(config.activation)
    values = [network.embedded]
    tables = network.table.unflatten(0, (config.num_layers, network.intervals + 1, -1))
    for block, table in zip(network.network.interactions, tables, strict=True):
        # The kernel skips pairs beyond the cutoff, of which the last row is made.
        values += [*_weights(block.to_filters), *_weights(block.update), table[:-1]]
    return values + _weights(network.network.output)


def _weights(module: nn.Module | Tensor) -> list[Tensor]:
    assert isinstance(module, nn.Module)
    return [parameter.detach() for parameter in module.parameters()]


def _joined(tensors: list[Tensor], dtype: torch.dtype) -> Tensor:
    # Never empty: an empty tensor has no address.
    return torch.cat([*(t.flatten().to("cpu", dtype) for t in tensors), torch.zeros(1).to(dtype)])


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    """Return the address of a tensor's numbers; the tensor must be kept while it is used."""
    return ctypes.c_void_p(tensor.data_ptr())
