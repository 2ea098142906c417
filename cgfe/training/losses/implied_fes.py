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

    a = max(0, 1 − p_model/p_ref) for the frames i of the batch, c = max(0, 1 − p_ref/p_model) for
    the chains j of this process. p_model is a running average of the chains' histograms,
    h ← h + (now − h) / memory at each move, begun anew with the histogram of each simulation of a
    validation; p_ref is the density of the training frames, 0 outside the grid.

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
    With chains alone, reweighted by p_ref / p_model, it would be the gradient of KL exactly, but a
    chain in a well that the others cannot reach would be drawn down for ever, since the chains'
    density there does not grow as the well does (tried: after 140 steps at the shipped learning
    rate chains were at −27 ± 47 kcal/mol, the data at 42 ± 16). Of frames the direction is exact
    where the data's mean in a bin is the model's, and else draws to structures of the data; in
    either case it is 0 where p_model = p_ref, and what the model has never visited is drawn down
    too. No configuration has a weight above 1, but where few of a batch are where the model lacks
    they decide alone.

    It has the chains' own bias (see `RelativeEntropy`), and that of the memory, which trades two
    errors: a long one has the p_model of a model of so many moves ago, so that the term goes on
    pushing where it has arrived, and swings about it; a short one has few visits of a bin, and
    takes chance for a difference, as noise in the gradient and in the value, which chance makes
    too large.
    """

    log_name = "implied_fes_kl"
    fields = ("surface_bin",)
    uses_chains = True

    def __init__(
        self,
        weight: float = 1.0,
        weighted: bool = False,
        memory: float = 20.0,
        smoothing: float = 1.0,
    ) -> None:
        super().__init__(weight, weighted)
        self.memory, self.smoothing = memory, smoothing

    def check_settings(self) -> None:
        """Check memory and smoothing."""
        good = 1 <= self.memory < np.inf
        require(good, self.key("memory"), self.memory, "at least 1, and finite")
        good, within = 0 <= self.smoothing <= MOST, f"at least 0 and at most {MOST}"
        require(good, self.key("smoothing"), self.smoothing, within)

    def attach(self, setting: Setting) -> None:
        """Make room for the histogram of each system."""
        self._setting = setting
        for system, reference in enumerate(setting.references):
            bins = reference.projection.grid.shape
            room = torch.zeros(bins[0] * bins[1] + 1, dtype=torch.float64)
            self.register_buffer(f"visits_{system}", room)

    def after_simulation(self, system: int, network: CGSchNet, judgement: Judgement) -> None:
        """Take the histogram of a simulation in place of the chains'."""
        density = judgement.density.ravel()
        if density.any():  # or no replica stayed whole
            found = np.append(density, 1 - density.sum())
            self._visits(system).copy_(torch.from_numpy(found))

    def after_move(self) -> None:
        """Add where the chains are now."""
        for system in range(len(self._setting.references)):
            visits = self._visits(system)
            bins = self._bins(system, self._chains.positions(system))
            now = np.bincount(bins, minlength=len(visits)) / len(bins)
            share = 1 / self.memory if visits.any() else 1.0
            visits.lerp_(torch.from_numpy(now).to(visits), share)

    def forward(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Return the divergence; 0 before the chains' first move."""
        system = int(batch.system[0])
        visits, reference = self._visits(system), self._setting.references[system]
        if not visits.any():
            return prediction.energy.sum() * 0
        surface = reference.ensembles.train.probability
        sampled = smoothed(np.append(surface, 0.0), surface.shape, self.smoothing)
        visited = smoothed(visits.double().cpu().numpy(), surface.shape, self.smoothing)
        lacking, excess = _share_above(sampled, visited), _share_above(visited, sampled)
        energies = self._chains.energies(system)
        of_frames = torch.from_numpy(lacking).to(prediction.energy)[batch.surface_bin]
        of_frames = of_frames * self.frame_weights(batch, prediction.energy)
        bins = self._bins(system, self._chains.own(system))
        of_chains = torch.from_numpy(excess[bins]).to(energies)
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

    def _bins(self, system: int, positions: Tensor) -> NDArray[np.int64]:
        """Return the place of each configuration (m,) in the histogram, the last: outside."""
        projection = self._setting.references[system].projection
        bins = projection.grid.bin_index(projection.tica.project(positions.cpu().numpy()))
        return np.where(bins < 0, projection.grid.shape[0] * projection.grid.shape[1], bins)


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
