"""CGSchNet: symmetries, derivatives, and the equality of its two evaluations."""

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


@pytest.mark.parametrize("config", CONFIGS)
@examples
@given(
    seed=seeds,
    frames=st.integers(1, 4),
    beads=st.integers(1, 9),
    # 40 Å: most pairs are beyond the 30 Å cutoff; 0.5 Å: beads nearly on each other.
    spread=st.sampled_from([0.5, 4.0, 40.0]),
)
def test_dense_and_sparse_agree(
    config: CGSchNetConfig, seed: int, frames: int, beads: int, spread: float
) -> None:
    network = make_network(seed, config).float()
    positions = chain(frames, beads, spread).float().requires_grad_()
    types = torch.randint(config.max_bead_types, (beads,))
    dense = network.energy(positions, types)
    sparse = network.energy_sparse(
        positions.view(-1, 3),
        types.repeat(frames),
        torch.arange(frames).repeat_interleave(beads),
        frames,
    )
    torch.testing.assert_close(dense, sparse, atol=1e-5, rtol=1e-5)
    for energy in (dense, sparse):
        energy.sum().backward()
    # Both gradients were added up; twice one of them must be the sum.
    total, positions.grad = positions.grad, None
    network.energy(positions, types).sum().backward()
    torch.testing.assert_close(total, 2 * positions.grad, atol=1e-5, rtol=1e-5)


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
@pytest.mark.parametrize("equal", [True, False], ids=["dense", "sparse"])
def test_forces_are_finite_differences_of_the_energy(equal: bool, training: bool) -> None:
    network = make_network(3).train(training)
    beads = (4, 4) if equal else (3, 5)
    positions = [chain(1, n)[0] for n in beads]
    types = [torch.arange(n) for n in beads]
    energy, forces = network.energy_and_forces(graphs(positions, types))
    assert energy.requires_grad == forces.requires_grad == training
    step, finite = 1e-5, torch.zeros_like(forces)
    for bead in range(sum(beads)):
        for axis in range(3):
            values = []
            for sign in (1, -1):
                batch = graphs(positions, types)
                batch.pos[bead, axis] += sign * step
                values.append(network(batch).sum().item())
            finite[bead, axis] = (values[1] - values[0]) / (2 * step)
    torch.testing.assert_close(forces.detach(), finite, atol=1e-8, rtol=1e-5)


def test_batches_choose_their_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_network(4)
    used: list[str] = []
    for name in ("energy", "energy_sparse"):
        original = getattr(network, name)

        def spy(*inputs: Any, name: str = name, original: Any = original) -> Tensor:
            used.append(name)
            return original(*inputs)

        monkeypatch.setattr(network, name, spy)
    types = torch.tensor([1, 2, 3, 4])
    same = graphs(list(chain(3, 4)), [types] * 3)
    other_types = graphs(list(chain(2, 4)), [types, types.flip(0)])
    # As many beads as two equal graphs of 4.
    other_sizes = graphs([chain(1, 3)[0], chain(1, 5)[0]], [types[:3], torch.arange(5)])
    batches = (same, other_types, other_sizes)
    energies = [network(batch) for batch in batches]
    assert used == ["energy", "energy_sparse", "energy_sparse"]
    for batch, energy in zip(batches, energies, strict=True):
        single = [network.energy(d.pos[None], d.bead_types)[0] for d in batch.to_data_list()]
        torch.testing.assert_close(energy, torch.stack(single))


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
