"""FreeEnergyValidation: short simulations at each validation, compared on the TICs."""

import time
from pathlib import Path

import lightning as L

from cgfe.reference.ensembles import Part
from cgfe.simulation.evaluation import free_energy_result, judge
from cgfe.simulation.langevin import SimulationConfig
from cgfe.simulation.results import FreeEnergyResult, PriorResult
from cgfe.training.figures import show_surfaces
from cgfe.training.module import CGForceField
from cgfe.training.priors import judged_prior
from cgfe.training.replicas import facts_of, simulate_together


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
        Skip validations between; the last epoch is never skipped. 0 switches all simulations
        off, the final one too.
    compare_prior : bool
        Simulate the prior alone too, once, before training, with the same budget.
    final : SimulationConfig, optional
        A longer simulation that ends a fit, judged against the test frames: the run's result,
        logged as `final/<metric>`. By default there is none, and the last validation's stays.

    Examples
    --------
    ::

        free_energy:
          simulation: {replicas: 128, steps: 10000}
          every_n_epochs: 5
          final: {replicas: 128, steps: 100000}
    """

    def __init__(
        self,
        simulation: SimulationConfig = SimulationConfig(),  # noqa: B008 (never changed)
        every_n_epochs: int = 1,
        compare_prior: bool = True,
        final: SimulationConfig | None = None,
    ) -> None:
        self.config, self.final = simulation, final
        self.config.check()
        if final is not None:
            final.check()
        self.every_n_epochs = every_n_epochs
        self.compare_prior = compare_prior
        self.priors: list[PriorResult | None] = []
        self.results: list[FreeEnergyResult] = []
        self._last_end = time.monotonic()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Simulate the priors alone: what the network must beat."""
        if self.every_n_epochs > 0:
            self._judge_priors(trainer, pl_module, "validation", self.config)
        self._last_end = time.monotonic()

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Simulate and compare with the validation frames."""
        epoch = trainer.current_epoch + 1
        due = self.every_n_epochs > 0 and (
            epoch % self.every_n_epochs == 0 or epoch == trainer.max_epochs
        )
        fitting = trainer.state.fn == "fit"
        if not (trainer.sanity_checking or (fitting and not due)):
            self._judge(trainer, pl_module, "validation")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Simulate and compare with the test frames, unless simulations are switched off."""
        if self.every_n_epochs > 0:
            self._judge(trainer, pl_module, "test")

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Simulate for longer, and compare with the test frames."""
        if self.final is None or self.every_n_epochs == 0:
            return
        assert isinstance(pl_module, CGForceField)
        self._judge_priors(trainer, pl_module, "test", self.final)
        self.results = self._compared(trainer, pl_module, "test", self.final, "final")
        metrics = {
            f"{_prefix('final', system, result)}/{key}": value
            for system, result in enumerate(self.results)
            for key, value in result.metrics.items()
        }
        # The module's own log is closed by now.
        for logger in trainer.loggers:
            logger.log_metrics(metrics | {"epoch": trainer.current_epoch}, trainer.global_step)

    def _judge(self, trainer: L.Trainer, pl_module: L.LightningModule, part: Part) -> None:
        """Compare, and log."""
        assert isinstance(pl_module, CGForceField)
        if not self.priors:
            self._judge_priors(trainer, pl_module, part, self.config)
        started = time.monotonic()
        self.results = self._compared(trainer, pl_module, part, self.config, "free_energy")
        for system, result in enumerate(self.results):
            prefix, speed = _prefix("free_energy", system, result), "replica_steps_per_second"
            pl_module.log_dict(
                {f"{prefix}/{key}": value for key, value in result.metrics.items()}
                | {f"{prefix}/{speed}": result.simulation[speed]},
                prog_bar=False,
            )
        now = time.monotonic()
        pl_module.log("free_energy/seconds", now - started)
        pl_module.log("free_energy/share_of_time", (now - started) / (now - self._last_end))
        self._last_end = now

    def _compared(
        self,
        trainer: L.Trainer,
        module: CGForceField,
        part: Part,
        config: SimulationConfig,
        name: str,
    ) -> list[FreeEnergyResult]:
        """Simulate every system; write results and figures into the run's folder."""
        results = []
        for system, reference in enumerate(module.references):
            potential = module.potential(system)
            run = simulate_together(trainer, module, potential, system, config, "model")
            seed = config.seed or 0
            judgement = judge(reference, run.positions, run.blown_up, config.burn_in, part, seed)
            result = free_energy_result(
                module.system_names[system],
                reference,
                judgement,
                self.priors[system],
                facts_of(trainer, module, run, config),
            )
            results.append(result)
            if trainer.is_global_zero:
                suffix = "" if system == 0 else f"-{result.system}"
                result.save(trainer.default_root_dir, suffix)
                show_surfaces(trainer, result, suffix, name)
        return results

    def _judge_priors(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        part: Part,
        config: SimulationConfig,
    ) -> None:
        assert isinstance(pl_module, CGForceField)
        folder: Path = trainer.datamodule.cache_dir  # type: ignore[attr-defined]
        self.priors = [
            judged_prior(trainer, pl_module, system, config, folder, part)
            if self.compare_prior
            else None
            for system in range(len(pl_module.references))
        ]


def _prefix(name: str, system: int, result: FreeEnergyResult) -> str:
    return name if system == 0 else f"{name}/{result.system}"
