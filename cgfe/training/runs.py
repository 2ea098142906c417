"""Run directories: where a run's files live, and how a later command finds them.

RUN_DIR/config.yaml            complete, reloadable
        metrics.csv
        free_energy.json, .npz
        figures/, report.html
        checkpoints/last.ckpt, best-*.ckpt
"""

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from cgfe.errors import InputError

RUNS = Path("runs")
RUN_DIR_VARIABLE = "CGFE_RUN_DIR"


def new_run_dir(name: str) -> Path:
    """Return the directory of a new run.

    Under SLURM or a W&B sweep it follows the job's or run's id, so that a requeued job finds its
    own files; the other processes of a DDP run get it from their parent's environment.
    """
    if not first_process() and RUN_DIR_VARIABLE in os.environ:
        return Path(os.environ[RUN_DIR_VARIABLE])
    if "WANDB_SWEEP_ID" in os.environ and "WANDB_RUN_ID" in os.environ:
        return RUNS / f"sweep-{os.environ['WANDB_SWEEP_ID']}" / os.environ["WANDB_RUN_ID"]
    if "SLURM_JOB_ID" in os.environ:
        job = os.environ.get("SLURM_ARRAY_JOB_ID", os.environ["SLURM_JOB_ID"])
        task = os.environ.get("SLURM_ARRAY_TASK_ID")
        return RUNS / f"{name}-{job}{'_' + task if task else ''}"
    return RUNS / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def last_checkpoint(run_dir: Path | None = None) -> Path:
    """Return last.ckpt of a run, by default of the newest one.

    Raises
    ------
    InputError
        If it has none: an older run is not what was meant.
    """
    if run_dir is not None:
        if not _last_of(run_dir).is_file():
            raise InputError(f"{run_dir}: no last.ckpt to go on from.")
        return _last_of(run_dir)
    folders = sorted(
        (path.parent for path in RUNS.rglob("config.yaml") if _is_of_a_fit(path)),
        key=_last_written,
        reverse=True,
    )
    with_one = [folder for folder in folders if _last_of(folder).is_file()]
    if not with_one:
        raise InputError(f"{RUNS}: no last.ckpt to go on from.")
    if with_one[0] != folders[0]:
        raise InputError(
            f"{folders[0]}, the newest run, has no last.ckpt yet; start it again, or name the "
            f"run to go on with, such as --run_dir {with_one[0]}."
        )
    return _last_of(with_one[0])


def is_finished(run_dir: Path) -> bool:
    """Return whether a run has ended by itself: `cgfe fit` writes its report last."""
    report, last = run_dir / "report.html", _last_of(run_dir)
    return (
        report.is_file()
        and last.is_file()
        and os.stat(report).st_mtime_ns >= os.stat(last).st_mtime_ns
    )


def first_process() -> bool:
    """Return whether this is the first process of the training on this machine."""
    return int(os.environ.get("LOCAL_RANK", 0)) == 0


def _last_of(run_dir: Path) -> Path:
    return run_dir / "checkpoints" / "last.ckpt"


def _is_of_a_fit(config: Path) -> bool:
    # `cgfe reference` keeps a config.yaml in its folders too.
    with config.open(encoding="utf-8", errors="replace") as file:
        return any(line.startswith("trainer:") for line in file)


def _last_written(run_dir: Path) -> float:
    files = (run_dir / "config.yaml", _last_of(run_dir))
    return max(file.stat().st_mtime for file in files if file.exists())


def run_of(checkpoint: str | Path) -> Path | None:
    """Return the run directory that a checkpoint lies in, if it lies in one."""
    folder = Path(checkpoint).resolve().parent.parent
    return folder if (folder / "config.yaml").is_file() else None


def file_of_system(run_dir: str | Path, name: str, names: Sequence[str], system: int) -> Path:
    """Return where a run keeps a system's file: all but the first add their name to it."""
    path = Path(run_dir) / name
    return path if system == 0 else path.with_stem(f"{path.stem}-{names[system]}")
