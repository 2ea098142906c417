"""A sweep's study: which points are done, running or still to come, kept by Optuna in SQLite.

A point that runs holds a lock on a file of its run's folder, and so does the process that trains
it. So several `cgfe sweep` can share a study, and a point whose processes were killed is known by
its free lock, on any machine that shares the folder.
"""

import fcntl
import itertools
import math
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from cgfe.errors import InputError
from cgfe.experiment.config_files import KEPT, keep_configs
from cgfe.experiment.exported import ExportedRun, exported_runs
from cgfe.experiment.growing import grow, has_grown, point_of, same_sweep
from cgfe.experiment.sweep_file import EarlyTermination, Point, SweepFile
from cgfe.files import make_folder, replacing

COPY = "sweep.yaml"
DATABASE = "study.db"
LOCK = "lock"
RUN = "run"
ERROR = "error"
INSTEAD_OF = "instead_of"
"""Attributes of trials: the run's folder, why it failed, the trial that it goes on from."""
PATIENCE_SECONDS = 120
"""That a process waits for the database, or the study, while others write."""
POLL_SECONDS = 0.05


@dataclass
class Claim:
    """A point that this process is to run, its lock held."""

    trial: Trial
    run_dir: Path
    lock: IO[str]
    reported: int = 0
    """Values of the metric that the study has been told."""

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def point(self) -> Point:
        """The values of the parameters that are varied."""
        return dict(self.trial.params)

    def release(self) -> None:
        """Let the lock go; the process that trains may hold it still."""
        self.lock.close()


@dataclass(frozen=True)
class Counts:
    """How many points there are of each kind."""

    total: int
    begun: int
    done: int
    stopped: int
    failed: int
    running: int

    @property
    def over(self) -> int:
        return self.done + self.stopped + self.failed


class SweepStudy:
    """The points of one sweep in `folder`/study.db.

    Parameters
    ----------
    sweep : SweepFile
    folder : path
        Made if it is not there; of a sweep that was begun, its points go on, and a grid may have
        further values since.
    count : int, optional
        Runs of a random or Bayesian sweep; by default the file's run_cap.
    seed : int
        Of the points that random and Bayesian sweeps choose.
    exported : path, optional
        Results of the same sweep, as `export_sweep` has left them: its finished runs are copied,
        but where the study has their points already.

    Raises
    ------
    InputError
        If the folder holds another sweep, one of other configs or something else, another program
        holds the study, runs are under way of a grid that has grown, nothing says how many
        runs there shall be, or `exported` is of another sweep.
    """

    def __init__(
        self,
        sweep: SweepFile,
        folder: Path,
        count: int | None,
        seed: int,
        exported: Path | None = None,
    ) -> None:
        self.sweep, self.folder, self.seed = sweep, folder, seed
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        points = sweep.grid() if sweep.method == "grid" else None
        wanted = count or sweep.run_cap
        if points is not None:
            self.total = min(len(points), wanted or len(points))
        elif wanted:
            self.total = wanted
        else:
            raise InputError(
                f"{sweep.path}: method {sweep.method} has no end; give --count, or run_cap in "
                "the file."
            )
        runs = [] if exported is None else exported_runs(exported, sweep)
        make_folder(folder)
        _check_folder(folder)
        with readable(folder), self._alone(PATIENCE_SECONDS):
            before = self._grown_from()
            keep_configs(folder, sweep.config_files(), grown=before is not None)
            self.study = self._open()
            if before is not None:
                self._queue_interrupted()
                grow(self.study, folder / DATABASE, before, sweep)
                self.study = self._open()
            self._keep_copy()
            self._take(runs)
            # Optuna's own grid sampler draws points in random order, and two processes can draw
            # the same one; queued points are taken in order, each once.
            known = [point_of(trial) for trial in self.trials()]
            missing = [point for point in points or [] if point not in known]
            for point in missing[: max(0, self.total - len(known))]:
                self.study.enqueue_trial(point)

    def _open(self) -> optuna.Study:
        return optuna.create_study(
            study_name=self.sweep.name,
            storage=optuna.storages.RDBStorage(
                f"sqlite:///{self.folder / DATABASE}",
                engine_kwargs={"connect_args": {"timeout": PATIENCE_SECONDS}},
            ),
            direction="minimize" if self.sweep.minimize else "maximize",
            pruner=_pruner(self.sweep.early_termination),
            load_if_exists=True,
        )

    def _take(self, runs: list[ExportedRun]) -> None:
        """Record runs that finished elsewhere, their files copied first."""
        known = [point_of(trial) for trial in self.trials()]
        for run in runs:
            if run.point not in known:
                run_dir = self.folder / run.folder.name
                run.copy(run_dir)
                self.study.add_trial(run.trial(self.sweep, {RUN: str(run_dir)}))

    def claim(self) -> Claim | None:
        """Take the next point: one that was interrupted, or a new one; None if none is left."""
        with self._alone():
            self._queue_interrupted()
            trials = self.study.get_trials(deepcopy=False)
            waiting = any(trial.state == TrialState.WAITING for trial in trials)
            if not waiting and (self.sweep.method == "grid" or self.counts().begun >= self.total):
                return None
            self.study.sampler = _sampler(self.sweep.method, self.seed + len(trials))
            trial = self.study.ask()
            for name, distribution in self.sweep.space.items():
                _suggest(trial, name, distribution)
            run_dir = Path(trial.user_attrs.get(RUN, self._free_name(trial.number)))
            lock = _lock(run_dir)
            assert lock is not None, f"{run_dir} belongs to a point that nobody runs"
            trial.set_user_attr(RUN, str(run_dir))
            return Claim(trial, run_dir, lock)

    def _free_name(self, number: int) -> Path:
        """Return a new run's folder: by its number, or the next that no run from elsewhere has."""
        taken = {trial.user_attrs.get(RUN) for trial in self.trials()}
        names = (self.folder / f"run-{n:04d}" for n in itertools.count(number))
        return next(name for name in names if str(name) not in taken)

    def _queue_interrupted(self) -> None:
        """Queue again, in the same folder, the points whose processes are gone."""
        for trial in self.trials():
            if trial.state == TrialState.RUNNING and RUN in trial.user_attrs:
                lock = _lock(Path(trial.user_attrs[RUN]))
                if lock is not None:
                    lock.close()
                    self.study.tell(trial.number, state=TrialState.FAIL)
                    self._queue(trial)

    def _queue(self, trial: FrozenTrial) -> None:
        kept = {RUN: trial.user_attrs[RUN], INSTEAD_OF: trial.number}
        self.study.enqueue_trial(trial.params, user_attrs=kept)

    def retry_failed(self) -> int:
        """Queue again the points whose run failed; return how many."""
        with self._alone():
            failed = [t for t in self.trials() if t.state == TrialState.FAIL]
            for trial in failed:
                self._queue(trial)
        return len(failed)

    def finish(
        self, claim: Claim, values: list[float], error: str | None = None, stopped: bool = False
    ) -> None:
        """Record how a run ended: its metric at each validation, or its error."""
        with self._alone():
            if error is not None:
                claim.trial.set_user_attr(ERROR, error)
                self.study.tell(claim.trial, state=TrialState.FAIL)
            elif stopped:
                self.study.tell(claim.trial, state=TrialState.PRUNED)
            else:
                self.study.tell(claim.trial, values[-1])
        claim.release()

    def is_behind(self, claim: Claim, values: list[float]) -> bool:
        """Report the metric of every validation so far; return whether the run shall end."""
        if self.sweep.early_termination is None or not values:
            return False
        with self._alone():
            for step in range(claim.reported, len(values)):
                claim.trial.report(values[step], step + 1)
            claim.reported = len(values)
            return claim.trial.should_prune()

    def trials(self) -> list[FrozenTrial]:
        """Return the trials, without those that another one was queued instead of."""
        trials = self.study.get_trials(deepcopy=False)
        replaced = {t.user_attrs.get(INSTEAD_OF) for t in trials}
        return [t for t in trials if t.number not in replaced]

    def counts(self) -> Counts:
        """Return how far the sweep is."""
        states = [trial.state for trial in self.trials()]
        return Counts(
            total=max(self.total, len(states)),
            begun=len(states) - states.count(TrialState.WAITING),
            done=states.count(TrialState.COMPLETE),
            stopped=states.count(TrialState.PRUNED),
            failed=states.count(TrialState.FAIL),
            running=states.count(TrialState.RUNNING),
        )

    @contextmanager
    def _alone(self, patience: float = math.inf) -> Iterator[None]:
        """Let only one process change the study at a time; wait for it so many seconds."""
        with open(self.folder / LOCK, "w") as file:
            last = time.monotonic() + patience
            while not _is_taken(file):
                if time.monotonic() > last:
                    raise InputError(
                        f"{self.folder / LOCK}: another program has held the study for "
                        f"{patience:g} s; end it, or choose another --folder."
                    )
                time.sleep(POLL_SECONDS)
            yield

    def _grown_from(self) -> SweepFile | None:
        """Return the sweep that the folder was begun with, if this one has further values."""
        copy = self.folder / COPY
        if not copy.exists() or same_sweep(copy, self.sweep.text):
            return None
        before = SweepFile.load(copy)
        if not has_grown(before, self.sweep):
            raise InputError(
                f"{self.folder} holds a sweep of another file ({copy}), and this one is not the "
                "same grid with further values; choose another --folder."
            )
        return before

    def _keep_copy(self) -> None:
        copy = self.folder / COPY
        if not copy.exists() or not same_sweep(copy, self.sweep.text):
            with replacing(copy) as temporary:
                temporary.write_text(self.sweep.text, encoding="utf-8")


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Say in one sentence that a study in a folder cannot be read or written.

    Raises
    ------
    InputError
        If another program holds its file, or it is no study.
    """
    try:
        yield
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason: BaseException = error.__cause__ or error
        reason = getattr(reason, "orig", None) or reason
        raise InputError(
            f"{folder / DATABASE}: cannot be used ({reason}); expected the study of this sweep, "
            "which no other program holds."
        ) from None


def _check_folder(folder: Path) -> None:
    """Refuse a folder that holds something else than a sweep, before anything is written."""
    # A sweep that was ended before its study was made leaves these.
    begun = {COPY, DATABASE, f"{DATABASE}-journal", KEPT, LOCK}
    others = [path for path in folder.iterdir() if path.name not in begun and path.name[0] != "."]
    # Looked at last: another process may be making the study meanwhile, and runs come after it.
    if others and not ((folder / COPY).exists() and (folder / DATABASE).exists()):
        raise InputError(
            f"{folder} holds something else than a sweep's study ({others[0].name}); choose "
            "another --folder."
        )


def _is_taken(file: IO[str]) -> bool:
    """Take a file's lock, unless somebody holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def clear_unless_resumable(run_dir: Path) -> Path | None:
    """Return last.ckpt to go on from; else empty the folder, its lock left."""
    last = run_dir / "checkpoints" / "last.ckpt"
    if last.is_file():
        return last
    for path in run_dir.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
    return None


def _lock(run_dir: Path) -> IO[str] | None:
    """Return the file of a run's lock, or None if somebody holds it."""
    make_folder(run_dir)
    file = open(run_dir / LOCK, "w")  # noqa: SIM115 (held as long as the run)
    if not _is_taken(file):
        file.close()
        return None
    return file


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> None:
    match distribution:
        case CategoricalDistribution():
            trial.suggest_categorical(name, distribution.choices)
        case IntDistribution():
            trial.suggest_int(name, distribution.low, distribution.high)
        case FloatDistribution(low=low, high=high, step=step, log=log):
            trial.suggest_float(name, low, high, step=step, log=log)


def _sampler(method: str, seed: int) -> optuna.samplers.BaseSampler:
    if method == "bayes":
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)
    return optuna.samplers.RandomSampler(seed=seed)


def _pruner(settings: EarlyTermination | None) -> optuna.pruners.BasePruner:
    if settings is None:
        return optuna.pruners.NopPruner()
    return optuna.pruners.HyperbandPruner(
        min_resource=settings.min_iter,
        max_resource=settings.max_iter or "auto",
        reduction_factor=settings.eta,
    )
