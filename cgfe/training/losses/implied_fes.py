"""ImpliedFES: the free-energy surface that the model implies, matched to the reference's."""

from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch_geometric.data import Batch

from cgfe.analysis.metrics import kl_divergence
from cgfe.array_types import FloatArray
from cgfe.errors import require
from cgfe.model.schnet import CGSchNet
from cgfe.simulation.evaluation import Judgement
from cgfe.training.losses.chains import Chains
from cgfe.training.losses.means import weighted_mean
from cgfe.training.losses.term import LossTerm, Prediction, Setting
from cgfe.units import thermal_energy

MOST = 100.0
"""Bins of smoothing: more is a slip."""


@final
class ImpliedFES(LossTerm):
    """KL(p_ref ‖ p_model) of the surfaces over the TICs' grid, in nats, made less on the grid.

    The free energy that the model implies in a bin b, F(b) = −kT ln p_model(b), has the gradient
    ∂F(b) = ⟨∂U⟩_b − ⟨∂U⟩, a mean over configurations in that bin less that over all; so

        ∂KL = β Σ_b p_ref(b) ∂F(b) = β Σ_b [p_ref(b) − p_model(b)] ⟨∂U⟩_b.

    ⟨∂U⟩_b is taken of frames of the data where the model lacks (p_model < p_ref) and of the model's
    chains (`model.losses.chains`) where it has too much:

        β T [ Σ_i a_i ∂U_i / Σ_i a_i  −  Σ_j c_j ∂U_j / Σ_j c_j ],   T = ½ Σ_b |p_ref − p_model|,

    a = max(0, 1 − p_model/p_ref) for the frames i of the batch, c = w max(0, 1 − p_ref/p_model) for
    the chains j of this process, w their weights, 1 in the mean of all. p_model is a running
    average of the chains' weighted histograms,
    h ← h + (now − h) / memory at each move, begun with where they begin, and anew with the
    histogram of each simulation of a validation; p_ref is the density of the training frames, 0
    outside the grid.

    Reads `surface_bin` (G,), the flat bin of the surface's grid, -1 outside.

    Parameters
    ----------
    weight : float
        Per nat.
    weighted : bool
        Frames of the data count by their weight.
    memory : float
        Moves of the chains that the running average reaches back over, at least 1.
    smoothing : float
        Bins; both densities are smoothed by a Gaussian of this standard deviation.

    Notes
    -----
    With chains alone, by p_ref / p_model, it would be the gradient of KL exactly, but say nothing
    of where they never were; and without weights a chain in a well that the others cannot reach
    would be drawn down for ever, since the chains' density there does not grow as the well does
    (tried: after 140 steps at the shipped learning rate chains were at −27 ± 47 kcal/mol, the data
    at 42 ± 16). Of frames the direction is exact
    where the data's mean in a bin is the model's, and else draws to structures of the data; in
    either case it is 0 where p_model = p_ref, and what the model has never visited is drawn down
    too. Of the data no configuration has a weight above 1, but where few of a batch are where the
    model lacks they decide alone; chains are normalised in each process by itself.

    With smoothing the pull is of the smoothed surfaces, whose divergence is the value: it is 0
    where they are alike, but no longer the value's gradient bin by bin.

    It has the chains' own bias (see `RelativeEntropy`), and that of the memory, which trades two
    errors: a long one has the p_model of a model of so many moves ago, so that the term goes on
    pushing where it has arrived, and swings about it; a short one has few visits of a bin, and
    takes chance for a difference: noise in the gradient, a value that is too large, and in bins of
    few visits a pull downwards that does not end at the reference.
    """

    log_name = "implied_fes_kl"
    fields = ("surface_bin",)
    uses_chains = True
    matches_density = True

    def __init__(
        self,
        weight: float = 1.0,
        weighted: bool = False,
        memory: float = 20.0,
        smoothing: float = 1.0,
    ) -> None:
        super().__init__(weight, weighted)
        self.memory, self.smoothing = memory, smoothing
        self._sampled: dict[int, FloatArray] = {}

    def check_settings(self) -> None:
        """Check memory and smoothing."""
        good = 1 <= self.memory < np.inf
        require(good, self.key("memory"), self.memory, "at least 1, and finite")
        good, within = 0 <= self.smoothing <= MOST, f"at least 0 and at most {MOST}"
        require(good, self.key("smoothing"), self.smoothing, within)

    def attach(self, setting: Setting) -> None:
        """Make a histogram of each system, of where the chains begin."""
        self._setting = setting
        for system in range(len(setting.references)):
            self.register_buffer(f"visits_{system}", torch.from_numpy(self._visited(system)))

    def after_simulation(self, system: int, network: CGSchNet, judgement: Judgement) -> None:
        """Take the histogram of a simulation in place of the chains'."""
        density = judgement.density.ravel()
        if len(judgement.tics):  # or no replica stayed whole
            found = np.append(density, 1 - density.sum())
            self._visits(system).copy_(torch.from_numpy(found))

    def after_move(self) -> None:
        """Add where the chains are now."""
        for system in range(len(self._setting.references)):
            visits = self._visits(system)
            visits.lerp_(torch.from_numpy(self._visited(system)).to(visits), 1 / self.memory)

    def forward(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Return the divergence."""
        system = int(batch.system[0])
        reference = self._setting.references[system]
        shape = self._shape(system)
        if system not in self._sampled:
            density = reference.ensembles.train.probability.ravel()
            self._sampled[system] = smoothed(np.append(density, 0.0), shape, self.smoothing)
        visits = self._visits(system).double().cpu().numpy()
        sampled, visited = self._sampled[system], smoothed(visits, shape, self.smoothing)
        lacking, excess = _share_above(sampled, visited), _share_above(visited, sampled)
        energies = self._chains.energies(system)
        of_frames = torch.from_numpy(lacking).to(prediction.energy)[batch.surface_bin]
        of_frames = of_frames * self.frame_weights(batch, prediction.energy)
        bins = self._bins(system, self._chains.own(system))
        weights = self._chains.own_weights(system).to(energies)
        of_chains = torch.from_numpy(excess[bins]).to(energies) * weights
        pull = weighted_mean(prediction.energy, of_frames) - weighted_mean(energies, of_chains)
        # Nothing where one of the two has none to move.
        both = float(of_frames.sum() > 0 and of_chains.sum() > 0)
        distance = both * np.abs(sampled - visited).sum() / 2
        pull = pull * distance / thermal_energy(reference.system.temperature_kelvin)
        # The value is the divergence, the gradient that of the pull.
        return pull - pull.detach() + kl_divergence(sampled, visited)

    def extra_repr(self) -> str:
        """Describe the settings."""
        own = f"memory={self.memory:g}, smoothing={self.smoothing:g}"
        return f"{super().extra_repr()}, {own}"

    @property
    def _chains(self) -> Chains:
        assert self._setting.chains is not None
        return self._setting.chains

    def _visits(self, system: int) -> Tensor:
        return self.get_buffer(f"visits_{system}")

    def _visited(self, system: int) -> FloatArray:
        """Return the weighted share (B + 1,) of chains in each bin, the last: outside."""
        bins, shape = self._bins(system, self._chains.positions(system)), self._shape(system)
        weights = self._chains.weights(system).double().cpu().numpy()
        return np.bincount(bins, weights, minlength=shape[0] * shape[1] + 1) / weights.sum()

    def _shape(self, system: int) -> tuple[int, int]:
        return self._setting.references[system].projection.grid.shape

    def _bins(self, system: int, positions: Tensor) -> NDArray[np.int64]:
        """Return the place of each configuration (m,) in the histogram, the last: outside."""
        projection = self._setting.references[system].projection
        bins = projection.grid.bin_index(projection.tica.project(positions.cpu().numpy()))
        shape = projection.grid.shape
        return np.where(bins < 0, shape[0] * shape[1], bins)


def smoothed(density: FloatArray, shape: tuple[int, int], smoothing: float) -> FloatArray:
    """Return a density (B + 1,), its last what is outside, smoothed on the grid; its sum is 1."""
    inside = density[:-1].reshape(shape)
    if smoothing > 0:
        inside = ndimage.gaussian_filter(inside, smoothing, mode="constant")
    found = np.append(inside, density[-1])
    return np.asarray(found / found.sum())


def _share_above(density: FloatArray, other: FloatArray) -> FloatArray:
    """Return by how much of itself a density (B + 1,) is above another; 0 where it is below."""
    above = np.maximum(density - other, 0)
    return np.divide(above, density, out=np.zeros_like(above), where=above > 0)
