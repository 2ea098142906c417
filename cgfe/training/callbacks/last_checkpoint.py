"""LastCheckpoint: what a fit goes on from."""

from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint


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
