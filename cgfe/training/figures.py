"""Figures of a training run, as files and for its loggers."""

from pathlib import Path

import lightning as L

from cgfe.simulation.results import FreeEnergyResult


def show_surfaces(
    trainer: L.Trainer, result: FreeEnergyResult, suffix: str, name: str = "free_energy"
) -> None:
    """Draw the surfaces of a simulation into the folder `figures`, and to W&B and TensorBoard.

    Parameters
    ----------
    trainer : Trainer
    result : FreeEnergyResult
    suffix : str
        Added to the names of all but the first system.
    name : str
        `free_energy` of a validation, `final` of the simulation that ends a fit.
    """
    # Imported here, since no step of training needs to wait for what draws.
    from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

    from cgfe.report.plots import plot_surfaces

    figure = plot_surfaces(result)
    folder = Path(trainer.default_root_dir) / "figures"
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}{suffix}-epoch{result.simulation['epoch']:04d}.png"
    figure.savefig(path, dpi=120)
    key = f"{name}{suffix}/surface"
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(key, [str(path)], trainer.global_step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_figure(key, figure, trainer.global_step)
