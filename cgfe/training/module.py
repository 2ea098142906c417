"""CGForceField: the LightningModule that wraps CGSchNet with the weighted loss."""

import copy
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from torch import Tensor
from torch_geometric.data import Batch

from cgfe.data.frames import CGFrames
from cgfe.errors import InputError
from cgfe.kernels.fast_potential import FastPotential, tabulated
from cgfe.kernels.simulation import runs_natively
from cgfe.model.potential import Potential
from cgfe.model.schnet import CGSchNet, CGSchNetConfig
from cgfe.reference.ensembles import Part
from cgfe.reference.reference import Reference
from cgfe.simulation.evaluation import Judgement
from cgfe.simulation.langevin import SimulationConfig, SimulationResult
from cgfe.training.checkpoint_checks import (
    check_same_frames,
    check_same_loss,
    check_same_network,
    check_same_sizes,
    model_of,
    reading,
)
from cgfe.training.checkpoints import (
    CHECKPOINT_KEY,
    CHECKPOINT_VERSION,
    content_of,
    read_checkpoint,
)
from cgfe.training.filter_grid import FilterGrid
from cgfe.training.losses import LossConfig, Losses, Setting, Turn, WeightedLoss
from cgfe.training.replicas import simulate_together
from cgfe.training.schedules import end_as_told, length_of, optimizer_and_schedule


class CGForceField(L.LightningModule):
    """A coarse-grained force field: CGSchNet on top of a fixed prior.

    Parameters
    ----------
    network : CGSchNetConfig
        Size of the network.
    loss : LossConfig, optional
        The force and the energy term of arXiv 2509.14600, by default forces alone: {energy_weight:
        0.0, force_weight: 1 - energy_weight, energy_target: delta or total, gauge: fixed, centred
        or learned, weighted: false}; `--model.loss.help` explains them.
    losses : Losses
        In place of `loss`: any terms, each with its weight. Every term that has begun is
        logged, unweighted, at any weight (at 0 all but `contrastive`, which has no samples then).
    optimizer : callable
        Any torch optimizer.
    scheduler : callable, optional
        Any torch learning-rate scheduler, stepped once an epoch; ReduceLROnPlateau by what its
        key `monitor` names, a loss of validation for example.

    Raises
    ------
    InputError
        If a value makes no sense, or both `loss` and `losses` are given.
    """

    def __init__(
        self,
        network: CGSchNetConfig = CGSchNetConfig(),  # noqa: B008 (frozen)
        loss: LossConfig | None = None,
        losses: Losses = Losses(),  # noqa: B008 (never changed)
        optimizer: OptimizerCallable = torch.optim.Adam,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        if loss is not None and losses.terms():
            given = ", ".join(term.option for term in losses.terms())
            raise InputError(
                f"model.loss is given, and of model.losses {given}; expected one of the two "
                "(--model.loss=null takes the first back)."
            )
        losses.check_chains()
        self.network_config = network
        self.loss_config: LossConfig | Losses = losses if losses.terms() else loss or LossConfig()
        self.network_config.check()
        self.loss_config.check()
        self.network = CGSchNet(self.network_config)
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.references: list[Reference] = []
        self.system_names: list[str] = []
        self.loss: WeightedLoss | None = None
        self.trained: tuple[int, int] | None = None  # epoch and step of a loaded checkpoint
        self.grid = FilterGrid()
        self._length: int | None = None  # of a cosine schedule, in epochs

    def setup(self, stage: str) -> None:
        """Take over the references from the data module, and what else terms of the loss need."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.set_references(
            data.references, data.names, data.mean_forces, data.order_seed, stage == "fit"
        )

    def set_references(
        self,
        references: list[Reference],
        names: list[str],
        mean_forces: Sequence[CGFrames | None] = (),
        seed: int = 0,
        fits: bool = False,
    ) -> None:
        """Keep what simulation and validation need beside the network.

        Parameters
        ----------
        references : list of Reference
        names : list of str
        mean_forces, seed, fits
            Of the loss's `Setting`.

        Raises
        ------
        InputError
            If a term of the loss cannot be had from the references, or the network does not know
            their bead types.
        """
        for name, reference in zip(names, references, strict=True):
            self.check_bead_types(name, reference.system.bead_types)
        if self.loss is None:
            self.loss = WeightedLoss(self.loss_config, len(references))
            self.loss.attach(
                Setting(
                    self.network,
                    references,
                    self._evaluated,
                    mean_forces,
                    seed,
                    fits,
                    self.simulated,
                )
            )
            self.loss.to(self.device)
        self.loss.check(names, references)
        self.references, self.system_names = list(references), list(names)

    def learn(self, system: int, judgement: Judgement) -> None:
        """Show the loss what a simulation of the model as it is now has shown."""
        assert self.loss is not None
        self.loss.after_simulation(system, self.network, judgement)

    def check_bead_types(self, name: str, types: NDArray[np.int64]) -> None:
        """Check that the network knows the bead types (N,) of a system.

        Raises
        ------
        InputError
            If it does not.
        """
        largest, known = types.max(), self.network_config.max_bead_types
        if largest >= known:
            raise InputError(
                f"max_bead_types is {known}, but {name} has bead type {largest}; expected at "
                f"least {largest + 1}."
            )

    @property
    def logged_terms(self) -> list[str]:
        """What is logged of the loss, behind `train/`, `validation/`, `test/`."""
        terms = self.loss_config.terms()
        return ["loss", *(x.log_name for x in terms if x.weight > 0 or x.logged_at_zero)]

    def potential(self, system: int = 0) -> Potential:
        """Return prior + network of one system, on this module's device, in float32."""
        network, dtype = self.network, next(self.network.parameters()).dtype
        if dtype != torch.float32:  # trained in float64; simulations are in float32
            network = copy.deepcopy(network).float()
        return self.references[system].potential(network).to(self.device)

    def simulated(self, system: int) -> Potential | FastPotential:
        """Return prior + network of one system as they are now, for few steps of simulation.

        Tables are on the grid of training, not on one that is checked anew each time.
        """
        potential = self.potential(system)
        if self.grid.intervals is None or not runs_natively(next(potential.parameters())):
            return potential
        return tabulated(potential, self.grid.intervals)

    def _in_own_precision(self, batch: Batch) -> Batch:
        dtype = next(self.network.parameters()).dtype
        if batch.pos.dtype == dtype:
            return batch
        return batch.apply(lambda x: x.to(dtype) if x.is_floating_point() else x)

    def on_validation_epoch_start(self) -> None:
        """In a fit, see whether the grid still holds for the network as it is now."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.choose_grid()

    def choose_grid(self) -> None:
        """Choose the grid of the filters for the network as it is now."""
        self.grid.choose(self.network, self.references)

    def energy_and_forces(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the network's energies (G,) and forces (A, 3) of a batch, the fast way if any.

        They can be differentiated in training mode alone.
        """
        return self.grid.energy_and_forces(self.network, self.references, batch)

    def _evaluated(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.energy_and_forces(self._in_own_precision(batch))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the weighted loss of a batch."""
        # Counted over epochs and processes, also of a run that was resumed.
        trainer: Any = self._trainer  # None where steps are taken by hand
        done = trainer.fit_loop.epoch_loop.batch_progress.total.processed if trainer else batch_idx
        return self._step(batch, "train", done)["loss"]

    def validation_step(self, batch: Batch | None, batch_idx: int) -> None:
        """Log the loss terms of a validation batch, if there are frames."""
        if batch is not None:
            self._step(batch, "validation", batch_idx)

    def test_step(self, batch: Batch | None, batch_idx: int) -> None:
        """Log the loss terms of a test batch, if there are frames."""
        if batch is not None:
            self._step(batch, "test", batch_idx)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return energy (G,), forces (G, N, 3), positions (G, N, 3) of prior + network."""
        batch = self._in_own_precision(batch)
        energy, forces = self.energy_and_forces(batch)
        return {
            "system": batch.system,
            "positions": batch.pos.unflatten(0, (batch.num_graphs, -1)),
            "energy": energy + batch.prior_energy,
            "forces": (forces + batch.prior_forces).unflatten(0, (batch.num_graphs, -1)),
        }

    def _step(self, batch: Batch, stage: Part, number: int) -> dict[str, Tensor]:
        assert self.loss is not None
        batch = self._in_own_precision(batch)
        rank, processes = (x.global_rank, x.world_size) if (x := self._trainer) else (0, 1)
        epoch = self.trained and self.trained[0]
        if x is not None and x.state.fn == TrainerFn.FITTING:
            epoch = x.current_epoch
        turn = Turn(stage, number * processes + rank, epoch)
        terms: dict[str, Tensor] = self.loss(*self.energy_and_forces(batch), batch, turn)
        self.log_dict(
            {f"{stage}/{name}": value.detach() for name, value in terms.items()},
            on_step=False,
            on_epoch=True,
            prog_bar=stage != "train",
            batch_size=batch.num_graphs,
            sync_dist=True,
        )
        return terms

    def configure_optimizers(self) -> Any:
        """Return the configured optimizer, with its scheduler if there is one."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        found = optimizer_and_schedule(parameters, self.make_optimizer, self.make_scheduler)
        self._length = length_of(found)
        return found

    def check_optimizer(self) -> None:
        """Raise InputError if the settings of optimizer or scheduler make no sense."""
        one = [torch.nn.Parameter(torch.zeros(1))]
        optimizer_and_schedule(one, self.make_optimizer, self.make_scheduler)

    def on_fit_start(self) -> None:
        """Let terms of the loss simulate what they need."""
        assert self.loss is not None

        def simulate(
            potential: Potential, system: int, config: SimulationConfig, name: str
        ) -> SimulationResult:
            return simulate_together(
                self.trainer,
                self,
                potential.to(self.device),
                self.references[system],
                config,
                name,
            )

        self.loss.before_fit(simulate)

    def on_train_start(self) -> None:
        """See to it that a cosine schedule ends where it is told to."""
        if self._length is not None:
            end_as_told(self.trainer, self._length)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add network sizes and references, as plain values and tensors."""
        checkpoint[CHECKPOINT_KEY] = {
            "version": CHECKPOINT_VERSION,
            "network": asdict(self.network_config),
            "loss": self.loss.describe() if self.loss else {},
            "names": self.system_names,
            "references": [
                {key: torch.as_tensor(value.copy()) for key, value in ref.to_arrays().items()}
                for ref in self.references
            ],
            **self.grid.to_checkpoint(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint belongs to this network and these frames.

        Raises
        ------
        InputError
            If it is of another bead set, network or reference.
        """
        content = content_of(checkpoint, "the checkpoint")
        self.trained = int(checkpoint["epoch"]), int(checkpoint["global_step"])
        self.grid.from_checkpoint(content)
        own = {"state_dict": self.state_dict()}
        check_same_loss(checkpoint, own)
        check_same_network(content, self.network_config)
        check_same_frames(content, self.references)
        check_same_sizes(checkpoint, own)

    @classmethod
    def load(cls, path: str | Path) -> "CGForceField":
        """Read a force field with its references from a checkpoint, on the CPU, for use.

        Raises
        ------
        InputError
            If the file is missing, unreadable, or no cgfe checkpoint.
        """
        return cls.from_checkpoint(read_checkpoint(path), str(path))

    @classmethod
    def from_checkpoint(cls, checkpoint: dict[str, Any], name: str) -> "CGForceField":
        """Return the force field of a checkpoint that was read, for use: its loss is left out.

        Parameters
        ----------
        checkpoint : dict
        name : str
            What errors call it.

        Raises
        ------
        InputError
            If it is no cgfe checkpoint.
        """
        network, names, references = model_of(checkpoint, name)
        module = cls(network.config)
        module.network = network
        with reading(name):
            module.set_references(references, names)
        return module.eval()
