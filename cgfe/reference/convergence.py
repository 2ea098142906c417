"""Is a reference converged? All figures that `cgfe.report.verdicts` judges.

Every part and every bootstrap sample of the data gets its own weights, so that a comparison shows
all their error.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cgfe.analysis.floor import Floor, floor_of_surfaces
from cgfe.analysis.folding import Folding
from cgfe.analysis.free_energy import TICGrid, effective_sample_size
from cgfe.analysis.kinetics import ChapmanKolmogorov, Timescales, chapman_kolmogorov, timescales
from cgfe.analysis.metrics import js_divergence
from cgfe.analysis.weights import both_ways
from cgfe.array_types import FloatArray, IntArray
from cgfe.data.frames import CGFrames
from cgfe.errors import InputError
from cgfe.reference.sampled import Sampled, fit_projection
from cgfe.reference.ways import Agreement, Way, compare, compare_ways, estimate_ways

BOOTSTRAPS = 100
SPLITS = 8
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Of all trajectories: sizes of the two parts that are compared with each other."""

TARGET_JS = 0.01
"""JS divergence of a perfect model."""
TARGET_DELTA_F_KT = 0.2
"""Half of the 95 % interval of ΔF."""
SMALLEST_POWER = 0.1
"""A slower fall than the time to this power is no fall."""

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Against:
    """A second, independent set of frames.

    Attributes
    ----------
    name : str
    nanoseconds : float
    trajectories : int
    way : Way
        All its walkers, by their own weights.
    hops : (int, int) or None
        Foldings and unfoldings of its replicas, if it is of replica exchange.
    """

    name: str
    nanoseconds: float
    trajectories: int
    way: Way
    hops: tuple[int, int] | None = None


@dataclass(frozen=True)
class Convergence:
    """What there is to say about a reference's convergence.

    Attributes
    ----------
    nanoseconds, frames, trajectories, biased, beads
        Size; `biased` counts trajectories.
    effective_frames, weightless : float, int
        Effective sample size of the weights, and frames without weight.
    floor : Floor
        What a perfect model would score.
    timescales : Timescales
    chapman_kolmogorov : list of ChapmanKolmogorov
    js_walkers, js_time : float
        JS divergence between halves by trajectories (mean over random halves) and by time, each
        half with weights of its own.
    growth_ns, growth_js : array
        Size of each part, and JS between two parts of that size.
    ways : dict of Way
        By `all` walkers, `msm`, `bias`, `counts`, `rates`, as far as there is each.
    agreements : list of Agreement
    folding : Folding or None
        None without a native structure.
    grid : TICGrid
    against : Against or None
    """

    nanoseconds: float
    frames: int
    trajectories: int
    biased: int
    beads: int
    effective_frames: float
    weightless: int
    floor: Floor
    timescales: Timescales
    chapman_kolmogorov: list[ChapmanKolmogorov]
    js_walkers: float
    js_time: float
    growth_ns: FloatArray
    growth_js: FloatArray
    ways: dict[str, Way]
    agreements: list[Agreement]
    folding: Folding | None
    grid: TICGrid
    against: Against | None = None

    @property
    def delta_f_half_width(self) -> float:
        """Half of the 95 % interval of ΔF by all walkers, kT; 0 without a native structure."""
        delta_f = self.ways["all"].delta_f
        return 0.0 if delta_f is None else delta_f.half_width

    def more_ns(self) -> tuple[float, float]:
        """Return how many ns more the trend asks for, and at least, to reach both targets.

        At least: the floor of walkers that visit everything falls as 1 / t, ΔF's interval as the
        root. The trend takes the floor to fall as the power of the time that the two largest
        parts show, since what was never visited shows only later.
        """
        ratio = max(1.0, self.floor.mean / TARGET_JS)
        power = 0.0
        if len(self.growth_js) > 1 and (self.growth_js[-2:] > 0).all():
            falls = np.log(self.growth_js[-2] / self.growth_js[-1])
            power = float(np.clip(falls / np.log(self.growth_ns[-1] / self.growth_ns[-2]), 0, 1))
        trend = ratio ** (1 / power) if power > SMALLEST_POWER else np.inf
        if ratio == 1:
            trend = 1.0
        of_delta_f = max(1.0, (self.delta_f_half_width / TARGET_DELTA_F_KT) ** 2)
        longest, least = max(trend, of_delta_f), max(ratio, of_delta_f)
        return self.nanoseconds * (longest - 1), self.nanoseconds * (least - 1)


def analyse(
    frames: CGFrames,
    seed: int = 0,
    progress: Progress | None = None,
    against: CGFrames | None = None,
) -> Convergence:
    """Estimate everything that `Convergence` holds.

    Parameters
    ----------
    frames : CGFrames
    seed : int
        Of bootstraps and random halves.
    progress : callable, optional
        Called with what comes next and the share that is done.
    against : CGFrames, optional
        Sampled independently: a second way to the same free energies.

    Raises
    ------
    InputError
        If there is too little for TICA, nothing gives populations, a biased trajectory's own
        weights are not in the file, or the second set is of another system or temperature.
    """
    if progress is not None:
        progress("states and weights", 0.0)
    if against is not None:
        _check_same_system(frames, against)
    projection, tics = fit_projection(frames)
    data, second = Sampled.of(frames, seed, projection.grid, tics), None
    if against is not None:
        others = projection.tica.project(against.positions)
        second = Sampled.of(against, seed, projection.grid, others)
    return analyse_sampled(data, seed, progress, second)


def analyse_sampled(
    data: Sampled,
    seed: int = 0,
    progress: Progress | None = None,
    second: Sampled | None = None,
) -> Convergence:
    """Estimate everything that `Convergence` holds of walkers that are assigned to states.

    Parameters and errors are those of `analyse`; `second` is the set to compare with, on the
    same grid.
    """
    say = progress or (lambda what, share: None)
    random = np.random.default_rng(seed)
    walkers, interval = data.walkers, data.frame_interval_ps
    draws = np.array([walkers.draw(random) for _ in range(BOOTSTRAPS)])
    folding = None if data.folding is None else data.folding.summary(draws, walkers.lag)
    say("bootstrap of the free energies", 0.1)
    ways, weights = estimate_ways(data, draws, None if folding is None else folding.rates)
    agreements = compare_ways(ways, others=int(second is not None))
    against = None
    if second is not None:
        say(f"bootstrap of {second.name}", 0.4)
        against = _against(second, seed)
        pair = ("all", ways["all"]), ("against", against.way)
        agreements.append(compare(*pair, True, len(agreements) + 1))
    say("halves", 0.5)
    sizes, growth = _growth(data, random)
    say("implied timescales", 0.6)
    times = timescales(walkers, interval, random)
    say("Chapman-Kolmogorov test", 0.85)
    tests = chapman_kolmogorov(walkers, interval, random)
    say("done", 1.0)
    every = ways["all"]
    assert every.surface is not None
    assert every.surfaces is not None
    return Convergence(
        nanoseconds=data.nanoseconds,
        frames=len(data.bins),
        trajectories=len(walkers),
        biased=int(data.biased.sum()),
        beads=data.beads,
        effective_frames=effective_sample_size(weights),
        weightless=int((weights == 0).sum()),
        floor=floor_of_surfaces(every.surfaces, every.surface, every.walkers, every.sparse),
        timescales=times,
        chapman_kolmogorov=tests,
        js_walkers=growth[-1],
        js_time=_js_of_times(data),
        growth_ns=np.array(sizes),
        growth_js=np.array(growth),
        ways=ways,
        agreements=agreements,
        folding=folding,
        grid=data.grid,
        against=against,
    )


def _check_same_system(frames: CGFrames, against: CGFrames) -> None:
    for what in ("residue_names", "temperature_kelvin"):
        first, second = getattr(frames, what), getattr(against, what)
        if first != second:
            raise InputError(
                f"{against.name}: {what} is {second}, expected {first}, that of {frames.name}."
            )


def _against(data: Sampled, seed: int) -> Against:
    # Its own random numbers: the same ones would tie the two sets' samples to each other.
    random = np.random.default_rng((seed, 1))
    draws = np.array([data.walkers.draw(random) for _ in range(BOOTSTRAPS)])
    ways, _ = estimate_ways(data, draws, None)
    return Against(data.name, data.nanoseconds, len(data.walkers), ways["all"], data.hops)


def _js_of_times(data: Sampled) -> float:
    """Return JS between the earlier and the later halves of all walkers."""
    walker = data.walkers.walker
    lengths = np.bincount(walker)
    age = np.arange(len(walker)) - (np.cumsum(lengths) - lengths)[walker]
    early = age < lengths[walker] // 2
    surfaces = []
    for frames in (early, ~early):
        half = data.walkers.select(frames)
        try:
            population = both_ways(half, data.msm_share)
        except InputError:
            return float("nan")
        surfaces.append(data.surface(half.frame_weights(population), frames))
    return js_divergence(*surfaces)


def _growth(data: Sampled, random: np.random.Generator) -> tuple[list[float], list[float]]:
    """Return ns of a part and the mean JS between two disjoint random parts of that size."""
    sizes, found = [], []
    for share in SHARES:
        values = []
        for _ in range(SPLITS):
            try:
                surfaces = [
                    _surface_of(data, part) for part in _two_parts(data.biased, share, random)
                ]
            except InputError:
                continue  # a part too small to connect two states
            values.append(js_divergence(*surfaces))
        if values:
            sizes.append(share * data.nanoseconds)
            found.append(float(np.mean(values)))
    if not sizes or sizes[-1] < 0.5 * data.nanoseconds:
        raise InputError("halves of the trajectories are too short to estimate populations from.")
    return sizes, found


def _surface_of(data: Sampled, draws: IntArray) -> FloatArray:
    population = both_ways(data.walkers, data.msm_share, draws)
    return data.surface(data.walkers.frame_weights(population, draws))


def _two_parts(
    biased: NDArray[np.bool_], share: float, random: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Return two disjoint random parts (W,), each with a share of each kind's trajectories."""
    parts = np.zeros((2, len(biased)), dtype=np.int64)
    for kind in (True, False):
        order = random.permutation(np.flatnonzero(biased == kind))
        # Rounded at random, so that a share of few trajectories is right on average.
        count = min(int(share * len(order) + random.random()), len(order) // 2)
        parts[0, order[:count]] = 1
        parts[1, order[count : 2 * count]] = 1
    return parts[0], parts[1]
