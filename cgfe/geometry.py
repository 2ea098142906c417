"""Geometry of bead positions in NumPy: distances, RMSD, spread choices."""

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating]


def pair_distances(positions: FloatArray) -> FloatArray:
    """Return all bead-bead distances.

    Parameters
    ----------
    positions : array (F, N, 3)

    Returns
    -------
    array (F, N (N - 1) / 2)
        In the order of `numpy.triu_indices(N, 1)`.
    """
    first, second = np.triu_indices(positions.shape[1], 1)
    return np.linalg.norm(positions[:, first] - positions[:, second], axis=-1)


def k_centres(points: FloatArray, number: int, seed: int) -> NDArray[np.int64]:
    """Choose points spread evenly over the occupied space (farthest-point sampling).

    Each next centre is the point farthest from all centres so far, so a rare region counts as
    much as a crowded one (Gonzalez 1985). The first `n` centres do not depend on `number`.

    Parameters
    ----------
    points : array (F, D)
    number : int
        At most F centres are returned.
    seed : int
        Chooses the first centre.

    Returns
    -------
    array (number,)
        Row indices into `points`.
    """
    chosen = [int(np.random.default_rng(seed).integers(len(points)))]
    nearest = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < min(number, len(points)):
        chosen.append(int(nearest.argmax()))
        np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1), out=nearest)
    return np.array(chosen)
