"""A Lightning callback that notes when the first optimizer step of a `cgfe fit` is done."""

import os
import time
from pathlib import Path
from typing import Any

import lightning as L

PATH_VARIABLE = "CGFE_BENCHMARK_FIRST_STEP"


class FirstStep(L.Callback):
    """Write the time of day to the file that the environment names, and stop the fit."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Note the time, once."""
        path = Path(os.environ[PATH_VARIABLE])
        if not path.exists():
            path.write_text(repr(time.time()))
        trainer.should_stop = True
