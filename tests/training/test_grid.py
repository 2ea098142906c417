"""The grid of the filters: chosen once, refined at most, kept in checkpoints."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

import cgfe.training.filter_grid as grid_file
from cgfe.kernels.training import sufficient_intervals
from cgfe.model.schnet import CGSchNetConfig, Interaction
from cgfe.training.losses import LossConfig, WeightedLoss
from cgfe.training.module import CGForceField
from tests.kernels.test_training_kernel import data_of, reference_of

SMALL = CGSchNetConfig(hidden_channels=8, num_filters=8, num_layers=1, num_radial=8)


@pytest.fixture
def field(monkeypatch: pytest.MonkeyPatch) -> CGForceField:
    torch.manual_seed(4)
    made = CGForceField(SMALL, LossConfig()).train()
    made.loss = WeightedLoss(made.loss_config)
    system = data_of(16, 6)
    made.references = [  # type: ignore[list-item]
        reference_of(system)
    ]
    monkeypatch.setattr(made, "log_dict", lambda *_, **__: None)
    return made


@pytest.fixture
def choices(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """What was chosen so far."""
    found: list[int | None] = []

    def chosen(*arguments: Any) -> tuple[int | None, float]:
        intervals, error = sufficient_intervals(*arguments)
        found.append(intervals)
        return intervals, error

    monkeypatch.setattr(grid_file, "sufficient_intervals", chosen)
    return found


def sharpen(field: CGForceField, factor: float) -> None:
    """Make filters vary faster with distance."""
    for block in field.network.interactions:
        assert isinstance(block, Interaction)
        with torch.no_grad():
            next(block.filter_network.parameters()).mul_(factor)


def test_chosen_once_and_refined_at_the_validations_of_a_fit(
    field: CGForceField, choices: list[int | None]
) -> None:
    batch = data_of(16, 6).batch(torch.arange(16))
    for step in range(3):
        field.training_step(batch, step).backward()
    first = field.grid.intervals
    assert choices == [first]
    assert first is not None
    state = SimpleNamespace(fn=TrainerFn.FITTING)
    trainer: Any = SimpleNamespace(state=state, global_rank=0, world_size=1)
    field._trainer = trainer
    sharpen(field, 8)
    field.on_validation_epoch_start()
    finer = field.grid.intervals
    assert finer is not None
    assert finer > first
    sharpen(field, 1 / 8)
    field.on_validation_epoch_start()
    assert choices == [first, finer, finer]  # never a coarser one
    trainer.state.fn = TrainerFn.VALIDATING
    sharpen(field, 8)
    field.on_validation_epoch_start()
    field.validation_step(batch, 0)
    assert len(choices) == 3


@pytest.mark.parametrize("kept", [640, None])
def test_a_resumed_run_goes_on_with_its_grid(
    kept: int | None, field: CGForceField, choices: list[int | None], tmp_path: Path
) -> None:
    batch = data_of(16, 6).batch(torch.arange(16))
    resumed, field.references = CGForceField(SMALL), []
    field.grid.intervals, field.grid.chosen = kept, True
    resumed.loss, resumed.log_dict = field.loss, field.log_dict  # type: ignore[method-assign]
    checkpoint: dict[str, Any] = {"epoch": 1, "global_step": 5}
    field.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "some.ckpt")
    resumed.on_load_checkpoint(torch.load(tmp_path / "some.ckpt", weights_only=True))
    resumed.train().training_step(batch, 0)
    assert resumed.grid.intervals == kept
    assert choices == []


def test_a_checkpoint_from_before_the_first_step_leaves_the_choice_open(
    field: CGForceField, choices: list[int | None]
) -> None:
    references, field.references = field.references, []
    checkpoint: dict[str, Any] = {"epoch": 0, "global_step": 0}
    field.on_save_checkpoint(checkpoint)
    field.on_load_checkpoint(checkpoint)
    field.references = references
    field.training_step(data_of(16, 6).batch(torch.arange(16)), 0)
    assert len(choices) == 1
