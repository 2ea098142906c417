"""Running a sweep here: some runs at a time, each a process of its own, until no point is left."""

import csv
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from optuna.trial import TrialState

from cgfe.ending import end_if_asked, ending_on_sigterm
from cgfe.experiment.growing import point_of
from cgfe.experiment.study import (
    ERROR,
    RUN,
    Claim,
    SweepStudy,
    clear_unless_resumable,
)
from cgfe.files import replacing
from cgfe.progress import Bar
from cgfe.report.run import read_metrics
from cgfe.training.runs import is_finished

LOG = "log.txt"
RESULTS = "results.csv"
POLL_SECONDS = 0.5
READ_SECONDS = 5.0
"""Between looks at the metrics of runs that may be ended early, and at what others have done."""
GRACE_SECONDS = 30.0
"""That a run has to end after SIGTERM."""


@dataclass
class _Job:
    claim: Claim
    process: "subprocess.Popen[bytes]"
    slot: int
    started: float
    stopped: bool = False
    looked: float = field(default_factory=time.monotonic)


def run_sweep(study: SweepStudy, jobs: int, progress: bool = True) -> int:
    """Run the points that are left, `jobs` at a time; return how many failed in all.

    A run that fails is recorded and harms no other. Cores and GPUs are shared out among the jobs.
    If this process is interrupted or gets SIGTERM its runs are ended, and go on from their last
    checkpoints when the sweep is called again; if it is killed, they go on by themselves to
    their end.
    """
    slots = list(range(jobs))
    running: list[_Job] = []
    left, counted = True, -READ_SECONDS
    with ending_on_sigterm(), _bar(study, progress) as bar:
        try:
            while left or running:
                end_if_asked()
                while left and slots:
                    claim = study.claim()
                    if claim is None:
                        left = False
                    elif job := _started(study, claim, slots[0], jobs):
                        slots.pop(0)
                        running.append(job)
                        counted = -READ_SECONDS
                for job in list(running):
                    if _is_over(study, job):
                        running.remove(job)
                        slots.append(job.slot)
                        left = True  # others may have left a point meanwhile
                        counted = -READ_SECONDS
                        write_results(study)
                if time.monotonic() - counted > READ_SECONDS:  # reading the study takes time
                    counted = time.monotonic()
                    _count(bar, study)
                bar.update(0)
                if running:
                    time.sleep(POLL_SECONDS)
        finally:
            _end(*running)
            for job in running:
                job.claim.release()
    write_results(study)
    return study.counts().failed


def write_results(study: SweepStudy) -> None:
    """Write results.csv: one row a run with its state, parameters, last metrics and wall time."""
    rows = []
    for trial in study.trials():
        if RUN not in trial.user_attrs:
            continue
        metrics: dict[str, float] = {}
        for row in read_metrics(Path(trial.user_attrs[RUN]) / "metrics.csv"):
            metrics |= row
        rows.append(
            {
                "run": trial.user_attrs[RUN],
                "state": trial.state.name.lower(),
                "error": trial.user_attrs.get(ERROR, ""),
                **study.sweep.fixed,
                **point_of(trial),
                **metrics,
                # Of its last start, for one that was interrupted.
                "seconds": trial.duration.total_seconds() if trial.duration else "",
            }
        )
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (
        replacing(study.folder / RESULTS) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _started(study: SweepStudy, claim: Claim, slot: int, jobs: int) -> _Job | None:
    """Start a run; None if it had ended before and only had to be recorded."""
    if is_finished(claim.run_dir):
        _record(study, claim, code=0, stopped=False)
        return None
    last = clear_unless_resumable(claim.run_dir)
    extra = [f"--run_dir={claim.run_dir}"]
    if last is not None:
        extra.append(f"--ckpt_path={last}")
    with open(claim.run_dir / LOG, "ab") as log:
        process = subprocess.Popen(
            study.sweep.arguments(claim.point, extra),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(slot, jobs),
            pass_fds=[claim.lock.fileno()],  # held until this process ends, too
            start_new_session=True,
        )
    return _Job(claim, process, slot, time.monotonic())


def _environment(slot: int, jobs: int) -> Mapping[str, str]:
    """Give a job its share of the cores, one of the GPUs, and no need of a W&B account."""
    environment = dict(os.environ)
    environment.pop("CGFE_RUN_DIR", None)
    environment.setdefault("WANDB_MODE", "offline")
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    environment.setdefault("OMP_NUM_THREADS", str(threads))
    all_gpus = ",".join(str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*")))
    gpus = environment.get("CUDA_VISIBLE_DEVICES", all_gpus).split(",")
    if len(gpus) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    return environment


def _is_over(study: SweepStudy, job: _Job) -> bool:
    code = job.process.poll()
    if code is None:
        if study.sweep.early_termination and time.monotonic() - job.looked > READ_SECONDS:
            job.looked = time.monotonic()
            if study.is_behind(job.claim, _values(study, job.claim)):
                job.stopped = True
                _end(job)
                code = job.process.poll()
        if code is None:
            return False
    end_if_asked()  # the same signal may have ended the run, which then is no failure
    _record(study, job.claim, code, job.stopped and code != 0)  # it may have ended by itself
    return True


def _record(study: SweepStudy, claim: Claim, code: int, stopped: bool) -> None:
    values = _values(study, claim)
    if stopped:
        study.finish(claim, values, stopped=True)
    elif code != 0:
        study.finish(claim, values, error=_last_line(claim.run_dir / LOG, code))
    elif not values:
        study.finish(claim, values, error=f"the run logged no {study.sweep.metric}")
    else:
        study.finish(claim, values)


def _values(study: SweepStudy, claim: Claim) -> list[float]:
    """Return the metric at every validation that measured it."""
    rows = read_metrics(claim.run_dir / "metrics.csv")
    return [row[study.sweep.metric] for row in rows if study.sweep.metric in row]


def _last_line(log: Path, code: int) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    reason = lines[-1].split("\r")[-1].strip() if lines else ""
    return f"{reason or 'no output'} (exit code {code}; {log})"


def _end(*jobs: _Job) -> None:
    """End runs, all of them at once, and what they have started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        last = time.monotonic() + GRACE_SECONDS
        left = [job.process for job in jobs if job.process.poll() is None]
        for process in left:
            os.killpg(process.pid, number)
        for process in left:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, last - time.monotonic()))


def _bar(study: SweepStudy, progress: bool) -> Bar:
    counts = study.counts()
    return Bar(
        total=counts.total,
        initial=counts.over,
        desc=study.sweep.name,
        disable=not progress,
        mininterval=0.5,
        miniters=0,  # the time goes on between two ends of runs
        bar_format="{desc}: |{bar}| {elapsed} < {remaining}{postfix}",
    )


def _count(bar: Bar, study: SweepStudy) -> None:
    counts = study.counts()
    words = [f"{counts.done} of {counts.total} done", f"{counts.running} running"]
    words += [f"{counts.stopped} ended early"] if counts.stopped else []
    words += [f"{counts.failed} failed"] if counts.failed else []
    best = [t for t in study.trials() if t.state == TrialState.COMPLETE]
    if best:
        value = study.study.best_value
        words.append(f"best {study.sweep.metric} {value:.3g}")
    bar.total = counts.total
    bar.set_postfix_str(", ".join(words), refresh=False)
    bar.update(counts.over - bar.n)
