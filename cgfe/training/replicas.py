"""Simulations by all processes of a training: each runs its share of the replicas."""

from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
import torch

from cgfe.model.potential import Potential
from cgfe.progress import Bar
from cgfe.reference.reference import Reference
from cgfe.simulation.evaluation import simulate
from cgfe.simulation.langevin import SimulationConfig, SimulationResult
from cgfe.training.checkpoint_checks import reading


class LastingReplicas:
    """The model's replicas of each system, which go on from one validation to the next.

    The model changes little in between, so that they come to equilibrium over a training though
    each stretch is short.
    """

    def __init__(self) -> None:
        self.last: dict[int, torch.Tensor] = {}  # by system: (R, N, 3), all processes' one by one
        self.turn = 0

    def simulate(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        potential: Potential,
        reference: Reference,
        system: int,
        config: SimulationConfig,
    ) -> SimulationResult:
        """Go on with the replicas of a system on the model's potential as it is now."""
        last = self.last.get(system)
        run = simulate_together(
            trainer, module, potential, reference, config, "model", last, self.turn
        )
        self.last[system] = torch.from_numpy(run.last)
        return run

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training goes on from."""
        return {"last": self.last, "turn": self.turn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Raises
        ------
        InputError
            If it is damaged.
        """
        with reading("the checkpoint's replicas"):
            last = {int(system): where.detach().clone() for system, where in state["last"].items()}
            if any(where.ndim != 3 or where.dtype != torch.float32 for where in last.values()):
                raise TypeError("replicas are no float32 positions")
            self.last, self.turn = last, int(state["turn"])


def simulate_together(
    trainer: L.Trainer,
    module: L.LightningModule,
    potential: Potential,
    reference: Reference,
    config: SimulationConfig,
    name: str,
    last: torch.Tensor | None = None,
    turn: int = 0,
) -> SimulationResult:
    """Simulate a potential of a system on the training devices; return all ranks' replicas.

    Parameters
    ----------
    trainer, module : Trainer, LightningModule
    potential : Potential
        On the module's device.
    reference : Reference
        Of the system.
    config : SimulationConfig
    name : str
        What the progress bar calls the potential.
    last : Tensor (R, N, 3), optional
        Where all processes' replicas ended before, to go on from.
    turn : int
        How often they were simulated before.
    """
    rank, world_size = trainer.global_rank, trainer.world_size
    # Other processes than before, that cannot share them, start anew.
    shared = last is not None and len(last) % world_size == 0
    own = last.chunk(world_size)[rank].numpy() if last is not None and shared else None
    shown = trainer.is_global_zero and trainer.progress_bar_callback is not None
    with Bar(total=config.steps, desc=f"simulating {name}", disable=not shown, leave=False) as bar:

        def advance(done: int) -> None:
            bar.update(done - bar.n)

        run = simulate(
            potential,
            reference,
            config,
            module.device,
            rank,
            world_size,
            advance,
            own,
            turn,
        )
    return run if world_size == 1 else _gathered(module, run)


def _gathered(module: L.LightningModule, run: SimulationResult) -> SimulationResult:
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
    last = gather(torch.from_numpy(run.last).to(device)).cpu().numpy()
    return SimulationResult(
        positions=np.concatenate(list(positions), axis=1),
        blown_up=np.concatenate(list(blown_up)),
        seconds=float(gather(torch.tensor(run.seconds, device=device)).max()),
        steps=run.steps,
        kinetic_temperature=float(
            # Of a process whose replicas have all blown up there is none.
            gather(torch.tensor(run.kinetic_temperature, device=device)).nanmean()
        ),
        replicas=run.replicas * len(positions),
        last=np.concatenate(list(last)),
        acceptance=gather(torch.tensor(run.acceptance, device=device)).mean(0).tolist(),
        followed=np.concatenate(list(followed), axis=1),
        starts=np.concatenate(list(starts)),
    )
