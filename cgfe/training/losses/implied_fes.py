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
from cgfe.training.losses.term import LossTerm, Prediction, Setting
from cgfe.units import thermal_energy

MOST = 100.0
"""Bins of smoothing: more is a slip."""


@final
class ImpliedFES(LossTerm):
    """KL(p_ref ‖ p_model) of the surfaces over the TICs' grid, in nats, with its gradient.

    The free energy that the model implies in a bin b, F(b) = −kT ln p_model(b), has the gradient
    ∂F(b) = ⟨∂U⟩_b − ⟨∂U⟩, a mean over the model's configurations in that bin less that over all; so

        ∂KL = β Σ_b p_ref(b) ∂F(b) = β [⟨r ∂U⟩ − ⟨r⟩⟨∂U⟩],   r(b) = p_ref(b) / p_model(b),

    the covariance of r and ∂U over configurations of the model: reweighted to the reference's
    surface they would have other energies than as they are. It is estimated over the m chains of
    this process (`model.losses.chains`), β/(m − 1) Σ_j (r_j − r̄) ∂U_j, with r of the training
    frames' density and of a running average of the chains' histograms,
    h ← h + (now − h) / memory at each move, begun anew with the histogram of each simulation of a
    validation. r is 0 outside the grid and where the reference, smoothed, has no density.

    Of a surface far from the reference's few chains would have nearly all of Σ r. So r is cut off
    (truncated importance sampling, Ionides 2008, doi 10.1198/106186008X320456) at the largest value
    that leaves an effective sample size (Σ r)² / Σ r² of a given share of those with r > 0. The
    share before the cut is logged as `implied_fes_ess`; where it is below `least_share` there is
    one.

    Parameters
    ----------
    weight : float
        Per nat.
    memory : float
        Moves of the chains that the running average reaches back over, at least 1.
    smoothing : float
        Bins; both densities are smoothed by a Gaussian of this standard deviation.
    least_share : float
        Of the effective sample size, above 0 and at most 1.

    Notes
    -----
    It says nothing of what the TICs do not tell, nothing of bins that the chains have not visited,
    and has the chains' own bias (see `RelativeEntropy`). With the exact p_model, and no cut, it is
    without bias. The memory trades two errors. A long one has the p_model of a model of so many
    moves ago: the term goes on pushing where it has arrived, and swings about it. A short one has
    few visits of a bin: since h holds the chains themselves, a bin's share of ⟨r ∂U⟩ is p_ref times
    the mean of now / h, which for a model that stays the same is at most 1, by Jensen's inequality
    of now / h = memory − (memory − 1) h_before / h, and the less the fewer the visits; so bins of
    less than about one visit within the memory are held too low at the fixed point too. Smoothing
    spreads visits. The cut leaves the sign of each push but weakens those where the model lacks
    most.
    """

    log_name = "implied_fes_kl"
    uses_chains = True

    def __init__(
        self,
        weight: float = 1.0,
        memory: float = 50.0,
        smoothing: float = 1.0,
        least_share: float = 0.3,
    ) -> None:
        super().__init__(weight)
        self.memory, self.smoothing, self.least_share = memory, smoothing, least_share
        self._share = torch.zeros(())

    def check_settings(self) -> None:
        """Check memory, smoothing and share."""
        good = 1 <= self.memory < np.inf
        require(good, self.key("memory"), self.memory, "at least 1, and finite")
        good, within = 0 <= self.smoothing <= MOST, f"at least 0 and at most {MOST}"
        require(good, self.key("smoothing"), self.smoothing, within)
        good = 0 < self.least_share <= 1
        require(good, self.key("least_share"), self.least_share, "above 0 and at most 1")

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
        self._share = prediction.energy.new_zeros(())
        if not visits.any():
            return prediction.energy.sum() * 0
        model = visits.double().cpu().numpy()
        surface = reference.ensembles.train.probability
        sampled = smoothed(np.append(surface, 0.0), surface.shape, self.smoothing)
        visited = smoothed(model, surface.shape, self.smoothing)
        ratios = np.divide(sampled, visited, out=np.zeros_like(model), where=model > 0)
        ratios, share = truncated(ratios, model, self.least_share)
        self._share = prediction.energy.new_tensor(share)
        energies = self._chains.energies(system)
        chosen = torch.from_numpy(ratios[self._bins(system, self._chains.own(system))])
        pushes = (chosen - chosen.mean()).to(energies) / (len(energies) - 1)
        kt = thermal_energy(reference.system.temperature_kelvin)
        pushed = (pushes * energies).sum() / kt
        # The value is the divergence, the gradient that of the sum.
        return pushed - pushed.detach() + kl_divergence(sampled, visited)

    def figures(self) -> dict[str, Tensor]:
        """Return the share of the effective sample size before the cut."""
        return {"implied_fes_ess": self._share}

    def extra_repr(self) -> str:
        """Describe the settings."""
        own = f"memory={self.memory:g}, smoothing={self.smoothing:g}"
        return f"weight={self.weight:g}, {own}, least_share={self.least_share:g}"

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


def truncated(ratios: FloatArray, shares: FloatArray, least: float) -> tuple[FloatArray, float]:
    """Cut ratios off so that many configurations have a part in their sum.

    Parameters
    ----------
    ratios : array (B,)
        0 or more.
    shares : array (B,)
        Of the configurations that have each ratio.
    least : float
        Above 0 and at most 1.

    Returns
    -------
    ratios : array (B,)
        Cut off at the largest of them that leaves (Σ p r)² / Σ p r² at `least` times the share of
        the configurations whose ratio is not 0.
    share : float
        What it was before, as a share of these; 0 if there are none.
    """
    kept = (ratios > 0) & (shares > 0)
    if not kept.any():
        return ratios, 0.0
    order = np.argsort(ratios[kept])
    height, part = ratios[kept][order], shares[kept][order] / shares[kept].sum()
    above = np.append(np.cumsum(part[::-1])[::-1][1:], 0.0)
    total = np.cumsum(part * height) + above * height
    square = np.cumsum(part * height**2) + above * height**2
    sizes = total**2 / square  # with each ratio as the cut
    limit = height[np.flatnonzero(sizes >= min(least, sizes[0]))[-1]]
    return np.minimum(ratios, limit), float(sizes[-1])
