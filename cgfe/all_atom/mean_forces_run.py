"""A run of mean forces: choose configurations, average piece by piece, end with a frames file.

The choice is made once and kept in configurations.npz, since the runs that it was made from may go
on growing. Each piece is a file with random streams of its own, so a killed run loses at most the
piece that was being averaged, and goes on with the same bits.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cgfe.all_atom.batched import BatchedSystem
from cgfe.all_atom.chunks import read_chunk, streams, write_chunk
from cgfe.all_atom.config import SamplerConfig, peptide_of
from cgfe.all_atom.configurations import Configurations, choose
from cgfe.all_atom.mapped import POSITION_STEP, fit_mapping
from cgfe.all_atom.mean_forces import Averaging, MeanForces
from cgfe.all_atom.progress import ending_on_sigterm
from cgfe.all_atom.sampled import SampledTrajectory, open_runs
from cgfe.all_atom.sampler import begun_config, claim_folder
from cgfe.all_atom.system import (
    FORCE_FIELDS,
    Peptide,
    bead_bonds,
    bead_residues,
    implicit_solvent_system,
)
from cgfe.errors import InputError
from cgfe.frames import RESIDUE_MASSES, CGFrames

CONFIGURATIONS_FILE = "configurations.npz"
FRAMES_FILE = "mean_forces.h5"
PIECE = 64
"""Configurations of a piece: whole vectors at every width, for each of a few threads."""
FORCE_STEP = 2.0**-5
"""kcal/mol/Å that means and errors are rounded to, twenty times below the errors."""


def sample_mean_forces(config: SamplerConfig, progress: bool = True) -> Path:
    """Average forces at fixed beads as `config.mean_forces` says, going on from what is on disk.

    Returns
    -------
    Path
        A frames file whose forces are means, with `force_standard_errors`.

    Raises
    ------
    InputError
        If settings make no sense together, a run is missing or of another peptide, there are fewer
        frames than configurations, the kernel cannot sample this, or a configuration blows up.
    """
    settings = config.mean_forces
    assert settings is not None
    config.check()
    peptide = peptide_of(config)
    folder = Path(config.output)
    if config.engine == "openmm" or not BatchedSystem.available():
        raise InputError("mean_forces needs the batched engine and a C++ compiler.")
    trajectories, _ = open_runs(settings.runs, config.temperature_kelvin)
    _check_atoms(trajectories, len(peptide.positions))
    config = replace(config, engine="batched")
    claim_folder(folder, config, peptide, begun_config(folder))
    system = implicit_solvent_system(peptide.topology, config.hydrogen_mass)
    mapping = fit_mapping("optimal", trajectories, peptide.topology)
    path = folder / CONFIGURATIONS_FILE
    if not path.exists():
        choose(settings, config.seed, trajectories, mapping).save(path)
    configurations = Configurations.load(path)
    averaging = Averaging(
        BatchedSystem(system, [int(bead) for bead in mapping.beads]),
        mapping,
        config.temperature_kelvin,
        config.time_step_fs / 1000,
        config.friction_per_ps,
        settings.settle_ps,
        settings.average_ps,
        settings.steer_ps,
        config.processes,
    )
    with ending_on_sigterm():
        means, errors = _averaged(folder, config.seed, configurations, averaging, progress)
    frames = _frames(config, settings, peptide, configurations, means, errors, trajectories[0])
    frames.save(folder / FRAMES_FILE)
    return folder / FRAMES_FILE


def _averaged(
    folder: Path, seed: int, configurations: Configurations, averaging: Averaging, progress: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average what is missing, and return all means and errors (C, N, 3)."""
    count = len(configurations.trajectory)
    rows = [slice(a, min(a + PIECE, count)) for a in range(0, count, PIECE)]
    files = [folder / f"piece-{number:05d}.h5" for number in range(len(rows))]
    missing = [pair for pair in zip(files, rows, strict=True) if not pair[0].exists()]
    done = count - sum(own.stop - own.start for _, own in missing)
    with tqdm(
        total=count, initial=done, disable=not progress, desc="mean forces", unit="conf"
    ) as bar:
        for path, own in missing:
            targets = configurations.beads[own] if configurations.steered else None
            numbers = streams(seed, range(own.start, own.stop), 0)
            means, errors = averaging.forces(configurations.positions[own], numbers, targets)
            write_chunk(path, {"means": means, "errors": errors})
            bar.update(own.stop - own.start)
    parts = [read_chunk(path, "means", "errors") for path in files]
    means, errors = (np.concatenate([part[name] for part in parts]) for name in parts[0])
    return means, errors


def _check_atoms(trajectories: Sequence[SampledTrajectory], atoms: int) -> None:
    for trajectory in trajectories:
        found = next(trajectory.chunks(1))["positions"].shape[1]
        if found != atoms:
            raise InputError(f"{trajectory.folder}: frames of {found} atoms, expected {atoms}.")


def _frames(
    config: SamplerConfig,
    settings: MeanForces,
    peptide: Peptide,
    configurations: Configurations,
    means: NDArray[np.float64],
    errors: NDArray[np.float64],
    trajectory: SampledTrajectory,
) -> CGFrames:
    """Return the frames whose forces are means, rounded."""
    names = bead_residues(peptide.topology)
    beads = configurations.beads.astype(np.float64)
    return CGFrames(
        positions=_rounded(beads - beads.mean(axis=1, keepdims=True), POSITION_STEP),
        forces=_rounded(means, FORCE_STEP),
        force_standard_errors=_rounded(errors, FORCE_STEP),
        trajectory_index=configurations.trajectory,
        weights=configurations.weights / configurations.weights.mean(),
        validation_trajectories=configurations.validation,
        test_trajectories=configurations.test,
        residue_names=names,
        masses=np.array([RESIDUE_MASSES.get(name, 110.0) for name in names]),
        bonds=bead_bonds(peptide.topology),
        temperature_kelvin=config.temperature_kelvin,
        frame_interval_ps=trajectory.config.frame_interval_ps,
        position_step=POSITION_STEP,
        force_step=FORCE_STEP,
        force_mapping="optimal",
        force_field=FORCE_FIELDS[config.solvent],
        source=f"cgfe reference: forces averaged over {settings.average_ps:g} ps at fixed beads, "
        f"after {settings.settle_ps:g} ps; {config.time_step_fs:g} fs LangevinMiddle, "
        f"{config.friction_per_ps:g}/ps",
        name="mean forces",
    )


def _rounded(values: NDArray[np.floating], step: float) -> NDArray[np.float32]:
    return (np.round(values / step) * step).astype(np.float32)
