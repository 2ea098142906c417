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
    if int(os.environ.get("LOCAL_RANK", 0)) > 0 and RUN_DIR_VARIABLE in os.environ:
        return Path(os.environ[RUN_DIR_VARIABLE])
    if "WANDB_SWEEP_ID" in os.environ and "WANDB_RUN_ID" in os.environ:
        return RUNS / f"sweep-{os.environ['WANDB_SWEEP_ID']}" / os.environ["WANDB_RUN_ID"]
    if "SLURM_JOB_ID" in os.environ:
        job = os.environ.get("SLURM_ARRAY_JOB_ID", os.environ["SLURM_JOB_ID"])
        task = os.environ.get("SLURM_ARRAY_TASK_ID")
        return RUNS / f"{name}-{job}{'_' + task if task else ''}"
    return RUNS / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def last_checkpoint(run_dir: Path | None = None) -> Path:
    """Return last.ckpt of a run, by default of the newest run that has one.

    Raises
    ------
    InputError
        If there is none.
    """
    folders = [run_dir] if run_dir else [p.parent.parent for p in RUNS.rglob("last.ckpt")]
    paths = [folder / "checkpoints" / "last.ckpt" for folder in folders]
    paths = sorted((p for p in paths if p.is_file()), key=lambda p: p.stat().st_mtime)
    if not paths:
        raise InputError(f"{run_dir or RUNS}: no last.ckpt to go on from.")
    return paths[-1]


def run_of(checkpoint: str | Path) -> Path | None:
    """Return the run directory that a checkpoint lies in, if it lies in one."""
    folder = Path(checkpoint).resolve().parent.parent
    return folder if (folder / "config.yaml").is_file() else None


def file_of_system(run_dir: str | Path, name: str, names: Sequence[str], system: int) -> Path:
    """Return where a run keeps a system's file: all but the first add their name to it."""
    path = Path(run_dir) / name
    return path if system == 0 else path.with_stem(f"{path.stem}-{names[system]}")
