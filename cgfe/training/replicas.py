"""One simulation by all processes of a training: each runs its share of the replicas."""

from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray

from cgfe.model.potential import Potential
from cgfe.progress import Bar
from cgfe.reference.training_frames import TrainingFrames, every
from cgfe.simulation.evaluation import simulate
from cgfe.simulation.langevin import SimulationConfig, SimulationResult
from cgfe.simulation.structure import MOST_FRAMES, compare_structure
from cgfe.simulation.trapping import trapping_facts
from cgfe.training.module import CGForceField

MOST_BATCHES = 100
"""Of validation frames, that the prior's force loss is taken from."""


def simulate_together(
    trainer: L.Trainer,
    module: CGForceField,
    potential: Potential,
    system: int,
    config: SimulationConfig,
    name: str,
) -> SimulationResult:
    """Simulate a potential of a system on the training devices; return all ranks' replicas.

    Parameters
    ----------
    trainer, module : Trainer, CGForceField
    potential : Potential
        On the module's device.
    system : int
    config : SimulationConfig
    name : str
        What the progress bar calls the potential.
    """
    shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
    with Bar(total=config.steps, desc=f"simulating {name}", disable=not shown, leave=False) as bar:

        def advance(done: int) -> None:
            bar.update(done - bar.n)

        run = simulate(
            potential,
            module.references[system],
            config,
            module.device,
            trainer.global_rank,
            trainer.world_size,
            progress=advance,
        )
    run = run if trainer.world_size == 1 else _gathered(module, run)
    trapping = trapping_facts(potential, module.references[system], run, config.seed or 0)
    return replace(run, trapping=trapping, structure=_structure(trainer, system, run, config))


def _structure(
    trainer: L.Trainer, system: int, run: SimulationResult, config: SimulationConfig
) -> dict[str, NDArray[np.float64]]:
    """Compare structures with the frames that the figures are compared with, where there are any.

    While a fit goes on these are the validation frames.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    split = data.splits[system]
    segments = (split.validation if trainer.validating else split.test) or split.train
    sampled = TrainingFrames(data.frames[system], segments)
    chosen = every(MOST_FRAMES, len(sampled.rows))
    kept = run.positions[int(config.burn_in * len(run.positions)) :, ~run.blown_up]
    return compare_structure(
        data.references[system].system,
        data.frames[system].positions[sampled.rows[chosen]],
        sampled.weights[chosen],
        kept.reshape(-1, *kept.shape[2:]),
    )


def _gathered(module: CGForceField, run: SimulationResult) -> SimulationResult:
    device = module.device
    gather: Callable[[torch.Tensor], Any] = module.all_gather
    # Each process numbers its replicas from 0.
    followed, starts = (
        gather(torch.from_numpy(array).to(device)).cpu().numpy()
        for array in (run.followed, run.starts)
    )
    followed = followed + run.replicas * np.arange(len(followed))[:, None, None]
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
        replicas=run.replicas * len(positions),
        acceptance=gather(torch.tensor(run.acceptance, device=device)).mean(0).tolist(),
        followed=np.concatenate(list(followed), axis=1),
        starts=np.concatenate(list(starts)),
    )


def _prior_force_mse(trainer: L.Trainer) -> float | None:
    """Return the force loss of the prior alone, of validation frames; None without forces."""
    total, number = 0.0, 0
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    for batch in islice(data.val_dataloader(), MOST_BATCHES):
        if "forces" not in batch:
            return None
        residual = batch.forces - batch.prior_forces
        total += float(residual.square().sum())
        number += residual.numel()
    return total / number


def facts_of(
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
        "prior_force_mse": _prior_force_mse(trainer),
        "device": str(module.device),
        "epoch": epoch,
        "step": step,
        "trapping": run.trapping,
        "structure": run.structure,
    }
