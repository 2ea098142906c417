"""The prior's terms: known parameters recovered, geometry, robustness, saving, bad input."""

from collections.abc import Callable

import mdtraj
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from cgfe.errors import InputError
from cgfe.model.prior import PriorEnergy, bond_graph_paths
from cgfe.model.prior_terms import (
    LARGEST_CONTACT_DISTANCE,
    FourierDihedrals,
    HarmonicAngles,
    HarmonicBonds,
    Repulsion,
    dihedral_angles,
)
from cgfe.units import thermal_energy

TEMPERATURE = 300.0
KT = thermal_energy(TEMPERATURE)
BLOCKS = 20
CHAIN_BONDS = np.stack([np.arange(5), np.arange(1, 6)], axis=1)


def build_chain(lengths, cosines, dihedrals):
    """Place beads (F, N, 3) with the given bonds (F, N-1), cos θ (F, N-2) and φ (F, N-3)."""
    frames, bonds = lengths.shape
    positions = np.zeros((frames, bonds + 1, 3))
    positions[:, 1, 0] = lengths[:, 0]
    sines = np.sqrt(1 - cosines**2)
    direction = np.stack([-cosines[:, 0], sines[:, 0], np.zeros(frames)], axis=1)
    positions[:, 2] = positions[:, 1] + lengths[:, 1:2] * direction
    for k in range(3, bonds + 1):
        before = positions[:, k - 2] - positions[:, k - 3]
        axis = positions[:, k - 1] - positions[:, k - 2]
        axis /= np.linalg.norm(axis, axis=1, keepdims=True)
        normal = np.cross(before, axis)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        angle = dihedrals[:, k - 3, None]
        across = np.cos(angle) * np.cross(normal, axis) + np.sin(angle) * normal
        step = -cosines[:, k - 2, None] * axis + sines[:, k - 2, None] * across
        positions[:, k] = positions[:, k - 1] + lengths[:, k - 1, None] * step
    return positions


def random_chain(frames: int, seed: int):
    """Return six-bead chains with a right-handed twist."""
    random = np.random.default_rng(seed)
    return build_chain(
        random.normal(3.8, 0.1, (frames, 5)),
        random.normal(-0.2, 0.15, (frames, 4)).clip(-0.9, 0.9),
        random.normal(0.9, 0.3, (frames, 3)),
    )


def draw(log_density: Callable, low: float, high: float, weighted: bool, random, count: int):
    """Draw from exp(log_density) on [low, high]: directly, or evenly and with weights."""
    if weighted:
        values = random.uniform(low, high, count)
        return values, np.exp(log_density(values))
    grid = np.linspace(low, high, 20_001)
    cumulative = np.cumsum(np.exp(log_density(grid)))
    return np.interp(random.random(count), cumulative / cumulative[-1], grid), None


def fit_in_blocks(term, positions, index, weights) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return each parameter's mean over independent blocks and the error of that mean."""
    fits = [
        term.fit(positions[block], index, TEMPERATURE, None if weights is None else weights[block])
        for block in np.array_split(np.arange(len(positions)), BLOCKS)
    ]
    result = {}
    for name in term.parameter_names:
        values = np.stack([getattr(fit, name).numpy() for fit in fits])
        result[name] = values.mean(0), values.std(0, ddof=1) / BLOCKS**0.5
    return result


def assert_recovered(found, centre: float, stiffness: float) -> None:
    """Each parameter within four standard errors plus the bias of a nonlinear estimate.

    A block's error is √BLOCKS times that of the mean of blocks, and a smooth function of
    averages is biased by its block's squared error relative to its own size.
    """
    for name, truth in (("centre", centre), ("stiffness", stiffness)):
        mean, error = found[name][0][0], found[name][1][0]
        assert error < 0.02 * abs(truth)
        assert abs(mean - truth) < 4 * error + BLOCKS * error**2 / abs(truth)


@pytest.mark.parametrize("weighted", [False, True])
def test_bond_fit_recovers_a_spring(weighted):
    # A soft spring, so that the volume element r² shifts the mean length by 0.14 Å.
    centre, stiffness = 4.0, 2.0
    random = np.random.default_rng(1)
    lengths, weights = draw(
        lambda r: 2 * np.log(r) - stiffness * (r - centre) ** 2 / (2 * KT),
        1.5,
        6.5,
        weighted,
        random,
        40_000,
    )
    assert np.average(lengths, weights=weights) > centre + 0.1  # plain moments would be wrong
    directions = random.normal(size=(len(lengths), 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    positions = np.stack([directions, (1 + lengths[:, None]) * directions], axis=1)
    found = fit_in_blocks(HarmonicBonds, positions, np.array([[0, 1]]), weights)
    assert_recovered(found, centre, stiffness)


@pytest.mark.parametrize("weighted", [False, True])
def test_angle_fit_recovers_a_spring_in_the_cosine(weighted):
    # The ends of cos θ are four widths away; what lies beyond is 1e-3 of the variance. With
    # the volume element sin θ left in, the centre would be off by 0.008.
    centre, stiffness = -0.2, KT / 0.2**2
    random = np.random.default_rng(2)
    cosines, weights = draw(
        lambda c: -stiffness * (c - centre) ** 2 / (2 * KT), -1, 1, weighted, random, 40_000
    )
    lengths = random.uniform(3, 4, (len(cosines), 2))
    positions = build_chain(lengths, cosines[:, None], np.zeros((len(cosines), 0)))
    found = fit_in_blocks(HarmonicAngles, positions, np.array([[0, 1, 2]]), weights)
    assert_recovered(found, centre, stiffness)


@pytest.mark.parametrize("weighted", [False, True])
def test_dihedral_fit_recovers_a_fourier_series(weighted):
    cosine, sine = np.array([0.4, -0.3, 0.2]), np.array([-0.5, 0.1, 0.15])

    def log_density(angle):
        phases = np.multiply.outer(angle, np.arange(1, 4))
        return -(np.cos(phases) @ cosine + np.sin(phases) @ sine) / KT

    random = np.random.default_rng(3)
    angles, weights = draw(log_density, -np.pi, np.pi, weighted, random, 100_000)
    count = len(angles)
    positions = build_chain(
        np.full((count, 3), 3.8), random.uniform(-0.5, 0.5, (count, 2)), angles[:, None]
    )
    fit = FourierDihedrals.fit(positions, np.array([[0, 1, 2, 3]]), TEMPERATURE, weights)
    # -kT ln n of a bin has a variance of at most kT²/n with n the thinnest bin's effective
    # count, and the projection on cos mφ averages 72/2 bins. The pseudo-count's bias in a bin
    # is below kT/n.
    shares = np.full(count, 1 / count) if weights is None else weights / weights.sum()
    density, _ = np.histogram(angles, bins=72, range=(-np.pi, np.pi), weights=shares)
    thinnest = density.min() / (shares**2).sum()
    tolerance = 4 * KT * np.sqrt(2 / 72 / thinnest) + 2 * KT / thinnest
    assert tolerance < 0.08
    assert np.abs(fit.cosine.numpy()[0] - cosine).max() < tolerance
    assert np.abs(fit.sine.numpy()[0] - sine).max() < tolerance


def test_repulsion_marks_the_closest_distances():
    random = np.random.default_rng(4)
    # One distance even on 4 to 5 Å, and a pair that never comes near.
    positions = np.zeros((50_000, 3, 3))
    positions[:, 1, 0] = random.uniform(4, 5, 50_000)
    positions[:, 2, 1] = random.uniform(20, 21, 50_000)
    index = np.array([[0, 1], [0, 2]])
    fit = Repulsion.fit(positions, index, TEMPERATURE)
    # In truth the 0.1 % quantile is 4.001 Å; 50 frames are below that, with an error of √50.
    assert abs(fit.contact_distance[0].item() - 4.001) < 5 * 50**0.5 / 50_000
    assert fit.contact_distance[1].item() == LARGEST_CONTACT_DISTANCE
    assert torch.allclose(fit.potential(fit.contact_distance), torch.ones(2))
    assert torch.allclose(fit.potential(2 * fit.contact_distance), torch.full((2,), 2.0**-6))
    # With all the weight on frames beyond 4.5 Å, σ moves there.
    weights = (positions[:, 1, 0] > 4.5).astype(float)
    moved = Repulsion.fit(positions, index, TEMPERATURE, weights)
    assert 4.5 < moved.contact_distance[0].item() < 4.51


def test_dihedral_angles_agree_with_mdtraj():
    positions = np.random.default_rng(5).normal(size=(50, 6, 3))
    index = bond_graph_paths(CHAIN_BONDS, 6)["dihedrals"]
    expected = mdtraj.compute_dihedrals(mdtraj.Trajectory(positions / 10, None), index)
    found = dihedral_angles(torch.from_numpy(positions), torch.from_numpy(index)).numpy()
    difference = np.abs(np.angle(np.exp(1j * (found - expected))))
    assert difference.max() < 1e-3  # mdtraj computes in single precision


def test_gradients_of_every_term():
    prior = PriorEnergy.fit(random_chain(500, 6), CHAIN_BONDS, TEMPERATURE).double()
    positions = torch.from_numpy(random_chain(2, 7)).requires_grad_()
    energies = prior.term_energies(positions)
    assert set(energies) == {"bonds", "angles", "dihedrals", "repulsion"}
    assert torch.allclose(prior(positions), torch.stack(list(energies.values())).sum(0))
    for term in prior.terms.values():
        assert torch.autograd.gradcheck(term, positions)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_energy_is_invariant_under_motion_but_not_under_reflection(seed):
    prior = PriorEnergy.fit(random_chain(500, 6), CHAIN_BONDS, TEMPERATURE).double()
    positions = random_chain(4, seed)
    rotation = Rotation.random(random_state=seed).as_matrix()
    moved = positions @ rotation.T + np.random.default_rng(seed).normal(size=3)
    original = prior.term_energies(torch.from_numpy(positions))
    mirrored = prior.term_energies(torch.from_numpy(positions * [1, 1, -1]))
    for name, energy in prior.term_energies(torch.from_numpy(moved)).items():
        assert torch.allclose(energy, original[name], atol=1e-8)
        if name != "dihedrals":
            assert torch.allclose(mirrored[name], original[name])
    # On average: a single dihedral may stray over to the other hand.
    assert mirrored["dihedrals"].mean() > original["dihedrals"].mean() + 0.5


def test_single_precision_gradients_are_finite_at_degenerate_geometries():
    prior = PriorEnergy.fit(random_chain(500, 6), CHAIN_BONDS, TEMPERATURE)
    lengths, cosines, eclipsed = np.full((1, 5), 3.8), np.full((1, 4), -0.2), np.zeros((1, 3))
    geometries = [
        build_chain(lengths, cosines, eclipsed)[0],
        build_chain(lengths, cosines, eclipsed + np.pi)[0],
        build_chain(lengths * 1e-3, cosines, eclipsed)[0],
        np.arange(6)[:, None] * np.array([3.8, 0, 0]),  # collinear
        np.zeros((6, 3)),  # coincident
    ]
    positions = torch.tensor(np.stack(geometries), dtype=torch.float32).requires_grad_()
    energy = prior(positions)
    (gradient,) = torch.autograd.grad(energy.sum(), positions)
    assert energy.isfinite().all()
    assert gradient.isfinite().all()


def from_smaller_end(array: np.ndarray) -> list[tuple[int, ...]]:
    """Return the paths, sorted, each in the direction that starts at its smaller end."""
    return sorted(tuple(min(row, row[::-1])) for row in array.tolist())


@pytest.mark.parametrize(
    ("bonds", "beads", "expected"),
    [
        (
            [(1, 0), (1, 2), (2, 3), (3, 4), (0, 1)],  # a chain, one bond given twice
            5,
            {
                "bonds": [(0, 1), (1, 2), (2, 3), (3, 4)],
                "angles": [(0, 1, 2), (1, 2, 3), (2, 3, 4)],
                "dihedrals": [(0, 1, 2, 3), (1, 2, 3, 4)],
                "repulsion": [(0, 3), (0, 4), (1, 4)],
            },
        ),
        (
            [(0, 1), (0, 2), (0, 3), (3, 4)],  # a branch
            5,
            {
                "bonds": [(0, 1), (0, 2), (0, 3), (3, 4)],
                "angles": [(0, 3, 4), (1, 0, 2), (1, 0, 3), (2, 0, 3)],
                "dihedrals": [(1, 0, 3, 4), (2, 0, 3, 4)],
                "repulsion": [(1, 4), (2, 4)],
            },
        ),
        (
            [(0, 1), (2, 3)],  # two chains
            4,
            {
                "bonds": [(0, 1), (2, 3)],
                "angles": [],
                "dihedrals": [],
                "repulsion": [(0, 2), (0, 3), (1, 2), (1, 3)],
            },
        ),
        (
            [(0, 1), (1, 2), (2, 0)],  # a ring
            3,
            {
                "bonds": [(0, 1), (0, 2), (1, 2)],
                "angles": [(0, 1, 2), (0, 2, 1), (1, 0, 2)],
                "dihedrals": [],
                "repulsion": [],
            },
        ),
    ],
)
def test_bond_graph_paths(bonds, beads, expected):
    paths = bond_graph_paths(np.array(bonds), beads)
    assert {name: from_smaller_end(array) for name, array in paths.items()} == expected


def test_two_chains_get_a_prior_without_angles():
    positions = np.random.default_rng(8).normal(0, 5, (200, 4, 3))
    prior = PriorEnergy.fit(positions, np.array([[0, 1], [2, 3]]), TEMPERATURE)
    assert set(prior.terms) == {"bonds", "repulsion"}
    assert prior(torch.from_numpy(positions[:7])).shape == (7,)


def test_arrays_rebuild_the_same_prior(tmp_path):
    positions = random_chain(500, 9)
    prior = PriorEnergy.fit(positions, CHAIN_BONDS, TEMPERATURE)
    np.savez(tmp_path / "prior.npz", **prior.to_arrays())
    with np.load(tmp_path / "prior.npz", allow_pickle=False) as stored:
        arrays = dict(stored)
    frames = torch.tensor(positions[:20], dtype=torch.float32)
    assert torch.equal(PriorEnergy.from_arrays(arrays)(frames), prior(frames))
    for broken in (
        {key: value for key, value in arrays.items() if key != "bonds.stiffness"},
        arrays | {"torsions.index": np.zeros((1, 4))},
        {},
    ):
        with pytest.raises(InputError, match="prior: found arrays"):
            PriorEnergy.from_arrays(broken)


def test_coordinates_that_do_not_vary_are_refused_with_the_term_named():
    frozen = np.repeat(random_chain(1, 10), 50, axis=0)
    with pytest.raises(InputError, match=r"HarmonicBonds.*stiffness of beads \[0, 1\].*must vary"):
        PriorEnergy.fit(frozen, CHAIN_BONDS, TEMPERATURE)
    scaled = frozen * np.random.default_rng(11).uniform(0.9, 1.1, (50, 1, 1))
    with pytest.raises(InputError, match=r"HarmonicAngles.*stiffness of beads \[0, 1, 2\]"):
        PriorEnergy.fit(scaled, CHAIN_BONDS, TEMPERATURE)


def test_unusable_frames_weights_and_bonds_are_refused():
    good = random_chain(100, 10)
    broken = good.copy()
    broken[3, 2, 1] = np.nan
    with pytest.raises(InputError, match="not finite"):
        PriorEnergy.fit(broken, CHAIN_BONDS, TEMPERATURE)
    with pytest.raises(InputError, match="expected \\(frames, beads, 3\\)"):
        PriorEnergy.fit(good[:0], CHAIN_BONDS, TEMPERATURE)
    for weights in (np.ones(99), -np.ones(100), np.zeros(100), np.full(100, np.nan)):
        with pytest.raises(InputError, match="weights"):
            PriorEnergy.fit(good, CHAIN_BONDS, TEMPERATURE, weights)
    for bonds in ([[0, 6]], [[2, 2]], [[-1, 0]]):
        with pytest.raises(InputError, match="bonds join beads"):
            PriorEnergy.fit(good, np.array(bonds), TEMPERATURE)
    with pytest.raises(InputError, match="no prior for 1 beads"):
        PriorEnergy.fit(good[:, :1], np.zeros((0, 2), dtype=int), TEMPERATURE)
