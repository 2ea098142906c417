"""RelativeEntropy: the network's mean energies of sampled frames and of the model's own."""

from typing import final

from torch import Tensor
from torch_geometric.data import Batch

from cgfe.training.losses.means import weighted_mean
from cgfe.training.losses.term import LossTerm, Prediction, Setting
from cgfe.units import thermal_energy


@final
class RelativeEntropy(LossTerm):
    """What has the gradient of the relative entropy S = ∫ p_data ln(p_data / p_model), in kT.

    With p_model ∝ exp(−βU) the gradient is β(⟨∂U⟩_data − ⟨∂U⟩_model) (Shell 2008, doi
    10.1063/1.2992060), that of

        β [ Σ_i a_i U(R_i) / Σ_i a_i  −  Σ_j w_j U(R_j) / M ],

    with the frames i of the batch and the chains j (`model.losses.chains`), M in all processes
    together (of several systems, in this one), which move along with the model, and their weights
    w, 1 in the mean. As a value it is no entropy, but a difference of mean energies of the network,
    logged as `relative_entropy_gap`: 0 for a perfect model, and not for it alone.

    Parameters
    ----------
    weight : float
        Per kT.
    weighted : bool
        Frames of the data count by their weight.

    Notes
    -----
    ⟨∂U⟩_data is without bias over the batch (`weighted`: but for what normalising its weights
    brings). ⟨∂U⟩_model is of chains that lag behind: it is without bias as far as their weights
    tell how the model has changed, which is right for many chains and small changes, or as far as
    they mix faster than it changes; where neither is, shares of basins are those of the last
    validation's simulation, or of the starts. Between two moves weights stand. Chains that are
    refreshed draw it towards the data, as contrastive divergence does.
    """

    log_name = "relative_entropy_gap"
    uses_chains = True
    matches_density = True

    def __init__(self, weight: float = 1.0, weighted: bool = False) -> None:
        super().__init__(weight, weighted)

    def attach(self, setting: Setting) -> None:
        """Take the chains and the temperatures."""
        self._setting = setting

    def forward(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Return the difference of mean energies in kT."""
        system = int(batch.system[0])
        data = weighted_mean(prediction.energy, self.frame_weights(batch, prediction.energy))
        chains = self._setting.chains
        assert chains is not None
        energies = chains.energies(system)
        weights = chains.own_weights(system).to(energies)
        if len(self._setting.references) > 1:
            # Processes may be at batches of different systems; so each is normalised by itself.
            weights = weights / weights.sum()
        model = (weights * energies).sum()
        kt = thermal_energy(self._setting.references[system].system.temperature_kelvin)
        return (data - model) / kt
