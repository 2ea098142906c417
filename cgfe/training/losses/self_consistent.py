"""SelfConsistentEnergy: labels of frames that correct what the model's free energy lacks."""

import copy
from typing import final

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from cgfe.analysis.free_energy import free_energy_difference
from cgfe.errors import require
from cgfe.kernels.fast_potential import FastPotential, accelerated
from cgfe.model.potential import Potential
from cgfe.model.schnet import CGSchNet
from cgfe.reference.reference import Reference
from cgfe.simulation.evaluation import Judgement
from cgfe.training.losses.means import group_means, weighted_mean
from cgfe.training.losses.term import LossTerm, Prediction, Setting
from cgfe.units import thermal_energy

MOST = 100.0
"""Of each setting: more is a slip."""


@final
class SelfConsistentEnergy(LossTerm):
    """Mean squared error of energies, (kcal/mol)², against self-consistent labels.

    The label of a frame with TICs s is what the model itself said of it when it was simulated last,
    corrected by what its free energy lacks there,

        E(R) = U_k(R) + damping · [F_ref(s(R)) − F_k(s(R))],

    with F_ref of the training frames and F_k of the simulation at the validation k: iterative
    Boltzmann inversion (Reith et al. 2003) along the TICs in the form of arXiv 2509.14600's loss.
    By itself it rests where F_k = F_ref, on the grid; with forces, that decide on all that the TICs
    do not tell, where their pulls on the network balance. Before the first validation that
    simulates it is 0. Constants are free: each system's mean residual in the batch is removed.

    Reads `surface_bin` (G,), the flat bin of the surface's grid, -1 outside.

    Parameters
    ----------
    weight : float
        Per (kcal/mol)².
    weighted : bool
        Frames count by their weight.
    damping : float
        Share of the correction that is made at once, above 0.
    cutoff_kt : float
        kT; corrections are cut off at so much.
    smoothing : float
        Bins; both densities are smoothed by a Gaussian of this standard deviation.

    Notes
    -----
    A label costs as much as the energy and forces of a frame: a fifth of a training step. F_k has
    the sampling error of a simulation: it is what remains of the free-energy error. The frozen
    networks U_k, one a system, and the corrections are buffers, so that a resumed fit goes on
    with them. Where the model leaves the grid nothing is corrected, and where it leaves what the
    data are like only what the network makes of its neighbours.
    """

    log_name = "self_consistent_mse"
    fields = ("surface_bin",)
    needs_simulations = True
    rounds: Tensor

    def __init__(
        self,
        weight: float = 1.0,
        weighted: bool = False,
        damping: float = 1.0,
        cutoff_kt: float = 4.0,
        smoothing: float = 1.0,
    ) -> None:
        super().__init__(weight, weighted)
        self.damping, self.cutoff_kt, self.smoothing = damping, cutoff_kt, smoothing
        self._references: list[Reference] = []
        self._fast: dict[int, Potential | FastPotential] = {}

    def check_settings(self) -> None:
        """Check damping, cutoff and smoothing."""
        good, within = 0 < self.damping <= MOST, f"above 0 and at most {MOST}"
        require(good, self.key("damping"), self.damping, within)
        good = 0 < self.cutoff_kt <= MOST
        require(good, self.key("cutoff_kt"), self.cutoff_kt, within)
        good, within = 0 <= self.smoothing <= MOST, f"at least 0 and at most {MOST}"
        require(good, self.key("smoothing"), self.smoothing, within)

    def attach(self, setting: Setting) -> None:
        """Make room for a frozen network, and for the correction of each system."""
        self._references = list(setting.references)
        # Of each system, since one may be simulated where the replicas of another all blow up.
        self.frozen = nn.ModuleList(
            copy.deepcopy(setting.network).requires_grad_(False) for _ in self._references
        )
        self.register_buffer("rounds", torch.zeros(len(self._references), dtype=torch.long))
        for system, reference in enumerate(self._references):
            bins = reference.projection.grid.shape
            self.register_buffer(f"correction_{system}", torch.zeros(bins[0] * bins[1] + 1))

    def after_simulation(self, system: int, network: CGSchNet, judgement: Judgement) -> None:
        """Freeze the network as it was simulated, and take its free energy's error."""
        if not len(judgement.tics):  # no replica stayed whole, so nothing is known
            return
        reference = self._references[system]
        difference = free_energy_difference(
            reference.ensembles.train.probability, judgement.density, self.smoothing
        )
        kt = thermal_energy(reference.system.temperature_kelvin)
        cut = difference.clip(-self.cutoff_kt, self.cutoff_kt) * self.damping * kt
        correction = self._correction(system)
        correction[:-1] = torch.from_numpy(cut.ravel()).to(correction)  # the last: outside
        self.frozen[system].load_state_dict(network.state_dict())
        self.rounds[system] += 1
        self._fast.pop(system, None)

    def forward(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Return the mean squared error; 0 before the first simulation."""
        system = int(batch.system[0])
        if not self.rounds[system]:
            return prediction.energy.sum() * 0
        weights = self.frame_weights(batch, prediction.energy)
        energy = prediction.energy + batch.prior_energy
        residual = energy - self._labels(batch, system).to(energy)
        mean = group_means(residual, weights, batch.system)[0][batch.system]
        return weighted_mean((residual - mean).square(), weights)

    def extra_repr(self) -> str:
        """Describe the settings."""
        own = f"damping={self.damping:g}, cutoff_kt={self.cutoff_kt:g}"
        return f"{super().extra_repr()}, {own}, smoothing={self.smoothing:g}"

    def _correction(self, system: int) -> Tensor:
        return self.get_buffer(f"correction_{system}")

    def _labels(self, batch: Batch, system: int) -> Tensor:
        """Return the labels (G,) of a batch of one system, kcal/mol."""
        if system not in self._fast:  # a resumed fit has the network alone
            reference = self._references[system]
            with torch.inference_mode(False):  # of tensors made in that mode, autograd keeps none
                network = copy.deepcopy(self.frozen[system]).float()  # of a fit in float64 too
                potential = reference.potential(network).to(batch.pos.device)
                starts = torch.from_numpy(reference.starts.positions)
                self._fast[system] = accelerated(potential, starts)
        positions = batch.pos.detach().float().unflatten(0, (batch.num_graphs, -1))
        energy, _ = self._fast[system].energy_and_forces(positions.contiguous())
        return energy.detach() + self._correction(system)[batch.surface_bin]
