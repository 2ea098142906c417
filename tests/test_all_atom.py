"""The all-atom sampler: its force field, its starts, and going on after a kill."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import openmm
import pytest

from cgfe.all_atom.bias import bias_offset
from cgfe.all_atom.pack import pack_runs
from cgfe.all_atom.sampler import SamplerConfig, chunk_files, sample
from cgfe.all_atom.starts import HAIRPIN
from cgfe.all_atom.system import (
    implicit_solvent_system,
    peptide_from_pdb,
    peptide_from_sequence,
)
from cgfe.errors import InputError
from cgfe.frames import CGFrames
from cgfe.metrics import rmsd
from cgfe.units import KCAL_PER_KJ, thermal_energy

SEQUENCE = ("TYR", "TYR", "ASP", "PRO", "GLU", "THR", "GLY", "THR", "TRP", "TYR")


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
    }
    return SamplerConfig(**{**values, **settings})  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in chunk_files(folder, 0):
        with h5py.File(path) as file:
            found |= {f"{path.name}/{key}": file[key][()] for key in file}
    return found


def test_killed_sampler_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    sample(small(tmp_path / "whole"), progress=False)
    config = tmp_path / "config.yaml"
    config.write_text(
        f"{{output: {tmp_path / 'killed'}, sequence: GYG, walkers: 1, nanoseconds: 0.02, "
        "chunk_frames: 5, equilibration_ps: 0.4, processes: 1}"
    )
    command = [sys.executable, "-m", "cgfe", "reference", "--quiet", "--config", str(config)]
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(chunk_files(tmp_path / "killed", 0)) < 1 and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 1 <= len(chunk_files(tmp_path / "killed", 0)) < 4, "killed too late to show anything"
    subprocess.run(command, check=True, timeout=120)
    whole, resumed = contents(tmp_path / "whole"), contents(tmp_path / "killed")
    assert whole.keys() == resumed.keys()
    assert len(whole) == 4 * 5
    for key in whole:
        np.testing.assert_array_equal(resumed[key], whole[key], err_msg=key)


def test_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    sample(small(tmp_path / "run", nanoseconds=0.005), progress=False)
    with pytest.raises(InputError, match="another temperature_kelvin, seed"):
        sample(small(tmp_path / "run", seed=2, temperature_kelvin=310.0), progress=False)


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
        tmp_path / "spread", starts=[str(tmp_path / "scout")], walkers=2, nanoseconds=0.005
    )
    sample(spread, progress=False)
    frames = pack_runs([tmp_path / "scout", tmp_path / "spread"])
    assert len(frames.trajectory_slices()) == 4
    with pytest.raises(InputError, match="none of extended, coil, folded"):
        sample(small(tmp_path / "x", starts=["nowhere"]), progress=False)


def test_metadynamics_keeps_unbiased_forces_and_weights_frames(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(
        f"{{output: {tmp_path / 'run'}, sequence: YYDPETGTWY, starts: [folded], walkers: 2, "
        "nanoseconds: 0.01, chunk_frames: 5, equilibration_ps: 0.4, "
        "metadynamics: {hill_height_kj: 8}}"
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
    assert chunk["bias"].max() > 1
    frames = pack_runs([tmp_path / "run"], native="folded")
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


def test_embedded_frames_come_from_the_sampler(embedded: CGFrames) -> None:
    assert embedded.residue_names == SEQUENCE
