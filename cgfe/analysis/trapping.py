"""Do replicas leave the state that they began in, or are they trapped?

States are folded and unfolded by the cores of `cgfe.analysis.core_sets`: chignolin's slowest
process, and the one that a free-energy difference is about. Basins of the reference's surface would
be many and shallow, so that leaving one says little.

Under replica exchange the frames of one temperature are of many replicas. What is followed is the
replica, in those frames when it is at the data's temperature: it has left its state when it comes
back in another one, whatever it did while it was hot. A replica that stays in its state may be
trapped, or the state may be nearly all that the model has; the `memory` tells these apart, as it is
0 where replicas that began folded and unfolded have come to the same.
"""

from dataclasses import dataclass

import numpy as np

from cgfe.analysis.core_sets import FOLDED, UNFOLDED, Visits, last_core
from cgfe.analysis.intervals import Interval, interval
from cgfe.analysis.metrics import FOLDED_RMSD
from cgfe.array_types import BoolArray, FloatArray, IntArray

RESAMPLES = 200


@dataclass(frozen=True)
class Trapping:
    """How replicas moved between the folded and the unfolded state.

    Attributes
    ----------
    began : (int, int)
        Replicas that began folded, and unfolded: in the first core that they were in.
    stayed : (int, int)
        Those of them that never left that state.
    foldings, unfoldings : int
        Transitions from core to core.
    memory : Interval
        Folded share in the second half of the time of those that began folded, minus that of those
        that began unfolded, and its 95 % interval by bootstrap over ladders; 0 is a forgotten
        start, 1 one that nothing has left. NaN where either group has no frames there.
    """

    began: tuple[int, int]
    stayed: tuple[int, int]
    foldings: int
    unfoldings: int
    memory: Interval

    @property
    def share(self) -> float:
        """Share of the replicas that never left the state that they began in; NaN of none."""
        return sum(self.stayed) / sum(self.began) if sum(self.began) else float("nan")


def follow_replicas(
    rmsd: FloatArray,
    replica: IntArray,
    start_rmsd: FloatArray,
    folded_rmsd: float = FOLDED_RMSD,
    seed: int = 0,
) -> Trapping:
    """Follow replicas through the frames of the lowest temperature.

    Parameters
    ----------
    rmsd : array (F, L)
        Å to the native structure, of each ladder's frames in time.
    replica : int array (F, L)
        Which replica each frame is of; no replica is in two ladders.
    start_rmsd : array (R,)
        Of each replica's start.
    folded_rmsd : float
        Å, up to which a frame counts as folded.
    seed : int
        Of the bootstrap.
    """
    frames, ladders = rmsd.shape
    order = np.argsort(replica.ravel(), kind="stable")
    seen, first = np.unique(replica.ravel()[order], return_index=True)
    # Each replica's start comes before its frames.
    trajectory = np.insert(replica.ravel()[order], first, seen)
    state = last_core(
        np.insert(rmsd.ravel()[order], first, start_rmsd[seen]), trajectory, folded_rmsd
    )
    visits = Visits.of(state, trajectory)
    own, beginning = np.unique(visits.trajectory, return_index=True)
    began, stays = visits.state[beginning], ~visits.ended[beginning]
    of_frames = np.empty(frames * ladders, dtype=np.int64)
    of_frames[order] = np.delete(state, first + np.arange(len(first)))
    group = np.zeros(len(start_rmsd), dtype=np.int64)
    group[own] = began
    folded, unfolded = began == FOLDED, began == UNFOLDED
    return Trapping(
        began=(int(folded.sum()), int(unfolded.sum())),
        stayed=(int((folded & stays).sum()), int((unfolded & stays).sum())),
        foldings=int((visits.ended & (visits.state == UNFOLDED)).sum()),
        unfoldings=int((visits.ended & (visits.state == FOLDED)).sum()),
        memory=_memory(
            of_frames.reshape(frames, ladders)[frames // 2 :] == FOLDED,
            group[replica[frames // 2 :]],
            seed,
        ),
    )


def _memory(folded: BoolArray, group: IntArray, seed: int) -> Interval:
    """Return the difference of two groups' folded shares; frames (F, L) of no group are left out.

    Ladders do not see each other, so they are what is drawn again.
    """
    ladders = folded.shape[1]
    random = np.random.default_rng([seed, 3])
    draws = random.multinomial(ladders, np.full(ladders, 1 / ladders), size=RESAMPLES)

    def difference(weights: IntArray) -> FloatArray:
        shares = []
        for core in (FOLDED, UNFOLDED):
            known = weights @ (group == core).sum(axis=0)
            within = weights @ ((group == core) & folded).sum(axis=0)
            shares.append(within / np.where(known > 0, known, np.nan))
        return np.asarray(shares[0] - shares[1])

    value = float(difference(np.ones(ladders, dtype=np.int64)))
    return interval(value, difference(draws), ladders)
