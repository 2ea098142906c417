"""ForceMatching: the network's forces against the reference's, less the prior's."""

from typing import final

from torch import Tensor
from torch_geometric.data import Batch

from cgfe.training.losses.means import weighted_mean
from cgfe.training.losses.term import LossTerm, Prediction


@final
class ForceMatching(LossTerm):
    """Mean squared error of forces, (kcal/mol/Å)², over components, beads and frames.

    Mapped forces fluctuate about the mean force -∇W, so the loss of a perfect model is their
    thermal noise, not 0 (multiscale coarse-graining, doi 10.1063/1.2938860; for networks
    arXiv 1812.01736).

    Reads `forces` (A, 3), kcal/mol/Å, the prior's share included.

    Parameters
    ----------
    weight : float
        Per (kcal/mol/Å)².
    weighted : bool
        Frames count by their weight.
    """

    log_name = "force_mse"
    fields = ("forces",)

    def __init__(self, weight: float = 1.0, weighted: bool = False) -> None:
        super().__init__(weight, weighted)

    def forward(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Return the mean squared error."""
        residual = prediction.forces - (batch.forces - batch.prior_forces)
        weights = self.frame_weights(batch, prediction.energy)
        return weighted_mean(residual.square().mean(-1), weights[batch.batch])
