"""Geometry of bead positions in NumPy: distances, RMSD, spread choices."""

import numpy as np
from numpy.typing import NDArray

from cgfe.array_types import RealArray


def pair_distances(positions: RealArray) -> RealArray:
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


def superpose(positions: RealArray, reference: RealArray) -> NDArray[np.float64]:
    """Return positions (F, N, 3) moved and rotated onto `reference` (N, 3), its mean at 0.

    The rotation is the one of least RMSD (Kabsch 1976, doi 10.1107/S0567739476001873), never a
    reflection.
    """
    centred = positions - positions.mean(axis=1, keepdims=True, dtype=np.float64)
    target = reference - reference.mean(axis=0, dtype=np.float64)
    left, _, right = np.linalg.svd(np.swapaxes(centred, 1, 2) @ target)
    left[:, :, 2] *= np.sign(np.linalg.det(left @ right))[:, None]
    return centred @ (left @ right)


def rmsd(positions: RealArray, reference: RealArray) -> NDArray[np.float64]:
    """Return the RMSD (F,) in Å of positions (F, N, 3) to `reference` (N, 3), superposed."""
    difference = superpose(positions, reference) - (reference - reference.mean(axis=0))
    return np.sqrt((difference**2).sum(axis=2).mean(axis=1))


def k_centres(points: RealArray, number: int, seed: int) -> NDArray[np.int64]:
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
