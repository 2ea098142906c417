"""The same free energies by several ways, each on the same bootstrap samples of walkers."""

from dataclasses import dataclass

import numpy as np

from cgfe.analysis.core_sets import Rates
from cgfe.analysis.floor import js_of_equals, mass_of_walkers, sparseness
from cgfe.analysis.intervals import Interval, interval
from cgfe.analysis.metrics import js_divergence
from cgfe.analysis.weights import both_ways, mixed_populations
from cgfe.array_types import FloatArray, IntArray
from cgfe.errors import InputError
from cgfe.reference.sampled import Sampled


@dataclass(frozen=True)
class Way:
    """Free energies by one way, from all walkers and from bootstrap samples.

    Attributes
    ----------
    walkers : int
        That it rests on.
    surface, surfaces : array (B,), (R, B), or None
    sparse : float
        By which a bootstrap's JS is too small (`cgfe.analysis.floor.sparseness`).
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
