"""BestCheckpoint: the models to use."""

from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint


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
