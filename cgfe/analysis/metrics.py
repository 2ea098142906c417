"""How far a model's ensemble is from the reference's: pure functions on arrays.

Divergences are in nats, free energies in kT.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr
from scipy.stats import wasserstein_distance

from cgfe.analysis.free_energy import TICGrid
from cgfe.geometry import FloatArray

FOLDED_RMSD = 2.0
"""Å; a frame is folded if its Cα RMSD to the native structure is at most this."""

FREE_ENERGY_CEILING_KT = 8.0
"""Free energies above the minimum, and ΔF, count as at most this. Below e^-8 of the fullest
bin's probability a bin holds too few frames to say more; bins never visited count as this."""

PSEUDO_COUNT = 1e-6
"""Share added to every bin before a KL divergence, which would be infinite at a missed bin."""

FLOOR_SPLITS = 8
FLOOR_BLOCKS = 16


def js_divergence(p: FloatArray, q: FloatArray) -> float:
    """Return the Jensen-Shannon divergence of two histograms of one shape; 0 to ln 2.

    JS = KL(p ‖ m)/2 + KL(q ‖ m)/2 with m = (p + q)/2. Both are normalised first.
    """
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    return float((rel_entr(p, middle).sum() + rel_entr(q, middle).sum()) / 2)


def kl_divergence(p: FloatArray, q: FloatArray, pseudo_count: float = PSEUDO_COUNT) -> float:
    """Return KL(p ‖ q) = Σ p ln(p / q) of two histograms of one shape.

    `pseudo_count` is added to every bin of both after normalisation to 1; both are then
    normalised again.
    """
    p, q = p / p.sum() + pseudo_count, q / q.sum() + pseudo_count
    return float(rel_entr(p / p.sum(), q / q.sum()).sum())


def free_energy_mse_kt2(p_reference: FloatArray, p_model: FloatArray) -> float:
    """Return the mean squared difference of F in kT² over the bins that the reference visits.

    F = -ln p; the reference's is 0 at its minimum, the model's is shifted so that their means
    over the bins both visit agree. Then both are cut off at the ceiling, and bins that only the
    reference visits have the model at the ceiling: a missed minimum counts ceiling², a missed
    bin near the ceiling hardly anything. Bins count equally, not by their probability.
    """
    visited = p_reference > 0
    reference = -np.log(p_reference[visited])
    reference -= reference.min()
    shared = p_model[visited] > 0
    model = np.full(len(reference), np.inf)
    if shared.any():
        model[shared] = -np.log(p_model[visited][shared])
        model[shared] += (reference[shared] - model[shared]).mean()
    ceiling = FREE_ENERGY_CEILING_KT
    difference = np.minimum(model, ceiling) - np.minimum(reference, ceiling)
    return float((difference**2).mean())


def delta_f_kt(folded: NDArray[np.bool_], weights: FloatArray | None = None) -> float:
    """Return F(folded) - F(unfolded) = -ln(w_folded / w_unfolded), within ± the ceiling.

    A basin never visited gives the ceiling with its sign.

    Parameters
    ----------
    folded : bool array (F,)
    weights : array (F,), optional
    """
    mass = np.ones(len(folded)) if weights is None else weights
    with np.errstate(divide="ignore"):
        difference = np.log(mass[~folded].sum()) - np.log(mass[folded].sum())
    return float(np.clip(difference, -FREE_ENERGY_CEILING_KT, FREE_ENERGY_CEILING_KT))


def coverage(p_reference: FloatArray, p_model: FloatArray) -> float:
    """Return the share of the reference's probability in bins that the model visits."""
    return float(p_reference[p_model > 0].sum() / p_reference.sum())


@dataclass(frozen=True)
class EnsembleSample:
    """Frames of one ensemble.

    Attributes
    ----------
    tics : array (F, 2)
    weights : array (F,), optional
        None: all equal.
    rmsd : array (F,), optional
        Å to the native structure; None where there is none.
    """

    tics: FloatArray
    weights: FloatArray | None = None
    rmsd: FloatArray | None = None

    def select(self, frames: NDArray[np.bool_]) -> "EnsembleSample":
        """Return the frames where a mask (F,) is true."""
        chosen = (None if array is None else array[frames] for array in (self.weights, self.rmsd))
        return EnsembleSample(self.tics[frames], *chosen)

    def delta_f_kt(self) -> float:
        """Return F(folded) - F(unfolded) in kT, NaN without a native structure."""
        if self.rmsd is None:
            return float("nan")
        return delta_f_kt(self.rmsd <= FOLDED_RMSD, self.weights)


def compare(reference: EnsembleSample, model: EnsembleSample, grid: TICGrid) -> dict[str, float]:
    """Return how far a model's ensemble is from the reference's.

    Returns
    -------
    dict
        `js`, `kl_reference_model` (what is outside the grid counts as one more bin),
        `mse_kt2`, `w1_tic1`, `w1_tic2` (Wasserstein-1 distances, in units of the TICs),
        `delta_f_kt` (the model's ΔF(folded - unfolded) minus the reference's; NaN without a
        native structure), `coverage`, `outside` (share of the model's frames).
    """
    first, second = (grid.histogram(x.tics, x.weights) for x in (reference, model))
    return compare_counted(reference, model, first, second)


def compare_counted(
    reference: EnsembleSample,
    model: EnsembleSample,
    reference_shares: tuple[NDArray[np.float64], float],
    model_shares: tuple[NDArray[np.float64], float],
) -> dict[str, float]:
    """Return what `compare` does of ensembles that `TICGrid.histogram` has counted already."""
    (p_reference, reference_outside), (p_model, outside) = reference_shares, model_shares
    p, q = np.append(p_reference, reference_outside), np.append(p_model, outside)
    w1 = [
        wasserstein_distance(
            reference.tics[:, tic], model.tics[:, tic], reference.weights, model.weights
        )
        for tic in (0, 1)
    ]
    return {
        "js": js_divergence(p, q),
        "kl_reference_model": kl_divergence(p, q),
        "mse_kt2": free_energy_mse_kt2(p_reference, p_model),
        "w1_tic1": float(w1[0]),
        "w1_tic2": float(w1[1]),
        "delta_f_kt": model.delta_f_kt() - reference.delta_f_kt(),
        "coverage": coverage(p_reference, p_model),
        "outside": outside,
    }


def split_half_js(tics: FloatArray, grid: TICGrid) -> float:
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


def reference_floor(
    reference: EnsembleSample, trajectory_index: NDArray[np.integer], grid: TICGrid
) -> dict[str, float]:
    """Return `compare` between halves of the reference: what no model can be told to beat.

    The halves are random halves of the whole trajectories, since frames of one are correlated,
    and the figures are means over `FLOOR_SPLITS` splits (of |ΔF| for `delta_f_kt`). Fewer than
    `FLOOR_BLOCKS` trajectories are first cut into about that many contiguous blocks.

    Parameters
    ----------
    reference : EnsembleSample
    trajectory_index : array (F,)
        Frames of one trajectory are contiguous.
    grid : TICGrid
    """
    block = _blocks(trajectory_index)
    number = int(block[-1]) + 1
    random = np.random.default_rng(0)
    results = []
    for _ in range(FLOOR_SPLITS):
        first = np.isin(block, random.permutation(number)[: number // 2])
        results.append(compare(reference.select(first), reference.select(~first), grid))
    floor = {key: float(np.mean([result[key] for result in results])) for key in results[0]}
    floor["delta_f_kt"] = float(np.mean([abs(result["delta_f_kt"]) for result in results]))
    return floor


def _blocks(trajectory_index: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return a block number (F,), counted from 0 without gaps."""
    _, trajectory, length = np.unique(trajectory_index, return_inverse=True, return_counts=True)
    pieces = np.minimum(-(-FLOOR_BLOCKS // len(length)), length)
    first_frame = np.cumsum(length) - length
    within = np.arange(len(trajectory)) - first_frame[trajectory]
    first_block = np.cumsum(pieces) - pieces
    return first_block[trajectory] + within * pieces[trajectory] // length[trajectory]


def independent_frames(tics: FloatArray) -> float:
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
