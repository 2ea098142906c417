"""EnergyMatching: the energy term of arXiv 2509.14600, a label for each frame."""

from typing import final

from torch import Tensor
from torch_geometric.data import Batch

from cgfe.training.losses.gauge import GaugedTerm
from cgfe.training.losses.means import weighted_mean
from cgfe.training.losses.term import Prediction


@final
class EnergyMatching(GaugedTerm):
    """Mean squared error of energies, (kcal/mol)², against labels of single frames.

    The network's energy is compared with a label less the prior's energy (arXiv 2509.14600):

        1/G Σ_i [ U_network(R_i) − (E_i − U_prior(R_i)) − c ]²,   E_i = −kT ln p(s_i),

    with the density p of the TICs s (`data.reference.label_estimator`: a product of marginals, or
    joint) and the gauge's constant c. As an estimate of the energy it is wrong by kT ln Ω(s), the
    room that beads have at s, however many frames there are.

    Reads `energy_label` (G,), kcal/mol.

    Parameters
    ----------
    weight : float
        Per (kcal/mol)².
    gauge : "fixed", "centred" or "learned"
        What is done about the labels' arbitrary constant. fixed: nothing. centred: each system's
        mean residual in the batch is removed. learned: one offset per system is trained.
    weighted : bool
        Frames count by their weight.
    """

    log_name = "energy_mse"
    fields = ("energy_label",)

    def forward(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Return the mean squared error."""
        weights = self.frame_weights(batch, prediction.energy)
        energy = self.gauge.shifted(prediction.energy + batch.prior_energy, batch.system)
        residual = self.gauge.centred(energy - batch.energy_label, weights, batch.system)
        return weighted_mean(residual.square(), weights)
