"""Fast forces: equal to the plain potential everywhere, exact to 1e-5, the same dynamics."""

import copy
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cgfe.analysis.tica import TICAProjection
from cgfe.errors import InputError
from cgfe.geometry import pair_distances
from cgfe.kernels import accuracy, fast_potential, tabulated
from cgfe.kernels.accuracy import checked_frames, exact_energy_and_forces, in_float64
from cgfe.kernels.fast_potential import FEWEST_COMPILED_STEPS, FastPotential, accelerated
from cgfe.kernels.tabulated import TableError, TabulatedNetwork
from cgfe.model.potential import Potential
from cgfe.model.prior import PriorEnergy, bond_graph_paths
from cgfe.model.prior_terms import FourierDihedrals, HarmonicAngles, HarmonicBonds, Repulsion
from cgfe.model.schnet import CGSchNet, CGSchNetConfig
from cgfe.simulation.langevin import LangevinSimulation

CUTOFF = 12.0
TOLERANCE = 1e-5


def network_of(seed: int, activation="tanh", basis="expnorm", layers: int = 2) -> CGSchNet:
    torch.manual_seed(seed)
    return CGSchNet(
        CGSchNetConfig(
            hidden_channels=12,
            num_filters=10,
            num_layers=layers,
            cutoff=CUTOFF,
            activation=activation,
            radial_basis=basis,
        )
    ).double()


def prior_of(beads: int, seed: int = 0) -> PriorEnergy:
    """Return a prior of a chain with all its terms; given, not fitted."""
    random = np.random.default_rng(seed)
    every = np.arange(beads)
    paths = bond_graph_paths(np.stack([every[:-1], every[1:]], axis=1), beads)
    index = {name: torch.from_numpy(path) for name, path in paths.items() if len(path)}

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy(random.uniform(low, high, shape))

    def count(name: str) -> int:
        return len(index.get(name, ()))

    makers = {
        "bonds": lambda i: HarmonicBonds(
            i, centre=uniform(3.6, 4.0, len(i)), stiffness=uniform(10, 40, len(i))
        ),
        "angles": lambda i: HarmonicAngles(
            i, centre=uniform(-0.5, 0.3, len(i)), stiffness=uniform(2, 9, len(i))
        ),
        "dihedrals": lambda i: FourierDihedrals(
            i, cosine=uniform(-1, 1, len(i), 3), sine=uniform(-1, 1, len(i), 3)
        ),
        "repulsion": lambda i: Repulsion(i, contact_distance=uniform(3.5, 5, len(i))),
    }
    return PriorEnergy({name: makers[name](i) for name, i in index.items()})


def chains(frames: int, beads: int, seed: int) -> Tensor:
    """Return random walks with steps of 3.8 Å; long ones leave the cutoff."""
    random = np.random.default_rng(seed)
    steps = random.normal(size=(frames, beads, 3)) + np.array([0.8, 0, 0])
    steps *= 3.8 / np.linalg.norm(steps, axis=-1, keepdims=True)
    return torch.from_numpy(steps.cumsum(1))


def assert_close(found: Tensor, expected: Tensor, relative: float) -> None:
    assert (found - expected).norm() <= relative * expected.norm() + 1e-9


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 1000),
    frames=st.integers(1, 40),
    beads=st.integers(1, 9),
    activation=st.sampled_from(["tanh", "silu"]),
    basis=st.sampled_from(["expnorm", "gaussian"]),
    layers=st.integers(1, 3),
    spread=st.sampled_from([0.5, 1.0, 4.0]),
    at_once=st.sampled_from([1, 2**21]),
)
def test_network_agrees_on_any_system(
    seed, frames, beads, activation, basis, layers, spread, at_once
):
    network = network_of(seed, activation, basis, layers)
    types = torch.from_numpy(np.random.default_rng(seed).integers(0, 25, beads))
    positions = spread * chains(frames, beads, seed)
    potential = Potential(_Nothing(), network, types)
    energy, forces = potential.energy_and_forces(positions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tabulated, "LARGEST_FILTERS", at_once)
        # Small and large systems take different ways; both must hold at any size.
        for small in (0, 10**9):
            patch.setattr(tabulated, "SMALL", small)
            table = TabulatedNetwork(network, types, positions)
            found = table.energy_and_forces(positions)
            assert found[0].shape == (frames,)
            assert_close(found[0], energy, TOLERANCE)
            assert_close(found[1], forces, TOLERANCE)
            # Both from one polynomial, so forces are the gradient to rounding.
            assert found[1].sum(1).abs().max() < 1e-9


class _Nothing(torch.nn.Module):
    def forward(self, positions: Tensor) -> Tensor:
        return 0 * positions.sum((1, 2))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), frames=st.integers(1, 5), beads=st.integers(2, 9))
def test_prior_agrees_on_any_chain(seed, frames, beads):
    prior = prior_of(beads, seed)
    positions = chains(frames, beads, seed)
    types = torch.zeros(beads, dtype=torch.long)
    expected = Potential(prior, None, types).energy_and_forces(positions)
    found = FastPotential(prior, None, types).energy_and_forces(positions)
    # Both in float64; only rounding differs.
    assert_close(found[0], expected[0], 1e-10)
    assert_close(found[1], expected[1], 1e-10)


@pytest.mark.parametrize("small", [0, 10**9])
def test_forces_are_the_gradient_of_the_interpolated_energy(monkeypatch, small):
    monkeypatch.setattr(tabulated, "SMALL", small)
    network, types = network_of(0), torch.arange(5)
    positions = chains(4, 5, 1)
    table = TabulatedNetwork(network, types, positions, tolerance=1e-2)  # a coarse one
    assert table.intervals == tabulated.FIRST_INTERVALS
    _, forces = table.energy_and_forces(positions)
    step = 1e-5
    numeric = torch.empty_like(positions)
    for bead in range(5):
        for axis in range(3):
            shift = torch.zeros_like(positions)
            shift[:, bead, axis] = step
            rise = [table.energy_and_forces(positions + sign * shift)[0] for sign in (1, -1)]
            numeric[:, bead, axis] = (rise[1] - rise[0]) / (2 * step)
    # Truncation of order step², rounding of order 1e-16 / step.
    assert (forces - numeric).abs().max() < 1e-8


@pytest.mark.parametrize("small", [0, 10**9])
def test_beads_beyond_the_cutoff_and_on_one_point(monkeypatch, small):
    monkeypatch.setattr(tabulated, "SMALL", small)
    network, types = network_of(3), torch.arange(5)
    prior = prior_of(5)
    table = TabulatedNetwork(network, types, chains(8, 5, 0))
    far = 2 * CUTOFF * torch.eye(5, 3, dtype=torch.float64)[None]
    far[0, 3:] = torch.tensor([[-50.0, 0, 0], [0, -50, 0]])
    assert table.energy_and_forces(far)[1].abs().max() == 0
    at_cutoff = torch.zeros(1, 5, 3, dtype=torch.float64)
    at_cutoff[0, :, 0] = CUTOFF * torch.arange(5)
    assert table.energy_and_forces(at_cutoff)[1].abs().max() == 0
    together = chains(3, 5, 2)
    together[0, 3] = together[0, 0]  # a pair that the prior repels
    together[1, 2] = together[1, 1]  # bonded beads
    together[2] = together[2, :1]  # all of them
    for found, plain in (
        (table, Potential(_Nothing(), network, types)),
        (FastPotential(prior, None, types), Potential(prior, None, types)),
    ):
        energy, forces = found.energy_and_forces(together)
        expected = plain.energy_and_forces(together)
        assert forces.isfinite().all()
        assert_close(energy, expected[0], TOLERANCE)
        assert_close(forces, expected[1], TOLERANCE)


@pytest.mark.parametrize("small", [0, 10**9])
def test_a_replica_that_is_not_a_number_leaves_the_others_alone(monkeypatch, small):
    monkeypatch.setattr(tabulated, "SMALL", small)
    network, types, positions = network_of(4), torch.arange(5), chains(6, 5, 0)
    table = TabulatedNetwork(network, types, positions)
    fast = FastPotential(prior_of(5), table, types)
    energy, forces = fast.energy_and_forces(positions)
    broken = positions.clone()
    broken[2, 1], broken[4, 0, 0] = float("nan"), float("inf")
    found = fast.energy_and_forces(broken)
    assert not found[0][[2, 4]].isfinite().any()
    rest = [0, 1, 3, 5]
    assert_close(found[0][rest], energy[rest], 1e-12)
    assert_close(found[1][rest], forces[rest], 1e-12)


def test_float32_forces_are_exact_to_the_tolerance_on_real_frames(embedded):
    frames = torch.from_numpy(embedded.positions[:: len(embedded.positions) // 200])
    types = torch.from_numpy(embedded.bead_types)
    torch.manual_seed(0)
    network = CGSchNet(CGSchNetConfig(hidden_channels=32, num_filters=32, num_layers=3))
    table = TabulatedNetwork(network, types, frames)
    assert table.force_error <= TOLERANCE
    exact = Potential(_Nothing(), copy.deepcopy(network).double(), types)
    energy, forces = exact.energy_and_forces(frames.double())
    found = table.energy_and_forces(frames)
    assert found[1].dtype == torch.float32
    error = (found[1] - forces).norm() / forces.norm()
    assert error < TOLERANCE
    assert_close(found[0].double(), energy, TOLERANCE)


def test_table_is_refined_as_needed_or_refused(monkeypatch, caplog):
    network, types, frames = network_of(5), torch.arange(6), chains(20, 6, 0)
    errors = {}
    for tolerance in (1e-3, 1e-7):
        table = TabulatedNetwork(network, types, frames, tolerance)
        errors[table.intervals] = table.force_error
    assert len(errors) == 2  # the finer one has more intervals
    with pytest.raises(TableError, match="16384 intervals give forces to"):
        TabulatedNetwork(network, types, frames, tolerance=0.0)
    with pytest.raises(InputError, match=r"shape \(20, 5, 3\), expected \(frames, 6, 3\)"):
        TabulatedNetwork(network, types, frames[:, :5])
    # A potential whose table cannot hold stays as it is, and says so.
    potential = Potential(prior_of(6), network, types)
    monkeypatch.setattr(tabulated, "FIRST_INTERVALS", 2)
    monkeypatch.setattr(tabulated, "LAST_INTERVALS", 4)
    with caplog.at_level(logging.WARNING):
        assert accelerated(potential, frames) is potential
    assert "4 intervals" in caplog.text


def test_parts_of_another_kind_stay_plain():
    types, frames = torch.arange(5), chains(3, 5, 0)
    unknown = Potential(_Nothing(), network_of(0), types)
    assert accelerated(unknown, frames) is unknown
    assert isinstance(accelerated(Potential(prior_of(5), None, types), frames), FastPotential)


def test_a_network_that_is_no_number_is_refused():
    network, frames = network_of(0), chains(3, 5, 0)
    network.output[0].weight.data[0, 0] = torch.nan
    with pytest.raises(TableError, match="forces to nan"):
        TabulatedNetwork(network, torch.arange(5), frames)


def test_checks_of_large_proteins_take_little_memory_and_few_frames(monkeypatch):
    frames = chains(40, 80, 0)
    assert len(checked_frames(frames, 64)) == 6
    assert len(checked_frames(frames[:, :10], 64)) == 40
    assert len(checked_frames(frames[:, :1], 64)) == 40
    network, types = in_float64(network_of(0)), torch.zeros(10, dtype=torch.long)
    whole = exact_energy_and_forces(network, frames[:, :10], types)
    monkeypatch.setattr(accuracy, "LARGEST_FILTERS", 3 * 2 * 45 * 10)
    sizes = []
    monkeypatch.setattr(
        network,
        "energy",
        lambda x, types: sizes.append(len(x)) or CGSchNet.energy(network, x, types),
    )
    parts = exact_energy_and_forces(network, frames[:, :10], types)
    assert max(sizes) == 3
    for one, other in zip(parts, whole, strict=True):
        assert_close(one, other, 1e-12)


def test_later_training_does_not_reach_the_table():
    network, types, frames = network_of(6), torch.arange(5), chains(3, 5, 0)
    fast = accelerated(Potential(prior_of(5), network, types), frames)
    before = fast.energy_and_forces(frames)[1].clone()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    assert torch.equal(fast.energy_and_forces(frames)[1], before)
    with torch.inference_mode():
        again = accelerated(Potential(prior_of(5), network, types), frames)
        assert not torch.allclose(again.energy_and_forces(frames)[1], before)


def test_compiling_is_for_gpus_and_does_without_a_compiler(monkeypatch, caplog):
    types, frames = torch.arange(5), chains(20, 5, 0)
    fast = accelerated(Potential(prior_of(5), network_of(0), types), frames)
    expected = fast.energy_and_forces(frames)
    assert not caplog.records  # no compiler is asked for on a CPU

    def broken(function, **_):
        return lambda positions: (_ for _ in ()).throw(RuntimeError("no compiler found"))

    monkeypatch.setattr(torch, "compile", broken)
    gpu = torch.empty(0, device="meta")  # stands for a GPU
    said: list[str] = []
    monkeypatch.setattr(fast_potential, "rank_zero_info", said.append)
    for steps in (0, 100):  # too few to pay back
        fast.expected_steps = steps
        assert fast._compile(gpu)(frames)[1].equal(expected[1])
    assert said == ["Forces are not compiled for 100 steps of 5 beads."]
    fast.expected_steps = FEWEST_COMPILED_STEPS
    with caplog.at_level(logging.WARNING):
        evaluate = fast._compile(gpu)
    assert "no compiler found" in caplog.text
    assert torch.equal(evaluate(frames)[1], expected[1])
    with pytest.raises(InputError, match="4 beads, but the potential is of 5 beads"):
        fast.energy_and_forces(frames[:, :4])


def test_sampled_distances_and_tics_agree_with_the_plain_path():
    beads, replicas = 5, 64
    types = torch.arange(beads)
    network = network_of(7).float()
    starts = chains(replicas, beads, 3).float()
    _, forces = Potential(_Nothing(), network, types).energy_and_forces(starts)
    with torch.no_grad():  # 3 kcal/mol/Å: strong enough to matter beside the prior
        network.output[2].weight.mul_(3 / forces.square().mean().sqrt())
    prior = prior_of(beads).float()
    potential = Potential(prior, network, types)
    fast = accelerated(potential, starts)
    assert isinstance(fast, FastPotential)

    def sample(forces: Potential | FastPotential, seed: int) -> np.ndarray:
        """Return positions (frames, replicas, N, 3) after 40 % burn-in."""
        simulation = LangevinSimulation(forces, np.full(beads, 100.0), 300.0, 0.01, 10.0, seed)
        run = simulation.run(starts, 1200, 10)
        assert not run.blown_up.any()
        return run.positions[48:]

    runs = sample(potential, 1), sample(fast, 2)
    tica = TICAProjection.fit(list(runs[0].swapaxes(0, 1)), 0.1, 0.2)

    def coordinates(kept: np.ndarray) -> np.ndarray:
        """Return all distances and two TICs (frames, replicas, pairs + 2)."""
        distances = pair_distances(kept.reshape(-1, beads, 3)).reshape(*kept.shape[:2], -1)
        return np.concatenate([distances, tica.project(kept)], axis=2)

    plain, tabulated = map(coordinates, runs)
    edges = np.quantile(plain, [0.25, 0.5, 0.75], axis=(0, 1))

    def deviations(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Return the differences of the cumulative densities at the edges, in standard errors.

        Replicas are independent, so the error of a share is its spread over √replicas.
        """
        shares = [(s[:, :, None] < edges).mean(0) for s in (one, other)]
        error = np.sqrt(sum(share.var(0, ddof=1) for share in shares) / replicas)
        return np.abs(shares[0].mean(0) - shares[1].mean(0)) / error

    # 4.5 standard errors at 36 edges fail by chance in fewer than one run of a thousand.
    assert deviations(plain, tabulated).max() < 4.5
    # The test can fail: without the network the distances differ by more.
    alone = coordinates(sample(Potential(prior, None, types), 3))
    assert deviations(alone, tabulated).max() > 4.5
