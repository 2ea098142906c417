"""RelativeEntropy: the network's mean energies of sampled frames and of the model's own."""

from typing import final

import torch
from torch import Tensor
from torch_geometric.data import Batch

from cgfe.errors import require
from cgfe.model.schnet import CGSchNet
from cgfe.simulation.evaluation import Judgement
from cgfe.training.batches import batch_of
from cgfe.training.losses.draws import drawn
from cgfe.training.losses.means import weighted_mean
from cgfe.training.losses.term import LossTerm, Prediction, Setting, Turn
from cgfe.units import thermal_energy

KEPT = 2048
"""Frames of a simulation that are kept, in checkpoints too."""


@final
class RelativeEntropy(LossTerm):
    """What has the gradient of the relative entropy S = ∫ p_data ln(p_data / p_model), in kT.

    With p_model ∝ exp(−βU) the gradient is β(⟨∂U⟩_data − ⟨∂U⟩_model) (Shell 2008, doi
    10.1063/1.2992060), that of

        β [ Σ_i a_i U(R_i) / Σ_i a_i  −  Σ_j w_j U(R_j) / Σ_j w_j ],   w_j = exp(−β(U − U_k)(R_j)),

    with the frames i of the batch and configurations j drawn of those that the last simulation, at
    the validation k, has visited with U_k: its replicas go on from one to the next, as in
    persistent contrastive divergence (Tieleman 2008), and the weights w_j, taken as constants,
    follow the model in between. As a value it is no entropy, but a difference of mean energies of
    the network, logged as `relative_entropy_gap`: 0 for a perfect model, and not for it alone.

    The weights hold while many configurations share them: where the effective sample size
    (Σw)² / Σw² of those drawn is below a share of their number, the batch goes without the term, as
    do all before the first simulation. The share is logged as `relative_entropy_ess`, 0 for a batch
    without the term.

    Parameters
    ----------
    weight : float
        Per kT.
    weighted : bool
        Frames of the data count by their weight.
    batch_size : int
        Configurations of each step and process.
    least_share : float
        Of the effective sample size in the number of configurations, above 0 and below 1.

    Notes
    -----
    ⟨∂U⟩_data is without bias over the batch. That of the model has the bias of self-normalised
    weights, of the order of the inverse effective sample size of those drawn, and the error of the
    simulation: that it is at equilibrium is assumed. Each process draws and decides for itself. The
    configurations (2,048 at most, drawn at random) and their U_k are buffers: a resumed fit goes on
    with them.
    """

    log_name = "relative_entropy_gap"
    needs_simulations = True
    counts: Tensor
    """(systems,), configurations that are kept"""

    def __init__(
        self,
        weight: float = 1.0,
        weighted: bool = False,
        batch_size: int = 128,
        least_share: float = 0.3,
    ) -> None:
        super().__init__(weight, weighted)
        self.batch_size, self.least_share = batch_size, least_share
        self._share = torch.zeros(())

    def check_settings(self) -> None:
        """Check batch size and share."""
        require(self.batch_size > 1, self.key("batch_size"), self.batch_size, "above 1")
        good = 0 < self.least_share < 1
        require(good, self.key("least_share"), self.least_share, "above 0 and below 1")

    def attach(self, setting: Setting) -> None:
        """Make room for the configurations of each system."""
        self._setting = setting
        systems = len(setting.references)
        self.register_buffer("counts", torch.zeros(systems, dtype=torch.long))
        for system, reference in enumerate(setting.references):
            beads = len(reference.system.bead_types)
            self.register_buffer(f"positions_{system}", torch.zeros(KEPT, beads, 3))
            self.register_buffer(f"energies_{system}", torch.zeros(KEPT))

    def after_simulation(self, system: int, network: CGSchNet, judgement: Judgement) -> None:
        """Keep configurations that the network has visited, and what it says of them."""
        generator = torch.Generator().manual_seed(self._setting.seed)
        chosen = torch.randperm(len(judgement.positions), generator=generator)[:KEPT]
        count = len(chosen)
        positions, energies = self._kept(system)
        positions[:count] = torch.from_numpy(judgement.positions)[chosen].to(positions)
        with torch.no_grad():
            for start in range(0, count, self.batch_size):
                some = slice(start, min(start + self.batch_size, count))
                energies[some] = self._energy(system, positions[some])
        self.counts[system] = count

    def forward(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Return the difference; 0 before a simulation, and where too few share the weights."""
        system = int(batch.system[0])
        self._share = prediction.energy.new_zeros(())
        if not self.counts[system]:
            return prediction.energy.sum() * 0
        model, share = self._of_model(system, prediction.turn, prediction.energy)
        if not share >= self.least_share:  # no number, perhaps
            return prediction.energy.sum() * 0
        self._share = share
        weights = self.frame_weights(batch, prediction.energy)
        return (weighted_mean(prediction.energy, weights) - model) / self._kt(system)

    def figures(self) -> dict[str, Tensor]:
        """Return the share of the effective sample size."""
        return {"relative_entropy_ess": self._share}

    def extra_repr(self) -> str:
        """Describe the settings."""
        own = f"batch_size={self.batch_size}, least_share={self.least_share:g}"
        return f"{super().extra_repr()}, {own}"

    def _of_model(self, system: int, turn: Turn, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the model's mean energy, kcal/mol, and the share of the effective sample size."""
        count = int(self.counts[system])
        size = min(self.batch_size, count)
        rows = drawn(count, size, turn.number, self._setting.seed)
        positions, then = (x[rows].to(like) for x in self._kept(system))
        now = self._energy(system, positions)
        weights = torch.softmax((then - now.detach()) / self._kt(system), dim=0)
        return (weights * now).sum(), 1 / (size * weights.square().sum())

    def _energy(self, system: int, positions: Tensor) -> Tensor:
        types = torch.from_numpy(self._setting.references[system].system.bead_types)
        batch = batch_of(positions, types.to(positions.device), system)
        return self._setting.energy_and_forces(batch)[0]

    def _kept(self, system: int) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"positions_{system}"), self.get_buffer(f"energies_{system}")

    def _kt(self, system: int) -> float:
        return thermal_energy(self._setting.references[system].system.temperature_kelvin)
