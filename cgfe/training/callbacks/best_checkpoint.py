"""BestCheckpoint: the models to use."""

from collections.abc import Collection
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint

from cgfe.errors import InputError
from cgfe.training.callbacks.free_energy_validation import FreeEnergyValidation


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint for a metric that not every validation measures.

    Examples
    --------
    ::

        checkpoint:
          monitor: free_energy/js
          save_top_k: 3
    """

    def check(self, names: Collection[str]) -> None:
        """Check that what is monitored is ever logged.

        Parameters
        ----------
        names : collection of str
            All that is.

        Raises
        ------
        InputError
            If it is not: no best checkpoint would be written.
        """
        if self.monitor is not None and self.monitor not in names:
            raise InputError(
                f"checkpoint.monitor is {self.monitor!r}, expected one of "
                f"{', '.join(sorted(names))}."
            )

    def _save_topk_checkpoint(self, trainer: Any, monitor_candidates: dict[str, Any]) -> None:
        if self.monitor is None or self._is_fresh(trainer, monitor_candidates):
            super()._save_topk_checkpoint(trainer, monitor_candidates)

    def _is_fresh(self, trainer: Any, candidates: dict[str, Any]) -> bool:
        # Lightning goes on handing out the value of the last validation that had one.
        simulating = [x for x in trainer.callbacks if isinstance(x, FreeEnergyValidation)]
        if str(self.monitor).startswith("free_energy/") and simulating:
            return any(callback.judged_step == trainer.global_step for callback in simulating)
        return self.monitor in candidates
