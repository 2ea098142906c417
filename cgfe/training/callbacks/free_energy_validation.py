"""FreeEnergyValidation: short simulations at each validation, compared on the TICs."""

import time
from typing import Any

import lightning as L

from cgfe.errors import keys_of, require
from cgfe.reference.ensembles import Part
from cgfe.simulation.langevin import SimulationConfig
from cgfe.simulation.results import FreeEnergyResult, PriorResult
from cgfe.training.judging import (
    COST,
    judged_end,
    judged_models,
    judged_priors,
    logged_names,
    validation_names,
)
from cgfe.training.replicas import LastingReplicas


class FreeEnergyValidation(L.Callback):
    """Simulate the model at each validation and log its TICA free-energy error.

    The simulation runs on the training device; under DDP each rank runs its share of the
    replicas. Within a fit they go on from where the last validation left them, also when it was
    killed and is resumed; `cgfe validate` starts anew. Logged as `free_energy/<metric>` for the
    first system and `free_energy/<system>/<metric>` for further ones, with the figure, the cost
    in seconds and its share of the time since the last validation.

    Parameters
    ----------
    simulation : SimulationConfig
        The budget: replicas, steps, and how they are run.
    every_n_epochs : int
        Skip validations between; the last epoch is never skipped. 0 switches all simulations
        off, the final one too.
    compare_prior : bool
        Simulate the prior alone too, once, before training, with the budget of one validation.
    final : SimulationConfig, optional
        A longer simulation that ends a fit, judged against the test frames: the run's result,
        logged as `final/<metric>`. By default there is none, and the last validation's stays.
        `cgfe test` simulates as it says, so that it repeats the result, or lengthens it.

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
        require(every_n_epochs >= 0, "free_energy.every_n_epochs", every_n_epochs, "0 or more")
        for name, config in (("simulation", simulation), ("final", final)):
            if config is not None:
                with keys_of(f"free_energy.{name}"):
                    config.check()
        self.config, self.final = simulation, final
        self.every_n_epochs, self.compare_prior = every_n_epochs, compare_prior
        self.priors: list[PriorResult | None] = []
        self.results: list[FreeEnergyResult] = []
        self.replicas = LastingReplicas()
        self.judged_step: int | None = None  # of the training, at the last simulation
        self._last_end = time.monotonic()

    def names(self, systems: list[str]) -> set[str]:
        """Return all that is logged at a validation of these systems."""
        return validation_names(systems) if self.every_n_epochs > 0 else set()

    def state_dict(self) -> dict[str, Any]:
        """Return where the replicas are, for the checkpoint."""
        return self.replicas.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with a checkpoint's replicas."""
        self.replicas.load_state_dict(state_dict)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Simulate the priors alone: what the network must beat."""
        if self.every_n_epochs > 0:
            self.priors = judged_priors(trainer, "validation", self.config, self.compare_prior)
        self._last_end = time.monotonic()

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Simulate and compare with the validation frames."""
        epoch, every = trainer.current_epoch + 1, self.every_n_epochs
        due = every > 0 and (epoch % every == 0 or epoch == trainer.max_epochs)
        if not trainer.sanity_checking and (due or trainer.state.fn != "fit"):
            self._judge(trainer, pl_module, "validation")

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Simulate and compare with the test frames, unless simulations are switched off."""
        if self.every_n_epochs > 0:
            self._judge(trainer, pl_module, "test", self.final)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Simulate for longer, and compare with the test frames."""
        self.replicas = LastingReplicas()  # another fit is of another model
        if self.final is not None and self.every_n_epochs > 0:
            self.priors, self.results = judged_end(trainer, self.final, self.compare_prior)

    def _judge(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        part: Part,
        other: SimulationConfig | None = None,
    ) -> None:
        config = other or self.config
        self.priors = self.priors or judged_priors(trainer, part, config, self.compare_prior)
        started = time.monotonic()
        replicas = self.replicas if trainer.state.fn == "fit" else LastingReplicas()
        self.results = judged_models(trainer, part, config, "free_energy", self.priors, replicas)
        self.judged_step = trainer.global_step
        now = time.monotonic()
        cost = (now - started, (now - started) / (now - self._last_end))
        module.log_dict(
            logged_names("free_energy", self.results) | dict(zip(COST, cost, strict=True))
        )
        self._last_end = now
