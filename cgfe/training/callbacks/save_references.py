"""SaveReferences: what a run was trained and judged by, beside its checkpoints."""

import lightning as L

from cgfe.files import replacing
from cgfe.reference.training_frames import FIT_FRAMES, every
from cgfe.training.module import CGForceField
from cgfe.training.runs import file_of_system


class SaveReferences(L.Callback):
    """Write reference.npz and prior_fit.png of each system into the run's folder.

    `cgfe fit` adds it by itself; in a script::

        trainer = Trainer(callbacks=[SaveReferences()], default_root_dir="runs/mine")
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write reference.npz."""
        assert isinstance(pl_module, CGForceField)
        self.drawn = False
        if trainer.is_global_zero:
            names = pl_module.system_names
            for system, reference in enumerate(pl_module.references):
                reference.save(file_of_system(trainer.default_root_dir, "reference.npz",
                                              names, system))  # fmt: skip

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw prior_fit.png, once: seconds for which the first step need not wait."""
        if self.drawn or not trainer.is_global_zero:
            return
        from cgfe.report.prior_plots import plot_prior_fit

        assert isinstance(pl_module, CGForceField)
        self.drawn = True
        data = trainer.datamodule  # type: ignore[attr-defined]
        training = data.split_indices("train")
        for system, reference in enumerate(pl_module.references):
            shown = every(FIT_FRAMES, len(training[system]))
            figure = plot_prior_fit(
                reference.prior,
                data.frames[system].positions[training[system].numpy()[shown]],
                reference.system.temperature_kelvin,
                reference.surface.weights[shown],
            )
            path = file_of_system(
                trainer.default_root_dir, "prior_fit.png", pl_module.system_names, system
            )
            with replacing(path) as temporary:
                figure.savefig(temporary, dpi=100)
