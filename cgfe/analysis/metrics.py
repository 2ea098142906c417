"""How far a model's ensemble is from the reference's: pure functions on arrays.

Divergences are in nats, free energies in kT.
"""

import numpy as np
from scipy.special import rel_entr

from cgfe.analysis.free_energy import TICGrid
from cgfe.array_types import RealArray

FOLDED_RMSD = 2.0
"""Å; a frame is folded if its Cα RMSD to the native structure is at most this."""

FREE_ENERGY_CEILING_KT = 8.0
"""Free energies above the minimum, and ΔF, count as at most this. Below e^-8 of the fullest
bin's probability a bin holds too few frames to say more; bins never visited count as this."""

PSEUDO_COUNT = 1e-6
"""Share added to every bin before a KL divergence, which would be infinite at a missed bin."""


def js_divergence(p: RealArray, q: RealArray) -> float:
    """Return the Jensen-Shannon divergence of two histograms of one shape; 0 to ln 2.

    JS = KL(p ‖ m)/2 + KL(q ‖ m)/2 with m = (p + q)/2. Both are normalised first.
    """
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    return float((rel_entr(p, middle).sum() + rel_entr(q, middle).sum()) / 2)


def kl_divergence(p: RealArray, q: RealArray, pseudo_count: float = PSEUDO_COUNT) -> float:
    """Return KL(p ‖ q) = Σ p ln(p / q) of two histograms of one shape.

    `pseudo_count` is added to every bin of both after normalisation to 1; both are then
    normalised again.
    """
    p, q = p / p.sum() + pseudo_count, q / q.sum() + pseudo_count
    return float(rel_entr(p / p.sum(), q / q.sum()).sum())


def split_half_js(tics: RealArray, grid: TICGrid) -> float:
    """Return the JS divergence between even and odd replicas, what is outside as one more bin.

    It is small only if replicas from different starts have come to agree. A single replica is
    cut in two halves of time.

    Parameters
    ----------
    tics : array (frames, replicas, 2)
    grid : TICGrid
    """
    if tics.shape[1] > 1:
        halves = [tics[:, 0::2], tics[:, 1::2]]
    else:
        halves = [tics[: len(tics) // 2], tics[len(tics) // 2 :]]
    p, q = (np.append(*grid.histogram(half.reshape(-1, tics.shape[2]))) for half in halves)
    return js_divergence(p, q)


def independent_frames(tics: RealArray) -> float:
    """Return the effective number of independent frames in several replicas' time series.

    S = M T / (1 + 2 Σ_t ρ_t) with the autocorrelation of all replicas together, in which
    replicas that disagree count as correlated, summed by pairs of lags while they are positive
    (Vehtari et al. 2019, arXiv 1903.08008, equations 10 to 12). The smallest over the TICs.

    Parameters
    ----------
    tics : array (frames T, replicas M, D)
    """
    frames, replicas, _ = tics.shape
    centred = tics - tics.mean(axis=0)
    spectrum = np.fft.rfft(centred, 2 * frames, axis=0)
    # Divided by T at every lag: the biased form, whose noise at long lags is damped.
    covariance = np.fft.irfft(np.abs(spectrum) ** 2, axis=0)[:frames].mean(axis=1) / frames
    total = covariance[0] + tics.mean(axis=0).var(axis=0)
    # Nothing moves where the total is 0; the correlation is then 1 at every lag.
    correlation = 1 - (covariance[0] - covariance) / np.where(total > 0, total, 1)
    even = frames - frames % 2
    paired = correlation[0:even:2] + correlation[1:even:2]
    positive = np.cumprod(paired > 0, axis=0)
    time = 2 * (paired * positive).sum(axis=0) - 1
    return float((frames * replicas / np.maximum(time, 1)).min())
