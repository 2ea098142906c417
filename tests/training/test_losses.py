"""The loss terms against hand calculations."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric.data import Batch, Data

from cgfe.errors import InputError
from cgfe.training.losses import LossConfig, WeightedLoss


def make_batch(**changes: Any) -> Batch:
    """Two frames of a system of 1 bead and two frames of a system of 2 beads."""
    fields: dict[str, list[Any]] = {
        "system": [0, 0, 1, 1],
        "weight": [1.0, 3.0, 0.5, 1.5],
        "prior_energy": [1.0, 2.0, 3.0, 4.0],
        "energy_label": [2.0, 2.0, 5.0, 5.0],
        "tic_bin": [4, 4, 4, -1],
        "bin_target": [3.0, 3.0, 6.0, 1e6],
    }
    beads = (1, 1, 2, 2)
    forces = torch.arange(18.0).view(6, 3).split(beads)
    data = []
    for frame, count in enumerate(beads):
        values = {name: torch.tensor([column[frame]]) for name, column in fields.items()}
        data.append(
            Data(
                pos=torch.zeros(count, 3),
                forces=forces[frame].clone(),
                prior_forces=torch.ones(count, 3),
                **values,
            )
        )
    batch = Batch.from_data_list(data)
    for name, value in changes.items():
        if value is None:
            del batch[name]
        else:
            batch[name] = value
    return batch


ENERGY = torch.tensor([3.0, 1.0, 2.0, 5.0])
# network + prior - label = (2, 1, 0, 4)
FORCE_OFFSETS = torch.tensor([1.0, 2.0, 0.0, 1.0, 2.0, 3.0])


def forces_of(batch: Batch) -> Tensor:
    """Network forces that miss the delta forces by FORCE_OFFSETS in each component."""
    target = torch.arange(18.0).view(6, 3) - 1
    return target + FORCE_OFFSETS[:, None]


def evaluate(batch: Batch | None = None, **options: Any) -> dict[str, Tensor]:
    batch = make_batch() if batch is None else batch
    loss = WeightedLoss(LossConfig(**options), num_systems=2)
    return loss(ENERGY, forces_of(batch), batch)


def test_terms_by_hand() -> None:
    terms = evaluate(energy_weight=0.25)
    assert terms["force_mse"].item() == pytest.approx((1 + 4 + 0 + 1 + 4 + 9) / 6)
    assert terms["energy_mse"].item() == pytest.approx((4 + 1 + 0 + 16) / 4)
    assert terms["loss"].item() == pytest.approx(0.75 * 19 / 6 + 0.25 * 21 / 4)


def test_terms_with_frame_weights_by_hand() -> None:
    terms = evaluate(energy_weight=0.25, weighted=True)
    # Beads have their frame's weight: 1, 3, 0.5 twice, 1.5 twice.
    assert terms["force_mse"].item() == pytest.approx(
        (1 + 3 * 4 + 0.5 * (0 + 1) + 1.5 * (4 + 9)) / (1 + 3 + 1 + 3)
    )
    assert terms["energy_mse"].item() == pytest.approx((4 + 3 * 1 + 0 + 1.5 * 16) / 6)


@pytest.mark.parametrize("options", [{"energy_weight": 0.0}, {"energy_weight": 1.0}])
def test_terms_are_unweighted_and_there_at_weight_zero(options: dict[str, float]) -> None:
    terms = evaluate(**options)
    assert terms["force_mse"].item() == pytest.approx(19 / 6)
    assert terms["energy_mse"].item() == pytest.approx(21 / 4)
    only = "energy_mse" if options["energy_weight"] else "force_mse"
    assert terms["loss"].item() == terms[only].item()


def test_free_weights() -> None:
    terms = evaluate(energy_weight=2.0, force_weight=0.5)
    assert terms["loss"].item() == pytest.approx(0.5 * 19 / 6 + 2 * 21 / 4)


def test_total_target_compares_bin_means() -> None:
    # Residuals to the bin targets: (1, 0, -1, outside). Bin 4 of system 0 is not that of
    # system 1: means (1 · 1 + 3 · 0) / 4 of two frames and -1 of one.
    terms = evaluate(energy_weight=1.0, energy_target="total")
    assert terms["energy_mse"].item() == pytest.approx((2 * 0.25**2 + 1 * 1) / 3)
    # Weighted: the bins count 4 and 0.5, not 2 and 1.
    terms = evaluate(energy_weight=1.0, energy_target="total", weighted=True)
    assert terms["energy_mse"].item() == pytest.approx((4 * 0.25**2 + 0.5 * 1) / 4.5)


def test_total_target_leaves_the_spread_within_a_bin_alone() -> None:
    batch = make_batch()
    energy = ENERGY.clone().requires_grad_()
    loss = WeightedLoss(LossConfig(energy_weight=1.0, energy_target="total"), num_systems=2)
    loss(energy, forces_of(batch), batch)["loss"].backward()
    # d/dE of (2 m² + ...) / 3 with m = 1/4 the weighted mean of the two frames' residuals.
    torch.testing.assert_close(energy.grad, torch.tensor([1 / 12, 1 / 4, -2 / 3, 0.0]))


def test_total_target_without_a_frame_in_the_grid_is_zero() -> None:
    energy = ENERGY.clone().requires_grad_()
    batch = make_batch(tic_bin=torch.full((4,), -1))
    for gauge in ("fixed", "centred", "learned"):
        config = LossConfig(energy_weight=1.0, energy_target="total", gauge=gauge)  # type: ignore[arg-type]
        loss = WeightedLoss(config, num_systems=2)(energy, forces_of(batch), batch)["loss"]
        assert loss.item() == 0
        loss.backward()
    assert energy.grad is not None
    assert not energy.grad.any()


def test_centred_gauge_removes_each_systems_mean() -> None:
    # Residuals (2, 1) and (0, 4): deviations ±0.5 and ±2.
    terms = evaluate(energy_weight=1.0, gauge="centred")
    assert terms["energy_mse"].item() == pytest.approx((2 * 0.25 + 2 * 4) / 4)
    # Weighted means 1.25 and 3.
    terms = evaluate(energy_weight=1.0, gauge="centred", weighted=True)
    expected = 1 * 0.75**2 + 3 * 0.25**2 + 0.5 * 9 + 1.5 * 1
    assert terms["energy_mse"].item() == pytest.approx(expected / 6)
    # Each system has one bin, whose residual is the mean.
    terms = evaluate(energy_weight=1.0, gauge="centred", energy_target="total")
    assert terms["energy_mse"].item() == pytest.approx(0)


@pytest.mark.parametrize("target", ["delta", "total"])
def test_centred_gauge_ignores_a_constant_per_system(target: Any) -> None:
    batch = make_batch(tic_bin=torch.tensor([4, 5, 5, 6]), bin_target=torch.arange(4.0))
    config = LossConfig(energy_weight=1.0, gauge="centred", energy_target=target)
    loss = WeightedLoss(config, num_systems=2)
    forces = forces_of(batch)
    before = loss(ENERGY, forces, batch)["energy_mse"]
    after = loss(ENERGY + torch.tensor([10.0, -7.0])[batch.system], forces, batch)["energy_mse"]
    assert before.item() > 0.1
    torch.testing.assert_close(after, before)


def test_learned_gauge_finds_each_systems_constant() -> None:
    batch = make_batch()
    loss = WeightedLoss(LossConfig(energy_weight=1.0, gauge="learned"), num_systems=2)
    terms = loss(ENERGY, forces_of(batch), batch)
    assert terms["energy_mse"].item() == pytest.approx(21 / 4)  # offsets start at zero
    terms["loss"].backward()
    # 2 · (sum of the system's residuals) / 4
    (offsets,) = loss.parameters()
    torch.testing.assert_close(offsets.grad, torch.tensor([3 / 2, 4 / 2]))
    with torch.no_grad():
        offsets -= torch.tensor([1.5, 2.0])  # the systems' mean residuals
    centred = evaluate(energy_weight=1.0, gauge="centred")["energy_mse"]
    torch.testing.assert_close(
        loss(ENERGY, forces_of(batch), batch)["energy_mse"], centred, rtol=1e-6, atol=0
    )


def test_gauge_holds_parameters_only_where_they_are_trained() -> None:
    def trained(**options: Any) -> int:
        loss = WeightedLoss(LossConfig(**options), num_systems=3)
        return sum(p.numel() for p in loss.parameters() if p.requires_grad)

    assert trained(energy_weight=0.5, gauge="learned") == 3
    assert trained(energy_weight=0.0, gauge="learned") == 0
    assert trained(energy_weight=0.5, gauge="centred") == 0


def test_gradients_of_both_terms() -> None:
    batch = make_batch()
    loss = WeightedLoss(LossConfig(energy_weight=0.25), num_systems=2)
    energy, forces = ENERGY.clone().requires_grad_(), forces_of(batch).requires_grad_()
    loss(energy, forces, batch)["loss"].backward()
    torch.testing.assert_close(energy.grad, 0.25 * 2 * torch.tensor([2.0, 1.0, 0.0, 4.0]) / 4)
    expected = 0.75 * 2 * FORCE_OFFSETS[:, None].expand(-1, 3) / 18
    torch.testing.assert_close(forces.grad, expected)


def test_a_term_of_weight_zero_gives_no_gradient_even_if_infinite() -> None:
    batch = make_batch(energy_label=torch.full((4,), torch.inf))
    energy, forces = ENERGY.clone().requires_grad_(), forces_of(batch).requires_grad_()
    loss = WeightedLoss(LossConfig(energy_weight=0.0), num_systems=2)(energy, forces, batch)
    loss["loss"].backward()
    assert loss["loss"].item() == pytest.approx(19 / 6)
    assert energy.grad is None


def test_data_without_forces_need_force_weight_zero() -> None:
    batch = make_batch(forces=None)
    with pytest.raises(InputError, match=r"force_weight is 0\.5, but the data have no forces"):
        evaluate(batch, energy_weight=0.5)
    terms = evaluate(batch, energy_weight=1.0)
    assert "force_mse" not in terms
    assert terms["loss"].item() == pytest.approx(21 / 4)


@pytest.mark.parametrize(
    ("target", "field"), [("delta", "energy_label"), ("total", "tic_bin"), ("total", "bin_target")]
)
def test_data_without_labels_need_energy_weight_zero(target: str, field: str) -> None:
    batch = make_batch(**{field: None})
    with pytest.raises(InputError, match=f"energy_weight is 0.5, .* no {field};"):
        evaluate(batch, energy_weight=0.5, energy_target=target)
    assert set(evaluate(batch, energy_target=target)) == {"loss", "force_mse"}


def test_weighting_needs_weights() -> None:
    with pytest.raises(InputError, match="weighted is true, but the data have no frame weights"):
        evaluate(make_batch(weight=None), weighted=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"energy_weight": -0.1}, "energy_weight is -0.1"),
        ({"energy_weight": float("nan")}, "energy_weight is nan"),
        ({"energy_weight": 1.5}, "energy_weight is 1.5, expected at most 1"),
        ({"force_weight": -1.0}, "force_weight is -1.0"),
        ({"force_weight": 0.0}, "force_weight and energy_weight are 0"),
        ({"energy_target": "free"}, "energy_target is 'free'"),
        ({"gauge": "none"}, "gauge is 'none'"),
    ],
)
def test_nonsense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WeightedLoss(LossConfig(**options))
