"""Has a simulation reached equilibrium, as far as a figure of it goes?

Replicas that start alike agree long before they are right, so halves of the replicas cannot tell.
What can: the figure from the second half of the time against that from the first, the same replicas
in both. At equilibrium they differ by chance alone; while replicas still drift they do not.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from cgfe.analysis.comparison import compare_totals
from cgfe.analysis.ensemble import Ensemble
from cgfe.analysis.intervals import Interval, interval

RESAMPLES = 200
ALLOWED_SHARE = 0.5
"""Of the figure, that it may change by from one half of the time to the other."""
FEWEST_TIMES = 5.0
"""Correlation times of a replica below which halves that agree prove nothing: both may lie in the
basins that they started from."""
WANTED_TIMES = 10.0
"""Correlation times that a replica should run, to have forgotten its start."""


@dataclass(frozen=True)
class Equilibrium:
    """What the halves of a simulation's time say.

    Attributes
    ----------
    change : Interval
        JS divergence from the reference in the second half minus that in the first, with its 95 %
        interval over replicas.
    reached : "yes", "no" or "unknown"
        No: the change is not chance. Yes: it is at most half of the figure, with 95 %
        confidence, and a replica ran five correlation times or more. Unknown: too little to tell.
    times : float
        Correlation times of the slower TIC that a replica ran, by all replicas together; NaN where
        they are too short to tell.
    """

    change: Interval
    reached: Literal["yes", "no", "unknown"]
    times: float

    @property
    def longer(self) -> float:
        """How many times as long a replica should run at least (2 or more where it is not yet)."""
        if self.reached == "yes":
            return 1.0
        wanted = WANTED_TIMES / self.times if self.times > 0 else 2.0
        return max(2.0, float(wanted))


def check_equilibrium(
    reference: Ensemble,
    halves: tuple[Ensemble, Ensemble],
    js: float,
    times: float,
    seed: int = 0,
) -> Equilibrium:
    """Compare the halves of a simulation's time.

    Parameters
    ----------
    reference : Ensemble
    halves : two Ensembles
        The same replicas, in the first and the second half of the time.
    js : float
        Of the whole simulation.
    times : float
        Correlation times that a replica ran.
    seed : int
    """
    draws = halves[0].draws(RESAMPLES, np.random.default_rng([seed, 2]))
    whole = reference.totals()

    def scores(half: Ensemble) -> tuple[float, np.ndarray]:
        once = compare_totals(whole, half.totals(), reference.grid)["js"]
        return float(once), compare_totals(whole, half.totals(draws), reference.grid)["js"]

    (first, first_drawn), (second, second_drawn) = map(scores, halves)
    change = interval(second - first, second_drawn - first_drawn, len(halves[0]))
    reached: Literal["yes", "no", "unknown"] = "unknown"
    if not change.contains(0.0):
        reached = "no"
    elif times >= FEWEST_TIMES and max(-change.low, change.high) <= ALLOWED_SHARE * js:
        reached = "yes"
    return Equilibrium(change, reached, times)
