"""LastCheckpoint, to go on from, and BestCheckpoint, to use."""

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint


class LastCheckpoint(Checkpoint):
    """Write checkpoints/last.ckpt after each epoch of training, to go on from.

    Not a second ModelCheckpoint: WandbLogger would upload its file too, under the alias `best`.
    `cgfe fit` adds it by itself, and `cgfe fit --ckpt_path last` goes on from it.
    """

    def __init__(self, run_dir: str | Path) -> None:
        self._path = Path(run_dir) / "checkpoints" / "last.ckpt"

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the whole state of the training."""
        trainer.save_checkpoint(self._path)


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint for a metric that not every validation measures.

    Examples
    --------
    ::

        checkpoint:
          monitor: free_energy/js
          save_top_k: 3
    """

    def _save_topk_checkpoint(self, trainer: Any, monitor_candidates: dict[str, Any]) -> None:
        if self.monitor is None or self.monitor in monitor_candidates:
            super()._save_topk_checkpoint(trainer, monitor_candidates)
