"""MeanEnergyMatching: mean energies of TIC bins against what the reference's surface tells."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from torch_geometric.data import Batch

from cgfe.errors import InputError
from cgfe.reference.reference import Reference
from cgfe.training.losses.gauge import GaugedTerm
from cgfe.training.losses.means import group_means, weighted_mean
from cgfe.training.losses.term import Prediction


@final
class MeanEnergyMatching(GaugedTerm):
    """Mean squared error of the mean energies of TIC bins, (kcal/mol)².

    The weighted mean of network plus prior energy over the frames of one bin is compared with the
    bin's target F + T S, since a surface over TICs says something about conditional means and
    nothing about single frames:

        Σ_b m_b [ Σ_{i∈b} w_i U(R_i) / Σ_{i∈b} w_i  −  (F_b + T S_b) − c ]² / Σ_b m_b,

    over the bins b of a batch, m_b their number of frames (`weighted`: their summed weight) and c
    the gauge's constant. It needs no simulation.

    Reads `tic_bin` (G,), -1 outside the grid, and `bin_target` (G,), kcal/mol, the target of each
    frame's bin.

    Parameters
    ----------
    weight : float
        Per (kcal/mol)².
    gauge : "fixed", "centred" or "learned"
        What is done about the targets' arbitrary constant. fixed: nothing. centred: each system's
        mean residual in the batch is removed. learned: one offset per system is trained.
    weighted : bool
        Bins count by the summed weight of their frames, not by their number.

    Notes
    -----
    Means are over the frames in the batch. With n frames of a bin, their squared error exceeds that
    of the true mean by the variance within the bin over n, so that in expectation the term is

        Σ_b p_b r_b²  +  1/B Σ_b v_b

    with p_b, r_b and v_b the bin's share of the frames, residual of its mean and variance of its
    energies, and B the frames of a batch of one process: every bin's variance counts alike, however
    rare it is, and more in small batches. Of chignolin with B = 128 it is most of the value (4.5 of
    4.8). It draws the energies of a bin together, which T S, an upper bound where a bin holds
    several conformations, assumes; without it results were worse (docs, choices).

    T S is by a quasi-harmonic estimate. Of two models whose energies are known it was twice what it
    should be (slope 2.0, correlation 0.95 and 0.99), so that targets were off by 2 kcal/mol, as
    much as the true means vary: right in the order of bins alone.
    """

    log_name = "mean_energy_mse"
    fields = ("tic_bin", "bin_target")

    def check(self, names: Sequence[str], references: Sequence[Reference]) -> None:
        """Check that some bin of every system has a target.

        Raises
        ------
        InputError
            If the frames are too few to know any.
        """
        for name, reference in zip(names, references, strict=True):
            if not reference.labels.knows_bins:
                raise InputError(
                    f"{name}: no TIC bin holds enough frames to match mean energies; use fewer "
                    "reference.target_bins, more frames, or the labels of single frames."
                )

    def forward(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Return the mean squared error."""
        weights = self.frame_weights(batch, prediction.energy)
        energy = self.gauge.shifted(prediction.energy + batch.prior_energy, batch.system)
        residual, mass, system = _bin_residuals(energy, weights, batch)
        return weighted_mean(self.gauge.centred(residual, mass, system).square(), mass)


def _bin_residuals(energy: Tensor, weights: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Average the residuals of each system's bins: means, summed weights, systems (K,)."""
    inside = batch.tic_bin >= 0
    system, tic_bin = batch.system[inside], batch.tic_bin[inside]
    residual = (energy - batch.bin_target)[inside]
    # One number for each pair: `unique` along a dimension compares one row at a time.
    bins = int(tic_bin.max()) + 1 if len(tic_bin) else 1
    keys, group = (system * bins + tic_bin).unique(return_inverse=True)
    # The targets are equilibrium means, so the frames of a bin count by their weight even where
    # bins, and the forces, count by their number of frames.
    own = batch.weight[inside].to(energy.dtype) if "weight" in batch else weights[inside]
    means, mass = group_means(residual, own, group, len(keys))
    totals = group_means(residual, weights[inside], group, len(keys))[1]
    return means, torch.where(mass > 0, totals, 0.0), keys // bins
