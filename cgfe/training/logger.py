"""RunLogger: metrics.csv of a run, which a resumed run continues."""

import csv
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from cgfe.files import replacing


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
