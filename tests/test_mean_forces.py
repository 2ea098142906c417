"""Mean forces against a potential of mean force that is known exactly."""

import numpy as np
import openmm
import pytest
from scipy.stats import chi2

from cgfe.all_atom.batched import BatchedSystem
from cgfe.all_atom.mean_forces import Averaging, nearest_frames, spread_choice, summary
from cgfe.errors import InputError
from cgfe.mapping import CarbonAlphaMapping
from cgfe.metrics import rmsd
from cgfe.units import ANGSTROM_PER_NM, KCAL_PER_KJ

pytestmark = pytest.mark.skipif(not BatchedSystem.available(), reason="needs a C++ compiler")

SPRINGS = (3000.0, 1500.0)


def between_springs() -> openmm.System:
    """Two beads and one atom between them, on springs of no length (kJ/mol/nm²).

    The integral over the atom is a Gaussian one: the potential of mean force of the beads is a
    spring again, of stiffness k k' / (k + k').
    """
    system, bonds = openmm.System(), openmm.HarmonicBondForce()
    nonbonded, solvent = openmm.NonbondedForce(), openmm.GBSAOBCForce()
    for _ in range(3):
        system.addParticle(12.0)
        nonbonded.addParticle(0.0, 0.1, 0.0)
        solvent.addParticle(0.0, 0.15, 0.8)
    solvent.setSurfaceAreaEnergy(0.0)
    bonds.addBond(0, 2, 0.0, SPRINGS[0])
    bonds.addBond(1, 2, 0.0, SPRINGS[1])
    for force in (bonds, nonbonded, solvent):
        system.addForce(force)
    return system


@pytest.fixture(scope="module")
def averaging() -> Averaging:
    mapping = CarbonAlphaMapping.fit("slice", [0, 1], 3, [])
    kernel = BatchedSystem(between_springs(), fixed=[0, 1])
    return Averaging(kernel, mapping, 300.0, 0.004, 20.0, settle_ps=5.0, average_ps=40.0)


def test_mean_forces_are_gradients_of_the_known_potential(averaging: Averaging) -> None:
    random = np.random.default_rng(0)
    count = 320
    positions = random.normal(scale=3.0, size=(count, 3, 3))  # Å
    positions[:, 2] = positions[:, :2].mean(axis=1) + random.normal(scale=0.1, size=(count, 3))
    means, errors = averaging.forces(positions, np.arange(count, dtype=np.uint64))
    stiffness = SPRINGS[0] * SPRINGS[1] / sum(SPRINGS) * KCAL_PER_KJ / ANGSTROM_PER_NM**2
    exact = stiffness * (positions[:, 1] - positions[:, 0])
    # `slice` spreads the free atom's force over the beads, so both feel the opposite.
    np.testing.assert_allclose(means.sum(axis=1), 0, atol=1e-4)
    off = (means[:, 0] - exact) / np.sqrt(np.mean(errors**2))
    low, high = chi2.ppf([0.001, 0.999], off.size) / off.size
    # The mean square of the errors has itself a spread of √(2/n), as that of the differences.
    assert low * 0.9 < np.mean(off**2) < high * 1.1
    told = summary(means, errors)
    assert told["rms_without_noise"] == pytest.approx(np.sqrt(np.mean(exact**2)), rel=0.01)


def test_steered_beads_end_where_they_should(averaging: Averaging) -> None:
    positions = np.zeros((4, 3, 3))
    positions[:, 1, 0] = 3.0
    positions[:, 2, 0] = 1.5
    targets = np.zeros((4, 2, 3))
    targets[:, 1, 1] = [1.0, 2.0, 3.0, 4.0]
    from dataclasses import replace

    steering = replace(averaging, steer_ps=1.0)
    means, errors = steering.forces(positions, np.arange(4, dtype=np.uint64), targets)
    stiffness = SPRINGS[0] * SPRINGS[1] / sum(SPRINGS) * KCAL_PER_KJ / ANGSTROM_PER_NM**2
    error = np.sqrt(np.mean(errors**2))
    np.testing.assert_allclose(means[:, 0], stiffness * targets[:, 1], atol=4.5 * error)


def test_thin_bins_are_chosen_as_often_as_full_ones() -> None:
    bins = np.repeat([0, 1, 2], [10_000, 100, 10])
    chosen = spread_choice(bins, 600, 0.5, 0)
    assert len(np.unique(chosen)) == 600
    counts = np.bincount(bins[chosen])
    # 300 are spread: all 10 of the thinnest, 100 of the next, 190 of the full one; 300 at random.
    assert counts[2] == 10
    assert counts[1] == 100
    np.testing.assert_array_equal(chosen, spread_choice(bins, 600, 0.5, 0))
    at_random = np.bincount(bins[spread_choice(bins, 600, 0.0, 1)], minlength=3)
    assert at_random[0] > 560
    with pytest.raises(InputError, match="20000 configurations are asked of 10110 frames"):
        spread_choice(bins, 20_000, 0.5, 0)


def test_nearest_frame_is_the_one_that_was_turned() -> None:
    random = np.random.default_rng(3)
    beads = random.normal(size=(20, 6, 3)) * 4
    rotation, _ = np.linalg.qr(random.normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    targets = beads[[7, 2]] @ rotation + 5 + random.normal(scale=0.01, size=(2, 6, 3))
    rows, turned = nearest_frames(targets, beads)
    assert rows.tolist() == [7, 2]
    assert np.abs(turned - beads[rows]).max() < 0.1
    assert rmsd(turned[:1], targets[0])[0] < 1e-6
