"""Replica exchange in simulations: the right ensemble, by either way of stepping, and faster."""

import re

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import Tensor, nn

from cgfe.errors import InputError
from cgfe.kernels.fast_potential import FastPotential, accelerated
from cgfe.model.potential import Potential
from cgfe.model.prior import PriorEnergy
from cgfe.model.prior_terms import HarmonicBonds
from cgfe.simulation.ladder import TemperatureLadder
from cgfe.simulation.langevin import LangevinSimulation, SimulationConfig, SimulationResult
from cgfe.units import thermal_energy

KT = thermal_energy(300.0)
BARRIER, TILT = 5.0, 0.4
"""kcal/mol, and kcal/mol/Å: 8 kT, which no replica crosses by itself in a nanosecond."""


class DoubleWell(nn.Module):
    """One bead between wells at x = -1 and 1 Å, and springs in y and z."""

    def forward(self, positions: Tensor) -> Tensor:
        x, y, z = positions[..., 0, 0], positions[..., 0, 1], positions[..., 0, 2]
        return BARRIER * (x**2 - 1) ** 2 + TILT * x + 5 * (y**2 + z**2)


def wells(ladder: list[float], ladders: int, steps: int) -> SimulationResult:
    potential = Potential(DoubleWell(), None, torch.zeros(1, dtype=torch.long))
    simulation = LangevinSimulation(
        potential, np.array([100.0]), 300.0, 0.02, 2.0, 3, ladder=ladder, exchange_interval=10
    )
    start = torch.zeros(ladders * len(ladder), 1, 3)
    start[:, :, 0] = -1.0
    return simulation.run(start, steps, 50)


def test_exchange_finds_the_population_of_a_double_well() -> None:
    def weight(x: float) -> float:
        return float(np.exp(-(BARRIER * (x**2 - 1) ** 2 + TILT * x) / KT))

    expected = quad(weight, 0, 3)[0] / quad(weight, -3, 3)[0]
    alone = wells([1.0], 32, 4000)
    assert (alone.positions[..., 0, 0] > 0).mean() < 0.02
    found = wells([1.0, 1.6, 2.6], 96, 10_000)
    assert found.positions.shape == (200, 96, 1, 3)
    assert found.replicas == 288
    assert all(0.2 < share < 0.95 for share in found.acceptance)
    right = (found.positions[50:, :, 0, 0] > 0).mean(axis=0)
    error = right.std(ddof=1) / len(right) ** 0.5
    assert error < 0.04
    assert abs(right.mean() - expected) < 4 * error
    # Every spring in y has kT at the lowest temperature: none of the hot frames is among them.
    squares = (found.positions[50:, :, 0, 1] ** 2).mean(axis=0)
    error = squares.std(ddof=1) / len(squares) ** 0.5
    assert abs(squares.mean() - KT / 10) < 4 * error


@pytest.mark.parametrize("fast", [False, True])
def test_bonds_and_velocities_have_the_lowest_temperature(fast: bool) -> None:
    stiffness = 20.0
    bonds = HarmonicBonds(
        torch.tensor([[0, 1]]), centre=torch.tensor([3.8]), stiffness=torch.tensor([stiffness])
    )
    potential: Potential | FastPotential = Potential(
        PriorEnergy({"bonds": bonds}), None, torch.zeros(2, dtype=torch.long)
    )
    start = torch.zeros(96, 2, 3)
    start[:, 1, 0] = 3.8
    if fast:
        potential = accelerated(potential, start[:1])
        if not isinstance(potential, FastPotential):
            pytest.skip("no C++ compiler")
    simulation = LangevinSimulation(
        potential, np.full(2, 100.0), 300.0, 0.02, 5.0, 1, ladder=[1.0, 1.5, 2.2]
    )
    result = simulation.run(start, 4000, 50)
    apart = result.positions[20:, :, 1].astype(float) - result.positions[20:, :, 0]
    lengths = np.linalg.norm(apart, axis=-1)

    def weight(r: float, power: int = 2) -> float:
        return r**power * float(np.exp(-0.5 * stiffness * (r - 3.8) ** 2 / KT))

    norm = quad(weight, 2, 6)[0]
    mean = quad(weight, 2, 6, args=(3,))[0] / norm
    spread = quad(lambda r: (r - mean) ** 2 * weight(r), 2, 6)[0] / norm
    of_ladders = ((lengths - mean) ** 2).mean(axis=0)
    error = of_ladders.std(ddof=1) / len(of_ladders) ** 0.5
    assert abs(of_ladders.mean() - spread) < 4 * error
    assert error < 0.1 * spread
    # In units of each replica's own temperature; 6 · 96 components in each of 80 frames.
    assert abs(result.kinetic_temperature / 300 - 1) < 4 * (2 / (6 * 96 * 80)) ** 0.5


def test_a_ladder_counts_its_trades_and_knows_the_cold() -> None:
    ladder = TemperatureLadder(300.0, [1.0, 1.2, 1.4], 6, 0)
    whole = np.ones(6, dtype=bool)
    np.testing.assert_array_equal(ladder.cold, [0, 3])
    # The hot one of the first ladder's lower pair has the lower energy: it trades for certain.
    energies = np.array([9.0, 0.0, 99.0, 0.0, 99.0, 999.0])
    scale = ladder.attempt(energies, whole)
    np.testing.assert_array_equal(ladder.slots, [[1, 0, 2], [0, 1, 2]])
    np.testing.assert_allclose(scale, [1.2**0.5, 1.2**-0.5, 1, 1, 1, 1])
    np.testing.assert_array_equal(ladder.cold, [1, 3])
    assert ladder.acceptance[0] == 0.5
    assert np.isnan(ladder.acceptance[1])
    with pytest.raises(InputError, match="replicas is 7, expected a multiple of the ladder's 3"):
        TemperatureLadder(300.0, [1.0, 1.2, 1.4], 7, 0)
    # What has blown up trades no more.
    whole[:3] = False
    ladder.attempt(np.array([9.0, 0.0, -99.0, 0.0, 99.0, 999.0]), whole)
    assert ladder.slots[0].tolist() == [1, 0, 2]
    assert ladder.tried.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ladder": [1.2, 1.5]}, "ladder is [1.2, 1.5], expected"),
        ({"ladder": [1.0, 1.0]}, "ladder is [1.0, 1.0], expected"),
        ({"ladder": [1.0, float("nan")]}, "ladder is"),
        ({"ladder": []}, "ladder is []"),
        ({"ladder": [1.0, 1.2], "exchange_interval": 0}, "exchange_interval is 0"),
    ],
)
def test_ladders_that_make_no_sense_are_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        SimulationConfig(**options).check()  # type: ignore[arg-type]
