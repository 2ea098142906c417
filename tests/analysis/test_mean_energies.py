"""⟨U⟩ = F + T S per bin, against energies known from the potential that was sampled."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from scipy.special import polygamma

from cgfe.analysis.free_energy import FreeEnergySurface, TICGrid
from cgfe.analysis.mean_energies import conditional_mean_targets, internal_entropy
from cgfe.errors import InputError
from cgfe.units import BOLTZMANN, thermal_energy

TEMPERATURE = 300.0
KT = thermal_energy(TEMPERATURE)


class TwoTetrahedra:
    """Four beads, every pair a spring, in a small or a large shape; energies in kT.

    U = min over basins b of offset_b + k_b/2 Σ (d - length_b)². By the rigid-rotor,
    harmonic-oscillator partition function the large shape's share is
    (length ratio)³ (k ratio)^-3 exp(-offset) times the small one's: 8 · 8 · exp(-4) = 1.17.
    """

    stiffness = np.array([20.0, 10.0])
    length = np.array([5.0, 10.0])
    offset = np.array([0.0, 4.0])

    def energy(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return energy (F,) and basin (F,)."""
        first, second = np.triu_indices(4, 1)
        lengths = np.linalg.norm(positions[:, first] - positions[:, second], axis=-1)
        strain = ((lengths[:, None] - self.length[:, None]) ** 2).sum(axis=2)
        energies = self.offset + self.stiffness / 2 * strain
        return energies.min(axis=1), energies.argmin(axis=1)

    def sample(self, walkers: int, steps: int, every: int, seed: int) -> np.ndarray:
        """Metropolis sampling in Cartesian coordinates; (frames, walkers, 4, 3).

        Besides small moves the whole is scaled by 2 or 1/2 about its centre, with the Jacobian
        2^±9 of the nine coordinates relative to the centre, so that both shapes mix.
        """
        random = np.random.default_rng(seed)
        shape = np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(8)
        sizes = self.length[np.arange(walkers) % 2]
        positions, frames = sizes[:, None, None] * shape, []
        energy = self.energy(positions)[0]
        for step in range(steps):
            log_jacobian = np.zeros(walkers)
            if step % 5:
                trial = positions + random.normal(0, 0.1, positions.shape)
            else:
                power = random.choice([-1, 1], walkers)
                log_jacobian = 9 * power * np.log(2)
                centre = positions.mean(axis=1, keepdims=True)
                trial = centre + (positions - centre) * 2.0 ** power[:, None, None]
            trial_energy = self.energy(trial)[0]
            accepted = np.log(random.random(walkers)) < energy - trial_energy + log_jacobian
            positions = np.where(accepted[:, None, None], trial, positions)
            energy = np.where(accepted, trial_energy, energy)
            if step >= 300 and step % every == 0:
                frames.append(positions)
        return np.array(frames)


def test_mean_energy_per_basin_is_f_plus_ts() -> None:
    system, groups = TwoTetrahedra(), 10
    samples = system.sample(walkers=400, steps=3000, every=20, seed=0)
    grid = TICGrid((np.array([-0.5, 0.5, 1.5]), np.array([-1.0, 1.0])))
    found, known, without_entropy = [], [], []
    for group in range(groups):
        positions = samples[:, group::groups].reshape(-1, 4, 3)
        energy, basin = system.energy(positions)
        tics = np.stack([basin, np.zeros(len(basin))], axis=1)
        surface = FreeEnergySurface.from_samples(tics, None, grid)
        entropy = internal_entropy(positions, grid.bin_index(tics), None, 2)
        targets = conditional_mean_targets(surface, entropy, TEMPERATURE)
        found.append((targets[1] - targets[0]) / KT)
        known.append(energy[basin == 1].mean() - energy[basin == 0].mean())
        without_entropy.append(np.subtract(*surface.free_energy_kt.ravel()[::-1]))
    # Independent groups of walkers give the standard error. Anharmonic terms are of the order
    # of 1 / (k length²) = 0.002 per mode and pair: 0.03 in all.
    error = np.std(found, ddof=1) / np.sqrt(groups)
    assert error < 0.1
    assert np.mean(known) == pytest.approx(4.0, abs=0.1)
    assert np.mean(found) == pytest.approx(np.mean(known), abs=4 * error + 0.03)
    assert abs(np.mean(without_entropy)) < 0.5


def internal_directions(mean: np.ndarray) -> np.ndarray:
    """Orthonormal displacements (3 N - 6, 3 N) that neither move nor turn a centred structure."""
    rigid = [np.tile(axis, (len(mean), 1)).ravel() for axis in np.eye(3)]
    rigid += [np.cross(axis, mean).ravel() for axis in np.eye(3)]
    return np.linalg.svd(np.array(rigid))[2][6:]


def tumbling_gaussian(
    mean: np.ndarray, deviations: np.ndarray, frames: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Frames (F, N, 3) of independent normal modes, each turned and moved at random; modes."""
    modes = random.normal(size=(frames, len(deviations)))
    shaped = mean + ((modes * deviations) @ internal_directions(mean)).reshape(frames, -1, 3)
    rotations = Rotation.random(frames, random_state=random.integers(2**31)).as_matrix()
    moved = np.einsum("fnd,fed->fne", shaped, rotations) + random.normal(0, 20, (frames, 1, 3))
    return moved, modes


def bent_chain(beads: int, spacing: float) -> np.ndarray:
    angle = np.arange(beads) * 1.2
    mean = spacing * np.stack([np.cos(angle), np.sin(angle), 0.5 * np.arange(beads)], axis=1)
    return mean - mean.mean(axis=0)


def gaussian_entropy(mean: np.ndarray, deviations: np.ndarray) -> float:
    inertia = (mean**2).sum() * np.eye(3) - mean.T @ mean
    return float(np.log(deviations).sum() + np.log(np.linalg.det(inertia)) / 2)


def test_entropy_of_few_gaussian_frames_is_unbiased() -> None:
    # With the fewest frames allowed, n = 2 d, ln det of the sample covariance alone would be
    # too small by several units; its variance is Σ ψ'((n - i)/2), i = 1 ... d.
    random = np.random.default_rng(1)
    mean, bins = bent_chain(6, 4.0), 150
    deviations = random.uniform(0.02, 0.06, 12)
    parts = [tumbling_gaussian(mean, deviations, 24, random)[0] for _ in range(bins)]
    found = internal_entropy(np.concatenate(parts), np.repeat(np.arange(bins), 24), None, bins)
    deviation = np.sqrt(polygamma(1, (24 - np.arange(1, 13)) / 2).sum()) / 2
    known = gaussian_entropy(mean, deviations)
    assert found.mean() / BOLTZMANN == pytest.approx(known, abs=4 * deviation / np.sqrt(bins))
    # The spread over bins is as predicted too; a standard deviation of 150 is good to 6 %.
    assert found.std() / BOLTZMANN == pytest.approx(deviation, rel=0.25)


def test_weights_turn_one_ensemble_into_another() -> None:
    # Normal modes weighted by exp(-a q²/2) have variance 1 / (1 + a).
    random = np.random.default_rng(2)
    mean, stiffer = bent_chain(4, 4.0), 0.3
    positions, modes = tumbling_gaussian(mean, np.full(6, 0.05), 20_000, random)
    weights = np.exp(-stiffer * (modes**2).sum(axis=1) / 2)
    found = internal_entropy(positions, np.zeros(20_000, dtype=int), weights, 1)[0] / BOLTZMANN
    known = gaussian_entropy(mean, np.full(6, 0.05 / np.sqrt(1 + stiffer)))
    # √(2 d / n) / 2 = 0.013 for n = 18,000 effective frames.
    assert found == pytest.approx(known, abs=4 * 0.013)
    assert known < gaussian_entropy(mean, np.full(6, 0.05)) - 0.5


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000))
def test_entropy_does_not_see_rotation_order_or_scale_of_weights(seed: int) -> None:
    random = np.random.default_rng(seed)
    positions, _ = tumbling_gaussian(bent_chain(5, 4.0), np.full(9, 0.2), 200, random)
    weights, bins = random.uniform(0.5, 1, 200), random.integers(0, 3, 200)
    known = internal_entropy(positions, bins, weights, 3)
    rotations = Rotation.random(200, random_state=seed).as_matrix()
    turned = np.einsum("fnd,fed->fne", positions, rotations) + random.normal(0, 5, (200, 1, 3))
    order = random.permutation(200)
    found = internal_entropy(turned[order], bins[order], 7 * weights[order], 3)
    np.testing.assert_allclose(found, known, atol=1e-3 * BOLTZMANN)


def test_sparse_bins_get_the_average_of_the_others() -> None:
    random = np.random.default_rng(3)
    mean = bent_chain(4, 4.0)
    tight, _ = tumbling_gaussian(mean, np.full(6, 0.05), 300, random)
    loose, _ = tumbling_gaussian(mean, np.full(6, 0.2), 100, random)
    few, _ = tumbling_gaussian(mean, np.full(6, 0.5), 11, random)
    positions = np.concatenate([tight, loose, few, few])
    bins = np.repeat([0, 2, 3, -1], [300, 100, 11, 11])
    found = internal_entropy(positions, bins, None, 5)
    alone = internal_entropy(tight, np.zeros(300, dtype=int), None, 1)
    assert found[0] == pytest.approx(alone[0])
    assert found[2] > found[0] + 6 * BOLTZMANN
    np.testing.assert_allclose(found[[1, 3, 4]], 0.75 * found[0] + 0.25 * found[2])


def test_targets_by_hand() -> None:
    grid = TICGrid((np.arange(4.0), np.array([0.0, 1.0])))
    surface = FreeEnergySurface(grid, np.array([[0.6], [0.2], [0.0]]), 0.2)
    targets = conditional_mean_targets(surface, np.array([0.001, 0.003, 0.002]), TEMPERATURE)
    difference = KT * np.log(3) + TEMPERATURE * 0.002
    np.testing.assert_allclose(targets, [-difference / 4, 3 * difference / 4, np.nan])


def test_errors_say_what_is_wrong() -> None:
    random = np.random.default_rng(4)
    with pytest.raises(InputError, match="at least 3 beads, found 2"):
        internal_entropy(random.normal(size=(50, 2, 3)), np.zeros(50, dtype=int), None, 1)
    with pytest.raises(InputError, match=r"12 effective frames .* 4 beads .*11 frames in 3 bins"):
        internal_entropy(random.normal(size=(11, 4, 3)), np.zeros(11, dtype=int), None, 3)
