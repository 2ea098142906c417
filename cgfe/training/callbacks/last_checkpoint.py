"""LastCheckpoint: what a fit goes on from."""

import time
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

SECONDS = 120.0
"""Between checkpoints within an epoch: what a killed fit loses at most."""
FIRST_LOOK = 8
"""Steps of a fit that tell how long a step takes."""


class LastCheckpoint(Checkpoint):
    """Write checkpoints/last.ckpt after each epoch of training, and every two minutes within one.

    Not a second ModelCheckpoint: WandbLogger would upload its file too, under the alias `best`.
    `cgfe fit` adds it by itself, and `cgfe fit --ckpt_path last` goes on from it.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self._path = Path(run_dir) / "checkpoints" / "last.ckpt"
        self._saved = self._looked = 0.0
        self._steps = 0  # since the last look
        self._until_look = FIRST_LOOK

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._saved = self._looked = time.monotonic()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save if it is time, and there are batches of the epoch left."""
        self._steps += 1
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if (
            self._steps < self._until_look
            or not stepped
            or batch_idx + 1 >= trainer.num_training_batches
        ):
            return
        now = time.monotonic()
        # All processes save, or none, by the first one's clock; they talk only when they look.
        step = (now - self._looked) / self._steps
        left = self._saved + SECONDS - now
        due, self._until_look = trainer.strategy.broadcast(
            (left <= 0, max(1, int((left if left > 0 else SECONDS) / max(step, 1e-9))))
        )
        self._looked, self._steps = now, 0
        if due:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the whole state of the training."""
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self._path, weights_only=False)  # optimizer and progress too
        self._saved = time.monotonic()
