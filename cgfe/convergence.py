"""Is a reference converged? Estimates from its halves, its two kinds of sampling, and bootstraps.

Every part of the data gets its own weights, so that a comparison of parts shows all their error.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cgfe.errors import InputError
from cgfe.frames import CGFrames
from cgfe.free_energy import TICGrid, effective_sample_size
from cgfe.kinetics import ChapmanKolmogorov, Timescales, chapman_kolmogorov, timescales
from cgfe.metrics import FOLDED_RMSD, delta_f_kt, js_divergence, rmsd
from cgfe.reference import ReferenceConfig
from cgfe.tica import TICAProjection
from cgfe.weights import (
    Piece,
    StateWeights,
    bias_populations,
    frame_weights,
    msm_populations,
    resampled,
)

BOOTSTRAPS = 60
SPLITS = 8
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Of all trajectories: sizes of the two parts that are compared with each other."""

TARGET_JS = 0.02
"""JS divergence between halves below which models of ordinary quality are told apart."""
TARGET_DELTA_F_KT = 0.3
"""Half of the 95 % interval of ΔF."""

FloatArray = NDArray[np.float64]

SMALLEST_POWER = 0.1
"""A slower fall than the time to this power is no fall."""

Interval = tuple[float, float, float]
"""Value, lower and upper end of the 95 % interval."""


@dataclass(frozen=True)
class Convergence:
    """What there is to say about a reference's convergence.

    Attributes
    ----------
    nanoseconds, frames, trajectories, biased, beads
        Size; `biased` counts trajectories.
    effective_frames, weightless : float, int
        Effective sample size of the weights, and frames without weight.
    timescales : Timescales
    chapman_kolmogorov : list of ChapmanKolmogorov
    js_walkers, js_time : float
        JS divergence between halves by trajectories (mean over random halves) and by time, each
        half with weights of its own.
    growth_ns, growth_js : array
        Size of each part, and JS between two parts of that size.
    delta_f_kt : dict of (value, low, high)
        F(folded) - F(unfolded) from `all`, `msm` and `bias`; empty without a native structure.
    surfaces : dict of array (n1, n2)
        Probabilities of `all`, `msm`, `bias`.
    grid : TICGrid
    agreement_js : float
        Between the MSM's and the bias's surface; NaN where one is missing.
    """

    nanoseconds: float
    frames: int
    trajectories: int
    biased: int
    beads: int
    effective_frames: float
    weightless: int
    timescales: Timescales
    chapman_kolmogorov: list[ChapmanKolmogorov]
    js_walkers: float
    js_time: float
    growth_ns: FloatArray
    growth_js: FloatArray
    delta_f_kt: dict[str, Interval]
    surfaces: dict[str, FloatArray]
    grid: TICGrid
    agreement_js: float

    @property
    def converged(self) -> bool:
        """Whether halves agree and ΔF is known, both to the targets."""
        return self.js_walkers <= TARGET_JS and not self.delta_f_too_wide

    @property
    def delta_f_too_wide(self) -> bool:
        """Whether ΔF is asked for and its interval is wider than ± the target."""
        if "all" not in self.delta_f_kt:
            return False
        _, low, high = self.delta_f_kt["all"]
        return (high - low) / 2 > TARGET_DELTA_F_KT

    def more_ns(self) -> tuple[float, float, float]:
        """Return how many ns more bring the halves, and ΔF's interval, to the targets.

        The first figure follows the trend: JS falls as the power of the sampling time that the
        two largest parts show. The second is the least: sampling noise of independent frames
        falls as 1 / t, but what was never visited shows only later. The third is for ΔF alone,
        whose interval falls as the root.
        """
        ratio = max(1.0, self.js_walkers / TARGET_JS)
        power = 0.0
        if len(self.growth_js) > 1 and (self.growth_js[-2:] > 0).all():
            falls = np.log(self.growth_js[-2] / self.growth_js[-1])
            power = float(np.clip(falls / np.log(self.growth_ns[-1] / self.growth_ns[-2]), 0, 1))
        trend = ratio ** (1 / power) if power > SMALLEST_POWER else np.inf
        of_delta_f = 1.0
        if "all" in self.delta_f_kt:
            _, low, high = self.delta_f_kt["all"]
            of_delta_f = max(1.0, ((high - low) / 2 / TARGET_DELTA_F_KT) ** 2)
        factors = (max(trend, of_delta_f), max(ratio, of_delta_f), of_delta_f)
        first, second, third = (self.nanoseconds * (factor - 1) for factor in factors)
        return first, second, third


class _Data:
    """Pieces with the bin of each of their frames and whether it is folded."""

    def __init__(self, frames: CGFrames, seed: int) -> None:
        slices = frames.trajectory_slices()
        trajectories = [frames.positions[s] for s in slices]
        biased = [frames.trajectory_index[s.start] in frames.biased_trajectories for s in slices]
        if any(biased) and frames.bias_log_weights is None:
            raise InputError(
                f"{frames.name}: bias_log_weights are missing, so the biased trajectories cannot "
                "be weighted anew; pack the runs again."
            )
        logs = [
            frames.bias_log_weights[s] if b and frames.bias_log_weights is not None else None
            for s, b in zip(slices, biased, strict=True)
        ]
        unbiased = [x for x, log in zip(trajectories, logs, strict=True) if log is None]
        config = ReferenceConfig()
        interval = frames.frame_interval_ps
        tica = TICAProjection.fit(unbiased or trajectories, interval, config.tica_lag_ps)
        tics = np.asarray(tica.project(frames.positions))
        self.grid = TICGrid.from_samples(tics, bins=config.bins)
        self.bins = self.grid.bin_index(tics)
        native = frames.native_positions
        self.folded = None if native is None else rmsd(frames.positions, native) <= FOLDED_RMSD
        self.biased = sum(biased)
        self.model = StateWeights.fit(trajectories, logs, interval, seed)
        self.pieces = self.model.pieces

    def density(self, pieces: Sequence[Piece], population: FloatArray | None = None) -> FloatArray:
        """Return the weighted histogram (n1 * n2,) of pieces, by default by their own weights."""
        if population is None:
            population = self.model.populations(pieces)
        bins = np.concatenate([self.bins[piece.frames] for piece in pieces])
        count = self.grid.shape[0] * self.grid.shape[1]
        mass = np.bincount(bins, frame_weights(pieces, population), minlength=count)
        return np.asarray(mass / mass.sum())

    def delta_f(self, pieces: Sequence[Piece], population: FloatArray) -> float:
        """Return F(folded) - F(unfolded), kT."""
        assert self.folded is not None
        folded = np.concatenate([self.folded[piece.frames] for piece in pieces])
        return delta_f_kt(folded, frame_weights(pieces, population))


def analyse(
    frames: CGFrames, seed: int = 0, progress: Callable[[str, float], None] | None = None
) -> Convergence:
    """Estimate everything that `Convergence` holds.

    Parameters
    ----------
    frames : CGFrames
    seed : int
        Of bootstraps and random halves.
    progress : callable, optional
        Called with what comes next and the share that is done.

    Raises
    ------
    InputError
        If there is too little for TICA, nothing gives populations, or a biased trajectory's own
        weights are not in the file.
    """
    say = progress or (lambda what, share: None)
    random = np.random.default_rng(seed)
    say("states and weights", 0.0)
    data = _Data(frames, seed)
    say("halves", 0.2)
    sizes, growth = _growth(data, frames.nanoseconds, random)
    say("bootstrap of the folding free energy", 0.4)
    surfaces, delta_f = _by_each_way(data, random)
    say("kinetics", 0.5)
    unbiased = [piece.states for piece in data.pieces if piece.log_weights is None]
    interval = frames.frame_interval_ps
    times = timescales(unbiased, interval, random)
    say("Chapman-Kolmogorov test", 0.8)
    tests = chapman_kolmogorov(unbiased, data.model.lag, interval, random)
    weights = frame_weights(data.pieces, data.model.populations())
    both = {"msm", "bias"} <= surfaces.keys()
    say("done", 1.0)
    return Convergence(
        nanoseconds=frames.nanoseconds,
        frames=len(frames),
        trajectories=len(frames.trajectory_slices()),
        biased=data.biased,
        beads=frames.bead_count,
        effective_frames=effective_sample_size(weights),
        weightless=int((weights == 0).sum()),
        timescales=times,
        chapman_kolmogorov=tests,
        js_walkers=growth[-1],
        js_time=js_divergence(*(data.density(half) for half in _halves_of_time(data.pieces))),
        growth_ns=np.array(sizes),
        growth_js=np.array(growth),
        delta_f_kt=delta_f,
        surfaces={name: x.reshape(data.grid.shape) for name, x in surfaces.items()},
        grid=data.grid,
        agreement_js=js_divergence(surfaces["msm"], surfaces["bias"]) if both else float("nan"),
    )


def _halves_of_time(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Return the earlier and the later halves of all pieces."""
    lengths = [len(piece.states) for piece in pieces]
    return [
        [piece.cut(0, n // 2) for piece, n in zip(pieces, lengths, strict=True)],
        [piece.cut(n // 2, n) for piece, n in zip(pieces, lengths, strict=True)],
    ]


def _growth(
    data: _Data, nanoseconds: float, random: np.random.Generator
) -> tuple[list[float], list[float]]:
    """Return ns of a part and the mean JS between two disjoint random parts of that size."""
    sizes, found = [], []
    for share in SHARES:
        values = []
        for _ in range(SPLITS):
            parts = _two_parts(data.pieces, share, random)
            try:
                values.append(js_divergence(*(data.density(part) for part in parts)))
            except InputError:
                continue  # a part too small to connect two states
        if values:
            sizes.append(share * nanoseconds)
            found.append(float(np.mean(values)))
    if not sizes or sizes[-1] < 0.5 * nanoseconds:
        raise InputError("halves of the trajectories are too short to estimate populations from.")
    return sizes, found


def _two_parts(
    pieces: Sequence[Piece], share: float, random: np.random.Generator
) -> tuple[list[Piece], list[Piece]]:
    """Return two disjoint random parts, each with a share of each kind's trajectories."""
    parts: tuple[list[Piece], list[Piece]] = ([], [])
    for unbiased in (True, False):
        kind = [piece for piece in pieces if (piece.log_weights is None) == unbiased]
        order = random.permutation(sorted({piece.trajectory for piece in kind}))
        # Rounded at random, so that a share of few trajectories is right on average.
        count = min(int(share * len(order) + random.random()), len(order) // 2)
        for part, first in zip(parts, (0, count), strict=True):
            part += [p for p in kind if p.trajectory in order[first : first + count]]
    return parts


def _by_each_way(
    data: _Data, random: np.random.Generator
) -> tuple[dict[str, FloatArray], dict[str, Interval]]:
    """Return the surface, and ΔF with its bootstrap interval, by both ways and together."""
    model = data.model
    samples = [] if data.folded is None else [
        resampled(data.pieces, random) for _ in range(BOOTSTRAPS)
    ]  # fmt: skip
    surfaces, delta_f = {}, {}
    for name in ("all", "msm", "bias"):
        found = _one_way(name, model, data.pieces)
        if found is None:
            continue
        surfaces[name] = data.density(*found)
        results = [_one_way(name, model, sample) for sample in samples]
        values = [data.delta_f(*result) for result in results if result is not None]
        if values:
            low, high = np.percentile(values, [2.5, 97.5])
            delta_f[name] = (data.delta_f(*found), float(low), float(high))
    return surfaces, delta_f


def _one_way(
    name: str, model: StateWeights, pieces: Sequence[Piece]
) -> tuple[Sequence[Piece], FloatArray] | None:
    """Return the pieces that one way uses and the populations that it gives."""
    if name == "all":
        return pieces, model.populations(pieces)
    own = [piece for piece in pieces if (piece.log_weights is None) == (name == "msm")]
    if name == "msm":
        population = msm_populations(own, model.count, model.lag)
    else:
        population = bias_populations(own, model.count)
    return None if population is None else (own, population)
