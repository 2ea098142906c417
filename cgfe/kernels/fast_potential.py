"""FastPotential: prior and tabulated network for simulation, in C++."""

import functools
import logging

from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from cgfe.errors import InputError
from cgfe.kernels.accuracy import TOLERANCE, coarsest_grid, in_float64
from cgfe.kernels.simulation import GRIDS, NativeForces, runs_natively
from cgfe.kernels.tables import network_arrays
from cgfe.model.potential import Potential
from cgfe.model.prior import PriorEnergy
from cgfe.model.prior_terms import PriorTerm
from cgfe.model.schnet import CGSchNet

log = logging.getLogger(__name__)


class FastPotential(nn.Module):
    """A Potential fixed as it was, in float32 on a CPU: energies and forces, no autograd.

    Parameters
    ----------
    native : NativeForces
    bead_types : LongTensor (N,)
    """

    bead_types: Tensor

    def __init__(self, native: NativeForces, bead_types: Tensor) -> None:
        super().__init__()
        self.native = native
        self.register_buffer("bead_types", bead_types)

    def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return energies (B,) in kcal/mol and forces (B, N, 3) in kcal/mol/Å.

        Raises
        ------
        InputError
            If the number of beads is not the potential's, or positions are not float32 on a CPU.
        """
        if positions.shape[-2] != len(self.bead_types):
            raise InputError(
                f"positions have {positions.shape[-2]} beads, but the potential is of "
                f"{len(self.bead_types)} beads."
            )
        if not runs_natively(positions):
            raise InputError(
                f"positions are {positions.dtype} on {positions.device}, "
                "expected the fast potential's torch.float32 on cpu."
            )
        return self.native.energy_and_forces(positions)


def accelerated(potential: Potential, frames: Tensor) -> Potential | FastPotential:
    """Return the same potential made for simulation, fixed as it is now.

    The filters of a network are tabulated, and must then give its energies and forces within 1e-5
    of those in float64. If they do not, or prior or network are of another kind than cgfe's, or
    the kernel does not run (on a GPU, in float64, without a compiler), the potential itself is
    returned, whose forces are autograd's.

    Parameters
    ----------
    potential : Potential
    frames : Tensor (F, N, 3)
        Å, real frames on which the forces are checked (32 at most, evenly chosen).

    Raises
    ------
    InputError
        If the frames do not have the potential's beads.
    """
    prior, network, types = potential.prior, potential.network, potential.bead_types
    if not isinstance(prior, PriorEnergy) or not isinstance(network, CGSchNet | None):
        return potential
    numbers = [x for x in potential.state_dict().values() if x.is_floating_point()]
    if not all(map(runs_natively, numbers)):
        _say_once(
            f"Forces are evaluated by autograd: they are in {numbers[0].dtype} on {types.device}, "
            "and the C++ kernel, if there is a compiler, takes torch.float32 on cpu."
        )
        return potential
    if network is None:
        return FastPotential(NativeForces(len(types), _terms(prior)), types)
    exact = in_float64(network)
    # Checked as it will run, in float32.
    intervals, error = coarsest_grid(
        exact,
        [(frames, types)],
        lambda frames, types, n: _native([], exact, types, n).energy_and_forces(frames.float()),
        GRIDS,
    )
    if intervals is None:
        log.warning(
            "forces: filter tables of %d intervals give energies and forces to %.1e, expected "
            "%.0e; the network is evaluated plainly, which is slower.", GRIDS[-1], error, TOLERANCE
        )  # fmt: skip
        return potential
    return FastPotential(_native(_terms(prior), exact, types, intervals), types)


def tabulated(potential: Potential, intervals: int) -> FastPotential:
    """Return a potential made for simulation with filters on a grid that is known to be fine.

    Parameters
    ----------
    potential : Potential
        With a `PriorEnergy` and a `CGSchNet`, whose numbers `runs_natively` takes.
    intervals : int
        Of the filters' grid.
    """
    prior, network, types = potential.prior, potential.network, potential.bead_types
    assert isinstance(prior, PriorEnergy)
    assert isinstance(network, CGSchNet)
    return FastPotential(_native(_terms(prior), in_float64(network), types, intervals), types)


def _terms(prior: PriorEnergy) -> list[PriorTerm]:
    return [term for term in prior.terms.values() if isinstance(term, PriorTerm)]


def _native(terms: list[PriorTerm], exact: CGSchNet, types: Tensor, intervals: int) -> NativeForces:
    arrays = network_arrays(exact, types, intervals)
    return NativeForces(len(types), terms, exact.config, arrays)


@functools.cache
def _say_once(text: str) -> None:
    rank_zero_info(text)
