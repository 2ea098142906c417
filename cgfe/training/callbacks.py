"""FreeEnergyValidation: short simulations at each validation, compared on the TICs."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from tqdm import tqdm

from cgfe.files import replacing
from cgfe.model.potential import Potential
from cgfe.reference.training_frames import FIT_FRAMES, every
from cgfe.report.plots import plot_surfaces
from cgfe.report.prior_plots import plot_prior_fit
from cgfe.simulation.evaluation import Judgement, free_energy_result, judge, simulate
from cgfe.simulation.langevin import SimulationConfig, SimulationResult
from cgfe.simulation.results import FreeEnergyResult
from cgfe.training.datamodule import CGFramesDataModule
from cgfe.training.module import CGForceField


class SaveReferences(L.Callback):
    """Write what the references hold beside the checkpoints, as arrays and as a figure."""

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write reference.npz."""
        assert isinstance(pl_module, CGForceField)
        self.drawn = False
        if trainer.is_global_zero:
            for system, reference in enumerate(pl_module.references):
                reference.save(_path(trainer, pl_module, "reference.npz", system))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw prior_fit.png, once: seconds for which the first step need not wait."""
        assert isinstance(pl_module, CGForceField)
        data: CGFramesDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if self.drawn or not trainer.is_global_zero:
            return
        self.drawn = True
        training = data.split_indices("train")
        for system, reference in enumerate(pl_module.references):
            shown = every(FIT_FRAMES, len(training[system]))
            figure = plot_prior_fit(
                reference.prior,
                data.frames[system].positions[training[system].numpy()[shown]],
                reference.system.temperature_kelvin,
                reference.surface.weights[shown],
            )
            with replacing(_path(trainer, pl_module, "prior_fit.png", system)) as temporary:
                figure.savefig(temporary, dpi=100)


def _path(trainer: L.Trainer, module: CGForceField, name: str, system: int) -> Path:
    path = Path(trainer.default_root_dir) / name
    return path if system == 0 else path.with_stem(f"{path.stem}-{module.system_names[system]}")


class FreeEnergyValidation(L.Callback):
    """Simulate the model at each validation and log its TICA free-energy error.

    The simulation runs on the training device; under DDP each rank runs its share of the
    replicas. Logged as `free_energy/<metric>` for the first system and
    `free_energy/<system>/<metric>` for further ones, with the figure, the cost in seconds and
    its share of the time since the last validation.

    Parameters
    ----------
    simulation : SimulationConfig
        The budget: replicas, steps, and how they are run.
    every_n_epochs : int
        Skip validations between; the last epoch is never skipped. 0 switches the simulations
        off.
    compare_prior : bool
        Simulate the prior alone once, before training, with the same budget.

    Examples
    --------
    ::

        free_energy:
          simulation: {replicas: 128, steps: 10000}
          every_n_epochs: 5
    """

    def __init__(
        self,
        simulation: SimulationConfig = SimulationConfig(),  # noqa: B008 (never changed)
        every_n_epochs: int = 1,
        compare_prior: bool = True,
    ) -> None:
        self.config = simulation
        self.config.check()
        self.every_n_epochs = every_n_epochs
        self.compare_prior = compare_prior
        self.priors: list[Judgement | None] = []
        self.results: list[FreeEnergyResult] = []
        self._last_end = time.monotonic()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Simulate the priors alone: what the network must beat."""
        if self.every_n_epochs > 0:
            self._simulate_priors(trainer, pl_module)
        self._last_end = time.monotonic()

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Simulate, compare, log, and write results and figures into the run's folder."""
        epoch = trainer.current_epoch + 1
        due = self.every_n_epochs > 0 and (
            epoch % self.every_n_epochs == 0 or epoch == trainer.max_epochs
        )
        fitting = trainer.state.fn == "fit"
        if trainer.sanity_checking or (fitting and not due):
            return
        assert isinstance(pl_module, CGForceField)
        if not self.priors:
            self._simulate_priors(trainer, pl_module)
        started = time.monotonic()
        self.results = []
        for system, reference in enumerate(pl_module.references):
            potential = pl_module.potential(system)
            run = _gathered(trainer, pl_module, potential, system, self.config, "model")
            judgement = judge(reference, run.positions, run.blown_up, self.config.burn_in)
            result = free_energy_result(
                pl_module.system_names[system],
                reference,
                judgement,
                self.priors[system],
                _facts(trainer, pl_module, run, self.config),
            )
            self.results.append(result)
            prefix = "free_energy" if system == 0 else f"free_energy/{result.system}"
            pl_module.log_dict(
                {f"{prefix}/{key}": value for key, value in result.metrics.items()}
                | {f"{prefix}/replica_steps_per_second": run.replica_steps_per_second},
                prog_bar=False,
            )
            if trainer.is_global_zero:
                self._save(trainer, pl_module, result, system)
        now = time.monotonic()
        pl_module.log("free_energy/seconds", now - started)
        pl_module.log("free_energy/share_of_time", (now - started) / (now - self._last_end))
        self._last_end = now

    def _simulate_priors(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, CGForceField)
        self.priors = []
        for system, reference in enumerate(pl_module.references):
            if not self.compare_prior:
                self.priors.append(None)
                continue
            bead_types = torch.from_numpy(reference.system.bead_types)
            potential = Potential(reference.prior, None, bead_types).to(pl_module.device)
            run = _gathered(trainer, pl_module, potential, system, self.config, "prior alone")
            self.priors.append(judge(reference, run.positions, run.blown_up, self.config.burn_in))

    def _save(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        result: FreeEnergyResult,
        system: int,
    ) -> None:
        suffix = "" if system == 0 else f"-{result.system}"
        folder = Path(trainer.default_root_dir)
        result.save(folder, suffix)
        figure = plot_surfaces(result)
        name = f"free_energy{suffix}-epoch{trainer.current_epoch:04d}.png"
        (folder / "figures").mkdir(exist_ok=True)
        figure.savefig(folder / "figures" / name, dpi=120)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image(
                    f"free_energy{suffix}/surface",
                    [str(folder / "figures" / name)],
                    trainer.global_step,
                )
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure(
                    f"free_energy{suffix}/surface", figure, trainer.global_step
                )


def _gathered(
    trainer: L.Trainer,
    pl_module: CGForceField,
    potential: Potential,
    system: int,
    config: SimulationConfig,
    name: str,
) -> SimulationResult:
    """Simulate this rank's share and return all ranks' replicas."""
    device = pl_module.device
    shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
    with tqdm(total=config.steps, desc=f"simulating {name}", disable=not shown, leave=False) as bar:

        def advance(done: int) -> None:
            bar.update(done - bar.n)

        run = simulate(
            potential,
            pl_module.references[system],
            config,
            device,
            trainer.global_rank,
            trainer.world_size,
            progress=advance,
        )
    if trainer.world_size == 1:
        return run
    gather: Callable[[torch.Tensor], Any] = pl_module.all_gather
    positions = gather(torch.from_numpy(run.positions).to(device)).cpu().numpy()
    blown_up = gather(torch.from_numpy(run.blown_up).to(device)).cpu().numpy()
    return SimulationResult(
        positions=np.concatenate(list(positions), axis=1),
        blown_up=np.concatenate(list(blown_up)),
        seconds=float(gather(torch.tensor(run.seconds, device=device)).max()),
        steps=run.steps,
        kinetic_temperature=float(
            gather(torch.tensor(run.kinetic_temperature, device=device)).mean()
        ),
    )


def _facts(
    trainer: L.Trainer, pl_module: CGForceField, run: SimulationResult, config: SimulationConfig
) -> dict[str, Any]:
    now = (trainer.current_epoch, trainer.global_step)
    epoch, step = now if trainer.state.fn == "fit" else pl_module.trained or now
    return {
        "replicas": run.positions.shape[1],
        "steps": run.steps,
        "time_step_ps": config.time_step_ps,
        "friction_per_ps": config.friction_per_ps,
        "burn_in": config.burn_in,
        "seed": config.seed,
        "seconds": run.seconds,
        "replica_steps_per_second": run.replica_steps_per_second,
        "kinetic_temperature_kelvin": run.kinetic_temperature,
        "device": str(pl_module.device),
        "epoch": epoch,
        "step": step,
    }
