"""What unbiased walkers say about folding: rates, memory, whether starts are forgotten."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cgfe.analysis.core_sets import (
    FOLDED,
    START_PS,
    UNFOLDED,
    Events,
    Rates,
    SurvivalTest,
    Visits,
    core_of,
    last_core,
)
from cgfe.analysis.intervals import LEVEL, Interval
from cgfe.analysis.metrics import FOLDED_RMSD
from cgfe.array_types import FloatArray, IntArray

WINDOWS = 24
LAST_SHARE = 0.75
"""Starts must be forgotten before this share of the time, or too little is left to see it."""

ACCUSED = 0.99
"""Level of the intervals that say whether two groups still differ."""


@dataclass(frozen=True)
class FoldedShare:
    """Share of walkers that are folded against time, by where they started.

    Attributes
    ----------
    times_ns : array (T,)
        Middle of each window.
    share, half : array (2, T)
        Mean over walkers and half of its 95 % interval; first those that started folded.
    walkers : (int, int)
    differences : list of (float, Interval, Interval)
        ns, and the difference of the groups' shares in the window from there, and from there to
        the end, with 99 % intervals: of a hundred right references one may be accused.
    """

    times_ns: FloatArray
    share: FloatArray
    half: FloatArray
    walkers: tuple[int, int]
    differences: list[tuple[float, Interval, Interval]]

    @property
    def met_ns(self) -> float | None:
        """Time when the groups first differ no more, and do not differ after it either."""
        met = None
        for time, window, rest in reversed(self.differences):
            if not rest.contains(0):
                break
            if window.contains(0):
                met = time
        return met

    @classmethod
    def fit(
        cls, state: NDArray[np.integer], walker: IntArray, start: IntArray, interval_ns: float
    ) -> "FoldedShare | None":
        """Follow the groups; None where one of them has fewer than two walkers.

        Parameters
        ----------
        state : int array (F,)
            Core that each frame was in last.
        walker : int array (F,)
            From 0; frames of one are contiguous.
        start : int array (W,)
            Core in which each walker began.
        """
        groups = [np.flatnonzero(start == core) for core in (FOLDED, UNFOLDED)]
        if min(map(len, groups)) < 2:
            return None
        lengths = np.bincount(walker, minlength=len(start))
        # All windows are seen by half of the walkers of each group, or by more.
        longest = int(min(np.median(lengths[group]) for group in groups))
        age = np.arange(len(walker)) - (np.cumsum(lengths) - lengths)[walker]
        seen = (age < longest) & (state != 0)
        cell = walker[seen] * WINDOWS + age[seen] * WINDOWS // longest
        size = len(start) * WINDOWS
        folded, known = (
            np.bincount(cell, x, minlength=size).astype(np.float64).reshape(-1, WINDOWS)
            for x in ((state[seen] == FOLDED).astype(float), np.ones(int(seen.sum())))
        )
        edges = np.arange(WINDOWS) * longest * interval_ns / WINDOWS
        means = [_mean(folded[group], known[group]) for group in groups]

        def difference(windows: slice) -> Interval:
            sums = [x[:, windows].sum(axis=1, keepdims=True) for x in (folded, known)]
            rest = [_mean(sums[0][g], sums[1][g], ACCUSED) for g in groups]
            value = float((rest[0][0] - rest[1][0])[0])
            half = float(np.hypot(rest[0][1], rest[1][1])[0])
            return Interval(value, value - half, value + half)

        differences = [
            (float(edges[k]), difference(slice(k, k + 1)), difference(slice(k, None)))
            for k in range(int(LAST_SHARE * WINDOWS) + 1)
        ]
        return cls(
            edges + edges[1] / 2,
            np.array([share for share, _ in means]),
            np.array([half for _, half in means]),
            (len(groups[0]), len(groups[1])),
            differences,
        )


def _mean(
    folded: FloatArray, known: FloatArray, level: float = LEVEL
) -> tuple[FloatArray, FloatArray]:
    """Return the mean share (T,) over walkers (W, T) and half of its interval."""
    seen = known > 0
    count = seen.sum(axis=0)
    share = np.divide(folded, known, out=np.zeros_like(folded), where=seen)
    mean = share.sum(axis=0) / np.maximum(count, 1)
    squares = (np.where(seen, share - mean, 0) ** 2).sum(axis=0)
    error = np.sqrt(squares / np.maximum(count - 1, 1) / np.maximum(count, 1))
    quantile = stats.t.ppf((1 + level) / 2, np.maximum(count - 1, 1))
    return np.where(count > 0, mean, np.nan), np.where(count > 1, quantile * error, np.inf)


@dataclass(frozen=True)
class Folding:
    """Folding as the unbiased walkers show it.

    Attributes
    ----------
    rates : Rates or None
        None where a core was never reached.
    unbiased_us : float
        Sampling of the unbiased walkers.
    survival : list of SurvivalTest
        Of the folded and the unfolded state.
    share : FoldedShare or None
    folded_rmsd : float
        Å, up to which a frame counts as folded.
    """

    rates: Rates | None
    unbiased_us: float
    survival: list[SurvivalTest]
    share: FoldedShare | None
    folded_rmsd: float = FOLDED_RMSD


class FoldingData:
    """Core states of the unbiased walkers' frames, and their transitions.

    Parameters
    ----------
    rmsd : array (F,)
        Å, of all frames.
    walker : int array (F,)
    biased : bool array (W,)
    frame_interval_ps : float
    folded_rmsd : float
        Å, up to which a frame counts as folded; the cores are in proportion to it.

    Attributes
    ----------
    state : int array (F,)
        Core that a frame's walker was in last; 0 of biased walkers and before the first core.
    start : int array (W,)
        Core in which each unbiased walker began, 0 for none.
    """

    def __init__(
        self,
        rmsd: FloatArray,
        walker: IntArray,
        biased: NDArray[np.bool_],
        frame_interval_ps: float,
        folded_rmsd: float = FOLDED_RMSD,
    ) -> None:
        self.folded_rmsd = folded_rmsd
        self.walker, self.biased = walker, biased
        self.interval_ns = frame_interval_ps / 1000
        state = last_core(rmsd, walker, folded_rmsd)
        state[biased[walker]] = 0
        self.state = state
        self.visits = Visits.of(state, walker)
        self.events = Events.of(self.visits, len(biased), self.interval_ns)
        lengths = np.bincount(walker, minlength=len(biased))
        self.age = np.arange(len(walker)) - (np.cumsum(lengths) - lengths)[walker]
        beginning = max(1, round(START_PS / frame_interval_ps))
        firsts = np.cumsum(lengths) - lengths
        self.start_rmsd = np.array([
            np.median(rmsd[a : a + min(beginning, n)]) for a, n in zip(firsts, lengths, strict=True)
        ])  # fmt: skip
        self.start = np.where(biased, 0, core_of(self.start_rmsd, folded_rmsd)).astype(np.int64)
        self.lengths = lengths

    def summary(self, draws: IntArray, memory_frames: int) -> Folding:
        """Return what the walkers say, with bootstrap samples (R, W) and the MSM's lag."""
        unbiased = np.asarray(~self.biased, dtype=np.int64)
        rates = Rates.fit(self.events, draws * unbiased) if unbiased.any() else None
        survival = [
            SurvivalTest.fit(self.visits, core, memory_frames, self.interval_ns)
            for core in (FOLDED, UNFOLDED)
        ]
        return Folding(
            rates=rates,
            unbiased_us=float(self.lengths[~self.biased].sum()) * self.interval_ns / 1000,
            survival=survival,
            share=FoldedShare.fit(self.state, self.walker, self.start, self.interval_ns),
            folded_rmsd=self.folded_rmsd,
        )

    def count_weights(
        self, rates: Rates | None, draws: IntArray | None = None
    ) -> FloatArray | None:
        """Return equilibrium weights (F,) by counting, None if the walkers are too short for it.

        The first two relaxation times of each walker, at most half of it, are left out. What is
        left of the starts is removed by the share α of the group that started folded: equilibrium
        is the mixture that leaves itself as it is, α = α s_f + (1 - α) s_u with s the groups'
        folded shares, so α = s_u / (1 - s_f + s_u). Where the groups have met α does nothing.
        """
        usable = None if rates is None else 2 * rates.relaxation_ns / self.interval_ns
        lengths = self.lengths[~self.biased]
        if usable is None or not len(lengths) or np.median(lengths) < usable:
            return None
        kept = self.age >= np.minimum(usable, self.lengths / 2)[self.walker]
        kept &= (self.state != 0) & ~self.biased[self.walker]
        weights = kept * (1.0 if draws is None else draws[self.walker].astype(np.float64))
        groups = [(self.start == core)[self.walker] for core in (FOLDED, UNFOLDED)]
        masses = [weights[group].sum() for group in groups]
        if min(masses) == 0:
            return np.asarray(weights)
        folded, unfolded = (
            weights[group & (self.state == FOLDED)].sum() / mass
            for group, mass in zip(groups, masses, strict=True)
        )
        if 1 - folded + unfolded <= 0:
            return None  # nothing ever left its start
        alpha = unfolded / (1 - folded + unfolded)
        total = sum(masses)
        for group, mass, share in zip(groups, masses, (alpha, 1 - alpha), strict=True):
            weights[group] *= share * total / mass
        return np.asarray(weights)


def hops_of_replicas(
    rmsd: FloatArray, replica: NDArray[np.integer], folded_rmsd: float = FOLDED_RMSD
) -> tuple[int, int]:
    """Return how often replicas folded and unfolded, as their visits to one temperature show.

    Each replica is followed through the frames that it made; what it did and undid elsewhere,
    between two of them, is not seen.

    Parameters
    ----------
    rmsd : array (F,)
        Å.
    replica : int array (F,)
        That made each frame; those of one are in the order of time.
    folded_rmsd : float
        As for `core_of`.
    """
    order = np.argsort(replica, kind="stable")
    own = replica[order].astype(np.int64)
    visits = Visits.of(last_core(rmsd[order], own, folded_rmsd), own)
    left = visits.state[visits.ended]
    return int((left == UNFOLDED).sum()), int((left == FOLDED).sum())
