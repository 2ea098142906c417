"""Markov state models (MSM) of unbiased trajectories: populations, kinetics, what is uncertain.

Short unbiased trajectories from chosen starts have the right kinetics but not the right
populations. A reversible MSM between small states recovers the populations from the kinetics
(Prinz et al. 2011, doi 10.1063/1.3565032); estimation is deeptime's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from deeptime.clustering import KMeans
from deeptime.markov import TransitionCountModel
from deeptime.markov.msm import MarkovStateModel, MaximumLikelihoodMSM
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from cgfe.analysis.tica import TICAProjection
from cgfe.errors import InputError

STATES = 100
STATE_LAG_PS = 20.0
STATE_DIMENSIONS = 4
MSM_LAG_PS = 50.0
LONGEST_MSM_LAG_PS = 5000.0
LAGS_PER_WALKER = 24
MAX_ERROR = 1e-6
"""Of the iterated populations: ln p is then right to 0.0004 (100 states of chignolin), in half of
the time that deeptime's own 1e-8 takes."""
MAX_CLUSTER_FRAMES = 50_000

Trajectories = Sequence[NDArray[np.integer]]


def msm_lag_ps(lengths_ps: Sequence[float]) -> float:
    """Return the lag for unbiased walkers of such lengths.

    What the states do not show, such as the packing of side chains, must be forgotten within the
    lag, so it is as long as the walkers allow: a 24th of their median length, 0.05 to 5 ns.
    """
    if not len(lengths_ps):
        return MSM_LAG_PS
    longest = float(np.median(lengths_ps)) / LAGS_PER_WALKER
    return float(np.clip(longest, MSM_LAG_PS, LONGEST_MSM_LAG_PS))


@dataclass(frozen=True)
class States:
    """k-means states on the slowest TICs.

    Attributes
    ----------
    tica : TICAProjection
    centres : array (K, D)
    """

    tica: TICAProjection
    centres: NDArray[np.float64]

    @classmethod
    def fit(
        cls,
        unbiased: Sequence[NDArray[np.floating]],
        others: Sequence[NDArray[np.floating]],
        frame_interval_ps: float,
        seed: int = 0,
    ) -> "States":
        """Fit TICA to unbiased trajectories and states to all frames.

        Parameters
        ----------
        unbiased, others : sequence of array (f, N, 3)
            Å; kinetics are taken from the unbiased alone.

        Raises
        ------
        InputError
            As `TICAProjection.fit`.
        """
        lag = max(1, round(STATE_LAG_PS / frame_interval_ps)) * frame_interval_ps
        beads = unbiased[0].shape[1]
        most = min(STATE_DIMENSIONS, beads * (beads - 1) // 2)
        tica = TICAProjection.fit(unbiased, frame_interval_ps, lag, most, fewest=1)
        points = np.concatenate([tica.project(frames) for frames in (*unbiased, *others)])
        stride = max(1, len(points) // MAX_CLUSTER_FRAMES)
        count = min(STATES, len(points[::stride]))
        means = KMeans(count, max_iter=200, tolerance=1e-3, fixed_seed=seed + 1)
        model = means.fit(points[::stride]).fetch_model()
        return cls(tica, np.asarray(model.cluster_centers, dtype=np.float64))

    def __len__(self) -> int:
        return len(self.centres)

    def assign(self, positions: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the state (F,) of positions (F, N, 3): the nearest centre."""
        points = self.tica.project(positions)
        # |x - c|² without the |x|² that all centres share; deeptime's own assignment is as fast.
        scores = (self.centres**2).sum(axis=1) - 2 * points @ self.centres.T
        return np.asarray(scores.argmin(axis=1), dtype=np.int64)


def estimate(trajectories: Trajectories, lag: int) -> MarkovStateModel:
    """Return the reversible maximum-likelihood MSM on the largest connected set.

    Parameters
    ----------
    trajectories : sequence of int array (f,)
        States of unbiased trajectories.
    lag : int
        Frames.

    Raises
    ------
    InputError
        If no trajectory is longer than the lag or nothing is connected.
    """
    long_enough = [t for t in trajectories if len(t) > lag]
    if not long_enough:
        raise InputError(
            f"an MSM at a lag of {lag} frames needs a longer unbiased trajectory; the longest has "
            f"{max(map(len, trajectories), default=0)} frames."
        )
    states = 1 + max(int(t.max()) for t in long_enough)
    joined = np.concatenate(long_enough)
    number = np.repeat(np.arange(len(long_enough)), [len(t) for t in long_enough])
    counts = transition_counts(joined, number, lag, states).sum(axis=0)
    return estimate_from_counts(np.asarray(counts).reshape(states, states), lag)


def transition_counts(
    states: NDArray[np.integer], trajectory: NDArray[np.integer], lag: int, count: int
) -> csr_matrix:
    """Return each trajectory's transitions at a lag, all pairs of frames (sliding window).

    Parameters
    ----------
    states, trajectory : int array (F,)
        Frames of one trajectory are contiguous; trajectories are numbered from 0.
    lag : int
        Frames.
    count : int
        Number of states K.

    Returns
    -------
    sparse array (W, K²)
        Row by row: from state i to state j at i K + j. The transitions of any selection of
        trajectories are a weighted sum of rows.
    """
    within = trajectory[:-lag] == trajectory[lag:]
    walker = trajectory[:-lag][within]
    cell = states[:-lag][within] * count + states[lag:][within]
    shape = (int(trajectory[-1]) + 1, count * count)
    return csr_matrix((np.ones(len(walker)), (walker, cell)), shape=shape)


def estimate_from_counts(counts: NDArray[np.floating], lag: int = 1) -> MarkovStateModel:
    """Return the reversible maximum-likelihood MSM of transitions (K, K) at a lag, in frames.

    Raises
    ------
    InputError
        If nothing is connected.
    """
    connected = TransitionCountModel(counts, lagtime=lag).submodel_largest()
    if connected.n_states < 2:
        raise InputError("an MSM needs transitions there and back; no two states have them.")
    return MaximumLikelihoodMSM(reversible=True, maxerr=MAX_ERROR).fit(connected).fetch_model()


def populations(model: MarkovStateModel, states: int) -> NDArray[np.float64]:
    """Return the stationary population (K,) of all states, 0 outside the connected set."""
    full = np.zeros(states)
    full[model.count_model.state_symbols] = model.stationary_distribution
    return full


def implied_timescales_ps(
    counts: NDArray[np.floating], lag: int, frame_interval_ps: float, modes: int
) -> NDArray[np.float64]:
    """Return the slowest implied timescales (modes,) in ps, NaN where there are fewer.

    Parameters
    ----------
    counts : array (K, K)
        Transitions at the lag, in frames.
    """
    times = np.full(modes, np.nan)
    try:
        found = estimate_from_counts(counts, lag).timescales(modes)
    except InputError:
        return times
    times[: len(found)] = np.asarray(found) * frame_interval_ps
    return times
