"""FastPotential: prior and tabulated network for simulation, compiled where that pays."""

import logging
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from cgfe.errors import InputError
from cgfe.fast_forces import TabulatedNetwork, joined
from cgfe.prior_forces import PriorForces
from cgfe.priors import PriorEnergy

log = logging.getLogger(__name__)

COMPILE_PAYS_STEPS, COMPILE_PAYS_FILTERS = 50_000, 250_000_000
"""Compiling takes 10 to 30 s on a slow core. It saves half a millisecond or more a step, and with
many replicas about 0.12 µs for each step, replica, layer and channel (at ten beads)."""
MOST_COMPILED_BEADS = 24
"""The diagonals of the pair matrix are unrolled, and compiling takes longer with each."""

Compile = Literal["auto", "always", "never"]


class FastPotential(nn.Module):
    """Prior and network as `Potential`, for simulation alone: energies and forces, no autograd.

    Parameters
    ----------
    prior : PriorEnergy
    network : TabulatedNetwork or None
    bead_types : LongTensor (N,)
    steps : int
        Calls planned, from which "auto" judges whether compiling pays.
    compile : "auto", "always" or "never"
        Compile prior and network with `torch.compile`. "auto" does so where the steps planned
        pay for it.
        Without a working compiler everything runs uncompiled.
    """

    bead_types: Tensor

    def __init__(
        self,
        prior: PriorEnergy,
        network: TabulatedNetwork | None,
        bead_types: Tensor,
        steps: int = 0,
        compile: Compile = "auto",
    ) -> None:
        super().__init__()
        if compile not in ("auto", "always", "never"):
            raise InputError(f"compile is {compile!r}, expected auto, always or never.")
        self.prior = PriorForces(prior)
        self.network = network
        self.register_buffer("bead_types", bead_types)
        self.steps, self.compile_when = steps, compile
        self._function: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None

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
        parts = [positions] if self.network is None else self.network.split(positions)
        if self._function is None:
            self._function = self._choose(parts[0], len(positions))
        with torch.no_grad():
            return joined([self._function(part) for part in parts])

    def _evaluate(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        energy, forces = self.prior(positions)
        if self.network is None:
            return energy, forces
        of_network = self.network.energy_and_forces(positions)
        return energy + of_network[0], forces + of_network[1]

    def _choose(
        self, positions: Tensor, replicas: int
    ) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Return the function to call from now on, compiled if it pays and can be."""
        size = 0 if self.network is None else self.network.filters_per_pair
        pays = len(self.bead_types) <= MOST_COMPILED_BEADS and (
            self.steps >= COMPILE_PAYS_STEPS or self.steps * replicas * size >= COMPILE_PAYS_FILTERS
        )
        if self.compile_when == "never" or (self.compile_when == "auto" and not pays):
            log.info("forces: filter tables, not compiled (%d replicas)", replicas)
            return self._evaluate
        compiled = torch.compile(self._evaluate, dynamic=False)
        try:
            with torch.no_grad():
                compiled(positions)
        except Exception as error:  # whatever a missing or broken compiler raises
            reason = str(error).strip().partition("\n")[0]
            log.warning("forces: not compiled, which is slower: %s", reason)
            return self._evaluate
        log.info("forces: filter tables, compiled for %d replicas", replicas)
        return compiled
