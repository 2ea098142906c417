"""PredictionWriter: energies and forces of `cgfe predict` as one HDF5 file per system."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from cgfe.hdf5 import writing_hdf5
from cgfe.training.module import CGForceField
from cgfe.units import ENERGY_UNIT, LENGTH_UNIT


class PredictionWriter(BasePredictionWriter):
    """Write RUN_DIR/predictions-SYSTEM.h5 with positions, energy and forces (prior included)."""

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")

    def write_on_epoch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Gather the batches of each system and write them."""
        assert isinstance(pl_module, CGForceField)
        for number, name in enumerate(pl_module.system_names):
            parts: list[dict[str, Tensor]] = [
                batch for batch in predictions if int(batch["system"][0]) == number
            ]
            if not parts:
                continue
            rank = f"-rank{trainer.global_rank}" if trainer.world_size > 1 else ""
            path = Path(trainer.default_root_dir) / f"predictions-{name}{rank}.h5"
            with writing_hdf5(path) as file:
                file.attrs.update({"length_unit": LENGTH_UNIT, "energy_unit": ENERGY_UNIT})
                for key in ("positions", "energy", "forces"):
                    file[key] = torch.cat([part[key] for part in parts]).cpu().numpy()
            print(f"predictions: {path}")
