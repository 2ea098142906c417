"""FastPotential: prior and tabulated network for simulation, in C++ or compiled where possible."""

import logging
from collections.abc import Callable

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from cgfe.errors import InputError
from cgfe.kernels.prior_forces import PriorForces, terms_of
from cgfe.kernels.simulation import NativeForces, runs_natively
from cgfe.kernels.tabulated import TableError, TabulatedNetwork, joined
from cgfe.model.potential import Potential
from cgfe.model.prior import PriorEnergy
from cgfe.model.schnet import CGSchNet

log = logging.getLogger(__name__)

MOST_COMPILED_BEADS = 24
"""The diagonals of the pair matrix are unrolled, and compiling takes longer with each."""
FEWEST_COMPILED_STEPS = 20_000
"""Steps from which compiling for a GPU pays back: about half a minute against one to two
milliseconds of calls a step. An estimate, since it was not measured."""

Function = Callable[[Tensor], tuple[Tensor, Tensor]]


class FastPotential(nn.Module):
    """Prior and network as `Potential`, for simulation alone: energies and forces, no autograd.

    In float32 on a CPU the C++ kernel runs (`NativeForces`), on a GPU the torch code, compiled by
    `torch.compile` for long simulations of few beads, and where there is no compiler, the torch
    code as it is.

    Parameters
    ----------
    prior : PriorEnergy
    network : TabulatedNetwork or None
    bead_types : LongTensor (N,)
    """

    bead_types: Tensor

    def __init__(
        self, prior: PriorEnergy, network: TabulatedNetwork | None, bead_types: Tensor
    ) -> None:
        super().__init__()
        self.prior = PriorForces(prior)
        self.network = network
        self.register_buffer("bead_types", bead_types)
        self.expected_steps = 0
        """How often forces are about to be asked for; a simulation says so."""
        self._native: NativeForces | None = None
        self._compiled: Function | None = None

    def native(self, positions: Tensor) -> NativeForces | None:
        """Return the C++ kernel of this potential, if it takes positions (R, N, 3) like these."""
        if not runs_natively(positions, self.network):
            return None
        if self._native is None:
            beads = len(self.bead_types)
            self._native = NativeForces(terms_of(self.prior.terms), self.network, beads)
        return self._native

    def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return energies (B,) in kcal/mol and forces (B, N, 3) in kcal/mol/Å.

        Raises
        ------
        InputError
            If the number of beads is not the potential's.
        """
        if positions.shape[-2] != len(self.bead_types):
            raise InputError(
                f"positions have {positions.shape[-2]} beads, but the potential is of "
                f"{len(self.bead_types)} beads."
            )
        native = self.native(positions)
        if native is not None:
            return native.energy_and_forces(positions)
        parts = [positions] if self.network is None else self.network.split(positions)
        with torch.no_grad():
            if self._compiled is None:
                self._compiled = self._compile(parts[0])
            return joined([self._compiled(part) for part in parts])

    def _evaluate(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        energy, forces = self.prior(positions)
        if self.network is None:
            return energy, forces
        of_network = self.network.energy_and_forces(positions)
        return energy + of_network[0], forces + of_network[1]

    def _compile(self, positions: Tensor) -> Function:
        """Return the function to call from now on, compiled on a GPU where it pays back."""
        if positions.device.type == "cpu":
            return self._evaluate
        steps, beads = self.expected_steps, len(self.bead_types)
        if steps < FEWEST_COMPILED_STEPS or beads > MOST_COMPILED_BEADS:
            if steps:  # else it is no simulation that asks
                rank_zero_info(f"Forces are not compiled for {steps:,} steps of {beads} beads.")
            return self._evaluate
        rank_zero_info(f"Forces are compiled for {steps:,} steps.")
        compiled = torch.compile(self._evaluate, dynamic=False, mode="reduce-overhead")

        def replay(positions: Tensor) -> tuple[Tensor, Tensor]:
            energy, forces = compiled(positions)
            return energy.clone(), forces.clone()  # the next call overwrites its own

        try:
            replay(positions)
        except Exception as error:  # whatever a missing or broken compiler raises
            reason = str(error).strip().partition("\n")[0]
            log.warning("forces: not compiled, which is slower: %s", reason)
            return self._evaluate
        return replay


def accelerated(potential: Potential, frames: Tensor) -> Potential | FastPotential:
    """Return the same potential made for simulation, fixed as it is now.

    A network is tabulated (`TabulatedNetwork`) and must give forces within 1e-5 of its own in
    float64. If it does not, or prior or network are of another kind than cgfe's, the potential
    itself is returned.

    Parameters
    ----------
    potential : Potential
    frames : Tensor (F, N, 3)
        Å, real frames on which the forces are checked.
    """
    network = None
    if not isinstance(potential.prior, PriorEnergy):
        return potential
    if potential.network is not None:
        if not isinstance(potential.network, CGSchNet):
            return potential
        try:
            network = TabulatedNetwork(potential.network, potential.bead_types, frames)
        except TableError as error:
            log.warning("forces: %s; the network is evaluated plainly, which is slower.", error)
            return potential
    return FastPotential(potential.prior, network, potential.bead_types)
