"""Mean forces against a potential of mean force that is known exactly."""

import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import openmm
import pytest
from omegaconf import OmegaConf
from scipy.stats import f as f_distribution

from cgfe.all_atom import mean_forces_run
from cgfe.all_atom.batched import BatchedSystem
from cgfe.all_atom.config import MeanForces, SamplerConfig, peptide_of
from cgfe.all_atom.configurations import choose, least_visited
from cgfe.all_atom.mean_forces import (
    Averaging,
    nearest_frames,
    spread_choice,
    summary,
)
from cgfe.all_atom.mean_forces_run import sample_mean_forces
from cgfe.all_atom.pack import pack_runs
from cgfe.all_atom.sampler import sample
from cgfe.cli import main
from cgfe.data.force_mapping import CarbonAlphaMapping
from cgfe.data.frames import CGFrames
from cgfe.errors import InputError
from cgfe.geometry import rmsd
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
    means, errors = averaging.forces(
        positions, np.arange(2 * count, dtype=np.uint64).reshape(2, -1)
    )
    stiffness = SPRINGS[0] * SPRINGS[1] / sum(SPRINGS) * KCAL_PER_KJ / ANGSTROM_PER_NM**2
    exact = stiffness * (positions[:, 1] - positions[:, 0])
    # `slice` spreads the free atom's force over the beads, so both feel the opposite.
    np.testing.assert_allclose(means.sum(axis=1), 0, atol=1e-4)
    off = (means[:, 0] - exact) / np.sqrt(np.mean(errors**2))
    # A ratio of two mean squares, each of n independent components (those of one bead: the other's
    # are the opposite).
    low, high = f_distribution.ppf([0.0005, 0.9995], off.size, off.size)
    assert low < np.mean(off**2) < high
    told = summary(means, errors)
    assert told["rms_without_noise"] == pytest.approx(np.sqrt(np.mean(exact**2)), rel=0.01)


def test_steered_beads_end_where_they_should(averaging: Averaging) -> None:
    positions = np.zeros((4, 3, 3))
    positions[:, 1, 0] = 3.0
    positions[:, 2, 0] = 1.5
    targets = np.zeros((4, 2, 3))
    targets[:, 1, 1] = [1.0, 2.0, 3.0, 4.0]
    steering = replace(averaging, steer_ps=1.0)
    means, errors = steering.forces(
        positions, np.arange(8, dtype=np.uint64).reshape(2, -1), targets
    )
    stiffness = SPRINGS[0] * SPRINGS[1] / sum(SPRINGS) * KCAL_PER_KJ / ANGSTROM_PER_NM**2
    error = np.sqrt(np.mean(errors**2))
    np.testing.assert_allclose(means[:, 0], stiffness * targets[:, 1], atol=4.5 * error)


def test_thin_bins_are_chosen_as_often_as_full_ones() -> None:
    bins = np.repeat([0, 1, 2], [10_000, 100, 10])
    chosen = spread_choice(bins, 600, 0.5, 0)
    assert len(np.unique(chosen.rows)) == 600
    counts = np.bincount(bins[chosen.rows])
    # 300 are spread: all 10 of the thinnest, all 100 of the next, 190 of the full one.
    assert counts[2] == 10
    assert counts[1] == 100
    np.testing.assert_array_equal(chosen.rows, spread_choice(bins, 600, 0.5, 0).rows)
    # Weighted, they stand for all frames.
    shares = np.bincount(bins[chosen.rows], chosen.weights) / 600
    np.testing.assert_allclose(shares, np.bincount(bins) / len(bins), rtol=1e-6)
    at_random = spread_choice(bins, 600, 0.0, 1)
    np.testing.assert_allclose(at_random.weights, 1.0)
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


@pytest.fixture(scope="module")
def run_of_walkers(tmp_path_factory: pytest.TempPathFactory) -> SamplerConfig:
    folder = tmp_path_factory.mktemp("runs")
    config = SamplerConfig(
        output=str(folder / "walkers"),
        sequence="GYDG",
        walkers=4,
        nanoseconds=0.1,
        equilibration_ps=1.0,
        frame_interval_ps=0.4,
        engine="batched",
    )
    sample(config, progress=False)
    return config


def averaged(config: SamplerConfig, output: Path, **settings: object) -> SamplerConfig:
    values: dict[str, object] = {"configurations": [90, 6, 4], "average_ps": 0.8, "settle_ps": 0.1}
    return replace(
        config,
        output=str(output),
        mean_forces=MeanForces(runs=[config.output], **{**values, **settings}),  # type: ignore[arg-type]
    )


def test_run_goes_on_with_the_same_bits(
    run_of_walkers: SamplerConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = averaged(run_of_walkers, tmp_path / "whole")
    path = sample_mean_forces(config, progress=False)
    frames = CGFrames.load(path)
    assert len(frames) == 100
    assert frames.force_standard_errors is not None
    assert frames.forces is not None
    # Two walkers train, one is for validation and one for test, each with its own frames.
    counts = np.bincount(frames.trajectory_index)
    assert counts[frames.validation_trajectories].tolist() == [6]
    assert counts[frames.test_trajectories].tolist() == [4]
    assert frames.weights is not None
    assert frames.weights.mean() == pytest.approx(1)
    assert main(["info", str(path)]) == 0
    assert "forces are means with a standard error of" in capsys.readouterr().out
    before = np.array(frames.forces)
    (tmp_path / "whole" / "piece-00001.h5").unlink()
    path.unlink()
    # What the configurations were chosen from is needed no more.
    away = replace(run_of_walkers, output=run_of_walkers.output + "-away")
    Path(run_of_walkers.output).rename(away.output)
    again = CGFrames.load(sample_mean_forces(replace(config, processes=1), progress=False))
    Path(away.output).rename(run_of_walkers.output)
    np.testing.assert_array_equal(again.forces, before)
    with pytest.raises(InputError, match="holds a run with another mean_forces"):
        sample_mean_forces(
            averaged(run_of_walkers, tmp_path / "whole", average_ps=0.4), progress=False
        )


def test_mean_forces_are_the_mean_of_many_frames_forces(
    run_of_walkers: SamplerConfig, tmp_path: Path
) -> None:
    """At frames of a run, averaged forces have the mean of instantaneous ones, with less noise."""
    config = averaged(
        run_of_walkers, tmp_path / "run", configurations=[400, 0, 0], thin_share=0.0,
        validation_share=0.0, test_share=0.0, average_ps=2.0,
    )  # fmt: skip
    frames = CGFrames.load(sample_mean_forces(config, progress=False))
    instantaneous = pack_runs([run_of_walkers.output])
    assert frames.forces is not None
    assert instantaneous.forces is not None
    # Projected on the bond of the first two beads, which does not turn with the molecule.
    along = []
    for positions, forces in (
        (frames.positions, frames.forces),
        (instantaneous.positions, instantaneous.forces),
    ):
        bond = positions[:, 1] - positions[:, 0]
        unit = bond / np.linalg.norm(bond, axis=1, keepdims=True)
        along.append(((forces[:, 1] - forces[:, 0]) * unit).sum(axis=1))
    # Frames of a bond 0.4 ps apart are nearly independent.
    error = np.hypot(*(values.std() / np.sqrt(len(values)) for values in along))
    assert along[0].mean() - along[1].mean() == pytest.approx(0, abs=4 * error)
    # What is left is the mean force itself: its square is smaller by the thermal noise's.
    assert np.mean(frames.forces**2) < 0.85 * np.mean(instantaneous.forces**2)


def test_configurations_that_blow_up_are_left_out(
    run_of_walkers: SamplerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = averaged(run_of_walkers, tmp_path / "run")
    assert config.mean_forces is not None
    chosen = choose(config, config.mean_forces, peptide_of(config))
    chosen.positions[3, 0] = chosen.positions[3, 1]  # two atoms in one place
    monkeypatch.setattr(mean_forces_run, "choose", lambda *_: chosen)
    frames = CGFrames.load(sample_mean_forces(config, progress=False))
    assert len(frames) == 99
    chosen.positions[:, 0] = chosen.positions[:, 1]
    with pytest.raises(InputError, match="every configuration blew up"):
        sample_mean_forces(replace(config, output=str(tmp_path / "all")), progress=False)


def test_sigterm_ends_between_pieces_and_nothing_is_lost(
    run_of_walkers: SamplerConfig, tmp_path: Path
) -> None:
    config = averaged(run_of_walkers, tmp_path / "run", configurations=[400, 0, 0], average_ps=4.0)
    path = tmp_path / "config.yaml"
    OmegaConf.save(OmegaConf.structured(config), path)
    command = [sys.executable, "-m", "cgfe", "reference", "--quiet", "--config", str(path)]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "piece-00000.h5").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    assert process.wait(timeout=60) == 143
    assert not (tmp_path / "run" / "mean_forces.h5").exists()
    names = [path.name for path in (tmp_path / "run").iterdir()]
    assert not [name for name in names if name.startswith(".")]


def test_configurations_of_a_frames_file_are_steered_to(
    run_of_walkers: SamplerConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    packed = pack_runs([run_of_walkers.output])
    path = tmp_path / "frames.h5"
    packed.save(path)
    config = averaged(
        run_of_walkers, tmp_path / "steered", frames=str(path), steer_ps=0.4,
        configurations=[5, 0, 0],
    )  # fmt: skip
    with caplog.at_level("INFO"):
        frames = CGFrames.load(sample_mean_forces(config, progress=False))
    # Rounded to float32, a frame at the edge of its bin may fall beside it, where no other is.
    said = r"from frames 0\.00 Å away \(median\), at most 0\.00; where [012] of 5 are"
    assert re.search(said, caplog.text)
    assert len(frames) == 5
    for positions in frames.positions.astype(float):
        assert rmsd(packed.positions.astype(float), positions).min() < 0.01


def test_configurations_are_taken_from_where_runs_have_the_fewest() -> None:
    visits = np.array([5, 0, 9, 0, 3, 9, 9, 9, 1, 9])
    own = np.array([1, 2, 3, 4, 5, 6, 7, 8])
    choice = least_visited(visits, 0.6)(own, 5, seed=3)
    assert len(choice.rows) == 5
    assert {1, 3, 8} < set(own[choice.rows])
    assert choice.weights.tolist() == [1] * 5
    seen = np.zeros(8)
    for seed in range(400):
        rows = least_visited(visits, 0.0)(own, 2, seed).rows
        assert len(rows) == 2
        seen[rows] += 1
    assert np.abs(seen / 400 - 0.25).max() < 4.5 * np.sqrt(0.25 * 0.75 / 400)
    with pytest.raises(InputError, match="9 configurations are asked of 8 frames"):
        least_visited(visits, 0.5)(own, 9, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"configurations": [10, 10]}, r"configurations is \[10, 10\]; expected three numbers"),
        ({"configurations": [5000, 0, 0]}, "5000 configurations are asked of 500 frames"),
        ({"thin_share": 1.5}, "thin_share is 1.5, expected 0 to 1"),
        ({"average_ps": 0.0}, "average_ps is 0; expected above 0"),
        ({"settle_ps": -1.0}, "settle_ps is -1, below 0"),
    ],
)
def test_bad_settings_are_named(
    run_of_walkers: SamplerConfig, tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        sample_mean_forces(averaged(run_of_walkers, tmp_path / "bad", **settings), progress=False)
    assert not (tmp_path / "bad").exists()


def test_runs_that_do_not_fit_are_named(run_of_walkers: SamplerConfig, tmp_path: Path) -> None:
    config = averaged(run_of_walkers, tmp_path / "bad")
    assert config.mean_forces is not None
    missing = replace(config, mean_forces=replace(config.mean_forces, runs=[str(tmp_path)]))
    with pytest.raises(InputError, match="no sampler run"):
        sample_mean_forces(missing, progress=False)
    with pytest.raises(InputError, match="mean_forces and temperatures_kelvin exclude each other"):
        replace(config, temperatures_kelvin=[300.0, 310.0], exchange_interval_ps=0.4).check()
    for key, value, message in (
        ("sequence", "GDYG", "sequence is GYDG, but the config has GDYG"),
        ("temperature_kelvin", 310.0, "temperature 310 K was not sampled"),
        ("solvent", "explicit", "needs the batched engine in implicit solvent"),
        ("engine", "openmm", "found solvent implicit and engine openmm"),
    ):
        with pytest.raises(InputError, match=message):
            sample_mean_forces(replace(config, **{key: value}), progress=False)
    assert not (tmp_path / "bad").exists()
