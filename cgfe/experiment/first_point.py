"""Trying a sweep's first point before any is run: its parameters, and the metric's name."""

import subprocess
from pathlib import Path
from typing import Any

import yaml
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from cgfe.errors import InputError
from cgfe.experiment.sweep_file import Point, SweepFile
from cgfe.simulation.structure import ERRORS
from cgfe.training import losses
from cgfe.training.judging import COST, METRICS, SPEED
from cgfe.training.losses.term import LossTerm

SECONDS = 120.0
PRINT = "--print_config"
MEAN_FORCES = ("mean_force_mse", "mean_force_mse_prior")
CHAINS = ("chains_blown_up", "chains_effective")


def check_first_point(sweep: SweepFile) -> None:
    """Check that `cgfe fit` takes the parameters of a sweep and logs its metric.

    Of a sweep that runs another program nothing is known. Values that are wrong at other points
    alone are told by the runs.

    Raises
    ------
    InputError
        In the command's own words, or naming the metric.
    """
    points = sweep.grid() if sweep.method == "grid" else [_some_point(sweep)]
    words = sweep.arguments(points[0], [PRINT])
    command = words[: words.index("fit")] if "fit" in words else []
    if "cgfe" not in [Path(word).name for word in command] or PRINT not in words:
        return
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"{sweep.path}: the command cannot be run ({error}).") from None
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise InputError(f"{sweep.path}: {said.removeprefix('cgfe: error: ')}")
    _check_metric(sweep, yaml.safe_load(done.stdout))


def _some_point(sweep: SweepFile) -> Point:
    return {
        name: space.choices[0] if isinstance(space, CategoricalDistribution) else _low(space)
        for name, space in sweep.space.items()
    }


def _low(space: BaseDistribution) -> int | float:
    assert isinstance(space, IntDistribution | FloatDistribution)
    return space.low


def _check_metric(sweep: SweepFile, config: dict[str, Any]) -> None:
    """Check the metric's name against what a fit with this config logs."""
    stage, _, key = sweep.metric.rpartition("/")
    stage, _, system = stage.partition("/")
    settings = config["free_energy"]
    known: dict[str, tuple[str, ...]] = {
        "train": (*_of_losses(), *CHAINS),
        "validation": (*_of_losses(), *MEAN_FORCES, *CHAINS),
    }
    if settings["every_n_epochs"] > 0:
        simulated = (*METRICS, *ERRORS, MEAN_FORCES[0], SPEED)
        known["free_energy"] = (*simulated, *(name.rpartition("/")[2] for name in COST))
        if settings["final"] is not None:
            known["final"] = simulated
    own = bool((config["model"].get("losses") or {}).get("own")) and stage in (
        "train",
        "validation",
    )
    if stage not in known:
        listed = ", ".join(f"{name}/..." for name in known)
        raise InputError(f"{sweep.path}: metric.name is {sweep.metric}, expected one of {listed}.")
    if key not in known[stage] and not own:
        raise InputError(
            f"{sweep.path}: metric.name is {sweep.metric}, expected {stage}/ and one of "
            f"{', '.join(known[stage])}."
        )
    first, *others = (Path(str(name)).stem for name in _listed(config["data"]["frames"]))
    if system and system not in others:
        raise InputError(
            f"{sweep.path}: metric.name is {sweep.metric}, but the systems of data.frames are "
            f"{first}, whose metrics have no name of their own, and "
            f"{', '.join(others) or 'no other'}."
        )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _of_losses() -> tuple[str, ...]:
    terms = [term for term in _terms() if term.__module__.startswith(losses.__name__)]
    return ("loss", *sorted({term.log_name for term in terms if term.log_name}))


def _terms() -> list[type[LossTerm]]:
    """Return all kinds of terms, those made of other kinds too."""
    found = LossTerm.__subclasses__()
    for kind in found:
        found += kind.__subclasses__()
    return found
