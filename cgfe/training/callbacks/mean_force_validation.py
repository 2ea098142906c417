"""MeanForceValidation: the error of forces that thermal noise does not hide."""

import lightning as L

from cgfe.reference.ensembles import Part
from cgfe.training.datamodule import CGFramesDataModule
from cgfe.training.mean_forces import mean_force_errors
from cgfe.training.module import CGForceField


class MeanForceValidation(L.Callback):
    """Log the error against held-out mean forces, and the prior's, at validation and test.

    As `validation/mean_force_mse` and `validation/mean_force_mse_prior`, (kcal/mol/Å)², for the
    first system and `validation/<system>/...` for further ones. A perfect model is near 0,
    unlike in `force_mse`, of which the most is the noise of instantaneous forces.
    """

    def names(self, data: CGFramesDataModule) -> set[str]:
        """Return what may be logged at a validation, if there are mean forces."""
        if not data.mean_force_paths:
            return set()
        folders = ["validation", *(f"validation/{name}" for name in data.names[1:])]
        return {f"{folder}/mean_force_mse" for folder in folders}

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare with the configurations held out for validation."""
        self._log(trainer, pl_module, "validation")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare with those held out for the test."""
        self._log(trainer, pl_module, "test")

    def _log(self, trainer: L.Trainer, module: L.LightningModule, part: Part) -> None:
        assert isinstance(module, CGForceField)
        for system, error in enumerate(mean_force_errors(trainer, module, part)):
            if error is not None:
                name = part if system == 0 else f"{part}/{module.system_names[system]}"
                values = {"": error.model.value, "_prior": error.prior.value}
                for suffix, value in values.items():
                    module.log(f"{name}/mean_force_mse{suffix}", value, prog_bar=not suffix)
