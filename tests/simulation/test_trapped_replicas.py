"""What a simulation keeps of trapped replicas, deep bins and bonds that break."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cgfe.data.frames import CGFrames
from cgfe.data.splits import Split
from cgfe.model.potential import Potential
from cgfe.reference.config import ReferenceConfig
from cgfe.reference.reference import Reference
from cgfe.simulation.evaluation import free_energy_result, judge, simulate
from cgfe.simulation.langevin import LangevinSimulation, SimulationConfig
from cgfe.simulation.results import FreeEnergyResult
from cgfe.simulation.stretch import STRETCHES, BondScans, scan_bonds
from cgfe.simulation.trapping import deepest_bin, trapping_facts


@pytest.fixture(scope="module")
def reference(tiny: CGFrames) -> Reference:
    config = ReferenceConfig(tica_lag_ps=5, bins=12, starts=12)
    return Reference.fit(tiny, Split(tiny.trajectory_slices(), [], []), config)


class Springs(nn.Module):
    """V = Σ k/2 (r - r₀)² over neighbours, k = 20."""

    def __init__(self, centres: Tensor) -> None:
        super().__init__()
        self.centres = centres

    def forward(self, positions: Tensor) -> Tensor:
        return 10 * (lengths(positions) - self.centres).square().sum(1)


class Well(nn.Module):
    """A well of the last bond at 6 Å, in the place of a network."""

    def energy(self, positions: Tensor, bead_types: Tensor) -> Tensor:
        return -100 * torch.exp(-((lengths(positions)[:, -1] - 6) ** 2) / 0.1)


def lengths(positions: Tensor) -> Tensor:
    return (positions[..., 1:, :] - positions[..., :-1, :]).norm(dim=-1)


def one_start(reference: Reference, network: nn.Module | None) -> tuple[Potential, Reference]:
    """Return springs that are at rest in the one structure that is left to start from."""
    first = reference.starts.positions[:1]
    springs = Springs(lengths(torch.from_numpy(first[0])))
    one = replace(reference, starts=type(reference.starts)(first))
    return Potential(springs, network, torch.from_numpy(one.system.bead_types)), one


def test_stretching_a_bond_moves_no_other(reference: Reference) -> None:
    potential, one = one_start(reference, None)
    scans = scan_bonds(potential, one)
    assert scans is not None
    expected = np.tile(10 * STRETCHES**2, (len(one.system.bonds), 1))
    np.testing.assert_allclose(scans.energies, expected, atol=1e-3)
    assert scans.monotone == 1


def test_a_bond_that_falls_into_a_well_is_told(reference: Reference) -> None:
    potential, one = one_start(reference, Well())
    scans = scan_bonds(potential, one)
    assert scans is not None
    facts = scans.facts()
    bonds = len(one.system.bonds)
    assert facts["scans"] == bonds
    assert facts["monotone"] == pytest.approx(1 - 1 / bonds)
    assert facts["largest_fall"] == pytest.approx(scans.falls[-1])
    assert 30 < scans.falls[-1] < 100
    assert facts["worst"] == scans.energies[-1].tolist()
    np.testing.assert_allclose(facts["median"], 10 * STRETCHES**2, atol=1e-3)


def test_a_fall_of_less_than_kt_is_none() -> None:
    energies = np.array([[0.0, 1.0, 0.5, 3.0], [0.0, 1.0, 0.3, 3.0], [0.0, -0.5, 1.0, 2.0]])
    scans = BondScans(energies, kt=0.6)
    np.testing.assert_allclose(scans.falls, [0.5, 0.7, 0.5])
    assert scans.monotone == pytest.approx(2 / 3)


def test_bonds_of_a_ring_are_left_out(reference: Reference) -> None:
    beads = len(reference.system.masses)
    bonds = np.array([(i, i + 1) for i in range(beads - 1)] + [(0, beads - 2)])
    ring = replace(reference, system=replace(reference.system, bonds=bonds))
    scans = scan_bonds(ring.potential(), ring)
    assert scans is not None
    # The last bead's bond alone, less the scans in which it passes the others.
    assert 0 < len(scans.energies) <= len(ring.starts.positions)
    closed = replace(ring, system=replace(ring.system, bonds=np.append(bonds, [[0, beads - 1]], 0)))
    assert scan_bonds(closed.potential(), closed) is None


def test_frames_tell_which_replica_they_are_of() -> None:
    """Beads too heavy to move are where they began, whatever temperature they have."""
    free = Potential(Springs(torch.tensor([3.8])), None, torch.zeros(2, dtype=torch.long))
    simulation = LangevinSimulation(
        free, np.full(2, 1e12), 300.0, 0.004, 1.0, 0, ladder=[1.0, 1.01, 1.02], exchange_interval=5
    )
    start = torch.zeros(6, 2, 3)
    start[:, 1, 0] = 3.8
    start += torch.arange(6.0)[:, None, None]
    run = simulation.run(start, 200, 5)
    np.testing.assert_allclose(run.positions, run.starts[run.followed], atol=1e-3)
    assert {*run.followed[:, 0]} == {0, 1, 2}
    assert {*run.followed[:, 1]} == {3, 4, 5}


def test_a_result_keeps_what_held_its_replicas(reference: Reference, tmp_path) -> None:
    config = SimulationConfig(replicas=12, steps=200, save_interval=20, ladder=[1.0])
    potential = reference.potential()
    run = simulate(potential, reference, config, "cpu")
    facts = trapping_facts(potential, reference, run)
    assert facts["share"] == sum(facts["stayed"]) / sum(facts["began"])
    assert facts["bonds"]["monotone"] == 1  # the prior's bonds are springs
    judgement = judge(reference, run.positions, run.blown_up, config.burn_in)
    result = free_energy_result("x", reference, judgement, None, {"steps": 200}, facts)
    result.save(tmp_path)
    loaded = FreeEnergyResult.load(tmp_path).trapping
    assert loaded["stayed"] == facts["stayed"]
    assert loaded["bonds"] == facts["bonds"]
    assert loaded["deepest"]["model"] == pytest.approx(result.model.max())
    blown = replace(run, blown_up=np.ones_like(run.blown_up))
    assert set(trapping_facts(potential, reference, blown)) == {"bonds"}


def test_the_deepest_bin_is_the_models() -> None:
    model, sampled = np.array([[0.1, 0.7], [0.1, 0.1]]), np.array([[0.6, 0.05], [0.3, 0.05]])
    assert deepest_bin(sampled, model) == {"model": 0.7, "reference": 0.6, "reference_there": 0.05}
