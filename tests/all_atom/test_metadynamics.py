"""Metadynamics in the batched kernel: its forces, a known double well, what a run leaves behind."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mdtraj
import numpy as np
import openmm
import pytest
from scipy.interpolate import CubicHermiteSpline
from scipy.stats import t as student

from cgfe.all_atom.batched import BOLTZMANN_KJ, BatchedSystem, Dynamics
from cgfe.all_atom.bias import BiasVariables, Metadynamics, bias_folder, bias_offset, table_path
from cgfe.all_atom.bias_table import BiasTable
from cgfe.all_atom.chunks import chunk_path, read_chunk, write_chunk
from cgfe.all_atom.ends import save_ends
from cgfe.all_atom.metadynamics import SharedHills
from cgfe.all_atom.sampler import SamplerConfig, sample
from cgfe.all_atom.system import HAIRPIN, peptide_from_pdb
from cgfe.data.embedded import EMBEDDED
from cgfe.data.frames import CGFrames
from cgfe.errors import InputError
from cgfe.units import ANGSTROM_PER_NM, KCAL_PER_KJ

pytestmark = pytest.mark.skipif(not BatchedSystem.available(), reason="needs a C++ compiler")

PEPTIDE = peptide_from_pdb(HAIRPIN)
KINDS = {
    "shape": lambda: BiasVariables.of(Metadynamics(), PEPTIDE.topology),
    "tics": lambda: BiasVariables.of(
        Metadynamics(tics=str(EMBEDDED["chignolin"])), PEPTIDE.topology
    ),
}


def free_atoms(count: int, mass: float = 12.0) -> openmm.System:
    """Atoms without any force between them."""
    system = openmm.System()
    nonbonded, solvent = openmm.NonbondedForce(), openmm.GBSAOBCForce()
    solvent.setSurfaceAreaEnergy(0.0)
    for _ in range(count):
        system.addParticle(mass)
        nonbonded.addParticle(0.0, 0.3, 0.0)
        solvent.addParticle(0.0, 0.15, 0.8)
    system.addForce(nonbonded)
    system.addForce(solvent)
    return system


def values_of(variables: BiasVariables, beads: np.ndarray) -> np.ndarray:
    """Return the variables (2,) of bead positions (B, 3) in nm, with an SVD for the RMSD."""
    first, second = beads[variables.pairs.T]
    values = np.linalg.norm(first - second, axis=1) @ variables.weights
    if len(variables.reference):
        target = variables.reference - variables.reference.mean(axis=0)
        centred = beads - beads.mean(axis=0)
        u, _, vt = np.linalg.svd(target.T @ centred)
        turn = u @ np.diag([1, 1, np.linalg.det(u) * np.linalg.det(vt)]) @ vt
        values[0] += np.sqrt(((target @ turn - centred) ** 2).sum() / len(beads))
    return values


def interpolated(table: BiasTable, values: np.ndarray) -> float:
    """Return the bias at a place by two of scipy's splines."""
    v = table.variables
    place = np.clip(values, v.lowest, v.highest)
    axes, near = [], []
    for low, high, count, value in zip(v.lowest, v.highest, v.points, place, strict=True):
        points = np.linspace(low, high, count)
        first = min(np.searchsorted(points, value, side="right") - 1, count - 2)
        near.append(slice(first, first + 2))
        axes.append(points[near[-1]])
    x, y = axes
    f, fx, fy, fxy = table.values[:, near[1], near[0]]
    step_x, step_y = x[1] - x[0], y[1] - y[0]
    along = CubicHermiteSpline(x, f, fx / step_x, axis=1)(place[0])
    slopes = CubicHermiteSpline(x, fy / step_y, fxy / (step_x * step_y), axis=1)(place[0])
    return float(CubicHermiteSpline(y, along, slopes)(place[1]))


def hills(variables: BiasVariables, seed: int, around: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    places = around + random.normal(size=(40, 2)) * 1.5 * variables.widths
    return places, random.uniform(0.2, 4.0, size=40)


def structures(count: int) -> np.ndarray:
    """Bead positions (count, 10, 3) of the embedded frames, nm."""
    frames = CGFrames.load(str(EMBEDDED["chignolin"]))
    chosen = np.linspace(0, len(frames.positions) - 1, count).astype(int)
    return frames.positions[chosen].astype(np.float64) / ANGSTROM_PER_NM


@pytest.mark.parametrize("options", [(), ("-march=x86-64-v3",), ("-march=x86-64-v2",)])
@pytest.mark.parametrize("kind", list(KINDS))
def test_bias_forces_are_gradients_of_the_bias(kind: str, options: tuple[str, ...]) -> None:
    """Against finite differences in float64: the kick of a bias on atoms that feel nothing else."""
    beads = structures(21)
    variables = replace(KINDS[kind](), atoms=np.arange(1, 21, 2))
    system = free_atoms(22)
    batched = BatchedSystem(system, options=options)
    places = np.random.default_rng(3).normal(size=(21, 22, 3))
    places[:, variables.atoms] = beads + np.array([1.0, -2.0, 0.5])
    walkers = batched.walkers(places)
    seen = np.array(walkers.positions, dtype=np.float64)[:, variables.atoms]
    table = BiasTable(variables)
    for walker, bead in enumerate(seen):
        table.add(*hills(variables, walker, values_of(variables, bead)))
    walkers.bias_table = table
    batched.evaluate(walkers)
    batched.advance(walkers, Dynamics(1, 1e-4, 0.0))
    forces = np.array(walkers.velocities, dtype=np.float64) * 12.0 / 1e-4
    np.testing.assert_array_equal(walkers.forces, 0)
    np.testing.assert_array_equal(walkers.energies, 0)
    others = np.setdiff1d(np.arange(22), variables.atoms)
    np.testing.assert_array_equal(forces[:, others], 0)
    step = 1e-5
    for walker, bead in enumerate(seen):
        expected = np.zeros(bead.shape)
        for index in np.ndindex(*bead.shape):
            ends = []
            for sign in (1, -1):
                moved = bead.copy()
                moved[index] += sign * step
                ends.append(interpolated(table, values_of(variables, moved)))
            expected[index] = (ends[1] - ends[0]) / (2 * step)
        largest = np.abs(expected).max()
        np.testing.assert_allclose(
            forces[walker, variables.atoms], expected, atol=2e-5 * largest + 1e-4
        )
    # After the step the bias is that of the new positions.
    after = np.array(walkers.positions, dtype=np.float64)[:, variables.atoms]
    expected_values = np.array([values_of(variables, bead) for bead in after])
    np.testing.assert_allclose(walkers.variables, expected_values, rtol=1e-6, atol=1e-6)
    expected_bias = [interpolated(table, values) for values in expected_values]
    np.testing.assert_allclose(walkers.bias, expected_bias, rtol=1e-5, atol=1e-4)


def test_rmsd_is_mdtrajs() -> None:
    beads = structures(40)
    variables = replace(KINDS["shape"](), atoms=np.arange(10))
    batched = BatchedSystem(free_atoms(10))
    walkers = batched.walkers(beads)
    walkers.bias_table = BiasTable(variables)
    batched.evaluate(walkers)
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for _ in range(10):
        topology.add_atom("CA", mdtraj.element.carbon, topology.add_residue("GLY", chain))
    expected = mdtraj.rmsd(
        mdtraj.Trajectory(beads, topology), mdtraj.Trajectory(variables.reference[None], topology)
    )
    np.testing.assert_allclose(walkers.variables[:, 0], expected, atol=2e-5)
    # On the reference itself, turned, and on its mirror image.
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    walkers.positions = np.repeat(variables.reference[None] @ turn, 40, axis=0)
    batched.evaluate(walkers)
    assert walkers.variables[:, 0].max() <= 1e-6  # the least that is told
    walkers.positions = np.repeat(-variables.reference[None], 40, axis=0)
    batched.evaluate(walkers)
    mirrored = values_of(variables, -variables.reference)[0]
    np.testing.assert_allclose(walkers.variables[:, 0], mirrored, rtol=1e-6)


def test_table_is_the_sum_of_its_hills() -> None:
    """Interpolated to 2e-5 of a hill; beyond the ends it goes on with what it is there."""
    variables = replace(KINDS["shape"](), atoms=np.arange(10))
    table = BiasTable(variables)
    around = np.array([0.4, 1.0])
    places, heights = hills(variables, 1, around)
    table.add(places, heights)
    random = np.random.default_rng(2)
    for place in around + random.normal(size=(200, 2)) * 2 * variables.widths:
        away = (np.clip(place, variables.lowest, variables.highest) - places) / variables.widths
        exact = heights @ np.exp(-0.5 * (away**2).sum(axis=1))
        assert interpolated(table, place) == pytest.approx(exact, abs=2e-5 * heights.sum())
    # Stretched far beyond the greatest distance: a bias, but no pull along it.
    edge = np.array([variables.highest[0], variables.highest[1]])
    table.add(edge[None], np.array([7.0]))
    batched = BatchedSystem(free_atoms(10))
    walkers = batched.walkers(np.linspace(0, 9, 10)[None, :, None] * [[[1.0, 0, 0]]])
    walkers.bias_table = table
    batched.evaluate(walkers)
    batched.advance(walkers, Dynamics(1, 1e-4, 0.0))
    assert walkers.bias[0] == pytest.approx(7.0)
    np.testing.assert_array_equal(walkers.velocities, 0)


def test_pieces_and_threads_do_not_change_a_bit_of_a_biased_run() -> None:
    variables = replace(KINDS["shape"](), atoms=np.arange(10))
    batched = BatchedSystem(free_atoms(10))
    table = BiasTable(variables)
    beads = structures(37)
    for walker, bead in enumerate(beads):
        table.add(*hills(variables, walker, values_of(variables, bead)))

    def run(pieces: list[int], threads: int) -> list[np.ndarray]:
        walkers = batched.walkers(beads)
        walkers.bias_table = table
        batched.evaluate(walkers, threads)
        for steps in pieces:
            batched.advance(walkers, Dynamics(steps, 0.004, 1.0), threads)
        return [np.array(getattr(walkers, k)) for k in ("positions", "bias", "variables")]

    whole = run([100], 1)
    for again in (run([30, 1, 69], 2), run([100], 3)):
        for one, two in zip(again, whole, strict=True):
            np.testing.assert_array_equal(one, two)


# A chain of four beads: harmonic bonds and angles, and a torsion with two wells.
KELVIN, FOLD, TILT = 300.0, 15.0, 2.0
BOND = (0.38, 20_000.0)
ANGLE = (1.9, 400.0)


def double_well() -> openmm.System:
    """Wells at 0 and 180 degrees, 2 · 15 kJ/mol (12 kT) between them, the first 4 kJ/mol lower."""
    system = free_atoms(4, 50.0)
    bonds, angles = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce()
    torsion = openmm.PeriodicTorsionForce()
    for i in range(3):
        bonds.addBond(i, i + 1, *BOND)
    for i in range(2):
        angles.addAngle(i, i + 1, i + 2, *ANGLE)
    torsion.addTorsion(0, 1, 2, 3, 2, np.pi, FOLD)
    torsion.addTorsion(0, 1, 2, 3, 1, np.pi, TILT)
    for force in (bonds, angles, torsion, openmm.CMMotionRemover(1)):
        system.addForce(force)
    return system


def torsion_energy(phi: np.ndarray) -> np.ndarray:
    return FOLD * (1 + np.cos(2 * phi - np.pi)) + TILT * (1 + np.cos(phi - np.pi))


def chains(bonds: np.ndarray, angles: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """Return positions (F, 4, 3) from bonds (F, 3), angles (F, 2) and torsions (F,)."""
    zero = np.zeros(len(phi))
    one = np.stack([bonds[:, 0] * np.cos(angles[:, 0]), bonds[:, 0] * np.sin(angles[:, 0]), zero])
    three = np.stack([bonds[:, 1], zero, zero])
    out = bonds[:, 2] * np.sin(angles[:, 1])
    four = three + np.stack(
        [-bonds[:, 2] * np.cos(angles[:, 1]), out * np.cos(phi), out * np.sin(phi)]
    )
    return np.stack([one.T, np.zeros((len(phi), 3)), three.T, four.T], axis=1)


def exact_chains(count: int) -> np.ndarray:
    """Draw chains from Boltzmann's distribution, coordinate by coordinate: r², sin θ, 1."""
    random, kt = np.random.default_rng(0), BOLTZMANN_KJ * KELVIN

    def drawn(shape: tuple[int, ...], grid: np.ndarray, density: np.ndarray) -> np.ndarray:
        return np.interp(random.random(shape), np.cumsum(density) / density.sum(), grid)

    r = np.linspace(BOND[0] - 0.1, BOND[0] + 0.1, 20_001)
    theta = np.linspace(ANGLE[0] - 0.8, ANGLE[0] + 0.8, 20_001)
    phi = np.linspace(-np.pi, np.pi, 20_001)
    return chains(
        drawn((count, 3), r, r**2 * np.exp(-0.5 * BOND[1] * (r - BOND[0]) ** 2 / kt)),
        drawn(
            (count, 2),
            theta,
            np.sin(theta) * np.exp(-0.5 * ANGLE[1] * (theta - ANGLE[0]) ** 2 / kt),
        ),
        drawn((count,), phi, np.exp(-torsion_energy(phi) / kt)),
    )


def chain_variables() -> BiasVariables:
    """The distance of the ends, and of the first and third bead, on which little depends."""
    return BiasVariables(
        atoms=np.arange(4),
        reference=np.zeros((0, 3)),
        pairs=np.array([[0, 3], [0, 2]]),
        weights=np.eye(2),
        lowest=np.array([0.3, 0.4]),
        highest=np.array([1.3, 0.8]),
        widths=np.array([0.04, 0.08]),
        lengths=True,
    )


BINS = np.linspace(0.45, 1.12, 9)


@pytest.fixture
def metadynamics(tmp_path: Path) -> Callable[[int], tuple[np.ndarray, np.ndarray, int]]:
    """Run walkers that all start in one well; return end distances, weights and crossings."""
    batched, variables = BatchedSystem(double_well()), chain_variables()
    kt, gamma = BOLTZMANN_KJ * KELVIN, 8.0
    start = chains(np.full((16, 3), BOND[0]), np.full((16, 2), ANGLE[0]), np.zeros(16))

    def run(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
        folder = tmp_path / str(seed)
        config = SamplerConfig(
            output=str(folder),
            walkers=16,
            temperature_kelvin=KELVIN,
            time_step_fs=5.0,
            frame_interval_ps=0.25,
            metadynamics=Metadynamics(bias_factor=gamma, hill_height_kj=0.5),
        )
        variables.save(bias_folder(folder))
        hook = SharedHills(config)
        walkers = batched.walkers(start)
        walkers.seed(np.arange(16) + 100 * seed)
        walkers.thermalise(np.arange(16) + 100 * seed, batched.masses)
        hook.begin(0, range(16), None, walkers)
        batched.evaluate(walkers)
        ends, logs = [], []
        for _ in range(3000):
            batched.advance(walkers, Dynamics(hook.steps, 0.005, 2.0), 1)
            seen = hook.frame(walkers)
            ends.append(seen["variables"][:, 0] / ANGSTROM_PER_NM)
            logs.append((seen["bias"] - seen["bias_offset"]) / (kt * KCAL_PER_KJ))
            hook.act(walkers)
        # The first fifth fills the wells.
        kept = np.array(ends)[600:], np.exp(np.array(logs)[600:])
        far = np.array(ends) > 0.9
        return *kept, int(np.abs(np.diff(far, axis=0)).sum())

    return run


@pytest.mark.slow
def test_metadynamics_recovers_a_double_well(
    metadynamics: Callable[[int], tuple[np.ndarray, np.ndarray, int]],
) -> None:
    """Free energies along the end distance, against chains drawn exactly."""
    places = exact_chains(1_000_000)
    distance = np.linalg.norm(places[:, 0] - places[:, 3], axis=1)
    exact = np.histogram(distance, BINS)[0] / len(distance)
    # The drawing itself: the share beyond 90 degrees, by quadrature.
    phi = np.linspace(-np.pi, np.pi, 20_001)
    density = np.exp(-torsion_energy(phi) / (BOLTZMANN_KJ * KELVIN))
    far = density[np.abs(phi) > np.pi / 2].sum() / density.sum()
    assert 0.1 < far < 0.2
    found = []
    for seed in range(8):
        ends, weights, crossings = metadynamics(seed)
        assert crossings > 100
        found.append(np.histogram(ends, BINS, weights=weights)[0] / weights.sum())
    logs = np.log(found)
    # Eight bins, eight independent runs: the largest deviation of pure chance.
    error = logs.std(axis=0, ddof=1) / np.sqrt(len(logs))
    bound = student.isf(1e-3 / (2 * len(exact)), len(logs) - 1)
    np.testing.assert_array_less(np.abs(logs.mean(axis=0) - np.log(exact)), bound * error)
    # And it says something: free energies to a few tenths of kT everywhere.
    assert error.max() < 0.3


def small(folder: Path, **changes: object) -> SamplerConfig:
    """Five walkers of three chunks with two frames each, hills of 8 kJ/mol."""
    config = SamplerConfig(
        output=str(folder),
        sequence="YYDPETGTWY",
        starts=["folded", "extended"],
        walkers=5,
        nanoseconds=0.0006,
        engine="batched",
        frame_interval_ps=0.1,
        chunk_frames=2,
        equilibration_ps=0.2,
        time_step_fs=2.0,
        processes=1,
        metadynamics=Metadynamics(hill_height_kj=8.0),
    )
    return replace(config, **changes)  # type: ignore[arg-type]


def chunks_of(folder: Path) -> dict[str, np.ndarray]:
    """Return the arrays of all chunks, and the bias' last tables."""
    found = {}
    for path in sorted(folder.rglob("*.h5")):
        for name, values in read_chunk(path).items():
            found[f"{path.relative_to(folder)} {name}"] = values
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample(small(tmp_path_factory.mktemp("biased") / "run"), progress=False)


def test_all_walkers_see_one_bias_recorded_before_its_hills(finished: Path) -> None:
    """Hills added again, from what the files tell, give the bias of each frame."""
    variables = BiasVariables.kept(bias_folder(finished))
    table = BiasTable(variables)
    for chunk in range(3):
        files = [read_chunk(chunk_path(finished, walker, chunk)) for walker in range(5)]
        for frame in range(2):
            bias = np.array([file["bias"][frame] for file in files])
            places = np.array([file["variables"][frame] for file in files]) / ANGSTROM_PER_NM
            if chunk == frame == 0:
                np.testing.assert_array_equal(bias, 0.0)
            expected = [interpolated(table, place) * KCAL_PER_KJ for place in places]
            np.testing.assert_allclose(bias, expected, rtol=1e-6, atol=1e-6)
            offset = bias_offset(table.energies * KCAL_PER_KJ, 300.0, 8.0)
            for file in files:
                assert file["bias_offset"][frame] == pytest.approx(offset, rel=1e-9, abs=1e-12)
            spread = (8.0 - 1) * BOLTZMANN_KJ * 300.0
            table.add(places, 8.0 * np.exp(-bias / KCAL_PER_KJ / spread))
    assert bias.min() > 1  # five walkers' hills of 1.9 kcal/mol each, after five frames
    kept = read_chunk(bias_folder(finished) / "table-00002.h5")["values"]
    np.testing.assert_allclose(kept, table.values, rtol=1e-6, atol=1e-6)
    names = sorted(path.name for path in bias_folder(finished).iterdir())
    assert names == ["table-00001.h5", "table-00002.h5", "variables.npz"]


def test_bead_energies_and_forces_of_a_biased_run_are_unbiased(finished: Path) -> None:
    from cgfe.all_atom.system import implicit_solvent_system

    chunk = read_chunk(chunk_path(finished, 1, 2))
    peptide = peptide_from_pdb(finished / "topology.pdb")
    batched = BatchedSystem(implicit_solvent_system(peptide.topology))
    walkers = batched.walkers(chunk["positions"] / ANGSTROM_PER_NM)
    batched.evaluate(walkers)
    np.testing.assert_allclose(walkers.energies * KCAL_PER_KJ, chunk["energies"], atol=0.02)
    forces = walkers.forces * (KCAL_PER_KJ / ANGSTROM_PER_NM)
    np.testing.assert_allclose(forces, chunk["forces"], atol=0.1)


def test_interrupted_runs_end_with_the_same_bits(finished: Path, tmp_path: Path) -> None:
    """One that stopped after its first chunk, and then lost files as a kill loses them."""
    folder = tmp_path / "run"
    sample(small(folder, nanoseconds=0.0002), progress=False)
    sample(small(folder, processes=2), progress=False)
    expected = chunks_of(finished)
    for lost in ((), (3,), range(5)):  # the bias' table is written before the walkers' files
        for walker in lost:
            chunk_path(folder, walker, 2).unlink()
        if lost:  # as another machine may have written it
            write_chunk(table_path(folder, 2), {"values": np.ones(1)})
        sample(small(folder), progress=False)
        found = chunks_of(folder)
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values, err_msg=name)
    chunk_path(folder, 4, 1).unlink()
    with pytest.raises(InputError, match=r"walker-004/chunk-00001.h5 is missing, but later chunks"):
        sample(small(folder), progress=False)


def test_a_run_goes_on_elsewhere_with_its_bias(finished: Path, tmp_path: Path) -> None:
    ends = tmp_path / "ends.h5"
    save_ends(small(finished), ends)
    second = small(tmp_path / "second", continues=str(ends), seed=2, nanoseconds=0.0002)
    sample(second, progress=False)
    last = BiasTable(BiasVariables.kept(bias_folder(finished)))
    last.values[...] = read_chunk(table_path(finished, 2), "values")["values"]
    for walker in range(5):
        first = {k: v[0] for k, v in read_chunk(chunk_path(tmp_path / "second", walker, 0)).items()}
        expected = interpolated(last, first["variables"] / ANGSTROM_PER_NM) * KCAL_PER_KJ
        assert first["bias"] == pytest.approx(expected, rel=1e-6, abs=1e-6)
    other = replace(second, output=str(tmp_path / "other"), metadynamics=None)
    with pytest.raises(InputError, match=r"ends.h5 is of metadynamics Metadynamics\("):
        sample(other, progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strand_pairs": [[1, 11]]}, "strand_pairs has .1, 11.*from 1 to 10"),
        ({"strand_pairs": [[0, 3]]}, "strand_pairs has .0, 3.*from 1 to 10"),
        ({"strand_pairs": [[2, 2]]}, "two different residue numbers"),
        ({"strand_pairs": []}, "strand_pairs is empty"),
        ({"bias_factor": 1.0}, "bias_factor is 1.0; expected a value above 1"),
        ({"hill_height_kj": 0.0}, "hill_height_kj is 0.0; expected a positive value"),
        ({"rmsd_width": 1e-6}, "metadynamics' widths .* GiB of memory; expected at most"),
        ({"rmsd_width": 1e-300, "distance_width": 1e-300}, "GiB of memory; expected at most"),
        ({"distance_max": 2.0}, "distance_max is 2.0; expected a value above distance_min, 3.0"),
    ],
)
@pytest.mark.parametrize("engine", ["batched", "openmm"])
def test_bad_settings_of_a_bias_are_named(
    tmp_path: Path, engine: str, changes: dict[str, object], message: str
) -> None:
    settings = replace(Metadynamics(), **changes)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        sample(small(tmp_path / "run", engine=engine, metadynamics=settings), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_begun_bias_keeps_its_settings_and_walkers(finished: Path) -> None:
    other = Metadynamics(hill_height_kj=4.0)
    with pytest.raises(InputError, match="holds a run with another metadynamics"):
        sample(small(finished, metadynamics=other), progress=False)
    with pytest.raises(InputError, match="holds a run with another walkers"):
        sample(small(finished, walkers=6), progress=False)
