"""Run directories: where a run's files live, and how a later command finds them.

RUN_DIR/config.yaml            complete, reloadable
        metrics.csv
        free_energy.json, .npz
        figures/, report.html
        checkpoints/last.ckpt, best-*.ckpt
"""

import csv
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from cgfe.errors import InputError
from cgfe.files import replacing

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


class LastCheckpoint(Checkpoint):
    """Write checkpoints/last.ckpt after each epoch of training, to go on from.

    Not a second ModelCheckpoint: WandbLogger would upload its file too, under the alias `best`.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self._path = Path(run_dir) / "checkpoints" / "last.ckpt"

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the whole state of the training."""
        trainer.save_checkpoint(self._path)


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint for a metric that not every validation measures."""

    def _save_topk_checkpoint(self, trainer: Any, monitor_candidates: dict[str, Any]) -> None:
        if self.monitor is None or self.monitor in monitor_candidates:
            super()._save_topk_checkpoint(trainer, monitor_candidates)


class RunLogger(CSVLogger):
    """Lightning's CSVLogger writing RUN_DIR/metrics.csv, which a resumed run continues."""

    def __init__(self, run_dir: str | Path) -> None:
        super().__init__(run_dir, name="", version="", flush_logs_every_n_steps=1)
        self._continued = False

    @property
    @rank_zero_experiment
    def experiment(self) -> "ContinuedWriter":
        """The writer of metrics.csv."""
        if self._experiment is None:
            self._experiment = ContinuedWriter(self.log_dir)
        assert isinstance(self._experiment, ContinuedWriter)
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:  # type: ignore[override]
        """Record metrics; what an interrupted run logged at this step or later is dropped."""
        if not self._continued:
            self.experiment.keep_before(step or 0)
            self._continued = True
        super().log_metrics(metrics, step)

    def log_hyperparams(self, params: Any = None) -> None:
        """Nothing: config.yaml holds them."""


class ContinuedWriter(ExperimentWriter):
    """Lightning's writer, which would delete the metrics.csv that it finds."""

    def _check_log_dir_exists(self) -> None:
        """Keep what is there."""

    def keep_before(self, step: int) -> None:
        """Drop the rows of this step and later ones."""
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        with open(path, newline="") as file:
            reader = csv.DictReader(file)
            rows = [row for row in reader if int(row["step"]) < step]
            self.metrics_keys = list(reader.fieldnames or [])
        with replacing(path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, self.metrics_keys)
            writer.writeheader()
            writer.writerows(rows)
