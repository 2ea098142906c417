r"""Mean energy at a point of TIC space, ⟨U⟩_s = F(s) + T S(s), from frames alone.

With p(R) ∝ exp(-U(R)/kT), P(s) the share of frames in bin s and S(s) = -kB ∫ p(R|s) ln p(R|s) dR,

    ⟨U⟩_s = -kT ⟨ln p(R)⟩_s + c = -kT ln P(s) - kT ⟨ln p(R|s)⟩_s + c = F(s) + T S(s) + c

holds exactly, with one constant c for all bins. F is counted; S is estimated here.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma

from cgfe.analysis.free_energy import FreeEnergySurface, effective_sample_size
from cgfe.array_types import RealArray
from cgfe.errors import InputError
from cgfe.geometry import superpose
from cgfe.units import BOLTZMANN, thermal_energy

ALIGNMENT_TOLERANCE = 1e-3
"""Å; bins are aligned to their mean until it moves less than this, far less than beads do."""

MAX_ALIGNMENTS = 30


def internal_entropy(
    positions: RealArray,
    bin_index: NDArray[np.integer],
    weights: RealArray | None,
    bin_count: int,
) -> NDArray[np.float64]:
    """Estimate the configurational entropy of the beads within each bin.

    Quasi-harmonic (Karplus and Kushick 1981, doi 10.1021/ma50003a019): the density within a bin
    is taken as a Gaussian about the bin's mean structure, times all its rotations, so

        S = kB/2 (ln det' Σ + ln det I) + constant.

    Σ is the covariance of the bead positions superposed on their mean, det' the product of its
    3N - 6 eigenvalues that are not zero. I is the mean structure's tensor of inertia with unit
    masses: the volume of its rotations, without which an extended bin would seem as poor in
    states as a compact one of the same stiffness. The estimate is an upper bound where a bin
    holds several conformations. ln det' of a sample covariance is too small by a known amount
    for n independent Gaussian frames, which is removed (Ahmed and Gokhale 1989,
    doi 10.1109/18.30996); n is Kish's effective number. Correlated frames leave S too small.

    Bins with n below 2 (3N - 6), empty ones included, get the average of the others, each
    counted with its weight of frames: S is then taken as constant where it cannot be told.

    Parameters
    ----------
    positions : array (F, N, 3)
        Å.
    bin_index : array (F,)
        Flat bin of each frame; negative: left out.
    weights : array (F,), optional
        None: all equal.
    bin_count : int

    Returns
    -------
    array (bin_count,)
        kcal/mol/K, up to one constant.

    Raises
    ------
    InputError
        If there are fewer than three beads or no bin holds enough frames.
    """
    beads = positions.shape[1]
    if beads < 3:
        raise InputError(f"the entropy of a bin needs at least 3 beads, found {beads}.")
    mass = np.ones(len(positions)) if weights is None else np.asarray(weights, dtype=np.float64)
    least = 2 * (3 * beads - 6)
    kept = np.flatnonzero((bin_index >= 0) & (mass > 0))
    order = kept[np.argsort(bin_index[kept], kind="stable")]
    bins, starts = np.unique(bin_index[order], return_index=True)
    entropy, share = np.full(bin_count, np.nan), np.zeros(bin_count)
    for number, frames in zip(bins, np.split(order, starts[1:]), strict=True):
        if effective_sample_size(mass[frames]) >= least:
            entropy[number] = BOLTZMANN * _gaussian_entropy(positions[frames], mass[frames])
            share[number] = mass[frames].sum()
    known = share > 0
    if not known.any():
        raise InputError(
            f"no TIC bin holds the {least} effective frames that the entropy of {beads} beads "
            f"needs ({len(kept)} frames in {bin_count} bins); use fewer bins or more frames."
        )
    entropy[~known] = np.average(entropy[known], weights=share[known])
    return entropy


def conditional_mean_targets(
    surface: FreeEnergySurface, entropy: NDArray[np.float64], temperature: float
) -> NDArray[np.float64]:
    """Return ⟨U⟩_s = F(s) + T S(s) for each bin of a surface.

    Parameters
    ----------
    surface : FreeEnergySurface
        With n1 × n2 bins.
    entropy : array (n1 n2,)
        kcal/mol/K, of `internal_entropy` on the same frames and grid.
    temperature : float
        K.

    Returns
    -------
    array (n1 n2,)
        kcal/mol; NaN in bins not visited. The constant is such that the mean over all frames
        in the grid is 0.
    """
    targets = thermal_energy(temperature) * surface.free_energy_kt.ravel() + temperature * entropy
    visited, probability = surface.visited.ravel(), surface.probability.ravel()
    return targets - np.average(targets[visited], weights=probability[visited])


def _gaussian_entropy(positions: RealArray, weights: NDArray[np.float64]) -> float:
    """Return S/kB of frames (F, N, 3), 1/2 (ln det' Σ + ln det I), Σ and I in Å²."""
    aligned, mean = _aligned_to_mean(positions, weights)
    internal = 3 * positions.shape[1] - 6
    displacements = (aligned - mean).reshape(len(aligned), -1)
    covariance = np.cov(displacements, rowvar=False, aweights=weights)
    # The superposition leaves no displacement along the mean's translations and rotations, so
    # the six smallest eigenvalues are zero but for rounding.
    eigenvalues = np.linalg.eigvalsh(covariance)[-internal:]
    samples = effective_sample_size(weights)
    order = np.arange(1, internal + 1)
    bias = (digamma((samples - order) / 2) + np.log(2 / (samples - 1))).sum()
    gyration = mean.T @ mean
    inertia = np.trace(gyration) * np.eye(3) - gyration
    return float((np.log(eigenvalues).sum() - bias + np.linalg.slogdet(inertia).logabsdet) / 2)


def _aligned_to_mean(
    positions: RealArray, weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return frames (F, N, 3) superposed on their own weighted mean, and that mean (N, 3)."""
    mean = np.asarray(positions[0], dtype=np.float64)
    for _ in range(MAX_ALIGNMENTS):
        aligned = superpose(positions, mean)
        previous, mean = mean, np.average(aligned, axis=0, weights=weights)
        if np.abs(mean - previous).max() < ALIGNMENT_TOLERANCE:
            break
    return aligned, mean
