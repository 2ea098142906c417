"""A grid that has grown, by further values of its parameters: its runs go on in the same study."""

from pathlib import Path

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from cgfe.errors import InputError
from cgfe.experiment.sweep_file import Point, SweepFile
from cgfe.files import replacing

QUEUED = "fixed_params"
"""Where Optuna keeps the values of a trial that waits."""


def same_sweep(copy: Path, text: str) -> bool:
    """Return whether a sweep file says the same as a text; comments may differ.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    try:
        before = yaml.safe_load(copy.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).replace("\n", " ")
        raise InputError(f"{copy}: cannot be read ({reason}).") from None
    return bool(before == yaml.safe_load(text))


def has_grown(before: SweepFile, now: SweepFile) -> bool:
    """Return whether a grid asks for all that it asked for before, and all else is the same."""
    same = ("method", "metric", "minimize", "command", "program", "early_termination")
    if now.method != "grid" or any(getattr(before, key) != getattr(now, key) for key in same):
        return False
    values = [_values(sweep) for sweep in (before, now)]
    return values[0].keys() == values[1].keys() and all(
        value in values[1][name] for name, wanted in values[0].items() for value in wanted
    )


def grow(study: optuna.Study, database: Path, before: SweepFile, now: SweepFile) -> None:
    """Write the study anew, as that of the grown sweep; the file is replaced at once.

    Optuna lets no parameter get further choices, so its trials, with the numbers that they have,
    become those of a new study.

    Raises
    ------
    InputError
        If runs are under way.
    """
    trials = study.get_trials()
    if any(trial.state == TrialState.RUNNING for trial in trials):
        raise InputError(
            f"{database.parent}: the sweep's file has further values, but runs are under way; end "
            "them first, or wait for them."
        )
    added = {name: before.fixed[name] for name in now.space if name in before.fixed}
    with replacing(database) as temporary:
        storage = optuna.storages.RDBStorage(f"sqlite:///{temporary}")
        grown = optuna.create_study(
            study_name=study.study_name, storage=storage, direction=study.direction
        )
        for trial in trials:
            grown.add_trial(_moved(trial, added, now))
        storage.engine.dispose()


def point_of(trial: FrozenTrial) -> Point:
    """Return the values of a trial's parameters; one that waits has them as it was queued."""
    return dict(trial.params or trial.system_attrs.get(QUEUED, {}))


def _moved(trial: FrozenTrial, added: Point, now: SweepFile) -> FrozenTrial:
    if trial.params:
        trial.params = {**added, **trial.params}
        trial.distributions = {name: now.space[name] for name in trial.params}
    if QUEUED in trial.system_attrs:
        queued = {**added, **trial.system_attrs[QUEUED]}
        trial.system_attrs = {**trial.system_attrs, QUEUED: queued}
    return trial


def _values(sweep: SweepFile) -> dict[str, list[object]]:
    """Return the values of each parameter of a grid."""
    varied = {name: list(getattr(space, "choices", ())) for name, space in sweep.space.items()}
    return {**varied, **{name: [value] for name, value in sweep.fixed.items()}}
