"""A run of mean forces: choose configurations, average piece by piece, end with a frames file.

The choice is made once and kept in configurations.npz, since the runs that it was made from may go
on growing. Each piece is a file with random streams of its own, so a killed run loses at most the
piece that was being averaged, and goes on with the same bits.
"""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from numpy.typing import NDArray

from cgfe.all_atom.batched import BatchedSystem
from cgfe.all_atom.chunks import read_chunk, streams, write_chunk
from cgfe.all_atom.config import MeanForces, SamplerConfig, peptide_of
from cgfe.all_atom.configurations import Configurations, choose
from cgfe.all_atom.mapped import POSITION_STEP, rounded
from cgfe.all_atom.mean_forces import Averaging, summary
from cgfe.all_atom.sampler import begun_config, claim_folder
from cgfe.all_atom.system import (
    FORCE_FIELDS,
    Peptide,
    bead_bonds,
    bead_residues,
    implicit_solvent_system,
)
from cgfe.data.beads import RESIDUE_MASSES
from cgfe.data.frames import CGFrames
from cgfe.ending import ending_on_sigterm
from cgfe.errors import InputError
from cgfe.progress import Bar

log = logging.getLogger(__name__)

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
        frames than configurations, or the kernel cannot sample this.
    """
    settings = config.mean_forces
    assert settings is not None
    config.check()
    if not BatchedSystem.available():
        raise InputError("mean_forces needs a C++ compiler.")
    peptide = peptide_of(config)
    folder = Path(config.output)
    begun, path = begun_config(folder), folder / CONFIGURATIONS_FILE
    chosen = Configurations.load(path) if path.exists() else choose(config, settings, peptide)
    claim_folder(folder, replace(config, engine="batched"), peptide, begun)
    if not path.exists():
        chosen.save(path)
    averaging = Averaging(
        BatchedSystem(
            implicit_solvent_system(peptide.topology, config.hydrogen_mass),
            [int(bead) for bead in chosen.bead_atoms],
        ),
        chosen.mapping,
        config.temperature_kelvin,
        config.time_step_fs / 1000,
        config.friction_per_ps,
        settings.settle_ps,
        settings.average_ps,
        settings.steer_ps,
        config.processes,
    )
    with ending_on_sigterm():
        means, errors = _averaged(folder, config.seed, chosen, averaging, progress)
    frames = _frames(config, settings, peptide, chosen, means, errors)
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
    with Bar(
        total=count, initial=done, disable=not progress, desc="mean forces", unit="conf"
    ) as bar:
        for path, own in missing:
            targets = configurations.beads[own] if configurations.steered else None
            numbers = range(own.start, own.stop)
            both = np.stack([streams(seed, numbers, 0, purpose) for purpose in (0, 1)])
            means, errors = averaging.forces(configurations.positions[own], both, targets)
            write_chunk(path, {"means": means, "errors": errors})
            bar.update(own.stop - own.start)
    parts = [read_chunk(path, "means", "errors") for path in files]
    means, errors = (np.concatenate([part[name] for part in parts]) for name in parts[0])
    return means, errors


def _frames(
    config: SamplerConfig,
    settings: MeanForces,
    peptide: Peptide,
    configurations: Configurations,
    means: NDArray[np.float64],
    errors: NDArray[np.float64],
) -> CGFrames:
    """Return the frames whose forces are means, rounded, without those that blew up."""
    kept = np.asarray(np.isfinite(means).all(axis=(1, 2)))
    if not kept.all():
        log.warning("%d of %d configurations blew up and are left out", (~kept).sum(), len(kept))
    if not kept.any():
        raise InputError("mean_forces: every configuration blew up; try a shorter time_step_fs.")
    means, errors = means[kept], errors[kept]
    told = summary(means, errors)
    rank_zero_info(
        f"mean forces: root mean square {told['rms']:.2f} kcal/mol/Å, standard error "
        f"{told['standard_error']:.2f}"
    )
    names = bead_residues(peptide.topology)
    beads = configurations.beads[kept].astype(np.float64)
    weights = configurations.weights[kept]
    return CGFrames(
        positions=rounded(beads - beads.mean(axis=1, keepdims=True), POSITION_STEP),
        forces=rounded(means, FORCE_STEP),
        force_standard_errors=rounded(errors, FORCE_STEP),
        trajectory_index=configurations.trajectory[kept],
        weights=weights / weights.mean(),
        validation_trajectories=configurations.validation,
        test_trajectories=configurations.test,
        residue_names=names,
        masses=np.array([RESIDUE_MASSES.get(name, 110.0) for name in names]),
        bonds=bead_bonds(peptide.topology),
        temperature_kelvin=config.temperature_kelvin,
        frame_interval_ps=float(configurations.frame_interval_ps),
        position_step=POSITION_STEP,
        force_step=FORCE_STEP,
        force_mapping="optimal",
        force_field=FORCE_FIELDS[config.solvent],
        source=f"cgfe reference: forces averaged over {settings.average_ps:g} ps at fixed beads, "
        f"after {settings.settle_ps:g} ps; errors are of what turns within half of that; "
        f"{config.time_step_fs:g} fs LangevinMiddle, {config.friction_per_ps:g}/ps",
        name="mean forces",
    )
