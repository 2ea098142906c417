"""FreeEnergyValidation: short simulations at each validation, compared on the TICs."""

import time
from pathlib import Path

import lightning as L

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
        Skip validations between; the last epoch is never skipped. 0 switches the simulations
        off.
    compare_prior : bool
        Simulate the prior alone too, once, before training, with the same budget.

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
        self.priors: list[PriorResult | None] = []
        self.results: list[FreeEnergyResult] = []
        self._last_end = time.monotonic()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Simulate the priors alone: what the network must beat."""
        if self.every_n_epochs > 0:
            self._judge_priors(trainer, pl_module)
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
            self._judge_priors(trainer, pl_module)
        started = time.monotonic()
        self.results = []
        for system, reference in enumerate(pl_module.references):
            potential = pl_module.potential(system)
            run = simulate_together(trainer, pl_module, potential, system, self.config, "model")
            judgement = judge(reference, run.positions, run.blown_up, self.config.burn_in)
            result = free_energy_result(
                pl_module.system_names[system],
                reference,
                judgement,
                self.priors[system],
                facts_of(trainer, pl_module, run, self.config),
            )
            self.results.append(result)
            prefix = "free_energy" if system == 0 else f"free_energy/{result.system}"
            pl_module.log_dict(
                {f"{prefix}/{key}": value for key, value in result.metrics.items()}
                | {f"{prefix}/replica_steps_per_second": run.replica_steps_per_second},
                prog_bar=False,
            )
            if trainer.is_global_zero:
                suffix = "" if system == 0 else f"-{result.system}"
                result.save(trainer.default_root_dir, suffix)
                show_surfaces(trainer, result, suffix)
        now = time.monotonic()
        pl_module.log("free_energy/seconds", now - started)
        pl_module.log("free_energy/share_of_time", (now - started) / (now - self._last_end))
        self._last_end = now

    def _judge_priors(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, CGForceField)
        folder: Path = trainer.datamodule.cache_dir  # type: ignore[attr-defined]
        self.priors = [
            judged_prior(trainer, pl_module, system, self.config, folder)
            if self.compare_prior
            else None
            for system in range(len(pl_module.references))
        ]
