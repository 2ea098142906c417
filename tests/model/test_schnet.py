"""CGSchNet: symmetries, derivatives, its formula written out, batches of one system."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_geometric.data import Batch, Data

from cgfe.errors import InputError
from cgfe.model.schnet import CGSchNet, CGSchNetConfig, _DenseConvolution, _PairProduct

SMALL: dict[str, Any] = {
    "hidden_channels": 12,
    "num_filters": 10,
    "num_layers": 2,
    "num_radial": 8,
}
CONFIGS = [
    CGSchNetConfig(**SMALL, radial_basis=basis, activation=activation)
    for basis, activation in (("expnorm", "tanh"), ("gaussian", "silu"))
]
examples = settings(deadline=None, max_examples=15, derandomize=True)
seeds = st.integers(0, 2**31)


def make_network(seed: int, config: CGSchNetConfig = CONFIGS[0]) -> CGSchNet:
    torch.manual_seed(seed)
    return CGSchNet(config).double()


def chain(frames: int, beads: int, spread: float = 4.0) -> Tensor:
    """Random walks of step length `spread` Å, float64."""
    steps = torch.randn(frames, beads, 3, dtype=torch.float64)
    return (spread * steps / steps.norm(dim=-1, keepdim=True)).cumsum(1)


def graphs(positions: list[Tensor], types: list[Tensor]) -> Batch:
    return Batch.from_data_list(
        [Data(pos=p, bead_types=t) for p, t in zip(positions, types, strict=True)]
    )


def energy_by_pairs(network: CGSchNet, positions: Tensor, types: Tensor) -> Tensor:
    """Return a frame's energy by the network's formula, summed over ordered pairs (N, N)."""
    beads, cutoff = len(types), network.config.cutoff
    apart = positions[:, None] - positions + torch.eye(beads)[..., None]
    distances = apart.square().sum(-1).sqrt()
    envelope = (0.5 + 0.5 * torch.cos(math.pi * distances / cutoff)).where(distances < cutoff, 0)
    envelope = envelope * (1 - torch.eye(beads))
    features = network.embedding(types)
    for block in network.interactions:
        filters = block.filter_network(network.radial_basis(distances)) * envelope[..., None]  # type: ignore[operator]
        summed = torch.einsum("ijf,jf->if", filters, block.to_filters(features))  # type: ignore[operator]
        features = features + block.update(summed)  # type: ignore[operator]
    return network.output(features).sum()


@pytest.mark.parametrize("config", CONFIGS)
@examples
@given(
    seed=seeds,
    frames=st.integers(1, 4),
    beads=st.integers(1, 9),
    # 40 Å: most pairs are beyond the 30 Å cutoff; 0.5 Å: beads nearly on each other.
    spread=st.sampled_from([0.5, 4.0, 40.0]),
)
def test_energy_is_the_formula_written_out(
    config: CGSchNetConfig, seed: int, frames: int, beads: int, spread: float
) -> None:
    network = make_network(seed, config)
    positions = chain(frames, beads, spread).requires_grad_()
    types = torch.randint(config.max_bead_types, (beads,))
    energy = network.energy(positions, types)
    expected = torch.stack([energy_by_pairs(network, frame, types) for frame in positions])
    torch.testing.assert_close(energy, expected)
    if beads > 1:
        found, wanted = (torch.autograd.grad(x.sum(), positions)[0] for x in (energy, expected))
        torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-6)


@examples
@given(seed=seeds, beads=st.integers(2, 8))
def test_energy_is_invariant(seed: int, beads: int) -> None:
    network = make_network(seed)
    positions, types = chain(3, beads), torch.randint(3, (beads,))
    energy = network.energy(positions, types)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    moved = positions @ rotation + 10 * torch.randn(3, dtype=torch.float64)
    torch.testing.assert_close(network.energy(moved, types), energy)
    order = torch.randperm(beads)
    torch.testing.assert_close(network.energy(positions[:, order], types[order]), energy)
    # The check has power: another geometry has another energy.
    assert (network.energy(1.3 * positions, types) - energy).abs().max() > 1e-6


@examples
@given(seed=seeds)
def test_equal_beads_can_be_swapped_but_others_cannot(seed: int) -> None:
    network, positions = make_network(seed), chain(1, 4)
    types = torch.tensor([5, 2, 5, 7])
    energy = network.energy(positions, types)
    torch.testing.assert_close(network.energy(positions[:, [2, 1, 0, 3]], types), energy)
    swapped = network.energy(positions[:, [1, 0, 2, 3]], types)
    assert (swapped - energy).abs() > 1e-9


@pytest.mark.parametrize("config", CONFIGS)
def test_energy_has_right_first_and_second_derivatives(config: CGSchNetConfig) -> None:
    network, types = make_network(1, config), torch.tensor([0, 3, 3, 1])
    positions = chain(2, 4, 6.0)
    positions[0, 3] += 2 * config.cutoff  # a bead that sees no other
    positions.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: network.energy(x, types), positions)
    assert torch.autograd.gradgradcheck(lambda x: network.energy(x, types), positions)


def test_dense_operations_have_right_derivatives() -> None:
    torch.manual_seed(2)
    pairs = torch.randn(6, 2, 3, dtype=torch.float64, requires_grad=True)
    left, right = torch.randn(2, 4, 2, 3, dtype=torch.float64).requires_grad_()
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(_DenseConvolution.apply, (pairs, left))
        assert check(_PairProduct.apply, (left, right))


@pytest.mark.parametrize("training", [True, False])
def test_forces_are_finite_differences_of_the_energy(training: bool) -> None:
    network = make_network(3).train(training)
    positions, types = list(chain(2, 4)), [torch.arange(4)] * 2
    energy, forces = network.energy_and_forces(graphs(positions, types))
    assert energy.requires_grad == forces.requires_grad == training
    step, finite = 1e-5, torch.zeros_like(forces)
    for bead in range(8):
        for axis in range(3):
            values = []
            for sign in (1, -1):
                batch = graphs(positions, types)
                batch.pos[bead, axis] += sign * step
                values.append(network(batch).sum().item())
            finite[bead, axis] = (values[1] - values[0]) / (2 * step)
    torch.testing.assert_close(forces.detach(), finite, atol=1e-8, rtol=1e-5)


def test_batches_are_of_one_system() -> None:
    network, types = make_network(4), torch.tensor([1, 2, 3, 4])
    same = graphs(list(chain(3, 4)), [types] * 3)
    single = [network.energy(d.pos[None], d.bead_types)[0] for d in same.to_data_list()]
    torch.testing.assert_close(network(same), torch.stack(single))
    other_types = graphs(list(chain(2, 4)), [types, types.flip(0)])
    # As many beads as two equal graphs of 4.
    other_sizes = graphs([chain(1, 3)[0], chain(1, 5)[0]], [types[:3], torch.arange(5)])
    uneven = graphs([chain(1, 2)[0], chain(1, 5)[0]], [types[:2], torch.arange(5)])
    for batch, found in (
        (other_types, "graphs of 4 beads of different types"),
        (other_sizes, "graphs of 3 and 5 beads"),
        (uneven, "graphs of 2 and 5 beads"),
    ):
        for evaluate in (network, network.energy_and_forces):
            with pytest.raises(InputError, match=f"{found}, expected frames of one system; make"):
                evaluate(batch)


def test_forces_train_every_parameter() -> None:
    network = make_network(5).train()
    batch = graphs(list(chain(3, 5)), [torch.arange(5)] * 3)
    _, forces = network.energy_and_forces(batch)
    forces.square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    still = [name for name, p in network.named_parameters() if not p.grad.any()]
    assert still == ["output.2.bias"]


def test_forces_are_had_without_grad_mode() -> None:
    network = make_network(6).eval()
    batch = graphs(list(chain(2, 4)), [torch.arange(4)] * 2)
    expected = network.energy_and_forces(batch)[1]
    with torch.no_grad():
        torch.testing.assert_close(network.energy_and_forces(batch)[1], expected)
    assert expected.abs().max() > 0


@pytest.mark.parametrize("config", CONFIGS)
def test_coincident_beads_give_finite_forces_and_gradients(config: CGSchNetConfig) -> None:
    network = make_network(7, config).float().train()
    positions = chain(2, 4).float()
    positions[:, 1] = positions[:, 0]
    _, forces = network.energy_and_forces(graphs(list(positions), [torch.arange(4)] * 2))
    forces.square().mean().backward()
    assert forces.isfinite().all()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_beads_beyond_the_cutoff_do_not_interact() -> None:
    network, types = make_network(8), torch.tensor([1, 2])

    def energy_at(distance: float) -> float:
        positions = torch.zeros(1, 2, 3, dtype=torch.float64)
        positions[0, 1, 0] = distance
        return network.energy(positions, types).item()

    alone = sum(
        network.energy(torch.zeros(1, 1, 3, dtype=torch.float64), types[k : k + 1]).item()
        for k in range(2)
    )
    cutoff = network.config.cutoff
    assert math.isclose(energy_at(cutoff + 5), alone, rel_tol=1e-12)
    assert abs(energy_at(5.0) - alone) > 1e-6
    # Continuous at the cutoff: the envelope falls as (cutoff - d)².
    assert abs(energy_at(cutoff - 1e-3) - alone) < 1e-6


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("hidden_channels", 1),
        ("num_filters", 0),
        ("num_layers", 0),
        ("num_radial", 1),
        ("max_bead_types", 0),
        ("cutoff", -1.0),
        ("cutoff", math.nan),
        ("radial_basis", "bessel"),
        ("activation", "relu"),
    ],
)
def test_nonsense_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^{option} is {value!r}".replace(".", r"\.")):
        CGSchNet(CGSchNetConfig(**{option: value}))


@pytest.mark.parametrize("config", CONFIGS)
def test_parameters_are_counted(config: CGSchNetConfig) -> None:
    assert config.parameters == sum(p.numel() for p in CGSchNet(config).parameters())
