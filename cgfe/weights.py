"""Equilibrium weights of frames from biased and unbiased trajectories of one system.

Counts are only right for equilibrium sampling. A biased trajectory knows the populations of
regions (its bias gives each frame a weight); unbiased ones started anywhere know how frames are
distributed within a region. So each region, a k-means state on the TICs, gets its population
from the biased frames, and its frames share that population.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cgfe.errors import InputError
from cgfe.free_energy import effective_sample_size
from cgfe.msm import States


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
    unbiased = [x for x, log in zip(positions, log_weights, strict=True) if log is None]
    rest = [x for x, log in zip(positions, log_weights, strict=True) if log is not None]
    model = States.fit(unbiased, rest, frame_interval_ps, seed)
    states = np.concatenate([model.assign(x) for x in positions])
    weights = np.zeros(len(biased))
    for state in range(len(model)):
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
