"""Training steps: forward, forces, loss, backward, optimizer, on batches prepared before."""

import logging
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import nn
from torch_geometric.data import Batch

from benchmarks import operations
from benchmarks.baselines import HAS_TORCHMD_NET, Baseline, PyGSchNet, TorchMDNet
from benchmarks.machine import peak_flops
from benchmarks.settings import Settings
from benchmarks.turns import Advance, Row, Work, take_turns
from cgfe.model.schnet import CGSchNet, CGSchNetConfig
from cgfe.training.datamodule import CGFramesDataModule
from cgfe.training.losses import LossConfig, WeightedLoss
from cgfe.training.module import CGForceField

LOSS = LossConfig(energy_weight=0.01, energy_target="total", gauge="learned")
"""Both terms; the shipped config has forces alone."""
RATE = 2e-3
BATCHES = 8


def data(batch_size: int) -> CGFramesDataModule:
    """Return the embedded set, its reference from the cache if it is there."""
    module = CGFramesDataModule("chignolin", batch_size=batch_size)
    module.prepare_data()
    module.setup("fit")
    return module


def force_field(frames: CGFramesDataModule, config: CGSchNetConfig) -> CGForceField:
    """Return a force field at the start of its first epoch, as in `cgfe fit`."""
    torch.manual_seed(0)
    module = CGForceField(network=config, loss=LOSS, optimizer=_optimizer)
    module.set_references(frames.references, frames.names)
    # Logging belongs to the trainer, whose cost is not measured here.
    module.log_dict = lambda *_, **__: None  # type: ignore[assignment, method-assign]
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer: Any = L.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    trainer.datamodule = frames
    module.trainer = trainer
    # What a module prepares before its first step is no part of the others.
    module.train().choose_grid()
    return module


def module_step(module: CGForceField) -> Callable[[Batch], None]:
    """Return one optimizer step of the force field, as Lightning does it."""
    optimizer: Any = module.configure_optimizers()["optimizer"]

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        optimizer.step()

    return step


def baseline_step(network: Baseline) -> Callable[[Batch], None]:
    """Return one optimizer step of another network with the same loss and optimizer."""
    loss = WeightedLoss(LOSS, 1)
    own: list[nn.Parameter] = [*network.parameters(), *loss.parameters()]
    optimizer = _optimizer(own)
    network.train()

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        energy, found = network.energy_and_forces(batch)
        loss(energy, found, batch)["loss"].backward()
        optimizer.step()

    return step


def repeated(step: Callable[[Batch], None], batches: list[Batch]) -> Work:
    """Return work that takes the batches in turn."""

    def work(calls: int) -> int:
        for call in range(calls):
            step(batches[call % len(batches)])
        return calls

    return work


def steps(module: CGForceField) -> dict[str, Callable[[Batch], None]]:
    """Return the training step of every network, all with the same parameters."""
    network: CGSchNet = module.network
    beads = len(module.references[0].system.bead_types)
    found = {"cgfe": module_step(module), "PyG": baseline_step(PyGSchNet(network))}
    if HAS_TORCHMD_NET:
        found["torchmd-net"] = baseline_step(TorchMDNet(network, beads))
        found["torchmd-net, pairs given"] = baseline_step(TorchMDNet(network, beads, False))
    return found


def measure(settings: Settings, ceilings: list[Row], advance: Advance | None = None) -> list[Row]:
    """Return the training steps of all networks, in turns, on torch's choice of threads."""
    frames = data(settings.batch_size)
    batches = [batch for batch, _ in zip(frames.train_dataloader(), range(BATCHES), strict=False)]
    module = force_field(frames, settings.network)
    works = {name: repeated(step, batches) for name, step in steps(module).items()}
    seconds = take_turns(works, settings.turns, settings.turn_seconds, advance)
    beads = len(frames.references[0].system.bead_types)
    threads = torch.get_num_threads()
    peak = peak_flops(ceilings, threads)
    rows = []
    for name, times in seconds.items():
        row = Row("training", f"{beads} beads", name, times, settings.batch_size, "frames")
        row.facts = {"threads": threads}
        if module.grid.intervals is not None:  # else there is no tabulated step to count
            counted = operations.training_step(
                settings.network, beads, module.grid.intervals, settings.batch_size
            )
            flops = row.rate[1] * counted.flops
            row.facts |= {"intervals": module.grid.intervals, "gflops": flops / 1e9}
            if peak is not None:
                row.facts["share_of_peak"] = flops / peak
        rows.append(row)
    return rows


def _optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=RATE, fused=True)
