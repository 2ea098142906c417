"""Potential: sum of prior and network, forces as its exact negative gradient."""

import numpy as np
import pytest
import torch

from cgfe.errors import InputError
from cgfe.model import potential as potential_file
from cgfe.model.potential import Potential
from cgfe.model.prior import PriorEnergy
from cgfe.model.schnet import CGSchNet, CGSchNetConfig

BEAD_TYPES = torch.tensor([1, 5, 2, 5, 3])


@pytest.fixture(scope="module")
def positions():
    random = np.random.default_rng(0)
    straight = np.arange(5)[:, None] * np.array([3.0, 0.5, 0])
    return torch.from_numpy(straight + random.normal(0, 0.8, (60, 5, 3)))


@pytest.fixture(scope="module")
def potential(positions):
    bonds = np.stack([np.arange(4), np.arange(1, 5)], axis=1)
    prior = PriorEnergy.fit(positions.numpy(), bonds, 300.0)
    torch.manual_seed(1)
    network = CGSchNet(CGSchNetConfig(hidden_channels=8, num_filters=8, num_layers=2))
    return Potential(prior, network, BEAD_TYPES).double()


def test_energy_is_prior_plus_network(potential, positions):
    network = potential.network.energy(positions, BEAD_TYPES)
    assert network.std() > 1e-6
    assert torch.equal(potential.energy(positions), potential.prior(positions) + network)
    alone = Potential(potential.prior, None, BEAD_TYPES)
    assert torch.equal(alone.energy(positions), potential.prior(positions))
    other = Potential(potential.prior, potential.network, BEAD_TYPES.flip(0))
    assert not torch.allclose(other.energy(positions), potential.energy(positions))


def test_forces_are_the_negative_gradient(potential, positions):
    frames = positions[:3]
    energy, forces = potential.energy_and_forces(frames)
    assert torch.equal(energy, potential.energy(frames))
    step = 1e-5
    numeric = torch.empty_like(frames)
    with torch.no_grad():
        for bead in range(5):
            for axis in range(3):
                shift = torch.zeros_like(frames)
                shift[:, bead, axis] = step
                rise = potential.energy(frames + shift) - potential.energy(frames - shift)
                numeric[:, bead, axis] = -rise / (2 * step)
    # Central differences: truncation of order step², rounding of order 1e-16 / step.
    assert torch.allclose(forces, numeric, rtol=1e-5, atol=1e-5)
    assert forces.sum(1).abs().max() < 1e-9  # no net force


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_forces_can_be_had_in_every_gradient_mode(potential, positions, mode):
    expected = potential.energy_and_forces(positions)
    with mode():
        energy, forces = potential.energy_and_forces(positions.clone())
    assert torch.equal(energy, expected[0])
    assert torch.equal(forces, expected[1])
    assert not energy.requires_grad
    assert not forces.requires_grad
    assert all(parameter.grad is None for parameter in potential.parameters())


def test_many_frames_are_evaluated_in_parts(potential, positions, monkeypatch):
    expected = potential.energy_and_forces(positions)
    sizes = []
    network = potential.network

    def energy(frames, types):
        sizes.append(len(frames))
        return type(network).energy(network, frames, types)

    monkeypatch.setattr(network, "energy", energy, raising=False)
    monkeypatch.setattr(potential_file, "LARGEST_PAIRS", 70)  # of 10 pairs each
    found = potential.energy_and_forces(positions)
    assert sum(sizes) == len(positions)
    assert max(sizes) == 7
    sizes.clear()
    monkeypatch.setattr(potential_file, "LARGEST_PAIRS", 3)
    potential.energy_and_forces(positions[:2])
    assert sizes == [1, 1]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_a_potential_made_and_moved_in_inference_mode(potential, positions):
    expected = potential.energy_and_forces(positions)
    prior = PriorEnergy.from_arrays(potential.prior.to_arrays()).float()
    network = CGSchNet(potential.network.config)
    network.load_state_dict(potential.network.state_dict())
    with torch.inference_mode():
        made = Potential(prior, network, torch.tensor(BEAD_TYPES.tolist())).double()
        energy, forces = made.energy_and_forces(positions.clone())
    assert torch.allclose(energy, expected[0], rtol=1e-5, atol=1e-5)
    assert torch.allclose(forces, expected[1], rtol=1e-4, atol=1e-4)


def test_positions_of_another_bead_set_are_refused(potential):
    with pytest.raises(InputError, match="4 beads, but the potential is of 5 beads"):
        potential.energy(torch.zeros(2, 4, 3))
