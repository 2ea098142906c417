"""The batched kernel against OpenMM's Reference platform, and its statistics."""

import ctypes
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import openmm
import pytest
from openmm import unit
from scipy.stats import norm

from cgfe.all_atom.batched import (
    BOLTZMANN_KJ,
    TERMS,
    BatchedSystem,
    Dynamics,
    Walkers,
)
from cgfe.all_atom.parameters import NEAR_RATIO, UnsupportedSystem, least_relative_error
from cgfe.all_atom.system import (
    HAIRPIN,
    Peptide,
    alpha_carbons,
    implicit_solvent_system,
    peptide_from_pdb,
    peptide_from_sequence,
)
from cgfe.errors import InputError
from cgfe.geometry import rmsd

FORCES = {
    "bonds": "HarmonicBondForce",
    "angles": "HarmonicAngleForce",
    "torsions": "PeriodicTorsionForce",
    "pairs": "NonbondedForce",
    "solvent": "GBSAOBCForce",
}
INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "native": (),
    "avx2": ("-march=x86-64-v3",),
    "sse": ("-march=x86-64-v2",),
}
PEPTIDES = {
    "chignolin": lambda: peptide_from_pdb(HAIRPIN),
    "chignolin, unfolded": lambda: peptide_from_sequence("YYDPETGTWY"),
    "helix": lambda: peptide_from_sequence("AAQAAAAQAAAAQAA", caps=True, helix=True),
    # peptide_from_sequence("ACDEFGHIKLMNPQRSTVWY"), whose hydrogens take long to place.
    "all residues": lambda: peptide_from_pdb(Path(__file__).parent / "all_residues.pdb"),
    "small": lambda: peptide_from_sequence("GAG"),
}

pytestmark = pytest.mark.skipif(not BatchedSystem.available(), reason="needs a C++ compiler")


@cache
def peptide(name: str) -> Peptide:
    return PEPTIDES[name]()


@cache
def system_of(name: str) -> openmm.System:
    return implicit_solvent_system(peptide(name).topology)


def relaxed(name: str, count: int, seed: int = 0) -> tuple[BatchedSystem, Walkers]:
    """Walkers at 300 K, 4 ps after the minimised start."""
    batched = BatchedSystem(system_of(name))
    context = _context(name, "CPU")
    context.setPositions(peptide(name).positions)
    openmm.LocalEnergyMinimizer.minimize(context, maxIterations=200)
    start = context.getState(positions=True).getPositions(asNumpy=True)._value
    walkers = batched.walkers(np.repeat(start[None], count, axis=0))
    walkers.seed(np.arange(count) + 1000 * seed)
    walkers.thermalise(np.arange(count) + 1000 * seed, batched.masses)
    batched.evaluate(walkers)
    batched.advance(walkers, Dynamics(2000, 0.001, 5.0))
    batched.advance(walkers, Dynamics(500, 0.004, 1.0))
    return batched, walkers


@cache
def frames(name: str) -> np.ndarray:
    """Frames at 300 K and at 700 K, melting and melted (nm)."""
    batched, walkers = relaxed(name, 4)
    found = [np.array(walkers.positions)]
    walkers.temperatures = np.full(4, 700.0)
    for _ in range(3):
        batched.advance(walkers, Dynamics(1500, 0.003, 1.0))
        found.append(np.array(walkers.positions))
    return np.concatenate(found)


def _context(name: str, platform: str = "Reference") -> openmm.Context:
    system = system_of(name)
    for force in system.getForces():
        kind = type(force).__name__
        force.setForceGroup(list(FORCES.values()).index(kind) if kind in FORCES.values() else 31)
    return openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName(platform)
    )


@pytest.mark.parametrize("instructions", list(INSTRUCTIONS))
@pytest.mark.parametrize("name", ["chignolin", "chignolin, unfolded", "helix", "all residues"])
def test_forces_and_energies_are_those_of_the_reference_platform(
    name: str, instructions: str
) -> None:
    positions = frames(name)
    batched = BatchedSystem(system_of(name), options=INSTRUCTIONS[instructions])
    walkers = batched.walkers(positions)
    batched.evaluate(walkers)
    context = _context(name)
    for walker, place in enumerate(positions.astype(float)):
        context.setPositions(place)
        exact = context.getState(forces=True).getForces(asNumpy=True)._value
        error = np.linalg.norm(walkers.forces[walker] - exact) / np.linalg.norm(exact)
        assert error < 1e-5
        for group, term in enumerate(TERMS):
            energy = context.getState(energy=True, groups={group}).getPotentialEnergy()._value
            found = walkers.energy_terms[walker, group]
            # 0.01 kJ/mol is 0.004 kT; sums of thousands of terms in float32 leave that.
            assert found == pytest.approx(energy, rel=1e-5, abs=0.01), term
        energy = context.getState(energy=True, groups=set(range(len(TERMS)))).getPotentialEnergy()
        assert walkers.energies[walker] == pytest.approx(energy._value, rel=1e-5, abs=0.03)


def test_helix_frames_are_of_a_helix_that_melts() -> None:
    """From bead i to i + 4 an α-helix has 6.2 Å, an extended chain 13 Å."""
    beads = 10 * frames("helix")[:, alpha_carbons(peptide("helix").topology)]
    turns = np.linalg.norm(beads[:, 4:] - beads[:, :-4], axis=-1).mean(axis=1)
    assert turns[:4].max() < 7.5, turns
    assert turns[-4:].mean() > turns[:4].mean() + 0.5, turns


def test_chignolins_frames_are_folded_and_unfolded() -> None:
    beads = alpha_carbons(peptide("chignolin").topology)
    native = peptide("chignolin").positions[beads] * 10
    found = [
        rmsd(frames(name)[:4, beads] * 10, native) for name in ("chignolin", "chignolin, unfolded")
    ]
    assert found[0].max() < 2
    assert found[1].min() > 4


def test_lanes_are_those_of_the_instructions() -> None:
    import platform

    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("names instructions of x86-64")
    lanes = [
        BatchedSystem(system_of("small"), options=INSTRUCTIONS[kind]).lanes
        for kind in ("avx2", "sse")
    ]
    assert lanes == [8, 4]


def test_another_compiler_gives_the_same_forces(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if shutil.which("clang++") is None:
        pytest.skip("needs clang++")
    from cgfe import native

    _, walkers = relaxed("small", 3)
    expected = np.array(walkers.forces)
    monkeypatch.setenv("CXX", "clang++")
    native._compiler.cache_clear()
    try:
        other = BatchedSystem(system_of("small"), options=("-O2",))
    finally:
        native._compiler.cache_clear()
    again = other.walkers(walkers.positions)
    other.evaluate(again)
    np.testing.assert_allclose(again.forces, expected, rtol=1e-4, atol=0.05)


@pytest.mark.parametrize("time_step", [0.001, 0.004])
def test_trajectory_without_friction_is_openmms(time_step: float) -> None:
    batched, walkers = relaxed("chignolin", 2)
    start = np.array(walkers.positions, dtype=float), np.array(walkers.velocities, dtype=float)
    integrator = openmm.LangevinMiddleIntegrator(300, 0.0, time_step)
    integrator.setConstraintTolerance(1e-9)
    context = openmm.Context(
        system_of("chignolin"), integrator, openmm.Platform.getPlatformByName("Reference")
    )
    steps = []
    for _ in range(50):
        batched.advance(walkers, Dynamics(1, time_step, 0.0))
        steps.append((np.array(walkers.positions), np.array(walkers.velocities)))
    for walker in range(2):
        context.setPositions(start[0][walker])
        context.setVelocities(start[1][walker])
        for number, (positions, velocities) in enumerate(steps):
            integrator.step(1)
            state = context.getState(positions=True, velocities=True)
            expected = state.getPositions(asNumpy=True)._value
            moved = np.abs(expected - start[0][walker]).max()
            # Places of about 1 nm are rounded to 6e-8 nm each, which is much of a first step.
            assert np.abs(positions[walker] - expected).max() < 1e-4 * moved + 2e-7, number
            expected = state.getVelocities(asNumpy=True)._value
            assert np.abs(velocities[walker] - expected).max() < 5e-3, number


def test_energy_is_conserved_to_the_square_of_the_time_step() -> None:
    """Fluctuations of the total energy, at half steps' velocities, fall as dt²."""
    batched, walkers = relaxed("chignolin", 64)
    start = np.array(walkers.positions), np.array(walkers.velocities)
    spread = []
    for time_step in (0.0005, 0.001, 0.002):
        walkers.positions, walkers.velocities = start
        batched.evaluate(walkers)
        total = []
        for _ in range(40):
            before = np.array(walkers.velocities, dtype=float)
            potential = walkers.energies
            batched.advance(walkers, Dynamics(1, time_step, 0.0))
            after = np.array(walkers.velocities, dtype=float)
            # The kick lies between, so that their product is the energy at the positions.
            kinetic = 0.5 * (batched.masses[:, None] * before * after).sum(axis=(1, 2))
            total.append(potential + kinetic)
            batched.advance(walkers, Dynamics(round(0.008 / time_step), time_step, 0.0))
        spread.append(np.std(total, axis=0).mean())
    ratios = np.array(spread[1:]) / spread[:-1]
    # By a bootstrap over the 64 walkers the ratios are known to 3.5 %.
    np.testing.assert_allclose(ratios, 4.0, rtol=0.16)


def test_temperature_constraints_and_equipartition() -> None:
    batched, walkers = relaxed("chignolin", 32)
    walkers.temperatures = np.repeat([300.0, 400.0], 16)
    batched.advance(walkers, Dynamics(3000, 0.004, 5.0))
    system = system_of("chignolin")
    pairs = [system.getConstraintParameters(i) for i in range(system.getNumConstraints())]
    elements = [atom.element.symbol for atom in peptide("chignolin").topology.atoms()]
    # The hydrogen of a pair last.
    ordered = [sorted(pair[:2], key=lambda atom: elements[atom] == "H") for pair in pairs]
    one, two = np.array(ordered).T
    lengths = np.array([pair[2]._value for pair in pairs])
    heavy = np.flatnonzero(~np.isin(np.arange(batched.atoms), np.concatenate([one, two])))
    held = np.bincount(one, minlength=batched.atoms)
    # An atom and the hydrogens that it holds, of each element and number of them.
    kinds: dict[str, list[list[int]]] = {}
    for atom in np.unique(one):
        kind = f"{elements[atom]}H{held[atom]}"
        kinds.setdefault(kind, []).append([atom, *two[one == atom]])
    assert kinds.keys() == {"CH1", "CH2", "CH3", "NH1", "NH3", "OH1"}
    masses = batched.masses
    parts = {
        "all": (np.arange(batched.atoms), 3 * batched.atoms - len(pairs) - 3),
        "held by none and holding none": (heavy, 3 * len(heavy)),
        # Of one atom and k held ones there are 3 (k + 1) - k degrees of freedom.
        **{
            kind: (np.concatenate(groups), sum(2 * len(group) + 1 for group in groups))
            for kind, groups in kinds.items()
        },
    }
    found_of: dict[str, list[np.ndarray]] = {}
    for _ in range(60):
        batched.advance(walkers, Dynamics(100, 0.004, 5.0))
        square = masses[:, None] * np.array(walkers.velocities, dtype=float) ** 2
        for kind, (atoms, degrees) in parts.items():
            mean = square[:, atoms].sum(axis=(1, 2)) / degrees / BOLTZMANN_KJ
            found_of.setdefault(kind, []).append(mean)
        places = np.array(walkers.positions, dtype=float)
        found = np.linalg.norm(places[:, one] - places[:, two], axis=-1)
        # Places of about 1 nm are rounded to 6e-8 nm each.
        assert np.abs(found - lengths).max() < 5e-7
    for kind, (_, count) in parts.items():
        for target, walker in ((300.0, slice(0, 16)), (400.0, slice(16, 32))):
            # Friction decorrelates velocities within 0.2 ps, so frames 0.4 ps apart are nearly
            # independent; each has a relative spread of √(2 / degrees of freedom). At 4 fs the
            # velocities of LangevinMiddle are right to second order only: 1 % beside.
            error = target * np.sqrt(2 / count / (16 * 60)) * 1.5
            mean = np.mean(np.array(found_of[kind])[:, walker])
            assert mean == pytest.approx(target, abs=4 * error + 0.01 * target), kind


def test_pieces_and_threads_do_not_change_a_bit() -> None:
    batched, walkers = relaxed("small", 37)
    start = [np.array(getattr(walkers, key)) for key in ("positions", "velocities")]

    def run(pieces: list[int], threads: int) -> np.ndarray:
        again = batched.walkers(start[0])
        again.velocities = start[1]
        again.seed(np.arange(37))
        batched.evaluate(again, threads)
        for steps in pieces:
            batched.advance(again, Dynamics(steps, 0.004, 1.0), threads)
        return np.concatenate([again.positions, again.velocities])

    whole = run([300], 1)
    np.testing.assert_array_equal(run([100, 1, 199], 2), whole)
    np.testing.assert_array_equal(run([300], 3), whole)


def test_walkers_have_numbers_of_their_own() -> None:
    batched, walkers = relaxed("small", 16)
    batched.advance(walkers, Dynamics(500, 0.004, 1.0))
    noise = np.array(walkers.velocities, dtype=float)
    flat = noise.reshape(16, -1)
    correlation = np.corrcoef(flat)[np.triu_indices(16, 1)]
    # 120 coefficients of about 3 · 31 numbers each: the largest of pure chance.
    bound = norm.isf(1e-3 / 240) / np.sqrt(flat.shape[1] - 40)
    assert np.abs(correlation).max() < bound


def test_noise_is_normal_and_uncorrelated() -> None:
    batched = BatchedSystem(system_of("small"))
    lanes, count = batched.lanes, 40_000
    walkers = batched.walkers(np.repeat(peptide("small").positions[None], lanes, axis=0))
    random = walkers._arrays["random"]
    numbers = np.zeros(count * 2 * lanes + 16, dtype=np.float32)
    offset = (-numbers.ctypes.data % 64) // 4
    addresses = [ctypes.c_void_p(array.ctypes.data) for array in (random, numbers[offset:])]
    batched._kernel.peptide_normals(addresses[0], count, addresses[1])
    values = numbers[offset : offset + count * 2 * lanes].reshape(count, 2, lanes).astype(float)
    n = values.size
    for power, expected, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert (values**power).mean() == pytest.approx(expected, abs=4.5 * np.sqrt(spread / n))
    flat = values.reshape(-1, lanes)
    between = np.corrcoef(flat.T)[np.triu_indices(lanes, 1)]
    assert np.abs(between).max() < norm.isf(1e-4 / lanes**2) / np.sqrt(len(flat))
    assert abs(np.corrcoef(flat[1:, 0], flat[:-1, 0])[0, 1]) < 4.5 / np.sqrt(len(flat))
    tail = (np.abs(values) > 3).sum()
    chance = n * 2 * norm.sf(3)
    assert tail == pytest.approx(chance, abs=4.5 * np.sqrt(chance))


def test_fixed_atoms_keep_their_place_and_forces_are_averaged() -> None:
    name = "small"
    fixed = [atom.index for atom in peptide(name).topology.atoms() if atom.name == "CA"]
    _, start = relaxed(name, 5)
    batched = BatchedSystem(system_of(name), fixed)
    walkers = batched.walkers(start.positions)
    walkers.thermalise(np.arange(5), batched.masses)
    batched.evaluate(walkers)
    before = np.array(walkers.positions)
    sums = np.zeros(before.shape)
    for _ in range(4):
        batched.advance(walkers, Dynamics(3, 0.002, 1.0, average_every=3))
        sums += walkers.forces
    np.testing.assert_array_equal(walkers.positions[:, fixed], before[:, fixed])
    free = np.setdiff1d(np.arange(batched.atoms), fixed)
    assert np.abs(walkers.positions - before)[:, free].max(axis=-1).min() > 0
    np.testing.assert_allclose(walkers.force_sums, sums, rtol=1e-6, atol=1e-3)
    with pytest.raises(InputError, match="fixed atom 999 does not exist; the system has"):
        BatchedSystem(system_of(name), [999])


def test_mean_energy_is_that_of_openmm() -> None:
    """Of a small peptide, sampled by both at the same time step."""
    batched, walkers = relaxed("small", 32, seed=7)
    energies = []
    for _ in range(150):
        batched.advance(walkers, Dynamics(250, 0.004, 2.0))
        energies.append(walkers.energies)
    ours = np.array(energies)[20:]
    integrator = openmm.LangevinMiddleIntegrator(300, 2.0, 0.004)
    integrator.setRandomNumberSeed(5)
    context = openmm.Context(
        system_of("small"), integrator, openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(walkers.positions[0].astype(float))
    context.setVelocitiesToTemperature(300, 3)
    theirs = []
    for _ in range(600):
        integrator.step(100)
        theirs.append(context.getState(energy=True).getPotentialEnergy()._value)
    # Blocks of 8 ps and whole walkers are independent: energies decorrelate within a few ps.
    blocks = np.reshape(theirs, (-1, 20)).mean(axis=1)
    of_walkers = ours.mean(axis=0)
    error = np.hypot(
        blocks.std(ddof=1) / np.sqrt(len(blocks)), of_walkers.std(ddof=1) / np.sqrt(32)
    )
    assert of_walkers.mean() - blocks.mean() == pytest.approx(0, abs=4 * error)


def unsupported() -> Iterator[tuple[openmm.System, str]]:
    def fresh() -> openmm.System:
        return implicit_solvent_system(peptide("small").topology)

    def force(system: openmm.System, kind: str) -> openmm.Force:
        return next(f for f in system.getForces() if type(f).__name__ == kind)

    system = fresh()
    system.addForce(openmm.CMAPTorsionForce())
    yield system, "does not know the system's CMAPTorsionForce"
    system = implicit_solvent_system(peptide("small").topology, native=False)
    yield system, "does not know the system's CustomGBForce"
    system = fresh()
    force(system, "NonbondedForce").setNonbondedMethod(openmm.NonbondedForce.CutoffPeriodic)
    yield system, "NonbondedForce without cutoff only"
    system = fresh()
    force(system, "HarmonicBondForce").setUsesPeriodicBoundaryConditions(True)
    yield system, "no periodic box"
    system = fresh()
    force(system, "PeriodicTorsionForce").addTorsion(0, 1, 2, 3, 2, 1.0, 3.0)
    yield system, "torsion phases 0 and 180 degrees .* 57.3 degrees, 2 fold"
    system = fresh()
    one, two, _ = system.getConstraintParameters(0)
    other = next(
        pair[1 - k]
        for pair in (system.getConstraintParameters(i)[:2] for i in range(1, 9))
        for k in (0, 1)
        if pair[k] not in (one, two)
    )
    system.addConstraint(min(one, two), other, 0.3)
    yield system, "no rings or chains of them"
    system = fresh()
    system.setParticleMass(3, 0.0)
    yield system, "no virtual sites or massless atoms"
    system = fresh()
    for index, candidate in enumerate(system.getForces()):
        if type(candidate).__name__ == "GBSAOBCForce":
            system.removeForce(index)
            break
    yield system, "exactly one GBSAOBCForce, the system has 0"


def test_what_the_kernel_does_not_know_is_named() -> None:
    count = 0
    for system, message in unsupported():
        with pytest.raises(UnsupportedSystem, match=message):
            BatchedSystem(system)
        count += 1
    assert count == 8


def test_system_that_is_not_amber_still_agrees() -> None:
    """Bonds between heavy atoms, 4-fold torsions, an exception and a single free atom."""
    system = openmm.System()
    for mass in (12.0, 14.0, 16.0, 12.0, 4.0, 40.0):
        system.addParticle(mass)
    bonds, angles = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce()
    torsions, nonbonded = openmm.PeriodicTorsionForce(), openmm.NonbondedForce()
    solvent = openmm.GBSAOBCForce()
    for i in range(3):
        bonds.addBond(i, i + 1, 0.15, 1000.0)
    for i in range(2):
        angles.addAngle(i, i + 1, i + 2, 1.9, 300.0)
    torsions.addTorsion(0, 1, 2, 3, 4, np.pi, 3.0)
    torsions.addTorsion(3, 2, 1, 0, 6, 0.0, 1.5)
    system.addConstraint(3, 4, 0.11)
    for i, charge in enumerate((0.4, -0.3, 0.2, -0.5, 0.2, 0.0)):
        nonbonded.addParticle(charge, 0.3, 0.4)
        solvent.addParticle(charge, 0.12 + 0.015 * i, 0.8)
    nonbonded.addException(0, 1, 0.01, 0.25, 0.2)
    for force in (bonds, angles, torsions, nonbonded, solvent):
        system.addForce(force)
    places = np.array(
        [[0, 0, 0], [0.3, 0, 0], [0.4, 0.3, 0], [0.42, 0.5, 0.2], [0.44, 0.5, 0.31], [1, 1, 1.0]]
    )
    batched = BatchedSystem(system)
    walkers = batched.walkers(places[None])
    batched.evaluate(walkers)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(places)
    state = context.getState(energy=True, forces=True)
    exact = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    np.testing.assert_allclose(walkers.forces[0], exact, rtol=1e-5, atol=2e-3)
    assert walkers.energies[0] == pytest.approx(state.getPotentialEnergy()._value, rel=1e-5)


def test_series_are_near_their_functions() -> None:
    k = np.arange(1, 60)
    weights = 2 * k / (2 * k + 1)
    most = 1 / NEAR_RATIO**2
    fit = least_relative_error(weights, most, 5)
    y = np.linspace(0, most, 500)
    exact = np.polynomial.polynomial.polyval(y, weights)
    assert np.abs(np.polynomial.polynomial.polyval(y, fit) / exact - 1).max() < 4e-6
