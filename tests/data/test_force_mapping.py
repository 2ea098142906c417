"""Force maps: validity, no net force, least noise, and the same mean force."""

import numpy as np
import openmm
import pytest

from cgfe.all_atom.batched import BatchedSystem, Dynamics
from cgfe.all_atom.system import HAIRPIN, alpha_carbons, implicit_solvent_system, peptide_from_pdb
from cgfe.data.force_mapping import CarbonAlphaMapping
from cgfe.errors import InputError
from cgfe.units import ANGSTROM_PER_NM, KCAL_PER_KJ

FRAMES = 1200
STEPS = 25
WALKERS = 16


@pytest.fixture(scope="module")
def trajectory() -> dict[str, np.ndarray]:
    """Real all-atom frames of folded chignolin: 16 walkers of 75 frames, 0.1 ps apart."""
    if not BatchedSystem.available():
        pytest.skip("needs a C++ compiler")
    peptide = peptide_from_pdb(HAIRPIN)
    system = implicit_solvent_system(peptide.topology)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("CPU")
    )
    context.setPositions(peptide.positions)
    openmm.LocalEnergyMinimizer.minimize(context, 10, 200)
    relaxed = context.getState(positions=True).getPositions(asNumpy=True)._value
    kernel = BatchedSystem(system)
    walkers = kernel.walkers(np.repeat(relaxed[None], WALKERS, axis=0))
    walkers.thermalise(np.arange(WALKERS, dtype=np.uint64), kernel.masses)
    kernel.evaluate(walkers)
    kernel.advance(walkers, Dynamics(1000, 0.004, 1.0))
    positions, forces = [], []
    for _ in range(FRAMES // WALKERS):
        kernel.advance(walkers, Dynamics(STEPS, 0.004, 1.0))
        positions.append(walkers.positions * ANGSTROM_PER_NM)
        forces.append(walkers.forces.astype(float) * KCAL_PER_KJ / ANGSTROM_PER_NM)
    constraints = [system.getConstraintParameters(i)[:2] for i in range(system.getNumConstraints())]
    return {
        "positions": np.concatenate(positions),
        "forces": np.concatenate(forces),
        "beads": np.array(alpha_carbons(peptide.topology)),
        "constraints": np.array(constraints),
    }


def fit(kind: str, data: dict[str, np.ndarray]) -> CarbonAlphaMapping:
    pairs = [(int(a), int(b)) for a, b in data["constraints"]]
    atoms = data["forces"].shape[1]
    # Fitted on the first half, so that what is measured on the second is no training error.
    return CarbonAlphaMapping.fit(
        kind, data["beads"].tolist(), atoms, pairs, data["forces"][: FRAMES // 2]
    )


@pytest.mark.parametrize("kind", ["slice", "constraint_aware", "optimal"])
def test_map_is_orthogonal_to_the_position_map(kind: str, trajectory: dict) -> None:
    mapping = fit(kind, trajectory)
    pick = np.zeros((10, trajectory["forces"].shape[1]))
    pick[np.arange(10), trajectory["beads"]] = 1
    np.testing.assert_allclose(mapping.coefficients @ pick.T, np.eye(10), atol=1e-12)


@pytest.mark.parametrize("kind", ["constraint_aware", "optimal"])
def test_constrained_atoms_share_their_coefficient(kind: str, trajectory: dict) -> None:
    coefficients = fit(kind, trajectory).coefficients
    first, second = trajectory["constraints"].T
    np.testing.assert_allclose(coefficients[:, first], coefficients[:, second], atol=1e-12)


@pytest.mark.parametrize("kind", ["slice", "constraint_aware", "optimal"])
def test_mapped_forces_have_no_net_force(kind: str, trajectory: dict) -> None:
    mapped = fit(kind, trajectory).map_forces(trajectory["forces"])
    # The all-atom forces come in single precision; their own sum is that far from zero.
    rounding = np.abs(trajectory["forces"].sum(axis=1)).max() + 1e-9
    assert np.abs(mapped.sum(axis=1)).max() < 2 * rounding
    assert rounding < 1e-2 < np.abs(mapped).max()


def test_optimal_map_has_the_least_mean_square_on_frames_not_fitted(trajectory: dict) -> None:
    square = {
        kind: (fit(kind, trajectory).map_forces(trajectory["forces"][FRAMES // 2 :]) ** 2).mean()
        for kind in ("slice", "constraint_aware", "optimal")
    }
    assert square["optimal"] < 0.5 * square["constraint_aware"] < square["slice"]


def test_valid_maps_agree_in_the_mean_force_along_the_bonds(trajectory: dict) -> None:
    """E[F·g(R)] is the same for every valid map; here g is a bond's unit vector.

    The error of the difference is taken from block averages, so its own correlation in time is
    in it. The slice map ignores the Cα-H constraint and is not valid.
    """
    beads = trajectory["positions"][:, trajectory["beads"]]
    bond = np.diff(beads, axis=1)
    bond /= np.linalg.norm(bond, axis=-1, keepdims=True)
    along = {}
    for kind in ("constraint_aware", "optimal"):
        mapped = fit(kind, trajectory).map_forces(trajectory["forces"])
        along[kind] = (np.diff(mapped, axis=1) * bond).sum(-1) / 2
    difference = along["optimal"] - along["constraint_aware"]
    blocks = difference.reshape(20, -1, 9).mean(axis=1)
    error = blocks.std(axis=0, ddof=1) / np.sqrt(len(blocks))
    # Nine bonds: 4 standard errors of a t distribution with 19 degrees fail by chance in 0.7 %.
    assert (np.abs(blocks.mean(axis=0)) < 4 * error).all()
    assert (error < 0.1 * along["constraint_aware"].std(axis=0)).all()


def test_unknown_map_and_missing_forces_are_refused() -> None:
    with pytest.raises(InputError, match="force map 'mean' is unknown"):
        CarbonAlphaMapping.fit("mean", [0], 2, [])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="needs all-atom forces"):
        CarbonAlphaMapping.fit("optimal", [0], 2, [])
