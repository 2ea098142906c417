"""ProjectedMeanForce: forces along the TICs, averaged over frames that lie near one another."""

from typing import final

import torch
from torch import Tensor
from torch_geometric.data import Batch

from cgfe.analysis.tica import TICAProjection
from cgfe.errors import require
from cgfe.training.losses.term import LossTerm, Prediction, Setting

FEWEST = 2
"""Frames of a group: pairs are made of them."""


@final
class ProjectedMeanForce(LossTerm):
    """Mean squared error of the mean forces along the TICs, (kcal/mol)² per squared unit of a TIC.

    The slope of the free energy F along a TIC ξ is (Ciccotti et al. 2005, doi
    10.1002/cphc.200400669)

        −dF/dξ = ⟨f·v + kT ∇·v⟩_ξ,   v = ∇ξ / |∇ξ|²,

    with forces f on the beads. Between data and model, averaged over the same frames, all that
    depends on R alone cancels, and what is left of the squared difference is

        Σ_k Σ_b p_b ⟨x⟩_b²,   x = (f_data − f_prior − f_network)·v_k,

    over TICs k and groups b of frames. A batch is ordered along each TIC and cut into groups of
    equally many frames. The square of a group's mean would be biased by the forces' thermal noise,
    so products of two different frames are taken in its place,

        ⟨x⟩_b² ← Σ_{i≠j} w_i w_j x_i x_j / Σ_{i≠j} w_i w_j,

    the product of the means of two halves, averaged over all ways to halve a group.

    Reads `forces` (A, 3), kcal/mol/Å, the prior's share included.

    Parameters
    ----------
    weight : float
        Per (kcal/mol)² and squared unit of a TIC.
    weighted : bool
        Frames count by their weight.
    tics : int
        How many of the two, the slowest first.
    groups : int
        Of a batch, along each TIC; fewer in one that has no two frames for each.

    Notes
    -----
    The noise of different frames is independent, so that products have none in the mean: a perfect
    model has 0, not the noise as in force matching, and a batch may have less. A group mixes what
    differs within it, so that fewer groups tell less of the shape of F, with less noise. 0 says
    that the network's forces along each TIC are right in the mean over the *data's* frames there,
    which a model with other frames there can have too; what is across the TICs it does not see.

    Most of a batch's value is noise. Of a model trained on the forces of the embedded chignolin
    set (4 epochs of the shipped config), all training frames together have 0.95, 2.2, 2.8 and 3.1
    with 4, 8, 16 and 32 groups; batches of 256 of them have standard deviations of 18, 24, 38 and
    50, so that 8 groups tell most, and the mean of an epoch of 147 batches is good to 2. Trained
    with a weight of 0.03 or more the network takes up that noise. At weight 0 it is logged, too.

    Alone it has no lower bound: of a set of finite size, the more the errors of single frames
    differ the lower it is, by their variance over the number of frames in a group of the whole set.
    """

    log_name = "projected_mean_force"
    fields = ("forces",)

    def __init__(
        self, weight: float = 1.0, weighted: bool = False, tics: int = 2, groups: int = 8
    ) -> None:
        super().__init__(weight, weighted)
        self.tics, self.groups = tics, groups

    def check_settings(self) -> None:
        """Check the numbers of TICs and groups."""
        require(self.tics in (1, 2), self.key("tics"), self.tics, "1 or 2")
        require(self.groups > 0, self.key("groups"), self.groups, "above 0")

    def attach(self, setting: Setting) -> None:
        """Keep what the TICs of each system are made of."""
        for system, reference in enumerate(setting.references):
            shares = distance_shares(reference.projection.tica)[: self.tics]
            # Made of the reference each time, so no part of the checkpoint.
            self.register_buffer(f"shares_{system}", shares.float(), persistent=False)

    def forward(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Return the products of different frames; 0 of a batch of one frame."""
        frames = batch.num_graphs
        groups = min(self.groups, frames // FEWEST)
        if not groups:
            return prediction.forces.sum() * 0
        positions = batch.pos.unflatten(0, (frames, -1))
        shares = self.get_buffer(f"shares_{int(batch.system[0])}").to(positions)
        tics, gradients = tics_and_gradients(positions, shares)
        ways = gradients / gradients.square().sum(dim=(-2, -1), keepdim=True).clamp(min=1e-12)
        lacking = (batch.forces - batch.prior_forces - prediction.forces).view_as(positions)
        along = (lacking[:, None] * ways).sum(dim=(-2, -1))
        weights = self.frame_weights(batch, prediction.energy)
        # By rank, so that all groups have as many frames, to one.
        group = tics.argsort(dim=0).argsort(dim=0) * groups // frames
        of_each = [
            squared_mean(along[:, k], weights, group[:, k], groups) for k in range(self.tics)
        ]
        return torch.stack(of_each).sum()

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"{super().extra_repr()}, tics={self.tics}, groups={self.groups}"


def squared_mean(values: Tensor, weights: Tensor, group: Tensor, groups: int) -> Tensor:
    """Return the squared means of groups without the bias of noise, averaged by their weights.

    Parameters
    ----------
    values, weights : Tensor (G,)
        Noise of the values is independent.
    group : LongTensor (G,)
        0 to groups − 1. One without two frames of positive weight counts as 0.
    groups : int

    Returns
    -------
    Tensor ()
    """
    own = weights * values
    of_frames = torch.stack([own, own.square(), weights, weights.square()])
    sums = of_frames.new_zeros(4, groups).index_add(1, group, of_frames)
    products, pairs = sums[0].square() - sums[1], sums[2].square() - sums[3]
    known = pairs > 0
    squares = torch.where(known, products / pairs.where(known, pairs.new_ones(())), 0.0)
    return (sums[2] * squares).sum() / sums[2].sum().clamp(min=torch.finfo(sums.dtype).tiny)


def distance_shares(tica: TICAProjection) -> Tensor:
    """Return the weights (D, N, N) of the distance of each two beads in each TIC, 1/Å, in float64.

    Symmetric, with 0 on the diagonal.
    """
    first, second = torch.from_numpy(tica.pairs.copy()).T
    shares = torch.zeros(tica.components.shape[1], tica.bead_count, tica.bead_count).double()
    shares[:, first, second] = shares[:, second, first] = torch.from_numpy(tica.components.T.copy())
    return shares


def tics_and_gradients(positions: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Return TICs (G, K), up to a constant of each, and their gradients (G, K, N, 3) in 1/Å.

    Of ξ = Σ_{i<j} c_ij d_ij the gradient is ∂ξ/∂r_i = Σ_j c_ij (r_i − r_j) / d_ij.

    Parameters
    ----------
    positions : Tensor (G, N, 3)
        Å.
    shares : Tensor (K, N, N)
        Of `distance_shares`.
    """
    apart = positions[:, :, None] - positions[:, None]
    distances = apart.square().sum(-1).sqrt()
    tics = torch.einsum("kij,gij->gk", shares, distances) / 2
    # A bead is at no distance of itself, and there its share is 0.
    units = apart / distances.clamp(min=1e-6)[..., None]
    return tics, torch.einsum("kij,gijx->gkix", shares, units)
