"""Finished runs of a sweep that was exported: it goes on elsewhere, and they are not run again."""

import csv
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from cgfe.errors import InputError
from cgfe.experiment.config_files import KEPT, check_configs
from cgfe.experiment.growing import has_grown, same_sweep
from cgfe.experiment.runs import RESULTS, SWEEP_COPY
from cgfe.experiment.sweep_file import Point, SweepFile
from cgfe.files import replacing_folder

OPTION = "--from"


@dataclass(frozen=True)
class ExportedRun:
    """A finished run of an export.

    Attributes
    ----------
    folder : Path
    point : dict
        The values of the parameters that are varied.
    value : float
        The sweep's metric.
    seconds : float
        That it took.
    """

    folder: Path
    point: Point
    value: float
    seconds: float

    def copy(self, target: Path) -> None:
        """Copy its files."""
        with replacing_folder(target) as temporary:
            shutil.copytree(self.folder, temporary, dirs_exist_ok=True)

    def trial(self, sweep: SweepFile, attributes: dict[str, str]) -> FrozenTrial:
        """Return it as a study records it."""
        trial = create_trial(
            state=TrialState.COMPLETE,
            params=self.point,
            distributions={name: sweep.space[name] for name in self.point},
            value=self.value,
            user_attrs=attributes,
        )
        trial.datetime_complete = datetime.now()
        trial.datetime_start = trial.datetime_complete - timedelta(seconds=self.seconds)
        return trial


def exported_runs(export: Path, sweep: SweepFile) -> list[ExportedRun]:
    """Return the finished runs that `cgfe report --export` has left in a folder.

    Raises
    ------
    InputError
        If it holds no export, one of another sweep, or of other configs than the files hold now.
    """
    copy = export / SWEEP_COPY
    for path in (copy, export / RESULTS, export / KEPT):
        if not path.is_file():
            raise InputError(
                f"{OPTION}: {export} has no {path.name}, expected what "
                "`cgfe report --export` writes."
            )
    same = same_sweep(copy, sweep.text)
    if not same and not has_grown(SweepFile.load(copy), sweep):
        raise InputError(
            f"{OPTION}: {export} holds a sweep of another file than {sweep.path}, which is not the "
            "same grid with further values either."
        )
    check_configs(export / KEPT, sweep.config_files(), grown=not same)
    try:
        with (export / RESULTS).open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get("state") == "complete"]
        return list(_runs(export, sweep, rows))
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{OPTION}: {export / RESULTS} does not fit {copy} ({error!r}), expected what `cgfe "
            "report --export` writes."
        ) from None


def _runs(export: Path, sweep: SweepFile, rows: Sequence[dict[str, str]]) -> Iterator[ExportedRun]:
    for row in rows:
        folder = export / Path(row["run"]).name
        if not folder.is_dir():
            raise InputError(
                f"{OPTION}: {export / RESULTS} names {folder.name}, which is not there."
            )
        point = {name: _value(row[name], space) for name, space in sweep.space.items()}
        yield ExportedRun(folder, point, float(row[sweep.metric]), float(row["seconds"]))


def _value(cell: str, distribution: BaseDistribution) -> object:
    """Return a parameter's value from its cell of results.csv."""
    if isinstance(distribution, CategoricalDistribution):
        named = {"" if value is None else str(value): value for value in distribution.choices}
        return named[cell]
    return int(cell) if isinstance(distribution, IntDistribution) else float(cell)
