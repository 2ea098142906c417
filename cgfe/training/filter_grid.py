"""FilterGrid: the grid on which filters are made once for all frames of a batch."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_debug, rank_zero_info, rank_zero_warn
from torch import Tensor
from torch_geometric.data import Batch

from cgfe.kernels.accuracy import TOLERANCE
from cgfe.kernels.training import energy_and_forces, is_supported, sufficient_intervals
from cgfe.model.schnet import CGSchNet, bead_types_of
from cgfe.reference.reference import Reference


class FilterGrid:
    """How fine the filters of a network in training are interpolated, if they are.

    Attributes
    ----------
    intervals : int, optional
        None where filters are not interpolated, or nothing is chosen yet.
    chosen : bool
        Whether something is.
    """

    def __init__(self) -> None:
        self.intervals: int | None = None
        self.chosen = False

    def choose(self, network: CGSchNet, references: Sequence[Reference]) -> None:
        """Choose the coarsest grid that holds the tolerance, but none coarser than before.

        Looked at are the starts kept of every system; where no grid holds there, or the kernels do
        not run, the network is evaluated as it is. Chosen when first needed and kept in the
        checkpoint. The shipped config's forces lose 4.2e-6 by 512 intervals before training,
        1.02e-5 after an epoch and from 0.93e-5 to 1.04e-5 in seven more, so that it is to be looked
        at again, and refined at most, at each validation of a fit: a margin would cost every step
        (a grid twice as fine 18 %).
        """
        self.chosen = True
        systems = [
            (torch.from_numpy(ref.starts.positions), torch.from_numpy(ref.system.bead_types))
            for ref in references
        ]
        before, self.intervals = self.intervals, None
        if not systems or not is_supported(next(network.parameters())):
            return
        self.intervals, error = sufficient_intervals(network, systems, before)
        if self.intervals is None:
            rank_zero_warn(
                f"Interpolated filters give energies and forces to {error:.1e} only, not to "
                f"{TOLERANCE:.0e}; the network is evaluated plainly, which is slower."
            )
        elif self.intervals != before:
            # The first choice is told; later ones would break into the progress bar.
            (rank_zero_info if before is None else rank_zero_debug)(
                f"Filters are interpolated on {self.intervals} intervals; energies and forces are "
                f"those of the network to {error:.0e}."
            )

    def energy_and_forces(
        self, network: CGSchNet, references: Sequence[Reference], batch: Batch
    ) -> tuple[Tensor, Tensor]:
        """Return the network's energies (G,) and forces (A, 3) of a batch, the fast way if any.

        They can be differentiated in training mode alone.
        """
        supported = is_supported(batch.pos)
        if supported and not self.chosen:
            self.choose(network, references)
        if not supported or self.intervals is None:
            return network.energy_and_forces(batch)
        types = bead_types_of(batch)
        with torch.set_grad_enabled(network.training and torch.is_grad_enabled()):
            frames = batch.pos.view(-1, len(types), 3)
            energy, forces = energy_and_forces(network, frames, types, self.intervals)
        return energy, forces.flatten(0, 1)

    def to_checkpoint(self) -> dict[str, Any]:
        """Return what a resumed fit needs to go on with the grid."""
        return {"intervals": self.intervals} if self.chosen else {}

    def from_checkpoint(self, content: dict[str, Any]) -> None:
        """Go on with the grid of a checkpoint, if it had chosen one."""
        self.intervals, self.chosen = content.get("intervals"), "intervals" in content
