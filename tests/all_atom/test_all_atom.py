"""The all-atom sampler: its force field, its starts, and going on after a kill."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import openmm
import pytest
from omegaconf import OmegaConf

from cgfe.all_atom.bias import BiasVariables, Metadynamics, bias_offset
from cgfe.all_atom.config import read_config
from cgfe.all_atom.openmm_bias import SharedBias
from cgfe.all_atom.pack import pack_runs
from cgfe.all_atom.sampler import SamplerConfig, chunk_files, sample
from cgfe.all_atom.system import (
    HAIRPIN,
    alpha_carbons,
    implicit_solvent_system,
    peptide_from_pdb,
    peptide_from_sequence,
)
from cgfe.analysis.tica import TICAProjection
from cgfe.data.embedded import EMBEDDED
from cgfe.data.frames import CGFrames
from cgfe.errors import InputError
from cgfe.geometry import rmsd
from cgfe.units import KCAL_PER_KJ, thermal_energy


@pytest.mark.parametrize("start", ["folded", "extended"])
def test_native_solvent_equals_the_force_fields_own(start: str) -> None:
    """Energy within 0.5 kJ/mol, forces within 0.1 % of the CustomGBForce's."""
    peptide = (
        peptide_from_pdb(HAIRPIN) if start == "folded" else peptide_from_sequence("YYDPETGTWY")
    )
    energies, forces = [], []
    for native in (True, False):
        system = implicit_solvent_system(peptide.topology, native=native)
        kinds = {type(force).__name__ for force in system.getForces()}
        assert ("GBSAOBCForce" in kinds) == native
        assert ("CustomGBForce" in kinds) != native
        platform = openmm.Platform.getPlatformByName("Reference")
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
        context.setPositions(peptide.positions)
        state = context.getState(energy=True, forces=True)
        energies.append(state.getPotentialEnergy()._value)
        forces.append(np.array(state.getForces(asNumpy=True)._value))
    assert abs(energies[0] - energies[1]) < 0.5
    difference = np.sqrt(((forces[0] - forces[1]) ** 2).sum())
    assert difference < 1e-3 * np.sqrt((forces[1] ** 2).sum())


def test_ends_are_charged_and_hydrogens_heavy() -> None:
    peptide = peptide_from_sequence("YYDPETGTWY")
    system = implicit_solvent_system(peptide.topology)
    nonbonded = next(f for f in system.getForces() if isinstance(f, openmm.NonbondedForce))
    charges = [
        nonbonded.getParticleParameters(i)[0]._value for i in range(nonbonded.getNumParticles())
    ]
    # D and E at -1 each; the ends at +1 and -1.
    assert sum(charges) == pytest.approx(-2, abs=1e-6)
    atoms = list(peptide.topology.atoms())
    assert len(atoms) == 166
    masses = [system.getParticleMass(a.index)._value for a in atoms if a.element.symbol == "H"]
    assert set(masses) == {4.0}
    assert system.getNumConstraints() == len(masses)


def test_unknown_letter_is_named() -> None:
    with pytest.raises(InputError, match="unknown letter 'B'"):
        peptide_from_sequence("YYBPE")


def small(folder: Path, **settings: object) -> SamplerConfig:
    values: dict[str, object] = {
        "output": str(folder),
        "sequence": "GYG",
        "starts": ["extended"],
        "walkers": 1,
        "nanoseconds": 0.02,
        "chunk_frames": 5,
        "equilibration_ps": 0.4,
        "processes": 1,
        "engine": "openmm",
    }
    return SamplerConfig(**{**values, **settings})  # type: ignore[arg-type]


def contents(folder: Path, walker: int) -> dict[str, np.ndarray]:
    found = {}
    for path in chunk_files(folder, walker):
        with h5py.File(path) as file:
            found |= {f"{path.name}/{key}": file[key][()] for key in file}
    return found


@pytest.mark.parametrize("engine", ["openmm", "batched"])
@pytest.mark.slow
def test_killed_sampler_goes_on_as_if_nothing_had_happened(tmp_path: Path, engine: str) -> None:
    """Bit for bit; the batched engine with another number of threads, too."""
    size = {"openmm": {"walkers": 2}, "batched": {"walkers": 20, "nanoseconds": 0.05}}[engine]
    sample(small(tmp_path / "whole", engine=engine, **{**size, "processes": 2}), progress=False)
    killed = small(tmp_path / "killed", engine=engine, **size)
    config = tmp_path / "config.yaml"
    OmegaConf.save(OmegaConf.structured(killed), config)
    command = [sys.executable, "-m", "cgfe", "reference", "--quiet", "--config", str(config)]
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(chunk_files(tmp_path / "killed", 0)) < 1 and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.wait()
    _wait_until_gone(process.pid, deadline)
    done = len(chunk_files(tmp_path / "killed", 0))
    assert 1 <= done < killed.chunks, "killed too late to show anything"
    if engine == "openmm":
        assert not chunk_files(tmp_path / "killed", 1), "a walker was begun after the kill"
    else:
        # As if the kill had come between the files of one chunk.
        for walker in range(5, killed.walkers):
            for path in chunk_files(tmp_path / "killed", walker):
                path.unlink()
    subprocess.run(command, check=True, timeout=120)
    for walker in {0, 1, killed.walkers - 1}:
        whole, resumed = (contents(tmp_path / run, walker) for run in ("whole", "killed"))
        assert whole.keys() == resumed.keys()
        assert len(whole) == killed.chunks * 5
        for key in whole:
            np.testing.assert_array_equal(resumed[key], whole[key], err_msg=key)


def _wait_until_gone(group: int, deadline: float) -> None:
    """Wait until the workers of a killed sampler have noticed and ended."""
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    pytest.fail("the workers of a killed sampler live on")


def test_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    run = small(tmp_path / "run", nanoseconds=0.005, engine="auto")
    sample(run, progress=False)
    with pytest.raises(InputError, match="another temperature_kelvin, seed"):
        sample(replace(run, seed=2, temperature_kelvin=310.0), progress=False)


def test_walkers_have_their_own_noise_and_the_right_temperature(tmp_path: Path) -> None:
    run = small(tmp_path / "run", walkers=2, nanoseconds=0.06, chunk_frames=30)
    sample(run, progress=False)
    last = []
    for walker in (0, 1):
        with h5py.File(chunk_files(tmp_path / "run", walker)[-1]) as file:
            last.append(file["end_positions"][()])
    assert np.abs(last[0] - last[1]).max() > 0.01
    frames = pack_runs([tmp_path / "run"])
    # Bonds between neighbouring Cα of a trans peptide are 3.8 Å.
    bond = np.linalg.norm(np.diff(frames.positions, axis=1), axis=-1)
    assert bond.mean() == pytest.approx(3.85, abs=0.08)
    assert len(frames) == 120
    assert frames.weights is None
    assert frames.residue_names == ("GLY", "TYR", "GLY")


def test_coil_and_run_starts_are_spread(tmp_path: Path) -> None:
    scout = small(tmp_path / "scout", starts=["coil", "extended"], walkers=2, nanoseconds=0.01)
    sample(scout, progress=False)
    spread = small(
        tmp_path / "spread", starts=[str(tmp_path / "scout")], walkers=2, nanoseconds=0.005,
        engine="auto",
    )  # fmt: skip
    sample(spread, progress=False)
    frames = pack_runs([tmp_path / "scout", tmp_path / "spread"])
    assert len(frames.trajectory_slices()) == 4
    with pytest.raises(InputError, match="none of extended, coil, melted, helix, folded"):
        sample(small(tmp_path / "x", starts=["nowhere"]), progress=False)


def test_the_config_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("sequence: GYDPG\nscouts: []\n")
    assert read_config(tmp_path / "config.yaml") == SamplerConfig(sequence="GYDPG")
    (tmp_path / "config.yaml").write_text("sequence: GYDPG\nscouts: [run]\n")
    with pytest.raises(InputError, match="scouts"):
        read_config(tmp_path / "config.yaml")


@pytest.mark.slow
def test_explicit_water_is_sampled_and_goes_on(tmp_path: Path) -> None:
    run = small(
        tmp_path / "run", sequence="GG", solvent="explicit", nanoseconds=0.001, chunk_frames=1,
        equilibration_ps=0.04,
    )  # fmt: skip
    sample(run, progress=False)
    sample(replace(run, nanoseconds=0.002), progress=False)
    boxes = []
    for path in chunk_files(tmp_path / "run", 0):
        with h5py.File(path) as file:
            assert file["positions"].shape == file["forces"].shape == (1, 17, 3)
            assert len(file["end_positions"]) > 1000
            boxes.append(file["end_box"][()])
    assert len(boxes) == 2
    # Water at 1 atm is hardly compressible: the second piece began in the first one's box.
    assert np.linalg.det(boxes[1]) == pytest.approx(np.linalg.det(boxes[0]), rel=0.1)
    frames = pack_runs([tmp_path / "run"], "constraint_aware")
    assert "TIP3P-FB" in frames.force_field
    with pytest.raises(InputError, match="expected one of implicit, explicit"):
        sample(small(tmp_path / "x", solvent="vacuum"), progress=False)


def test_bias_on_tics_acts_on_the_projection(tmp_path: Path, embedded: CGFrames) -> None:
    """Both variables are the TICs of the frames file, up to their constant."""
    peptide = peptide_from_pdb(HAIRPIN)
    system = implicit_solvent_system(peptide.topology)
    settings = Metadynamics(tics=str(EMBEDDED["chignolin"]))
    variables = BiasVariables.of(settings, peptide.topology)
    bias = SharedBias(settings, variables, system, 300.0, 50, tmp_path / "bias")
    context = openmm.Context(
        system,
        openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatformByName("Reference"),
    )
    context.setPositions(peptide.positions)
    unbiased = [
        embedded.positions[s]
        for s in embedded.trajectory_slices()
        if embedded.trajectory_index[s.start] not in embedded.biased_trajectories
    ]
    tica = TICAProjection.fit(unbiased, embedded.frame_interval_ps, 20.0)
    beads = peptide.positions[alpha_carbons(peptide.topology)] * 10
    expected = tica.project(beads[None])[0] + tica.mean @ tica.components
    np.testing.assert_allclose(bias.variables(context), expected, rtol=1e-5)
    assert (variables.lowest < expected).all()
    assert (variables.highest > expected).all()


@pytest.mark.parametrize("engine", ["openmm", "batched"])
@pytest.mark.slow
def test_metadynamics_keeps_unbiased_forces_and_weights_frames(tmp_path: Path, engine: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(
        f"{{output: {tmp_path / 'run'}, sequence: YYDPETGTWY, starts: [folded], walkers: 2, "
        "nanoseconds: 0.01, chunk_frames: 5, equilibration_ps: 0.4, "
        f"engine: {engine}, metadynamics: {{hill_height_kj: 8}}}}"
    )
    command = [sys.executable, "-m", "cgfe", "reference", "--quiet", "--config", str(config)]
    subprocess.run(command, check=True, timeout=200)
    path = chunk_files(tmp_path / "run", 0)[-1]
    with h5py.File(path) as file:
        chunk = {key: file[key][()] for key in file}
    # The written forces are those of the force field without the bias.
    peptide = peptide_from_pdb(tmp_path / "run" / "topology.pdb")
    system = implicit_solvent_system(peptide.topology)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(chunk["positions"][-1] / 10)
    state = context.getState(energy=True, forces=True)
    forces = np.array(state.getForces(asNumpy=True)._value) * KCAL_PER_KJ / 10
    # Positions were kept in single precision, 1e-6 Å, against bonds of 600 kcal/mol/Å².
    np.testing.assert_allclose(chunk["forces"][-1], forces, atol=0.05)
    assert state.getPotentialEnergy()._value * KCAL_PER_KJ == pytest.approx(
        chunk["energies"][-1], abs=0.05
    )
    assert chunk["bias"].max() > 0.2
    # A frame is recorded before its hill, so the first one of all has no bias.
    with h5py.File(chunk_files(tmp_path / "run", 0)[0]) as file:
        assert file["bias"][0] == file["bias_offset"][0] == 0
        assert file["bias"][1] > 0.3
    frames = pack_runs([tmp_path / "run"], native="folded", discard_ns=0)
    assert frames.weights is not None
    assert frames.weights.mean() == pytest.approx(1)
    assert frames.biased_trajectories.tolist() == [0, 1]
    # The first variable is the Cα RMSD to the hairpin, up to the rounding of the positions.
    assert frames.native_positions is not None
    np.testing.assert_allclose(
        rmsd(frames.positions[5:10], frames.native_positions), chunk["variables"][:, 0], atol=0.01
    )


def test_bias_offset_is_the_known_one_of_a_constant_bias() -> None:
    """A constant bias V changes nothing, so c(t) must be V itself."""
    assert bias_offset(np.full((20, 30), 3.7), 300.0, 8.0) == pytest.approx(3.7)
    # A converged well-tempered bias is V = -(1 - 1/γ) F, so exp(γ V / ((γ-1) kT)) is
    # exp(-F/kT) and exp(V / ((γ-1) kT)) is exp(-F/(γ kT)): c is a ratio of two Gaussian
    # integrals of F = a x²/2, kT ln sqrt(1/γ).
    x = np.linspace(-8, 8, 4001)
    kt, gamma = thermal_energy(300.0), 5.0
    bias = -(1 - 1 / gamma) * 2 * x**2
    assert bias_offset(bias, 300.0, gamma) == pytest.approx(-0.5 * kt * np.log(gamma), rel=1e-6)


def test_bad_packing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sampler run"):
        pack_runs([tmp_path])
