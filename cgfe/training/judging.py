"""The models and priors of a training, simulated and judged against sampled frames."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import lightning as L

from cgfe.reference.ensembles import Part
from cgfe.simulation.evaluation import free_energy_result, judge, with_mean_force_error
from cgfe.simulation.langevin import SimulationConfig, SimulationResult
from cgfe.simulation.results import FreeEnergyResult, PriorResult
from cgfe.simulation.structure import ERRORS, with_structures
from cgfe.simulation.trapping import trapping_facts
from cgfe.training.figures import show_surfaces
from cgfe.training.frame_figures import prior_force_mse, structures
from cgfe.training.mean_forces import mean_force_errors
from cgfe.training.module import CGForceField
from cgfe.training.priors import judged_prior
from cgfe.training.replicas import LastingReplicas

Name = Literal["free_energy", "final"]
"""What a judgement is logged as: a validation's or a test's, or that of the end of a fit."""

METRICS = (
    *("js", "js_train", "kl_reference_model", "mse_kt2", "w1_tic1", "w1_tic2", "delta_f_kt"),
    *("macrostate_error_kt", "coverage", "outside", "blown_up", "heating", "split_half_js"),
)
"""The figures of every judgement."""
SPEED = "replica_steps_per_second"
COST = ("free_energy/seconds", "free_energy/share_of_time")
"""What a validation's simulations took, and their share of the time since the last one."""


def judged_models(
    trainer: L.Trainer,
    part: Part,
    config: SimulationConfig,
    name: Name,
    priors: list[PriorResult | None],
    replicas: LastingReplicas,
) -> list[FreeEnergyResult]:
    """Simulate the model on every system; write results and figures into the run's folder.

    Parameters
    ----------
    trainer : Trainer
        Of a `CGForceField`.
    part : str
        The sampled frames to compare with.
    config : SimulationConfig
    name : str
    priors : list of PriorResult or None
        What each system's prior alone scores, to be shown beside.
    replicas : LastingReplicas
        Go on from where they are; in a fit, the loss sees what they show.
    """
    module = _force_field(trainer)
    results, errors = [], mean_force_errors(trainer, module, part)
    shared = {"prior_force_mse": prior_force_mse(trainer), "validations_before": replicas.turn}
    for system, reference in enumerate(module.references):
        potential = module.potential(system)
        run = replicas.simulate(trainer, module, potential, reference, system, config)
        seed = config.seed or 0
        judgement = judge(reference, run.positions, run.blown_up, config.burn_in, part, seed)
        if name == "free_energy" and trainer.state.fn == "fit":
            module.learn(system, judgement)
        result = free_energy_result(
            module.system_names[system],
            reference,
            judgement,
            priors[system],
            _facts_of(trainer, module, run, config) | shared,
            trapping_facts(potential, reference, run, seed),
        )
        if (structure := structures(trainer, system, judgement, seed)) is not None:
            result = with_structures(result, *structure)
        if system < len(errors) and (error := errors[system]) is not None:
            result = with_mean_force_error(result, error.model, error.prior)
        results.append(result)
        if trainer.is_global_zero:
            suffix = "" if system == 0 else f"-{result.system}"
            result.save(trainer.default_root_dir, suffix)
            show_surfaces(trainer, result, suffix, name)
    replicas.turn += 1
    return results


def judged_priors(
    trainer: L.Trainer, part: Part, config: SimulationConfig, wanted: bool = True
) -> list[PriorResult | None]:
    """Return what the prior alone scores on every system; None of each if it is not wanted."""
    module = _force_field(trainer)
    folder: Path = trainer.datamodule.cache_dir  # type: ignore[attr-defined]
    return [
        judged_prior(trainer, module, system, config, folder, part) if wanted else None
        for system in range(len(module.references))
    ]


def judged_end(
    trainer: L.Trainer, config: SimulationConfig, with_prior: bool
) -> tuple[list[PriorResult | None], list[FreeEnergyResult]]:
    """Judge priors and models against the test frames when a fit is over, and log the figures."""
    priors = judged_priors(trainer, "test", config, with_prior)
    results = judged_models(trainer, "test", config, "final", priors, LastingReplicas())
    metrics = logged_names("final", results) | {"epoch": trainer.current_epoch}
    # The module's own log is closed by now.
    for logger in trainer.loggers:
        logger.log_metrics(metrics, trainer.global_step)
    return priors, results


def _facts_of(
    trainer: L.Trainer, module: CGForceField, run: SimulationResult, config: SimulationConfig
) -> dict[str, Any]:
    """Return how a model was simulated, for its `FreeEnergyResult`."""
    now = (trainer.current_epoch, trainer.global_step)
    epoch, step = now if trainer.state.fn == "fit" else module.trained or now
    settings = asdict(config)
    return {
        "replicas": run.replicas,
        "trajectories": run.positions.shape[1],
        "steps": run.steps,
        **{key: settings[key] for key in ("time_step_ps", "friction_per_ps", "burn_in", "seed")},
        "seconds": run.seconds,
        "replica_steps_per_second": run.replica_steps_per_second,
        "kinetic_temperature_kelvin": run.kinetic_temperature,
        "ladder": settings["ladder"],
        "acceptance": run.acceptance,
        "device": str(module.device),
        "epoch": epoch,
        "step": step,
    }


def _force_field(trainer: L.Trainer) -> CGForceField:
    assert isinstance(trainer.lightning_module, CGForceField)
    return trainer.lightning_module


def _prefix(name: Name, system: int, system_name: str) -> str:
    return name if system == 0 else f"{name}/{system_name}"


def logged_names(name: Name, results: list[FreeEnergyResult]) -> dict[str, float]:
    """Return metrics and speed under their names: the first system's without its own."""
    return {
        f"{_prefix(name, system, result.system)}/{key}": value
        for system, result in enumerate(results)
        for key, value in (result.metrics | {SPEED: result.simulation[SPEED]}).items()
    }


def validation_names(systems: list[str]) -> set[str]:
    """Return the names of all that a validation with simulations and frames logs."""
    prefixes = (_prefix("free_energy", i, system) for i, system in enumerate(systems))
    return {
        *COST,
        *(f"{prefix}/{key}" for prefix in prefixes for key in (*METRICS, *ERRORS, SPEED)),
    }
