"""Fast potentials: their forces are within 1e-5 of float64, or the plain potential is kept."""

import copy
import logging
import shutil

import numpy as np
import pytest
import torch
from torch import Tensor

from cgfe.analysis.tica import TICAProjection
from cgfe.errors import InputError
from cgfe.geometry import pair_distances
from cgfe.kernels import fast_potential
from cgfe.kernels.accuracy import TOLERANCE, checked_frames, coarsest_grid, in_float64
from cgfe.kernels.fast_potential import FastPotential, accelerated
from cgfe.kernels.simulation import NativeForces
from cgfe.kernels.tables import cubic_coefficients, filter_tables, network_arrays
from cgfe.model.potential import Potential
from cgfe.simulation.langevin import LangevinSimulation
from tests.kernels.systems import CUTOFF, Nothing, chains, network_of, potential_of, prior_of

pytestmark = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")),
    reason="the kernel needs a C++ compiler",
)


def test_polynomials_are_the_filters_and_their_slopes_at_the_grid_points():
    network, intervals = in_float64(network_of(0)), 32
    block = network.interactions[1]
    distances = torch.linspace(0, CUTOFF, intervals + 1, dtype=torch.float64)

    def filters(distance: Tensor) -> Tensor:
        envelope = 0.5 + 0.5 * torch.cos(distance * (torch.pi / CUTOFF))
        return block.filter_network(network.radial_basis(distance)) * envelope[:, None]

    step = torch.full_like(distances, CUTOFF / intervals)
    value, slope = torch.func.jvp(filters, (distances,), (step,))[:2]
    tables = filter_tables(network.config, [block.filter_network], intervals)
    for found, expected in zip(tables[0].unbind(1), (value, None, slope), strict=True):
        if expected is not None:
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    a, b, c, d = cubic_coefficients(tables)[0].unbind(1)
    torch.testing.assert_close(a, value[:-1])
    torch.testing.assert_close(b, slope[:-1])
    torch.testing.assert_close(a + b + c + d, value[1:], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(b + 2 * c + 3 * d, slope[1:], rtol=1e-12, atol=1e-12)


def test_float32_forces_are_exact_to_the_tolerance_on_real_frames(embedded):
    frames = torch.from_numpy(embedded.positions[:: len(embedded.positions) // 200])
    types = torch.from_numpy(embedded.bead_types)
    network = network_of(0, hidden_channels=32, num_filters=32, num_layers=3, cutoff=30.0)
    fast = accelerated(Potential(prior_of(len(types)), network, types), frames)
    assert isinstance(fast, FastPotential)
    energy, forces = fast.energy_and_forces(frames)
    assert energy.dtype == forces.dtype == torch.float32
    of_prior = NativeForces(len(types), list(prior_of(len(types)).terms.values()))
    exact = Potential(Nothing(), in_float64(network), types).energy_and_forces(frames.double())
    without = of_prior.energy_and_forces(frames)
    # What is left of the difference is rounding of the whole forces, prior included.
    for found, prior, expected in zip((energy, forces), without, exact, strict=True):
        error = ((found.double() - prior.double()) - expected).norm()
        assert error < TOLERANCE * expected.norm() + 3e-7 * found.norm()


def test_grid_is_refined_as_needed_or_refused(monkeypatch, caplog):
    potential, frames = potential_of(5, 6), chains(20, 6, 0)
    exact, types = in_float64(potential.network), potential.bead_types

    def evaluate(frames: Tensor, types: Tensor, intervals: int) -> tuple[Tensor, Tensor]:
        arrays = network_arrays(exact, types, intervals)
        return NativeForces(6, [], exact.config, arrays).energy_and_forces(frames.float())

    def error_on(*grids: int) -> tuple[int | None, float]:
        return coarsest_grid(exact, [(frames, types)], evaluate, grids)

    coarse = error_on(16)
    assert coarse[0] is None
    assert coarse[1] > 10 * TOLERANCE
    fine, error = error_on(16, 32, 4096)
    assert fine == 4096
    assert error <= TOLERANCE
    assert coarsest_grid(exact, [], evaluate, [16])[0] is None  # nothing to check on
    with pytest.raises(InputError, match=r"shape \(20, 5, 3\), expected \(frames, 6, 3\)"):
        accelerated(potential, frames[:, :5])
    # A potential whose table cannot hold stays as it is, and says so.
    monkeypatch.setattr(fast_potential, "GRIDS", (2, 4))
    with caplog.at_level(logging.WARNING):
        assert accelerated(potential, frames) is potential
    assert "filter tables of 4 intervals give energies and forces to" in caplog.text


def test_tables_are_checked_by_what_runs(monkeypatch):
    potential, frames = potential_of(9, 5), chains(4, 5, 0)
    right = NativeForces.energy_and_forces
    for scale_energy, scale_forces in ((1, 1.001), (1.001, 1)):

        def wrong(
            self, positions: Tensor, e: float = scale_energy, f: float = scale_forces
        ) -> tuple[Tensor, Tensor]:
            energy, forces = right(self, positions)
            return energy * e, forces * f

        monkeypatch.setattr(NativeForces, "energy_and_forces", wrong)
        assert accelerated(potential, frames) is potential  # refused, not used
    monkeypatch.setattr(NativeForces, "energy_and_forces", right)
    assert isinstance(accelerated(potential, frames), FastPotential)


def test_a_network_that_is_no_number_is_refused(caplog):
    potential = potential_of(0, 5)
    potential.network.output[0].weight.data[0, 0] = torch.nan
    assert accelerated(potential, chains(3, 5, 0)) is potential
    assert "forces to nan" in caplog.text


def test_an_energy_near_zero_is_no_error():
    """Of a sum of large terms float32 leaves little; the constant of an energy is arbitrary."""
    potential = potential_of(2, 40)
    torch.manual_seed(0)
    frames = chains(1, 40, 0) + 0.01 * torch.randn(8, 40, 3)
    alone = Potential(Nothing(), potential.network, potential.bead_types)
    with torch.no_grad():
        potential.network.output[2].bias -= alone.energy(frames).mean() / 40
    fast = accelerated(potential, frames)
    assert isinstance(fast, FastPotential)
    # The errors of energies are far larger than the tolerance, relative to the energies.
    exact = Potential(Nothing(), in_float64(potential.network), potential.bead_types)
    energy, _ = exact.energy_and_forces(frames.double())
    rounded = alone.energy(frames).detach()
    assert (rounded - energy).norm() > 3 * TOLERANCE * energy.norm()


def test_parts_of_another_kind_stay_plain():
    types, frames = torch.arange(5), chains(3, 5, 0)
    unknown = Potential(Nothing(), network_of(0), types)
    assert accelerated(unknown, frames) is unknown
    other = Potential(prior_of(5), torch.nn.Linear(1, 1), types)
    assert accelerated(other, frames) is other
    assert isinstance(accelerated(Potential(prior_of(5), None, types), frames), FastPotential)


def test_where_the_kernel_does_not_run_autograd_does_and_it_is_said_once(monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(fast_potential, "rank_zero_info", said.append)
    fast_potential._say_once.cache_clear()
    frames = chains(4, 5, 0)
    potential = potential_of(5, 5)
    for other in (
        copy.deepcopy(potential).double(),
        copy.deepcopy(potential).to("meta"),  # stands for a GPU
    ):
        said.clear()
        for _ in range(2):
            assert accelerated(other, frames) is other
        (line,) = said
        assert line.startswith("Forces are evaluated by autograd: they are in torch.float")
    assert isinstance(accelerated(potential, frames), FastPotential)
    monkeypatch.setattr("cgfe.kernels.simulation.library", lambda name: None)
    assert accelerated(potential, frames) is potential
    fast_potential._say_once.cache_clear()


def test_positions_that_the_kernel_does_not_take_are_refused():
    frames = chains(3, 5, 0)
    fast = accelerated(potential_of(1, 5), frames)
    with pytest.raises(InputError, match="4 beads, but the potential is of 5 beads"):
        fast.energy_and_forces(frames[:, :4])
    for wrong in (frames.double(), frames.to("meta")):
        with pytest.raises(InputError, match=f"are {wrong.dtype} on {wrong.device}, expected"):
            fast.energy_and_forces(wrong)


def test_checks_of_large_proteins_take_few_frames():
    frames = chains(40, 80, 0)
    assert len(checked_frames(frames)) == 6
    assert len(checked_frames(frames[:, :10])) == 32
    assert len(checked_frames(frames[:20, :1])) == 20


def test_later_training_does_not_reach_the_table():
    potential, frames = potential_of(6, 5), chains(3, 5, 0)
    fast = accelerated(potential, frames)
    before = fast.energy_and_forces(frames)[1].clone()
    with torch.no_grad():
        for parameter in potential.network.parameters():
            parameter.mul_(1.5)
    assert torch.equal(fast.energy_and_forces(frames)[1], before)
    with torch.inference_mode():
        again = accelerated(potential, frames)
        assert isinstance(again, FastPotential)
        assert not torch.allclose(again.energy_and_forces(frames)[1], before)


def test_sampled_distances_and_tics_agree_with_the_plain_path():
    beads, replicas = 5, 64
    types = torch.arange(beads)
    network = network_of(7)
    starts = chains(replicas, beads, 3)
    _, forces = Potential(Nothing(), network, types).energy_and_forces(starts)
    with torch.no_grad():  # 3 kcal/mol/Å: strong enough to matter beside the prior
        network.output[2].weight.mul_(3 / forces.square().mean().sqrt())
    prior = prior_of(beads)
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
