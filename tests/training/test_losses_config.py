"""Which terms a loss has: by config, by command line, of the user's own, and of old checkpoints."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentError, set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser
from torch import Tensor
from torch_geometric.data import Batch

from cgfe.errors import InputError
from cgfe.model.schnet import CGSchNetConfig
from cgfe.training.checkpoints import state_of_loss
from cgfe.training.losses import ChainConfig, LossConfig, Losses, LossTerm, Prediction, WeightedLoss
from cgfe.training.losses.energy import EnergyMatching
from cgfe.training.losses.force import ForceMatching
from cgfe.training.losses.mean_energy import MeanEnergyMatching
from cgfe.training.losses.relative_entropy import RelativeEntropy
from cgfe.training.losses.term import Turn
from cgfe.training.module import CGForceField
from tests.training.test_losses import ENERGY, forces_of, make_batch

SMALL = CGSchNetConfig(hidden_channels=4, num_filters=4, num_layers=1, num_radial=4)
OWN_TERM = '''
from cgfe.training.losses import LossTerm

class Power(LossTerm):
    """Mean power of the energy."""

    fields = ("bead_weight",)

    def __init__(self, weight: float = 1.0, power: int = 2) -> None:
        super().__init__(weight)
        self.power = power

    def forward(self, prediction, batch):
        return (batch.bead_weight * prediction.energy**self.power).mean()
'''
CONFIG = """
model:
  network: {hidden_channels: 4, num_filters: 4, num_layers: 1}
  losses:
    force: {weight: 0.75}
    mean_energy: {weight: 0.0, gauge: learned}
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., CGForceField]:
    """Make a force field as the command line does."""
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    (tmp_path / "losses.yaml").write_text(CONFIG)
    (tmp_path / "own_terms.py").write_text(OWN_TERM)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["cgfe"])
    parser = LightningArgumentParser(exit_on_error=False, parser_mode="omegaconf+")
    parser.add_argument("--config", action="config")
    parser.add_lightning_class_args(CGForceField, "model")

    def make(*words: str, config: bool = True) -> CGForceField:
        given = ["--config", str(tmp_path / "losses.yaml")] if config else []
        found: Any = parser.instantiate_classes(parser.parse_args([*given, *words])).model
        assert isinstance(found, CGForceField)
        return found

    return make


def weights(field: CGForceField) -> dict[str, float]:
    return {term.log_name: term.weight for term in field.loss_config.terms()}


def test_terms_are_listed_in_the_config(model: Callable[..., CGForceField]) -> None:
    field = model()
    assert weights(field) == {"force_mse": 0.75, "mean_energy_mse": 0.0}
    loss = WeightedLoss(field.loss_config, num_systems=2)
    batch = make_batch()
    terms = loss(ENERGY, forces_of(batch), batch)
    assert set(terms) == {"loss", "force_mse", "mean_energy_mse"}
    assert terms["loss"].item() == pytest.approx(0.75 * 19 / 6)
    assert terms["mean_energy_mse"].item() == pytest.approx((2 * 0.25**2 + 1) / 3)
    assert [x.requires_grad for x in loss.parameters()] == [False]  # no weight, no training


def test_terms_are_set_by_dotted_keys(model: Callable[..., CGForceField]) -> None:
    field = model("--model.losses.force.weight=0.5", "--model.losses.energy.weight=0.25",
                  "--model.losses.energy.gauge=centred")  # fmt: skip
    assert weights(field) == {"force_mse": 0.5, "energy_mse": 0.25, "mean_energy_mse": 0.0}
    batch = make_batch()
    terms = WeightedLoss(field.loss_config, 2)(ENERGY, forces_of(batch), batch)
    energy = (2 * 0.25 + 2 * 4) / 4
    assert terms["energy_mse"].item() == pytest.approx(energy)
    assert terms["loss"].item() == pytest.approx(0.5 * 19 / 6 + 0.25 * energy)
    assert weights(model("--model.losses.mean_energy=null")) == {"force_mse": 0.75}
    only = model("--model.losses.force.weight=2", config=False)
    assert weights(only) == {"force_mse": 2.0}


def test_without_any_the_loss_is_of_forces(model: Callable[..., CGForceField]) -> None:
    assert weights(model(config=False)) == {"force_mse": 1.0, "energy_mse": 0.0}


def test_loss_keys_are_as_before(model: Callable[..., CGForceField]) -> None:
    words = ["--model.loss.energy_weight=0.25", "--model.loss.energy_target=total"]
    field = model(*words, "--model.loss.gauge=learned", config=False)
    assert field.loss_config == LossConfig(0.25, None, "total", "learned")
    force, energy = field.loss_config.terms()
    assert (force.weight, force.log_name) == (0.75, "force_mse")
    assert isinstance(energy, MeanEnergyMatching)
    assert energy.log_name == "energy_mse"


def test_chains_are_set_beside_the_terms(model: Callable[..., CGForceField]) -> None:
    term = "--model.losses.implied_fes.memory=9"
    field = model(term, "--model.losses.chains.number=24", "--model.losses.chains.refreshed=0.1")
    assert isinstance(field.loss_config, Losses)
    assert field.loss_config.chains == ChainConfig(number=24, refreshed=0.1)
    assert weights(field) == {"force_mse": 0.75, "mean_energy_mse": 0.0, "implied_fes_kl": 1.0}
    with pytest.raises(InputError, match=r"model.losses.chains.steps is 0, expected at least 1"):
        model(term, "--model.losses.chains.steps=0")


@pytest.mark.parametrize("other", [[], ["--model.loss.energy_weight=0.5"]])
def test_chains_that_nothing_uses_are_refused(
    model: Callable[..., CGForceField], other: list[str]
) -> None:
    with pytest.raises(InputError, match=r"model.losses.chains is given, but no term that uses"):
        model("--model.losses.chains.number=24", *other, config=not other)


def test_both_forms_are_refused_in_one_sentence(model: Callable[..., CGForceField]) -> None:
    with pytest.raises(
        InputError, match=r"model.loss is given, and of model.losses .*force.weight"
    ):
        model("--model.loss.energy_weight=0.5")
    field = model("--model.loss.energy_weight=0.5", "--model.loss=null")
    assert set(weights(field)) == {"force_mse", "mean_energy_mse"}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--model.losses.forces.weight=1", "forces"),
        ("--model.losses.force.widht=1", "widht"),
        ("--model.losses.energy.gauge=none", "none"),
    ],
)
def test_unknown_terms_and_settings_are_refused(
    word: str, message: str, model: Callable[..., CGForceField]
) -> None:
    with pytest.raises(ArgumentError, match=message):
        model(word)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--model.losses.force.weight=-0.5", "model.losses.force.weight is -0.5, expected 0 or"),
        ("--model.losses.mean_energy.weight=.nan", "model.losses.mean_energy.weight is nan"),
        ("--model.losses.force.weight=0", "force.weight and .*mean_energy.weight are 0"),
    ],
)
def test_nonsense_weights_are_refused(
    word: str, message: str, model: Callable[..., CGForceField]
) -> None:
    with pytest.raises(InputError, match=message):
        model(word)


def test_a_term_of_the_users_own(model: Callable[..., CGForceField]) -> None:
    own = "--model.losses.own.smallness"
    field = model(f"{own}=own_terms.Power", f"{own}.weight=0.5", f"{own}.power=4")
    assert weights(field) == {"force_mse": 0.75, "mean_energy_mse": 0.0, "smallness": 0.5}
    batch = make_batch(bead_weight=torch.full((4,), 2.0))
    terms = WeightedLoss(field.loss_config, 2)(ENERGY, forces_of(batch), batch)
    expected = 2 * ENERGY.pow(4).mean().item()
    assert terms["smallness"].item() == pytest.approx(expected)
    assert terms["loss"].item() == pytest.approx(0.75 * 19 / 6 + 0.5 * expected)
    with pytest.raises(InputError, match=r"own.smallness.weight is 0.5, .* no bead_weight"):
        WeightedLoss(field.loss_config, 2)(ENERGY, forces_of(make_batch()), make_batch())
    for key, message in (("force_mse", "both logged as force_mse"), ("loss", "has 'loss'")):
        with pytest.raises(InputError, match=message):
            model(f"--model.losses.own.{key}=own_terms.Power")


def test_a_term_counts_from_its_epoch_on(model: Callable[..., CGForceField]) -> None:
    later = ("--model.losses.mean_energy.weight=0.25", '--model.losses.begin={"mean_energy": 2}')
    loss = WeightedLoss(model(*later).loss_config, num_systems=2)
    batch = make_batch()
    for epoch, counts in ((0, False), (1, False), (2, True), (3, True), (None, True)):
        terms = loss(ENERGY, forces_of(batch), batch, Turn("train", 0, epoch))
        assert ("mean_energy_mse" in terms) == counts
        expected = 0.75 * terms["force_mse"] + 0.25 * terms.get("mean_energy_mse", 0)
        torch.testing.assert_close(terms["loss"], expected)
    assert loss.describe()["mean_energy_mse"].startswith("weight=0.25, weighted=False, begin=2")


def test_parameters_of_a_term_that_waits_have_a_gradient_of_zero() -> None:
    """Distributed training stops where one has none."""
    losses = Losses(ForceMatching(1.0), own={"memory": Memory(0.5)}, begin={"own.memory": 1})
    loss, batch = WeightedLoss(losses, num_systems=2), make_batch()
    loss(ENERGY, forces_of(batch), batch, Turn("train", 0, 0))["loss"].backward()
    (parameter,) = loss.parameters()
    assert parameter.grad is not None
    assert (parameter.grad == 0).all()
    assert loss.state_dict()["terms.memory.count"].tolist() == [0, 0]


def test_a_term_that_waits_sees_chains_move() -> None:
    losses = Losses(relative_entropy=RelativeEntropy(), own={"memory": Memory(0.5)})
    losses.begin["own.memory"] = 1
    loss = WeightedLoss(losses, num_systems=2)
    moves: list[LossTerm] = []
    for term in loss.terms.values():
        assert isinstance(term, LossTerm)
        term.after_move = lambda term=term: moves.append(term)  # type: ignore[method-assign]
        term.forward = lambda *_: torch.zeros(())  # type: ignore[method-assign]
    loss.chains = Moving()  # type: ignore[assignment]
    batch = make_batch()
    loss(ENERGY, forces_of(batch), batch, Turn("train", 0, 0))
    assert moves == list(loss.terms.values())


class Moving(torch.nn.Module):
    """Chains that count their moves."""

    moves = 0
    lost = counting = torch.zeros(())

    def advance(self, number: int) -> bool:
        self.moves += 1
        return True


def test_chains_rest_until_a_term_uses_them() -> None:
    losses = Losses(ForceMatching(1.0), relative_entropy=RelativeEntropy())
    losses.begin["relative_entropy"] = 1
    loss = WeightedLoss(losses)

    loss.chains = Moving()  # type: ignore[assignment]
    batch = make_batch()
    found = loss(ENERGY, forces_of(batch), batch, Turn("train", 0, 0))
    assert set(found) == {"loss", "force_mse"}
    assert loss.chains.moves == 0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("begin", "message"),
    [
        ('{"energy": 2}', "model.losses.begin has energy: 2, expected an epoch .* force, mean_ene"),
        ('{"mean_energy": -1}', "model.losses.begin has mean_energy: -1, expected an epoch from 0"),
        ('{"force": 1}', "begin leaves no term with a weight above 0 for the first epoch"),
    ],
)
def test_epochs_that_make_no_sense_are_refused(
    begin: str, message: str, model: Callable[..., CGForceField]
) -> None:
    with pytest.raises(InputError, match=message):
        model(f"--model.losses.begin={begin}")


class Memory(LossTerm):
    """A term with a state, and a parameter for each system."""

    count: Tensor

    def prepare(self, num_systems: int) -> None:
        self.register_buffer("count", torch.zeros(num_systems))
        self.scale = torch.nn.Parameter(torch.ones(num_systems))

    def forward(self, prediction: Prediction, batch: Batch) -> Tensor:
        self.count += 1
        return (self.scale[batch.system] * prediction.energy).mean()


def test_the_state_of_a_term_is_kept_in_checkpoints() -> None:
    def make() -> WeightedLoss:
        return WeightedLoss(Losses(own={"memory": Memory(0.5)}), num_systems=2)

    loss, batch = make(), make_batch()
    loss(ENERGY, forces_of(batch), batch)["loss"].backward()
    assert [name for name, _ in loss.named_parameters()] == ["terms.memory.scale"]
    again = make()
    again.load_state_dict(loss.state_dict())
    assert again.state_dict()["terms.memory.count"].tolist() == [1, 1]


def test_terms_together_have_the_gradient_of_their_sum() -> None:
    losses = Losses(ForceMatching(0.5), EnergyMatching(0.25), MeanEnergyMatching(2.0))
    gradients = []
    for chosen in (
        losses,
        Losses(losses.force),
        Losses(energy=losses.energy),
        Losses(mean_energy=losses.mean_energy),
    ):
        batch = make_batch()
        inputs = [ENERGY.clone().requires_grad_(), forces_of(batch).requires_grad_()]
        WeightedLoss(chosen, num_systems=2)(*inputs, batch)["loss"].backward()
        found = [torch.zeros_like(x) if x.grad is None else x.grad for x in inputs]
        gradients.append(torch.cat([x.ravel() for x in found]))
    torch.testing.assert_close(gradients[0], sum(gradients[1:]))


def test_too_few_frames_for_mean_energies_are_told() -> None:
    reference: Any = SimpleNamespace(labels=SimpleNamespace(knows_bins=False))
    for config in (
        LossConfig(0.5, energy_target="total"),
        Losses(mean_energy=MeanEnergyMatching()),
    ):
        loss = WeightedLoss(config)
        with pytest.raises(InputError, match="peptide: no TIC bin holds enough frames"):
            loss.check(["peptide"], [reference])
    WeightedLoss(LossConfig(0.0, energy_target="total")).check(["peptide"], [reference])


def old_checkpoint(gauge: str) -> dict[str, Any]:
    """What a fit with model.loss wrote before terms had files of their own."""
    state = CGForceField(SMALL).network.state_dict()
    checkpoint: dict[str, Any] = {
        "state_dict": {f"network.{key}": value + 1 for key, value in state.items()},
        "epoch": 2,
        "global_step": 30,
        "cgfe": {
            "version": 1,
            "network": vars(SMALL),
            "loss": {
                "energy_weight": 0.1,
                "force_weight": None,
                "energy_target": "delta",
                "gauge": gauge,
                "weighted": False,
            },
            "names": [],
            "references": [],
            "intervals": 512,
        },
    }
    if gauge == "learned":
        checkpoint["state_dict"]["loss.offsets"] = torch.tensor([1.5, -2.0])
    return checkpoint


@pytest.mark.parametrize("gauge", ["fixed", "learned"])
def test_old_checkpoints_go_on(gauge: Any, tmp_path: Path) -> None:
    torch.save(old_checkpoint(gauge), tmp_path / "old.ckpt")
    field = CGForceField(SMALL, LossConfig(0.1, gauge=gauge))
    field.loss = WeightedLoss(field.loss_config, num_systems=2)
    checkpoint = torch.load(tmp_path / "old.ckpt", weights_only=True)
    field.on_load_checkpoint(checkpoint)
    field.load_state_dict(checkpoint["state_dict"])
    assert field.grid.intervals == 512
    if gauge == "learned":
        (offsets,) = field.loss.parameters()
        assert offsets.tolist() == [1.5, -2.0]
    # The optimizer knows parameters by their order alone.
    assert [name.partition(".")[0] for name, _ in field.named_parameters()] == sorted(
        [name.partition(".")[0] for name, _ in field.named_parameters()], reverse=True
    )
    loaded = CGForceField.load(tmp_path / "old.ckpt")
    torch.testing.assert_close(loaded.network.state_dict(), field.network.state_dict())


def test_a_checkpoint_of_another_loss_is_told() -> None:
    field = CGForceField(SMALL, LossConfig(0.1))
    field.loss = WeightedLoss(field.loss_config)
    with pytest.raises(InputError, match=r"another loss, they differ in loss.*offsets; give"):
        field.on_load_checkpoint(old_checkpoint("learned"))
    assert state_of_loss({"state_dict": {"network.x": 1}}) == set()
