"""CGForceField: the LightningModule that wraps CGSchNet with the weighted loss."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.rank_zero import (
    rank_zero_debug,
    rank_zero_info,
    rank_zero_warn,
)
from torch import Tensor
from torch_geometric.data import Batch

from cgfe.errors import InputError
from cgfe.kernels.accuracy import TOLERANCE
from cgfe.kernels.training import energy_and_forces, is_supported, sufficient_intervals
from cgfe.model.potential import Potential
from cgfe.model.schnet import CGSchNet, CGSchNetConfig, bead_types_of
from cgfe.reference.reference import Reference
from cgfe.training.losses import LossConfig, WeightedLoss

CHECKPOINT_KEY = "cgfe"
CHECKPOINT_VERSION = 1


class CGForceField(L.LightningModule):
    """A coarse-grained force field: CGSchNet on top of a fixed prior.

    Parameters
    ----------
    network : CGSchNetConfig
        Size of the network.
    loss : LossConfig
        Weights of the force and the energy term; both are logged, unweighted, at any weight.
    optimizer : callable
        Any torch optimizer.
    scheduler : callable, optional
        Any torch learning-rate scheduler, stepped once an epoch.
    """

    def __init__(
        self,
        network: CGSchNetConfig = CGSchNetConfig(),  # noqa: B008 (frozen)
        loss: LossConfig = LossConfig(),  # noqa: B008 (frozen)
        optimizer: OptimizerCallable = torch.optim.Adam,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        self.network_config = network
        self.loss_config = loss
        self.network_config.check()
        self.loss_config.check()
        self.network = CGSchNet(self.network_config)
        self.make_optimizer = optimizer
        self.make_scheduler = scheduler
        self.references: list[Reference] = []
        self.system_names: list[str] = []
        self.loss: WeightedLoss | None = None
        self.trained: tuple[int, int] | None = None  # epoch and step of a loaded checkpoint
        # Of the filters' grid in training; None: filters are not interpolated.
        self.intervals: int | None = None

    def setup(self, stage: str) -> None:
        """Take over the references from the data module."""
        self.set_references(self.trainer.datamodule.references, self.trainer.datamodule.names)  # type: ignore[attr-defined]

    def set_references(self, references: list[Reference], names: list[str]) -> None:
        """Keep what simulation and validation need beside the network.

        Raises
        ------
        InputError
            If the loss matches bin energies and the frames are too few to know any.
        """
        unknown = [
            name for name, ref in zip(names, references, strict=True) if not ref.labels.knows_bins
        ]
        if unknown and self.loss_config.energy_target == "total":
            raise InputError(
                f"{unknown[0]}: no TIC bin holds enough frames for energy_target total; use "
                "fewer reference.target_bins, more frames, or energy_target delta."
            )
        self.references, self.system_names = list(references), list(names)
        if self.loss is None:
            self.loss = WeightedLoss(self.loss_config, len(references)).to(self.device)

    def potential(self, system: int = 0) -> Potential:
        """Return prior + network of one system, on this module's device."""
        reference = self.references[system]
        bead_types = torch.from_numpy(reference.system.bead_types)
        return Potential(reference.prior, self.network, bead_types).to(self.device)

    def on_train_epoch_start(self) -> None:
        """Choose the grid of the filters by the network as it is now."""
        self.choose_grid()

    def on_validation_epoch_start(self) -> None:
        """Choose the grid again: the network has changed since training began to use it."""
        self.choose_grid()

    def on_test_epoch_start(self) -> None:
        """Choose the grid of the filters."""
        self.choose_grid()

    def on_predict_epoch_start(self) -> None:
        """Choose the grid of the filters."""
        self.choose_grid()

    def choose_grid(self) -> None:
        """Choose the grid on which filters are made once for all frames of a batch.

        The coarsest one that holds the tolerance on the starts kept of every system is taken; where
        none does, or the kernels do not run, the network is evaluated as it is.
        """
        systems = [
            (torch.from_numpy(ref.starts.positions), torch.from_numpy(ref.system.bead_types))
            for ref in self.references
        ]
        before, self.intervals = self.intervals, None
        if not is_supported(next(self.network.parameters())):
            return
        self.intervals, error = sufficient_intervals(self.network, systems)
        if self.intervals is None:
            rank_zero_warn(
                f"Interpolated filters give energies and forces to {error:.1e} only, not to "
                f"{TOLERANCE:.0e}; the network is evaluated plainly, which is slower."
            )
        elif self.intervals != before:
            # The first choice is told; later ones would break into the progress bar.
            (rank_zero_info if before is None else rank_zero_debug)(
                f"Filters are interpolated on {self.intervals} intervals; energies and forces are "
                f"those of the network to {error:.0e}."
            )

    def energy_and_forces(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the network's energies (G,) and forces (A, 3) of a batch, the fast way if any.

        They can be differentiated in training mode alone.
        """
        if self.intervals is None or not is_supported(batch.pos):
            return self.network.energy_and_forces(batch)
        types = bead_types_of(batch)
        with torch.set_grad_enabled(self.training):
            frames = batch.pos.view(-1, len(types), 3)
            energy, forces = energy_and_forces(self.network, frames, types, self.intervals)
        return energy, forces.flatten(0, 1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the weighted loss of a batch."""
        return self._step(batch, "train")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss terms of a validation batch."""
        self._step(batch, "validation")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss terms of a test batch."""
        self._step(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return energy (G,), forces (G, N, 3), positions (G, N, 3) of prior + network."""
        energy, forces = self.energy_and_forces(batch)
        return {
            "system": batch.system,
            "positions": batch.pos.unflatten(0, (batch.num_graphs, -1)),
            "energy": energy + batch.prior_energy,
            "forces": (forces + batch.prior_forces).unflatten(0, (batch.num_graphs, -1)),
        }

    def _step(self, batch: Batch, stage: str) -> Tensor:
        assert self.loss is not None
        terms: dict[str, Tensor] = self.loss(*self.energy_and_forces(batch), batch)
        self.log_dict(
            {f"{stage}/{name}": value.detach() for name, value in terms.items()},
            on_step=False,
            on_epoch=True,
            prog_bar=stage != "train",
            batch_size=batch.num_graphs,
            sync_dist=True,
        )
        return terms["loss"]

    def configure_optimizers(self) -> Any:
        """Return the configured optimizer, with its scheduler if there is one."""
        parameters = [p for p in self.parameters() if p.requires_grad]
        optimizer = self.make_optimizer(parameters)
        if self.make_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.make_scheduler(optimizer)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add network sizes and references, as plain values and tensors."""
        checkpoint[CHECKPOINT_KEY] = {
            "version": CHECKPOINT_VERSION,
            "network": asdict(self.network_config),
            "loss": asdict(self.loss_config),
            "names": self.system_names,
            "intervals": self.intervals,
            "references": [
                {key: torch.as_tensor(value.copy()) for key, value in ref.to_arrays().items()}
                for ref in self.references
            ],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint belongs to this network and these frames.

        Raises
        ------
        InputError
            If it is of another bead set, network or reference.
        """
        content = _content(checkpoint, "the checkpoint")
        self.trained = int(checkpoint["epoch"]), int(checkpoint["global_step"])
        # A run resumed within an epoch goes on with the epoch's grid.
        self.intervals = content.get("intervals")
        saved = CGSchNetConfig(**content["network"])
        if saved != self.network_config:
            changed = [
                f"{key} is {value} in the checkpoint and {getattr(self.network_config, key)} here"
                for key, value in asdict(saved).items()
                if value != getattr(self.network_config, key)
            ]
            raise InputError(f"the checkpoint holds another network: {'; '.join(changed)}.")
        references = _references(content)
        if [r.system.bead_types.tolist() for r in references] != [
            r.system.bead_types.tolist() for r in self.references
        ]:
            raise InputError(
                f"the checkpoint belongs to {_describe(references)}, "
                f"but the frames hold {_describe(self.references)}."
            )
        if [r.fingerprint for r in references] != [r.fingerprint for r in self.references]:
            raise InputError(
                "the checkpoint was trained with other frames, split or reference settings; "
                "give the run's own config.yaml."
            )

    @classmethod
    def load(cls, path: str | Path) -> "CGForceField":
        """Read a force field with its references from a checkpoint, on the CPU, for use.

        Raises
        ------
        InputError
            If the file is missing, unreadable, or no cgfe checkpoint.
        """
        checkpoint = read_checkpoint(path)
        content = _content(checkpoint, str(path))
        module = cls(CGSchNetConfig(**content["network"]), LossConfig(**content["loss"]))
        module.set_references(_references(content), content["names"])
        module.load_state_dict(checkpoint["state_dict"])
        return module.eval()


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file without running any code that it may hold.

    Raises
    ------
    InputError
        If the file is missing or unreadable.
    """
    import pickle

    if not Path(path).is_file():
        raise InputError(f"{path}: no such checkpoint.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError):
        raise InputError(f"{path}: not a readable checkpoint; it may be truncated.") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a cgfe checkpoint.")
    return content


def _content(checkpoint: dict[str, Any], name: str) -> dict[str, Any]:
    content = checkpoint.get(CHECKPOINT_KEY)
    if not isinstance(content, dict) or content.get("version") != CHECKPOINT_VERSION:
        raise InputError(f"{name} is no cgfe checkpoint of version {CHECKPOINT_VERSION}.")
    return content


def _references(content: dict[str, Any]) -> list[Reference]:
    return [
        Reference.from_arrays({key: value.numpy() for key, value in arrays.items()})
        for arrays in content["references"]
    ]


def _describe(references: list[Reference]) -> str:
    names = [r.system.residue_names for r in references]
    return ", ".join(f"{len(beads)} beads ({'-'.join(beads)})" for beads in names)
