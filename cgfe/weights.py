"""Equilibrium weights of frames from biased and unbiased trajectories of one system.

Counts are only right for equilibrium sampling. A biased trajectory knows the populations of
regions (its bias gives each frame a weight); unbiased ones started anywhere know how frames are
distributed within a region. So each region, a k-means state on the TICs, gets its population
from the biased frames, and its frames share that population.
"""

from collections.abc import Sequence

import numpy as np
from deeptime.clustering import KMeans
from numpy.typing import NDArray

from cgfe.errors import InputError
from cgfe.free_energy import effective_sample_size
from cgfe.tica import TICAProjection

STATES = 60
STATE_LAG_PS = 20.0
STATE_DIMENSIONS = 4
MAX_CLUSTER_FRAMES = 50_000


def combined_weights(
    positions: Sequence[NDArray[np.floating]],
    log_weights: Sequence[NDArray[np.float64] | None],
    frame_interval_ps: float,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return one weight per frame, mean 1, for all trajectories in order.

    With biased trajectories alone these are their own weights. Within a state the biased and
    unbiased frames share the state's population as their effective sample sizes.

    Parameters
    ----------
    positions : sequence of array (f, N, 3)
        One per trajectory, Å.
    log_weights : sequence of array (f,) or None
        Log weights of a biased trajectory's frames, comparable between trajectories; None for
        an unbiased one.

    Raises
    ------
    InputError
        If no trajectory is biased: then populations are not known.
    """
    biased = np.concatenate(
        [np.full(len(x), log is not None) for x, log in zip(positions, log_weights, strict=True)]
    )
    if not biased.any():
        raise InputError("weights need at least one biased trajectory.")
    logs = np.concatenate([log for log in log_weights if log is not None])
    own = np.zeros(len(biased))
    own[biased] = np.exp(logs - logs.max())
    if biased.all():
        return own / own.mean()
    states = _states(positions, log_weights, frame_interval_ps, seed)
    weights = np.zeros(len(biased))
    for state in range(states.max() + 1):
        inside = states == state
        population = own[inside & biased].sum()
        unbiased_count = int((inside & ~biased).sum())
        if population == 0:
            continue
        effective = effective_sample_size(own[inside & biased])
        share = effective / (effective + unbiased_count)
        weights[inside & biased] = share * own[inside & biased]
        if unbiased_count:
            weights[inside & ~biased] = (1 - share) * population / unbiased_count
    return weights / weights.mean()


def _states(
    positions: Sequence[NDArray[np.floating]],
    log_weights: Sequence[NDArray[np.float64] | None],
    frame_interval_ps: float,
    seed: int,
) -> NDArray[np.int64]:
    unbiased = [x for x, log in zip(positions, log_weights, strict=True) if log is None]
    tica = TICAProjection.fit(
        unbiased, frame_interval_ps, STATE_LAG_PS, dimensions=STATE_DIMENSIONS
    )
    points = tica.project(np.concatenate(positions))
    stride = max(1, len(points) // MAX_CLUSTER_FRAMES)
    clustering = KMeans(STATES, max_iter=50, fixed_seed=seed + 1).fit(points[::stride])
    return np.asarray(clustering.fetch_model().transform(points), dtype=np.int64)
