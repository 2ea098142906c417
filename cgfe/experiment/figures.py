"""One figure of every run of a sweep, and how it varies with what was sampled.

Three things make the figure of a run uncertain. The reference has a finite number of walkers, and
all runs are compared with the same ones, so that error is shared. The run's own simulation has a
finite number of replicas, and its training has a seed; both are the run's own. A bootstrap sample
therefore draws the reference's walkers once for all runs and each run's replicas on their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cgfe.array_types import BoolArray, FloatArray, IntArray
from cgfe.errors import InputError

Setting = float | str

RESAMPLES = 200

FEWEST_SEEDS = 2


@dataclass(frozen=True)
class SweepFigures:
    """One figure of every run of a sweep, lower values the better ones.

    Attributes
    ----------
    settings : sequence (K,)
        Values of the option that was swept.
    figures : array (K, S)
        Of each setting and seed, in `unit`; NaN where a run is missing or failed.
    resampled : array (K, S, R), optional
        The figures on R bootstrap samples, the same sample of the reference's walkers in a column
        for all runs. Replicas may have been drawn anew for each run or left alone; what only one
        run has is already in the spread over seeds and is not counted twice. None: the reference
        is taken as exact.
    walkers : int, optional
        Of the reference, that were drawn from; needed with `resampled`.
    option, name, unit : str
        Of what was swept and of the figure, as they stand in a sentence.

    Raises
    ------
    InputError
        If shapes do not fit, or no setting has two seeds.
    """

    settings: Sequence[Setting]
    figures: FloatArray
    resampled: FloatArray | None = None
    walkers: int | None = None
    option: str = "energy weight"
    name: str = "JS"
    unit: str = "nat"

    def __post_init__(self) -> None:
        if self.figures.ndim != 2 or len(self.figures) != len(self.settings):
            raise InputError(
                f"figures of {len(self.settings)} settings must have shape (settings, seeds), "
                f"found {self.figures.shape}."
            )
        if len(set(self.settings)) < len(self.settings):
            raise InputError(f"settings must differ, found {list(self.settings)}.")
        most = int(self.present.sum(axis=1).max(initial=0))
        if most < FEWEST_SEEDS:
            raise InputError(
                f"statistics over seeds need at least {FEWEST_SEEDS} finished runs of one setting, "
                f"found at most {most}."
            )
        if self.resampled is None:
            return
        if self.resampled.shape[:2] != self.figures.shape or self.resampled.ndim != 3:
            raise InputError(
                f"resampled figures must have shape {(*self.figures.shape, 'resamples')}, "
                f"found {self.resampled.shape}."
            )
        if self.walkers is None or self.walkers < 2 or self.resampled.shape[2] < 2:
            raise InputError(
                f"resampled figures need at least two walkers and two resamples, found "
                f"{self.walkers} and {self.resampled.shape[2]}."
            )
        if not np.isfinite(self.resampled[self.present]).all():
            raise InputError("resampled figures of finished runs must be finite.")

    @property
    def present(self) -> BoolArray:
        """Which runs (K, S) have a figure."""
        return np.isfinite(self.figures)

    def label(self, *rows: int) -> str:
        """Return settings' names in a sentence, `energy weight 0.1, 0.2`."""
        settings = (self.settings[row] for row in rows)
        return f"{self.option} " + ", ".join(
            setting if isinstance(setting, str) else format(setting, "g") for setting in settings
        )


Figure = Callable[[int, int, IntArray, IntArray], FloatArray]


def resample_runs(
    figure: Figure,
    present: BoolArray,
    walkers: int,
    replicas: int,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> FloatArray:
    """Return the figures (K, S, R) of runs on bootstrap samples, NaN where a run is missing.

    Parameters
    ----------
    figure : callable
        Of a run's setting and seed (rows and columns of `present`), how often each sample holds
        each of the reference's walkers (R, W), the same array for every run, and each of the
        run's replicas (R, M), drawn for it alone; returns the figures (R,). With the masses
        (W, B) and (M, B) of `cgfe.analysis.floor.mass_of_walkers` a sample's surfaces are
        `walker_draws @ mass` and `replica_draws @ own_mass`.
    present : bool array (K, S)
    walkers, replicas : int
        W of the reference and M of each run.
    resamples, seed : int
        Number and seed of the bootstrap samples.
    """
    random = np.random.default_rng(seed)

    def draw(number: int) -> IntArray:
        return random.multinomial(number, np.full(number, 1 / number), size=resamples)

    shared = draw(walkers)
    resampled = np.full((*present.shape, resamples), np.nan)
    for row, column in np.argwhere(present):
        resampled[row, column] = figure(int(row), int(column), shared, draw(replicas))
    return resampled
