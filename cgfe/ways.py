"""The same free energies by several ways, each on the same bootstrap samples of walkers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cgfe.core_sets import FOLDED, UNFOLDED, Rates
from cgfe.errors import InputError
from cgfe.floor import js_of_equals, mass_of_walkers, sparseness
from cgfe.folding import FoldingData
from cgfe.frames import FRAMES_AT_ONCE, CGFrames
from cgfe.free_energy import TICGrid
from cgfe.intervals import Interval, interval
from cgfe.metrics import FOLDED_RMSD, FREE_ENERGY_CEILING_KT, js_divergence, rmsd
from cgfe.reference import ReferenceConfig
from cgfe.tica import TICAProjection
from cgfe.weights import StateWeights, Walkers, both_ways, mixed_populations

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Projection = tuple[TICAProjection, TICGrid]


@dataclass(frozen=True)
class Sampled:
    """Walkers on the grid of a surface, with all that the ways to its weights need.

    Attributes
    ----------
    walkers : Walkers
    msm_share : array (K,)
        Weight of the MSM's free energy of each state in the mean with the bias's.
    bins : int array (F,)
        Of the grid, -1 outside.
    grid : TICGrid
    folded : bool array (F,) or None
        By RMSD; None without a native structure.
    folding : FoldingData or None
    frame_interval_ps : float
    beads : int
    name : str
    """

    walkers: Walkers
    msm_share: FloatArray
    bins: IntArray
    grid: TICGrid
    folded: NDArray[np.bool_] | None
    folding: FoldingData | None
    frame_interval_ps: float
    beads: int
    name: str = "frames"

    @property
    def biased(self) -> NDArray[np.bool_]:
        """Which walkers (W,) were sampled under a bias."""
        return self.walkers.biased

    @property
    def nanoseconds(self) -> float:
        """Sampled time."""
        return len(self.bins) * self.frame_interval_ps / 1000

    @classmethod
    def of(cls, frames: CGFrames, seed: int, projection: "Projection | None" = None) -> "Sampled":
        """Project the frames and fit states and weights to them.

        Parameters
        ----------
        frames : CGFrames
        seed : int
        projection : Projection, optional
            Of another file, to compare surfaces; fitted to this one by default.

        Raises
        ------
        InputError
            If there is too little for TICA, or a biased trajectory's own weights are missing.
        """
        slices = frames.trajectory_slices()
        trajectories = [frames.positions[s] for s in slices]
        logs = _bias_logs(frames, slices)
        tica, grid = projection or fit_projection(frames)
        fitted = StateWeights.fit(trajectories, logs, frames.frame_interval_ps, seed)
        walkers = fitted.walkers
        folded = folding = None
        if frames.native_positions is not None:
            distance = np.concatenate([
                rmsd(frames.positions[a : a + FRAMES_AT_ONCE], frames.native_positions)
                for a in range(0, len(frames), FRAMES_AT_ONCE)
            ])  # fmt: skip
            folded = distance <= FOLDED_RMSD
            interval_ps = frames.frame_interval_ps
            folding = FoldingData(distance, walkers.walker, walkers.biased, interval_ps)
        return cls(
            walkers=walkers,
            msm_share=fitted.msm_share,
            bins=grid.bin_index(tica.project(frames.positions)),
            grid=grid,
            folded=folded,
            folding=folding,
            frame_interval_ps=frames.frame_interval_ps,
            beads=frames.bead_count,
            name=frames.name,
        )

    def surface(self, weights: FloatArray, frames: NDArray[np.bool_] | None = None) -> FloatArray:
        """Return the weighted histogram (1 + n1 n2,), its first entry what is outside."""
        bins = self.bins if frames is None else self.bins[frames]
        count = self.grid.shape[0] * self.grid.shape[1]
        mass = np.bincount(bins + 1, weights, minlength=count + 1)
        return np.asarray(mass / mass.sum())

    def delta_f(self, weights: FloatArray) -> tuple[float, float]:
        """Return F(folded) - F(unfolded) in kT, by RMSD and by the core that was last.

        The latter is NaN where biased frames have weight: a bias changes which core was last.
        """
        if self.folded is None or self.folding is None:
            return float("nan"), float("nan")
        inside = weights[self.folded].sum()
        by_rmsd = _delta_f(inside, weights.sum() - inside)
        if self.biased.any() and weights[self.biased[self.walkers.walker]].any():
            return by_rmsd, float("nan")
        state = self.folding.state
        return by_rmsd, _delta_f(weights[state == FOLDED].sum(), weights[state == UNFOLDED].sum())


def _delta_f(folded: float, unfolded: float) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.log(unfolded) - np.log(folded)
    return float(np.clip(value, -FREE_ENERGY_CEILING_KT, FREE_ENERGY_CEILING_KT))


def fit_projection(frames: CGFrames) -> Projection:
    """Return the TICA of the unbiased frames (all, if all are biased), and a grid for all.

    Raises
    ------
    InputError
        If there is too little for TICA.
    """
    config = ReferenceConfig()
    slices = frames.trajectory_slices()
    biased = np.isin([frames.trajectory_index[s.start] for s in slices], frames.biased_trajectories)
    chosen = [s for s, b in zip(slices, biased, strict=True) if not b] or slices
    kinetic = [frames.positions[s] for s in chosen]
    tica = TICAProjection.fit(kinetic, frames.frame_interval_ps, config.tica_lag_ps)
    return tica, TICGrid.from_samples(tica.project(frames.positions), bins=config.bins)


def _bias_logs(frames: CGFrames, slices: list[slice]) -> list[FloatArray | None]:
    """Return each trajectory's log weights by its bias, None for an unbiased one."""
    logs = frames.bias_log_weights
    found: list[FloatArray | None] = []
    for part in slices:
        if frames.trajectory_index[part.start] not in frames.biased_trajectories:
            found.append(None)
        elif logs is None:
            raise InputError(
                f"{frames.name}: bias_log_weights are missing, so the biased trajectories cannot "
                "be weighted anew; pack the runs again."
            )
        else:
            found.append(logs[part])
    return found


@dataclass(frozen=True)
class Way:
    """Free energies by one way, from all walkers and from bootstrap samples.

    Attributes
    ----------
    walkers : int
        That it rests on.
    surface, surfaces : array (B,), (R, B), or None
    sparse : float
        By which a bootstrap's JS is too small (`cgfe.floor.sparseness`).
    delta_f, by_core : Interval or None
        F(folded) - F(unfolded) in kT by RMSD, and by the core that was last.
    delta_f_samples, by_core_samples : array (R,)
    """

    walkers: int
    surface: FloatArray | None
    surfaces: FloatArray | None
    delta_f: Interval | None
    by_core: Interval | None
    delta_f_samples: FloatArray
    by_core_samples: FloatArray
    sparse: float = 1.0


@dataclass(frozen=True)
class Agreement:
    """How far two ways are apart, and how far they may be.

    Attributes
    ----------
    first, second : str
    independent : bool
        Whether they rest on different walkers.
    difference : Interval or None
        Of ΔF, kT.
    js, js_by_chance : float
        Between the surfaces, and the 95 % quantile for two samples of one surface (less often
        exceeded where more comparisons are made); NaN without.
    """

    first: str
    second: str
    independent: bool
    difference: Interval | None
    js: float
    js_by_chance: float

    @property
    def holds(self) -> bool:
        """Whether ΔF's difference may be 0 and the surfaces are no farther than by chance."""
        apart = self.difference is not None and not self.difference.contains(0)
        return not apart and not self.js > self.js_by_chance


def estimate_ways(
    data: Sampled, draws: IntArray, rates: Rates | None
) -> tuple[dict[str, Way], FloatArray]:
    """Return each way's figures, and the weight of each frame by all ways together.

    Parameters
    ----------
    data : Sampled
    draws : int array (R, W)
    rates : Rates or None

    Raises
    ------
    InputError
        If no way gives populations.
    """
    both_ways(data.walkers, data.msm_share)  # says what is missing
    whole = weights_of_ways(data, None, rates)
    samples = [
        {name: _figures(data, w) for name, w in weights_of_ways(data, draw, rates).items()}
        for draw in draws
    ]
    numbers = _walkers_behind(data)
    missing = (np.full(1 + data.grid.shape[0] * data.grid.shape[1], np.nan), (np.nan, np.nan))
    ways = {
        name: _way(
            data,
            weights,
            [sample.get(name, missing) for sample in samples],
            numbers[name],
            # The sparseness is that of the walkers; it takes weights as they are.
            sparseness(
                mass_of_walkers(data.walkers.walker, data.bins, weights),
                draws,
                np.random.default_rng(0),
                data.biased.astype(np.int64),
            ),
        )
        for name, weights in whole.items()
    }
    if rates is not None:
        nothing = np.full(len(draws), np.nan)
        ways["rates"] = Way(
            numbers["msm"], None, None, None, rates.delta_f_kt, nothing, rates.resampled
        )
    return ways, whole["all"]


def _way(
    data: Sampled, weights: FloatArray, samples: list["Figures"], walkers: int, sparse: float
) -> Way:
    surface, (by_rmsd, by_core) = _figures(data, weights)
    pairs = np.array([pair for _, pair in samples])
    native = data.folded is not None
    has_core = native and np.isfinite(by_core)
    return Way(
        walkers=walkers,
        surface=surface,
        surfaces=np.array([s for s, _ in samples if np.isfinite(s[0])]),
        delta_f=interval(by_rmsd, pairs[:, 0], walkers) if native else None,
        by_core=interval(by_core, pairs[:, 1], walkers) if has_core else None,
        delta_f_samples=pairs[:, 0],
        by_core_samples=pairs[:, 1],
        sparse=sparse,
    )


Figures = tuple[FloatArray, tuple[float, float]]
"""Surface (B,), and ΔF by RMSD and by core."""


def _figures(data: Sampled, weights: FloatArray) -> Figures:
    return data.surface(weights), data.delta_f(weights)


def _walkers_behind(data: Sampled) -> dict[str, int]:
    unbiased, biased = int((~data.biased).sum()), int(data.biased.sum())
    # Where both kinds matter, the one of fewer walkers limits what the spread is known to.
    both = min(unbiased, biased) if unbiased and biased else unbiased + biased
    return {"all": both, "msm": unbiased, "counts": unbiased, "bias": biased}


def weights_of_ways(
    data: Sampled, draws: IntArray | None, rates: Rates | None
) -> dict[str, FloatArray]:
    """Return the frames' weights (F,) by each way that gives some: all, msm, bias, counts."""
    walkers = data.walkers
    by_msm, by_bias = walkers.msm_populations(draws), walkers.bias_populations(draws)
    found = {}
    try:
        together = mixed_populations(by_msm, by_bias, data.msm_share)
        found["all"] = walkers.frame_weights(together, draws)
    except InputError:
        return {}
    chosen = np.ones(len(walkers), dtype=np.int64) if draws is None else draws
    for name, own, population in (
        ("msm", ~data.biased, by_msm), ("bias", data.biased, by_bias)
    ):  # fmt: skip
        if population is not None:
            same = own.all()
            found[name] = found["all"] if same else walkers.frame_weights(population, chosen * own)
    if data.folding is not None:
        counted = data.folding.count_weights(rates, draws)
        if counted is not None:
            found["counts"] = counted
    return found


def compare_ways(ways: dict[str, Way], others: int = 0) -> list[Agreement]:
    """Compare the MSM with the bias, and with counts and rates of the same walkers.

    `others` is how many more comparisons are made: all intervals shall hold at once.
    """
    pairs = [
        (first, second, independent)
        for first, second, independent in (
            ("msm", "bias", True),
            ("msm", "counts", False),
            ("msm", "rates", False),
        )
        if {first, second} <= ways.keys()
    ]
    number = len(pairs) + others
    return [
        compare((first, ways[first]), (second, ways[second]), independent, number)
        for first, second, independent in pairs
    ]


def compare(
    first: tuple[str, Way], second: tuple[str, Way], independent: bool, comparisons: int = 1
) -> Agreement:
    """Compare two ways, by RMSD where both have that, else by the core that was last.

    Ways on the same walkers are compared sample by sample, and their surfaces not at all: they
    err together. Independent ways' samples are in no relation to each other, so the spread of
    their differences is that of both.
    """
    (name, a), (other, b) = first, second
    number = min(a.walkers, b.walkers)
    difference = None
    for one, two, x, y in (
        (a.delta_f, b.delta_f, a.delta_f_samples, b.delta_f_samples),
        (a.by_core, b.by_core, a.by_core_samples, b.by_core_samples),
    ):
        if one is not None and two is not None:
            difference = interval(one.value - two.value, x - y, number, comparisons)
            break
    js = chance = float("nan")
    if independent and a.surfaces is not None and b.surfaces is not None:
        assert a.surface is not None
        assert b.surface is not None
        js = js_divergence(a.surface, b.surface)
        size = min(len(a.surfaces), len(b.surfaces))
        equal = js_of_equals((a.surfaces[:size], a.surface), (b.surfaces[:size], b.surface))
        scale = (a.sparse + b.sparse) / 2 * number / max(number - 1, 1)
        chance = scale * float(np.quantile(equal, 1 - 0.05 / comparisons))
    return Agreement(name, other, independent, difference, js, chance)
