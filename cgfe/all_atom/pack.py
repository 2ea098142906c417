"""From sampler runs to one CGFrames: map every chunk, deal walkers out, attach weights."""

import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgfe.all_atom.config import SamplerConfig
from cgfe.all_atom.dealing import dealt
from cgfe.all_atom.mapped import (
    FORCE_STEP,
    POSITION_STEP,
    MappedTrajectory,
    fit_mapping,
    mapped,
)
from cgfe.all_atom.sampled import SampledTrajectory, open_runs
from cgfe.all_atom.system import (
    FORCE_FIELDS,
    HAIRPIN,
    alpha_carbons,
    bead_bonds,
    bead_residues,
    peptide_from_pdb,
    peptide_from_sequence,
)
from cgfe.data.beads import RESIDUE_MASSES
from cgfe.data.force_mapping import MapKind
from cgfe.data.frames import CGFrames
from cgfe.data.weighed import WeightKind, weighed
from cgfe.errors import InputError
from cgfe.progress import Bar
from cgfe.units import ANGSTROM_PER_NM
from cgfe.version import __version__

log = logging.getLogger(__name__)


def pack_runs(
    folders: Sequence[str | Path],
    kind: MapKind = "optimal",
    discard_ns: float | None = None,
    native: str | None = None,
    validation: float = 0.0,
    test: float = 0.0,
    temperature: float | None = None,
    every_ps: float | None = None,
    weights: WeightKind = "estimated",
    source: str = "cgfe reference",
) -> CGFrames:
    """Map the frames of sampler runs at one temperature to Cα beads.

    A trajectory is a walker, or of replica exchange a ladder's frames at the temperature: these hop
    between replicas (`CGFrames.replica_index` keeps which), so bootstraps resample ladders, and
    their kinetics mean nothing, so they count among the biased trajectories, with log weight 0.

    Parameters
    ----------
    folders : sequence of path
        Runs of the same peptide with the same frame interval.
    kind : str
        Force map; `optimal` is fitted to frames spread over the training walkers' beginnings.
    discard_ns : float, optional
        Dropped from the beginning of every walker; by default 1 ns of biased ones, where the bias
        still grows fast, and nothing of others.
    native : str, optional
        PDB file of the folded structure, `folded` for the embedded hairpin, or `helix`.
    validation, test : float
        Shares of the trajectories that the file names for validation and test, spread evenly over
        runs and starts.
    temperature : float, optional
        K; by default the lowest one of the first run.
    every_ps : float, optional
        Spacing of the packed frames; by default that of the runs.
    weights : str
        As for `weighed`; `counts` is for walkers long enough to be at equilibrium.
    source : str
        Recorded as the origin.

    Raises
    ------
    InputError
        If a folder is no run, or runs do not belong together.
    """
    trajectories, kelvin = open_runs(folders, temperature)
    first = trajectories[0].config
    stride = _stride(every_ps, first.frame_interval_ps)
    if weights != "estimated" and any(t.config.metadynamics is not None for t in trajectories):
        raise InputError(f"weights is {weights}, but a run is biased; expected estimated.")
    parts = dealt([trajectory.group for trajectory in trajectories], validation, test)
    peptide = peptide_from_pdb(trajectories[0].folder / "topology.pdb")
    names = bead_residues(peptide.topology)
    native_positions = _native_positions(native, first, names)
    mapping = fit_mapping(
        kind, [trajectories[number] for number in parts["training"]], peptide.topology
    )
    walkers = [
        mapped(trajectory, mapping, discard_ns, stride)
        for trajectory in Bar(trajectories, desc="mapping", unit="walker")
    ]
    interval = first.frame_interval_ps * stride
    frames = CGFrames(
        **_per_frame(walkers, trajectories),
        validation_trajectories=parts["validation"],
        test_trajectories=parts["test"],
        residue_names=names,
        masses=np.array([RESIDUE_MASSES.get(name, 110.0) for name in names]),
        bonds=bead_bonds(peptide.topology),
        native_positions=native_positions,
        temperature_kelvin=kelvin,
        frame_interval_ps=interval,
        position_step=POSITION_STEP,
        force_step=FORCE_STEP,
        force_mapping=kind,
        force_field=FORCE_FIELDS[first.solvent],
        source=f"{source}; {_engines(trajectories)}, "
        f"{first.time_step_fs:g} fs LangevinMiddle, {first.friction_per_ps:g}/ps",
        name="packed runs",
    )
    try:
        return weighed(frames, weights)
    except InputError as error:
        if weights != "estimated" or len(frames.biased_trajectories):
            raise
        log.warning("frames have no weights, so raw counts stand for equilibrium (%s)", error)
        return frames


def _stride(every_ps: float | None, interval: float) -> int:
    if every_ps is None:
        return 1
    stride = round(every_ps / interval)
    if stride < 1 or abs(stride * interval - every_ps) > 1e-6 * interval:
        raise InputError(
            f"every-ps is {every_ps:g}; expected a multiple of the runs' frame_interval_ps, "
            f"{interval:g}."
        )
    return stride


def _per_frame(
    walkers: Sequence[MappedTrajectory], trajectories: Sequence[SampledTrajectory]
) -> dict[str, Any]:
    """Return the arrays (F, ...) of all trajectories, and which of these are biased."""
    lengths = [len(walker.energies) for walker in walkers]
    biased = np.array([walker.log_weights is not None for walker in walkers])
    logs = [
        np.full(length, np.nan) if walker.log_weights is None else walker.log_weights
        for walker, length in zip(walkers, lengths, strict=True)
    ]
    replicas = None
    if any(trajectory.exchanged for trajectory in trajectories):
        # Walkers of different runs are different replicas.
        runs = list(dict.fromkeys(trajectory.folder for trajectory in trajectories))
        sizes = {t.folder: t.config.walkers for t in trajectories}
        offset = {run: sum(sizes[before] for before in runs[:k]) for k, run in enumerate(runs)}
        replicas = np.concatenate(
            [w.replica + offset[t.folder] for w, t in zip(walkers, trajectories, strict=True)]
        ).astype(np.int32)
    return {
        "positions": np.concatenate([walker.positions for walker in walkers]),
        "forces": np.concatenate([walker.forces for walker in walkers]),
        "all_atom_energies": np.concatenate([walker.energies for walker in walkers]),
        "trajectory_index": np.repeat(np.arange(len(walkers)), lengths).astype(np.int32),
        "bias_log_weights": np.concatenate(logs) if biased.any() else None,
        "biased_trajectories": np.flatnonzero(biased).astype(np.int32),
        "replica_index": replicas,
    }


def _engines(trajectories: Sequence[SampledTrajectory]) -> str:
    names = {"openmm": f"OpenMM {version('openmm')}", "batched": f"cgfe {__version__}'s kernel"}
    return " and ".join(names[engine] for engine in sorted({t.config.engine for t in trajectories}))


def _native_positions(
    native: str | None, config: SamplerConfig, residues: tuple[str, ...]
) -> NDArray[np.float64] | None:
    if native is None:
        return None
    if native == "helix" and config.sequence is not None:
        peptide = peptide_from_sequence(config.sequence, config.caps, helix=True)
    else:
        peptide = peptide_from_pdb(HAIRPIN if native == "folded" else native)
    chosen = peptide.positions[alpha_carbons(peptide.topology)] * ANGSTROM_PER_NM
    found = bead_residues(peptide.topology)
    if found != residues:
        what = "folded, chignolin's hairpin," if native == "folded" else native
        raise InputError(
            f"native structure {what} holds {'-'.join(found)}, but the runs are of "
            f"{'-'.join(residues)}."
        )
    return chosen - chosen.mean(axis=0)
