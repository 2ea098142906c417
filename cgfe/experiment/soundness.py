"""Whether a sweep's simulations are long enough, and of their models at all."""

from collections.abc import Mapping, Sequence

import numpy as np

from cgfe.array_types import BoolArray, FloatArray
from cgfe.experiment.saved import Saved
from cgfe.report.run_verdict import MOST_HEATING

TIMES = "correlation_times"
HEATING = "heating"


def soundness_figures(
    shape: tuple[int, int], saved: Mapping[tuple[int, int], Saved | None]
) -> dict[str, FloatArray]:
    """Return what runs tell of their simulations, each an array (K, S), NaN where they do not.

    `settled` is 1 where the simulation is at equilibrium as far as JS goes
    (`cgfe.analysis.equilibrium`) and 0 where it is not or cannot be told, nothing is saved of it
    or no replica stayed whole; `correlation_times` is how many a replica ran, and `heating` the
    kinetic temperature over the data's, less 1.
    """
    found = {key: np.full(shape, np.nan) for key in ("settled", TIMES, HEATING)}
    for place, result in saved.items():
        content = result[0] if result is not None else {}
        equilibrium = content.get("equilibrium") or {}
        found["settled"][place] = equilibrium.get("reached") == "yes"
        for key, value in ((TIMES, equilibrium.get(TIMES)), (HEATING, content.get(HEATING))):
            if isinstance(value, int | float):
                found[key][place] = value
    return found


def soundness_words(
    figures: Mapping[str, FloatArray], settings: Sequence[str], option: str
) -> tuple[str, ...]:
    """Say how many simulations are at equilibrium, and which ran at another temperature.

    Parameters
    ----------
    figures : mapping of array (K, S)
        Of `soundness_figures`.
    settings : sequence of str
        K names.
    option : str
        What they are settings of.
    """
    settled, times, heating = (figures[key] for key in ("settled", TIMES, HEATING))
    sentences = []
    told = np.isfinite(settled)
    if np.isfinite(times).any() or (settled == 1).any():
        sentence = (
            f"{_counted(int((settled == 1).sum()), int(told.sum()))} at equilibrium as far as JS "
            "goes"
        )
        known = times[np.isfinite(times)]
        if len(known):
            sentence += f" ({known.min():.2g} to {known.max():.2g} correlation times of a replica)"
        missed = _listed(settled == 0, settings, option)
        sentences.append(f"{sentence}{'; not, or not known to be: ' + missed if missed else ''}.")
    hot = _listed(np.abs(heating) > MOST_HEATING, settings, option)
    if hot:
        sentences.append(
            f"Simulations that missed their temperature by more than {100 * MOST_HEATING:.0f} %: "
            f"{hot}; figures of these are not, or not only, of the model."
        )
    return tuple(sentences)


def _counted(number: int, of: int) -> str:
    return f"All {of} simulations are" if number == of else f"{number} of {of} simulations are"


def _listed(chosen: BoolArray, settings: Sequence[str], option: str) -> str:
    """Return how many of each setting are chosen, nothing where none is."""
    counts = chosen.sum(axis=1)
    parts = [f"{count} of {name}" for name, count in zip(settings, counts, strict=True) if count]
    return f"{option}: {', '.join(parts)}" if parts else ""
