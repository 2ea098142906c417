"""Metastable states as basins of a free-energy surface.

A bin belongs to the minimum that it leads down to; a minimum that lies less than a barrier's height
below the saddle to a deeper one is part of that one's basin (clustering by topological persistence,
Chazal et al. 2013, doi 10.1145/2535927).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter

from cgfe.array_types import FloatArray, IntArray

BARRIER_KT = 1.0
"""Lowest barrier, in kT from the shallower side, that keeps two basins apart."""
SMALLEST_SHARE = 0.01
"""Of the population, that a state has at least: a smaller one goes to its neighbours."""
SMOOTHING = 1.0
"""Standard deviation in bins, so that the noise of single bins makes no minimum."""


def basins(
    probability: FloatArray, barrier_kt: float = BARRIER_KT, smallest_share: float = SMALLEST_SHARE
) -> IntArray:
    """Return the state of every bin of a surface.

    Parameters
    ----------
    probability : array (n1, n2)
        Of each bin, 1 in all or less. It is smoothed by a bin.
    barrier_kt, smallest_share : float

    Returns
    -------
    int array (n1, n2)
        From 0, the most populated state, on. A bin that was never visited has the state of the
        nearest one that was.

    Raises
    ------
    ValueError
        If no bin has any probability.
    """
    if not probability.sum() > 0:
        raise ValueError("basins need a bin with probability.")
    smooth = gaussian_filter(probability, SMOOTHING, mode="constant")
    states = np.where(probability > 0, _descend(smooth, barrier_kt), -1)
    shares = {k: probability[states == k].sum() for k in np.unique(states[states >= 0])}
    small = smallest_share * probability.sum()
    kept = sorted((k for k in shares if shares[k] >= small), key=lambda k: -shares[k])
    kept = kept or [max(shares, key=lambda k: shares[k])]
    number = np.full(probability.size + 1, -1)
    number[kept] = np.arange(len(kept))
    numbered = number[states]
    nearest = distance_transform_edt(numbered < 0, return_distances=False, return_indices=True)
    return np.asarray(numbered[tuple(nearest)], dtype=np.int64)


def _descend(surface: FloatArray, barrier_kt: float) -> NDArray[np.int64]:
    """Return the flat index of each bin's minimum, -1 where the surface is 0."""
    height, width = surface.shape
    flat = surface.ravel()
    root = np.full(flat.size, -1)

    def top(k: int) -> int:
        while root[k] != k:
            k = root[k]
        return k

    for k in np.argsort(-flat, kind="stable"):
        if not flat[k] > 0:
            break
        row, column = divmod(int(k), width)
        around = [
            i * width + j
            for i in range(max(0, row - 1), min(height, row + 2))
            for j in range(max(0, column - 1), min(width, column + 2))
            if root[i * width + j] >= 0
        ]
        # Up the steepest way; a new minimum where all around is lower.
        root[k] = top(max(around, key=lambda i: flat[i])) if around else k
        for meeting in {top(i) for i in around} - {root[k]}:
            low, high = sorted((meeting, top(k)), key=lambda i: flat[i])
            if np.log(flat[low] / flat[k]) < barrier_kt:
                root[low] = high
    found = [top(k) if root[k] >= 0 else -1 for k in range(flat.size)]
    return np.array(found, dtype=np.int64).reshape(surface.shape)
