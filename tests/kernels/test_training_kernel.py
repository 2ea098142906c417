"""Training's energies, forces and gradients: those of the network, differentiated twice."""

import dataclasses
import shutil
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch_geometric.data import Batch, Data

from cgfe.errors import InputError
from cgfe.kernels import tables, training
from cgfe.kernels.accuracy import TOLERANCE
from cgfe.kernels.training import Kept, energy_and_forces, is_supported, sufficient_intervals
from cgfe.model.schnet import CGSchNet, CGSchNetConfig
from cgfe.training import filter_grid as grid_file
from cgfe.training.batches import SystemTensors
from cgfe.training.losses import LossConfig, WeightedLoss
from cgfe.training.module import CGForceField

pytestmark = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")),
    reason="the kernel needs a C++ compiler",
)
CUTOFF = 12.0
examples = settings(deadline=None, max_examples=25, derandomize=True)
configs = st.builds(
    CGSchNetConfig,
    hidden_channels=st.sampled_from([6, 16]),
    num_filters=st.sampled_from([1, 7, 16]),
    num_layers=st.integers(1, 3),
    num_radial=st.just(8),
    cutoff=st.just(CUTOFF),
    radial_basis=st.sampled_from(["expnorm", "gaussian"]),
    activation=st.sampled_from(["tanh", "silu"]),
)
FIXED = CGSchNetConfig(hidden_channels=6, num_filters=5, num_layers=2, num_radial=8, cutoff=CUTOFF)


def network_of(config: CGSchNetConfig, seed: int = 0) -> CGSchNet:
    torch.manual_seed(seed)
    return CGSchNet(config).double().train()


def frames_of(frames: int, beads: int, spread: float) -> Tensor:
    """Random walks; the second bead of the first frame lies on the first one."""
    steps = torch.randn(frames, beads, 3, dtype=torch.float64)
    positions = (spread * steps / steps.norm(dim=-1, keepdim=True)).cumsum(1)
    positions[0, 1:2] = positions[0, :1]
    return positions


def plainly(network: CGSchNet, positions: Tensor, types: Tensor) -> tuple[Tensor, Tensor]:
    positions = positions.clone().requires_grad_()
    energy = network.energy(positions, types)
    (gradient,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
    return energy, -gradient


def gradients(
    network: CGSchNet, found: tuple[Tensor, Tensor], seed: int = 0, retain: bool = False
) -> list[Tensor]:
    """Return the parameters' gradients of a random combination of energies and forces."""
    random = torch.Generator().manual_seed(seed)
    parts = [
        (x * torch.randn(x.shape, generator=random, dtype=torch.float64).to(x)).sum() for x in found
    ]
    given = torch.autograd.grad(
        parts[0] + parts[1],
        list(network.parameters()),
        retain_graph=retain,
        allow_unused=True,
        materialize_grads=True,
    )
    return list(given)


def assert_close(found: list[Tensor], expected: list[Tensor], relative: float) -> None:
    """Compare norms; a gradient far smaller than the largest one is compared with that."""
    largest = max(x.norm().item() for x in expected)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= relative * (other.norm() + 1e-3 * largest) + 1e-12


@examples
@given(
    config=configs,
    seed=st.integers(0, 2**31),
    frames=st.integers(1, 5),
    beads=st.sampled_from([1, 2, 3, 10, 25]),
    # 20 Å: neighbours are beyond the cutoff; 1 Å: beads close to each other.
    spread=st.sampled_from([1.0, 4.0, 20.0]),
    threads=st.sampled_from([1, 3]),
)
def test_equal_to_the_network_differentiated_twice(
    config: CGSchNetConfig, seed: int, frames: int, beads: int, spread: float, threads: int
) -> None:
    assert_equal_to_the_network(config, seed, (frames, beads), spread, threads)


@pytest.mark.parametrize(
    ("hidden", "filters", "frames", "beads", "threads"),
    # Layers wider than the vectors of a tile, and more beads than one thread takes at once: the
    # last block is a part of one, and threads have unequal shares.
    [(70, 40, 37, 10, 2), (33, 100, 9, 45, 3), (40, 130, 3, 170, 2), (64, 64, 50, 10, 7)],
)
def test_wide_layers_and_many_beads_on_several_threads(
    hidden: int, filters: int, frames: int, beads: int, threads: int
) -> None:
    config = dataclasses.replace(FIXED, hidden_channels=hidden, num_filters=filters)
    assert_equal_to_the_network(config, 1, (frames, beads), 4.0, threads)


def assert_equal_to_the_network(
    config: CGSchNetConfig, seed: int, shape: tuple[int, int], spread: float, threads: int
) -> None:
    network = network_of(config, seed)
    positions, types = frames_of(*shape, spread), torch.randint(4, shape[1:])
    expected = plainly(network, positions, types)
    expected_gradients = gradients(network, expected)
    cases = ((torch.float64, 8192, 1e-7), (torch.float32, 1024, 2e-4))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for dtype, intervals, relative in cases:
            copied = CGSchNet(config).to(dtype)
            copied.load_state_dict(network.state_dict())
            found = energy_and_forces(copied, positions.to(dtype), types, intervals)
            found_gradients = gradients(copied, found)
            assert_close([x.double() for x in found], list(expected), relative)
            assert_close([x.double() for x in found_gradients], expected_gradients, relative)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("activation", ["tanh", "silu"])
@pytest.mark.parametrize("beads", [1, 2, 4])
def test_gradients_are_those_of_the_interpolated_function(activation: Any, beads: int) -> None:
    """On a coarse grid, where the interpolated function is far from the network."""
    config = dataclasses.replace(FIXED, activation=activation)
    network, positions = network_of(config), frames_of(2, beads, 4.0)
    types = torch.arange(beads)
    names, values = zip(*network.named_parameters(), strict=True)

    class Bound(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self) -> tuple[Tensor, Tensor]:
            return energy_and_forces(self.network, positions, types, 16)

    def evaluate(*parameters: Tensor) -> Any:
        named = {f"network.{n}": p for n, p in zip(names, parameters, strict=True)}
        return torch.func.functional_call(Bound(), named)

    assert torch.autograd.gradcheck(evaluate, values, fast_mode=True)


def test_forces_are_the_gradient_of_the_interpolated_energy() -> None:
    network, positions, types = network_of(FIXED), frames_of(3, 5, 4.0)[1:], torch.arange(5)
    _, forces = energy_and_forces(network, positions, types, 16)
    step = 1e-6 * torch.randn_like(positions)
    change = [energy_and_forces(network, positions + s * step, types, 16)[0] for s in (1, -1)]
    expected = (-forces * step).sum((1, 2))
    torch.testing.assert_close((change[0] - change[1]) / 2, expected, rtol=1e-5, atol=1e-15)


def test_energies_are_invariant() -> None:
    network, positions, types = network_of(FIXED), frames_of(3, 6, 4.0), torch.arange(6)
    energy, forces = energy_and_forces(network, positions, types, 64)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))[0]
    turned = energy_and_forces(network, positions @ rotation + 3.0, types, 64)
    torch.testing.assert_close(turned[0], energy)
    torch.testing.assert_close(turned[1], forces @ rotation)
    order = torch.randperm(6)
    permuted = energy_and_forces(network, positions[:, order], types[order], 64)
    torch.testing.assert_close(permuted[0], energy)
    torch.testing.assert_close(permuted[1], forces[:, order])


def test_positions_that_are_no_numbers_show() -> None:
    network, positions = network_of(FIXED), frames_of(3, 4, 4.0)
    positions[1, 2] = torch.nan
    energy, forces = energy_and_forces(network, positions, torch.arange(4), 64)
    assert energy.isnan().tolist() == [False, True, False]
    assert forces.isnan().any((1, 2)).tolist() == [False, True, False]


@pytest.mark.parametrize("used", ["energy", "forces"])
def test_every_parameter_takes_part_in_a_loss_of_one_term(used: str) -> None:
    """Distributed training waits for the gradient of every parameter."""
    network = network_of(FIXED)
    energy, forces = energy_and_forces(network, frames_of(2, 4, 4.0), torch.arange(4), 64)
    (energy if used == "energy" else forces).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
    still = [name for name, p in network.named_parameters() if not p.grad.any()]
    assert still == ([] if used == "energy" else ["output.2.bias"])


def test_memory_is_used_again_but_not_while_a_graph_needs_it() -> None:
    network, positions, types = network_of(FIXED), frames_of(3, 4, 4.0), torch.arange(4)

    def found(frames: Tensor) -> tuple[Tensor, Tensor]:
        return energy_and_forces(network, frames, types, 64)

    Kept.free.clear()
    first = found(positions)
    expected = gradients(network, first, retain=True)
    gradients(network, found(2 * positions))
    gradients(network, found(positions[:1]))
    assert len(Kept.free) == 1  # the first one's is still in use
    again = gradients(network, first)
    assert all(torch.equal(one, other) for one, other in zip(again, expected, strict=True))
    del first
    assert len(Kept.free) == 2


def test_grid_is_refined_until_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    network, systems = (
        network_of(FIXED),
        [(frames_of(40, beads, 3.8)[1:], torch.arange(beads)) for beads in (1, 4, 6)],
    )
    monkeypatch.setattr(training, "GRIDS", (64, 128, 256, *training.GRIDS))
    intervals, error = sufficient_intervals(network, systems)
    assert intervals is not None
    assert 0 < error <= TOLERANCE
    for positions, types in systems:
        found = energy_and_forces(network, positions, types, intervals)
        for one, other in zip(found, plainly(network, positions, types), strict=True):
            assert (one - other).norm() <= 5 * TOLERANCE * other.norm()
    # Filters that change faster need a finer grid, and at last none is fine enough.
    for block in network.interactions:
        block.filter_network[0].weight.data *= 6
    finer, _ = sufficient_intervals(network, systems)
    assert finer is not None
    assert finer > intervals
    monkeypatch.setattr(training, "GRIDS", (intervals, finer // 2))
    assert sufficient_intervals(network, systems)[0] is None


def data_of(frames: int, beads: int, system: int = 0) -> SystemTensors:
    positions, zeros = frames_of(frames, beads, 3.8).float(), torch.zeros(frames)
    return SystemTensors(
        positions=positions,
        forces=torch.randn(frames, beads, 3),
        prior_forces=torch.zeros(frames, beads, 3),
        prior_energy=zeros,
        energy_label=torch.randn(frames),
        weight=zeros + 1,
        tic_bin=zeros.long(),
        bin_target=zeros,
        surface_bin=zeros.long(),
        bead_types=torch.arange(beads),
        system=system,
    )


def reference_of(data: SystemTensors) -> SimpleNamespace:
    """What choosing a grid needs of a reference."""
    return SimpleNamespace(
        starts=SimpleNamespace(positions=data.positions[1:].numpy()),
        system=SimpleNamespace(bead_types=data.bead_types.numpy()),
    )


def fit(monkeypatch: pytest.MonkeyPatch, systems: list[SystemTensors], fast: bool) -> list[float]:
    """Return the losses of a few steps, by turns on each system."""
    torch.manual_seed(3)
    field = CGForceField(FIXED, LossConfig(energy_weight=0.1)).train()
    field.loss = WeightedLoss(field.loss_config, len(systems))
    monkeypatch.setattr(field, "log_dict", lambda *_, **__: None)
    field.references = [  # type: ignore[assignment]
        reference_of(x) for x in systems
    ]
    if not fast:
        monkeypatch.setattr(grid_file, "is_supported", lambda _: False)
    field.choose_grid()
    assert (field.grid.intervals is not None) == fast
    optimizer = torch.optim.Adam(field.parameters(), lr=0.01)
    losses = []
    for step in range(12):
        loss = field.training_step(systems[step % len(systems)].batch(torch.arange(16)), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    monkeypatch.undo()
    return losses


def test_a_fit_has_the_losses_of_plain_training(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    systems = [data_of(16, 5), data_of(16, 8, system=1)]
    fast, plain = (fit(monkeypatch, systems, fast) for fast in (True, False))
    assert fast == pytest.approx(plain, rel=1e-4)
    assert fast != plain
    assert fast[-2] < fast[0]


def test_a_network_that_is_no_number_is_refused() -> None:
    network, systems = network_of(FIXED), [(frames_of(4, 5, 3.8)[1:], torch.arange(5))]
    assert sufficient_intervals(network, [])[0] is None  # nothing to check on
    assert sufficient_intervals(network, systems)[0] is not None
    network.output[0].weight.data[0, 0] = torch.nan
    assert sufficient_intervals(network, systems)[0] is None


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_validation_takes_the_fast_way_and_leaves_training_alone(mode: Any) -> None:
    field, system = CGForceField(FIXED), data_of(16, 6)
    field.references = [reference_of(system)]  # type: ignore[list-item]
    batch = system.batch(torch.arange(16))
    tables._grid.cache_clear()
    with mode():
        found = field.eval().energy_and_forces(batch)
        assert field.grid.intervals is not None
    expected = field.network.energy_and_forces(batch)
    for one, other in zip(found, expected, strict=True):
        assert not one.requires_grad
        assert not torch.equal(one, other)
        assert (one - other).norm() <= 1e-4 * other.norm()
    field.train()
    field.energy_and_forces(batch)[1].square().sum().backward()
    assert field.network.embedding.weight.grad is not None


@pytest.mark.parametrize("intervals", [256, None])
def test_batches_of_unlike_graphs_are_refused(intervals: int | None) -> None:
    field = CGForceField(FIXED).train()
    field.grid.intervals = intervals
    batch = Batch.from_data_list(
        [Data(pos=frames_of(1, n, 4.0)[0].float(), bead_types=torch.arange(n)) for n in (3, 5)]
    )
    with pytest.raises(InputError, match="graphs of 3 and 5 beads, expected frames of one system"):
        field.energy_and_forces(batch)


def test_devices_and_precisions_without_kernels_are_known() -> None:
    assert is_supported(torch.zeros(1))
    assert not is_supported(torch.zeros(1, device="meta"))
    assert not is_supported(torch.zeros(1, dtype=torch.bfloat16))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not is_supported(torch.zeros(1))
