"""The batched engine of the sampler: which engine samples, starts, replica exchange."""

import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import openmm
import pytest
from omegaconf import OmegaConf

from cgfe.all_atom import batched_engine, batched_starts, sampler, starts
from cgfe.all_atom.batched import BatchedSystem, Dynamics
from cgfe.all_atom.batched_engine import BatchedRun
from cgfe.all_atom.bias import Metadynamics
from cgfe.all_atom.chunks import chunk_files, read_chunk, write_chunk
from cgfe.all_atom.config import SamplerConfig
from cgfe.all_atom.exchange import (
    ExchangeReport,
    ReplicaExchange,
    ladder_history,
)
from cgfe.all_atom.pack import pack_runs
from cgfe.all_atom.sampler import sample
from cgfe.all_atom.starts import Heating
from cgfe.all_atom.system import (
    HAIRPIN,
    alpha_carbons,
    bead_residues,
    implicit_solvent_system,
    peptide_from_pdb,
    peptide_from_sequence,
)
from cgfe.analysis.exchange import round_trips
from cgfe.errors import InputError
from cgfe.geometry import pair_distances, rmsd
from cgfe.units import thermal_energy


def small(folder: Path, **settings: object) -> SamplerConfig:
    values: dict[str, object] = {
        "output": str(folder),
        "sequence": "GG",
        "walkers": 4,
        "nanoseconds": 0.01,
        "chunk_frames": 5,
        "equilibration_ps": 0.4,
        "processes": 1,
    }
    return SamplerConfig(**{**values, **settings})  # type: ignore[arg-type]


def engine_of(folder: Path) -> str:
    return str(OmegaConf.load(folder / "config.yaml").engine)


def test_auto_takes_the_kernel_on_a_cpu_and_a_begun_folder_decides(tmp_path: Path) -> None:
    sample(small(tmp_path / "new"), progress=False)
    assert engine_of(tmp_path / "new") == "batched"
    sample(small(tmp_path / "new", nanoseconds=0.02), progress=False)
    assert len(chunk_files(tmp_path / "new", 3)) == 4
    sample(small(tmp_path / "named", platform="Reference", walkers=1), progress=False)
    assert engine_of(tmp_path / "named") == "openmm"
    # A folder from before there was a choice.
    old = OmegaConf.load(tmp_path / "named" / "config.yaml")
    for key in ("engine", "caps", "temperatures_kelvin", "exchange_interval_ps"):
        del old[key]
    OmegaConf.save(old, tmp_path / "named" / "config.yaml")
    sample(small(tmp_path / "named", walkers=1, nanoseconds=0.02), progress=False)
    assert engine_of(tmp_path / "named") == "openmm"
    for folder, engine in (("named", "batched"), ("new", "openmm")):
        with pytest.raises(InputError, match=f"but engine is {engine}; choose another"):
            sample(small(tmp_path / folder, engine=engine, walkers=1), progress=False)


def test_openmm_samples_what_the_kernel_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_a_wall(*arguments: object) -> openmm.System:
        system = implicit_solvent_system(*arguments)  # type: ignore[arg-type]
        system.addForce(openmm.CustomExternalForce("x^2"))
        return system

    monkeypatch.setattr(sampler, "implicit_solvent_system", with_a_wall)
    sample(small(tmp_path / "auto", walkers=1), progress=False)
    assert engine_of(tmp_path / "auto") == "openmm"
    for settings, begin in (
        ({"engine": "batched"}, "engine batched cannot sample this: .*"),
        ({"temperatures_kelvin": [300.0, 330.0]}, "replica exchange needs engine batched: .*"),
    ):
        with pytest.raises(InputError, match=begin + "CustomExternalForce"):
            sample(small(tmp_path / "x", **settings), progress=False)
    with pytest.raises(InputError, match="no explicit solvent"):
        sample(small(tmp_path / "x", engine="batched", solvent="explicit"), progress=False)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperatures_kelvin": [330.0, 300.0]}, "ascending order"),
        ({"temperatures_kelvin": [300.0, np.nan]}, "ascending order"),
        ({"temperatures_kelvin": [300.0, np.inf]}, "ascending order"),
        ({"temperature_kelvin": np.nan}, "temperature_kelvin is nan; expected a positive value"),
        ({"nanoseconds": np.nan}, "nanoseconds is nan; expected a positive value"),
        ({"nanoseconds": np.inf}, "nanoseconds is inf; expected a positive value"),
        ({"friction_per_ps": 0.0}, "friction_per_ps is 0.0; expected a positive value"),
        ({"equilibration_ps": -1.0}, "equilibration_ps is -1.0; expected 0 or more"),
        ({"equilibration_ps": np.nan}, "equilibration_ps is nan; expected 0 or more"),
        ({"processes": -1}, "processes is -1; expected 0 or more"),
        ({"seed": -1}, "seed is -1; expected 0 or more"),
        ({"metadynamics": Metadynamics(bias_factor=np.inf)}, "bias_factor is inf"),
        ({"metadynamics": Metadynamics(distance_max=np.inf)}, "distance_max is inf"),
        ({"temperatures_kelvin": [300.0]}, "at least two"),
        ({"temperatures_kelvin": [300.0, 330.0], "walkers": 1}, "needs a multiple of 2"),
        ({"temperatures_kelvin": [300.0, 330.0], "exchange_interval_ps": 0.3}, "divides frame"),
        ({"walkers": 10**9}, "GiB of memory; expected at most"),
        ({"caps": True, "sequence": None, "pdb": HAIRPIN}, "needs a 'sequence'"),
        ({"engine": "fast"}, "expected one of auto, batched, openmm"),
        ({"starts": ["foldde"]}, "start 'foldde' is none of extended, "),
        ({"starts": [*["extended"] * 4, "foldde"]}, "start 'foldde' is none of extended, "),
        ({"starts": ["foldde"], "engine": "openmm"}, "start 'foldde' is none of extended, "),
        ({"starts": ["folded"]}, "start folded, chignolin's hairpin, has .* expected the same"),
        ({"starts": ["helix"], "sequence": None, "pdb": HAIRPIN}, "start helix needs a 'sequence'"),
        ({"starts": [str(Path(__file__).parent)]}, "the folder holds no sampled chunks"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        sample(small(tmp_path / "run", **settings), progress=False)
    assert not (tmp_path / "run").exists()


def test_more_walkers_join_a_run(tmp_path: Path) -> None:
    """They share a vector with old ones, whose files stay and whose trajectories go on."""
    config = small(tmp_path / "run", walkers=3)
    sample(config, progress=False)
    before = [path.read_bytes() for path in chunk_files(tmp_path / "run", 1)]
    sample(replace(config, walkers=5, nanoseconds=0.015), progress=False)
    assert [path.read_bytes() for path in chunk_files(tmp_path / "run", 1)[:2]] == before
    for walker in range(5):
        assert len(chunk_files(tmp_path / "run", walker)) == 3
    second, third = (read_chunk(path) for path in chunk_files(tmp_path / "run", 1)[1:])
    # The first frame is 1 ps after the last chunk's end: far less than a random place.
    moved = rmsd(third["positions"][:1], second["positions"][-1])
    assert moved < rmsd(third["positions"][:1], second["positions"][-1] * [1, 1, -1])


def test_going_on_with_other_lanes_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = small(tmp_path / "run", walkers=1, nanoseconds=0.005, engine="batched")
    for _ in range(2):
        sample(config, progress=False)
    assert "was begun with" not in caplog.text
    (tmp_path / "run" / "lanes.txt").write_text("2\n")
    sample(config, progress=False)
    assert caplog.text.count("was begun with 2 walkers a vector and goes on with") == 1


def test_going_on_with_fewer_walkers_loses_none(tmp_path: Path) -> None:
    sample(small(tmp_path / "run"), progress=False)
    sample(small(tmp_path / "run", walkers=1, nanoseconds=0.015), progress=False)
    assert [len(chunk_files(tmp_path / "run", walker)) for walker in range(4)] == [3, 2, 2, 2]
    packed = pack_runs([tmp_path / "run"], weights="counts")
    assert [s.stop - s.start for s in packed.trajectory_slices()] == [15, 10, 10, 10]


def test_sigterm_ends_a_run_cleanly(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    OmegaConf.save(OmegaConf.structured(small(tmp_path / "run", nanoseconds=1000.0)), config)
    command = [sys.executable, "-m", "cgfe", "reference", "--quiet", "--config", str(config)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not chunk_files(tmp_path / "run", 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "Traceback" not in errors
    assert not list((tmp_path / "run").rglob(".chunk*"))


def test_heated_starts_leave_the_fold_and_the_others_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {**starts.HEATED, "melted": (Heating(700.0, 6.0, 3.0), Heating(None, 2.0, 4.0))}
    monkeypatch.setattr(batched_starts, "HEATED", short)
    monkeypatch.setattr(starts, "HEATED", short)
    config = small(
        tmp_path, sequence="YYDPETGTWY", starts=["folded", "melted"], walkers=8, processes=0
    )
    peptide = peptide_from_sequence("YYDPETGTWY")
    kernel = BatchedSystem(implicit_solvent_system(peptide.topology))
    walkers = batched_starts.started(config, peptide, kernel, range(8))
    beads = alpha_carbons(peptide.topology)
    native = peptide_from_pdb(HAIRPIN).positions[beads] * 10
    distance = rmsd(walkers.positions[:, beads] * 10, native - native.mean(axis=0))
    assert (distance[::2] < 2).all(), distance
    assert (distance[1::2] > 3).all(), distance
    shapes = pair_distances(walkers.positions[1::2][:, beads])
    assert np.abs(shapes - shapes[:1])[1:].max(axis=1).min() > 0.05, "melted chains are alike"
    # The same walkers start alike, whoever else is sampled.
    alone = BatchedRun(replace(config, output=str(tmp_path)), peptide, kernel, None)
    again, _ = alone._begun(range(8), 0)
    np.testing.assert_array_equal(again.positions, walkers.positions)


def test_capped_chain_has_neutral_ends_and_beads_of_its_residues_alone() -> None:
    peptide = peptide_from_sequence("AAQAA", caps=True)
    residues = [residue.name for residue in peptide.topology.residues()]
    assert residues == ["ACE", "ALA", "ALA", "GLN", "ALA", "ALA", "NH2"]
    assert bead_residues(peptide.topology) == ("ALA", "ALA", "GLN", "ALA", "ALA")
    system = implicit_solvent_system(peptide.topology)
    nonbonded = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    charges = [
        nonbonded.getParticleParameters(i)[0]._value for i in range(nonbonded.getNumParticles())
    ]
    assert sum(charges) == pytest.approx(0, abs=1e-6)
    helix = peptide_from_sequence("AAQAAAAQAA", caps=True, helix=True)
    beads = helix.positions[alpha_carbons(helix.topology)] * 10
    # An α-helix rises 1.5 Å a residue: i to i + 4 are 6.2 Å apart.
    np.testing.assert_allclose(np.linalg.norm(beads[4:] - beads[:-4], axis=1), 6.2, atol=0.3)


def test_exchange_scales_the_kinetic_energy_of_the_step(tmp_path: Path) -> None:
    """Of a stiff bond, ω dt = 0.9, whose velocities half a step ago are others than now.

    Without friction the velocity of now is the mean of those before and after one step.
    """
    system, bond, dt = openmm.System(), openmm.HarmonicBondForce(), 0.004
    nonbonded, solvent = openmm.NonbondedForce(), openmm.GBSAOBCForce()
    for _ in range(2):
        system.addParticle(12.0)
        nonbonded.addParticle(0.0, 0.3, 0.0)
        solvent.addParticle(0.0, 0.15, 0.8)
    bond.addBond(0, 1, 0.15, 3e5)
    nonbonded.addException(0, 1, 0.0, 0.3, 0.0)
    for force in (bond, nonbonded, solvent):
        system.addForce(force)
    kernel = BatchedSystem(system)
    # The cold replica has the higher energy, so they trade for certain.
    places = np.array([[[0, 0, 0], [0.165, 0, 0]], [[0, 0, 0], [0.156, 0, 0]]])

    def now() -> SimpleNamespace:
        kernel.evaluate(walkers)
        place, before = np.array(walkers.positions), np.array(walkers.velocities, dtype=float)
        kernel.advance(walkers, Dynamics(1, dt, 0.0))
        after = np.array(walkers.velocities, dtype=float)
        walkers.positions, walkers.velocities = place, before
        kernel.evaluate(walkers)
        energy = [6.0 * (v**2).sum(axis=(1, 2)) for v in ((before + after) / 2, before)]
        return SimpleNamespace(on_step=energy[0], half_step_ago=energy[1])

    walkers = kernel.walkers(places)
    kernel.evaluate(walkers)
    hook = ReplicaExchange(
        small(tmp_path, walkers=2, temperatures_kelvin=[300.0, 450.0]), kernel.masses
    )
    hook.begin(0, [0, 1], None, walkers)
    walkers.thermalise(np.array([5, 6], dtype=np.uint64), kernel.masses)
    first = now()
    hook.act(walkers)
    assert hook.slots.tolist() == [1, 0]
    np.testing.assert_array_equal(walkers.temperatures, [450.0, 300.0])
    second = now()
    np.testing.assert_allclose(second.on_step / first.on_step, [1.5, 1 / 1.5], rtol=1e-5)
    half_step_ago = second.half_step_ago / first.half_step_ago
    assert (np.abs(half_step_ago / [1.5, 1 / 1.5] - 1) > 0.01).all(), half_step_ago


TEMPERATURES = (300.0, 450.0)


@pytest.fixture(scope="module")
def exchange_run(tmp_path_factory: pytest.TempPathFactory) -> SamplerConfig:
    """Eight ladders of a peptide of two residues."""
    config = small(
        tmp_path_factory.mktemp("exchange") / "run",
        temperatures_kelvin=list(TEMPERATURES),
        exchange_interval_ps=0.4,
        frame_interval_ps=2.0,
        chunk_frames=200,
        walkers=16,
        nanoseconds=1.2,
        equilibration_ps=20.0,
        processes=0,
    )
    sample(config, progress=False)
    return config


@pytest.mark.slow
def test_exchange_keeps_the_boltzmann_distribution(
    exchange_run: SamplerConfig, tmp_path: Path
) -> None:
    """Energies and distances at both temperatures are those of direct sampling, within errors
    from stretches of 100 ps (energies forget in 10 ps); acceptance is that of the directly sampled
    energies."""
    direct = {}
    for number, kelvin in enumerate(TEMPERATURES):
        run = replace(
            exchange_run,
            output=str(tmp_path / f"{kelvin:g}"),
            temperatures_kelvin=None,
            temperature_kelvin=kelvin,
            seed=2 + number,
        )
        sample(run, progress=False)
        direct[kelvin] = pack_runs([run.output], "constraint_aware", weights="counts")
        mixed = pack_runs([exchange_run.output], "constraint_aware", temperature=kelvin)
        assert mixed.temperature_kelvin == kelvin
        assert len(mixed.trajectory_slices()) == 8
        assert len(mixed) * 2 == len(direct[kelvin])
        for quantity in (
            lambda f: f.all_atom_energies,
            lambda f: np.linalg.norm(f.positions[:, 1] - f.positions[:, 0], axis=1),
            lambda f: f.all_atom_energies**2,
        ):
            means = [
                quantity(frames).reshape(-1, 50).mean(axis=1) for frames in (mixed, direct[kelvin])
            ]
            error = np.sqrt(sum(x.var(ddof=1) / len(x) for x in means))
            assert abs(means[0].mean() - means[1].mean()) < 4 * error
    beta = [1 / thermal_energy(kelvin) for kelvin in TEMPERATURES]
    cold, hot = (direct[kelvin].all_atom_energies for kelvin in TEMPERATURES)
    assert cold is not None
    assert hot is not None
    random = np.random.default_rng(0)
    exponent = (beta[0] - beta[1]) * (cold - random.permutation(hot))
    expected = np.minimum(1, np.exp(exponent)).mean()
    report = ExchangeReport.of_run(exchange_run)
    # Attempts 0.8 ps apart are nearly independent; so are the 1000 directly sampled frames of each
    # walker. Ten times the variance of independent ones is on the safe side.
    error = np.sqrt(10 * expected * (1 - expected) * (1 / report.attempts[0] + 1 / len(cold)))
    assert report.acceptance[0] == pytest.approx(expected, abs=4 * error)
    assert error < 0.02


def test_exchange_leaves_every_temperature_and_replica_told(exchange_run: SamplerConfig) -> None:
    folder = Path(exchange_run.output)
    history = ladder_history(folder, range(4, 6))
    assert len(history) == 3 * 200 * 5 + 1
    np.testing.assert_array_equal(np.sort(history, axis=1), np.tile([0, 1], (len(history), 1)))
    frames = [pack_runs([folder], temperature=t) for t in TEMPERATURES]
    assert frames[0].replica_index is not None
    assert frames[1].replica_index is not None
    # Between them they hold each replica's every frame once.
    np.testing.assert_array_equal(
        frames[0].replica_index // 2, np.repeat(np.arange(8), len(frames[0]) // 8)
    )
    np.testing.assert_array_equal(frames[0].replica_index ^ 1, frames[1].replica_index)
    assert frames[0].biased_trajectories.tolist() == list(range(8))
    assert frames[0].weights is not None
    np.testing.assert_array_equal(frames[0].weights, 1)
    assert (folder / "exchange.json").is_file()
    report = ExchangeReport.of_run(exchange_run)
    # A ladder of two: every second accepted exchange of a replica ends a round trip.
    steps = np.abs(np.diff(history[:, 0])).sum()
    assert round_trips(history[:, 0], 2) == pytest.approx(steps / 2, abs=1)
    assert report.nanoseconds == pytest.approx(16 * 1.2)
    with pytest.raises(InputError, match="320 K was not sampled, but 300, 450 K"):
        pack_runs([folder], temperature=320.0)


def assert_same_chunks(run: SamplerConfig, other: Path) -> None:
    for walker in range(run.walkers):
        pairs = zip(*(chunk_files(f, walker) for f in (Path(run.output), other)), strict=True)
        for paths in pairs:
            with h5py.File(paths[0]) as first, h5py.File(paths[1]) as second:
                assert first.keys() == second.keys()
                for key in first:
                    np.testing.assert_array_equal(first[key][()], second[key][()], err_msg=key)


def test_exchange_goes_on_bit_for_bit(tmp_path: Path) -> None:
    settings = {
        "temperatures_kelvin": [300.0, 340.0, 400.0],
        "walkers": 6,
        "exchange_interval_ps": 0.2,
    }
    whole = small(tmp_path / "whole", **settings, nanoseconds=0.03)
    sample(whole, progress=False)
    sample(small(tmp_path / "parts", **settings), progress=False)
    sample(small(tmp_path / "parts", **settings, nanoseconds=0.03, processes=2), progress=False)
    assert_same_chunks(whole, tmp_path / "parts")
    assert 0 < ExchangeReport.of_run(whole).acceptance[0] < 1
    with pytest.raises(InputError, match="another walkers"):
        sample(small(tmp_path / "parts", **{**settings, "walkers": 9}), progress=False)


LADDERS = {
    "temperatures_kelvin": [300.0, 450.0],
    "walkers": 4,
    "exchange_interval_ps": 0.2,
    "engine": "batched",
}


def test_incomplete_chunk_of_a_ladder_is_written_anew_as_a_whole(tmp_path: Path) -> None:
    """A kill between a chunk's files, and other bits when it is sampled again."""
    config = small(tmp_path / "run", **LADDERS)
    sample(config, progress=False)
    shutil.copytree(tmp_path / "run", tmp_path / "cut")
    cut = replace(config, output=str(tmp_path / "cut"))
    newest = [chunk_files(tmp_path / "cut", walker)[-1] for walker in range(4)]
    for path in (newest[0], newest[3]):
        path.unlink()
    with h5py.File(newest[1], "r+") as file:  # what another machine may have written
        file["positions"][...] += 1.0
        file["slots"][...] = 0
    written = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            batched_engine, "write_chunk",
            lambda path, arrays: (written.append(path), write_chunk(path, arrays)),
        )  # fmt: skip
        sample(cut, progress=False)
    assert set(written[:2]) == {newest[1], newest[2]}
    assert set(written[2:]) == {newest[0], newest[3]}
    assert_same_chunks(config, tmp_path / "cut")
    chunk_files(tmp_path / "cut", 2)[0].unlink()
    with pytest.raises(InputError, match=r"walker-002/chunk-00000.h5 is missing, but later chunks"):
        sample(cut, progress=False)


def test_replicas_of_different_histories_are_refused(tmp_path: Path) -> None:
    config = small(tmp_path / "run", **LADDERS)
    sample(config, progress=False)
    for walker in range(2):
        with h5py.File(chunk_files(tmp_path / "run", walker)[-1], "r+") as file:
            file["slots"][2, -1] = 1
            file["end_slot"][()] = 0
    with pytest.raises(InputError, match=r"in slots \[1, 1\], expected each of 0 to 1 once"):
        pack_runs([tmp_path / "run"])
    with pytest.raises(InputError, match=r"in slots \[0, 0\], expected each of 0 to 1 once"):
        sample(replace(config, nanoseconds=0.015), progress=False)
