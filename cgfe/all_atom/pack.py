"""From sampler runs to one CGFrames: map every chunk, attach weights, round, record the origin."""

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf
from openmm import app
from tqdm import tqdm

from cgfe.all_atom.sampler import SamplerConfig, chunk_files
from cgfe.all_atom.starts import HAIRPIN
from cgfe.all_atom.system import (
    FORCE_FIELDS,
    alpha_carbons,
    implicit_solvent_system,
    peptide_from_pdb,
)
from cgfe.errors import InputError
from cgfe.files import open_hdf5
from cgfe.frames import RESIDUE_MASSES, CGFrames
from cgfe.mapping import CarbonAlphaMapping, MapKind
from cgfe.units import ANGSTROM_PER_NM, thermal_energy
from cgfe.weights import combined_weights

log = logging.getLogger(__name__)

# Steps that positions (Å) and forces (kcal/mol/Å) are rounded to: 300 times below the thermal
# motion of a bond and 800 times below the noise of a mapped force, and half the file's size.
POSITION_STEP = 2.0**-10
FORCE_STEP = 2.0**-6
MAP_FRAMES = 4000


@dataclass(frozen=True)
class _Run:
    folder: Path
    config: SamplerConfig

    @property
    def walkers(self) -> list[list[Path]]:
        chunks = [chunk_files(self.folder, walker) for walker in range(self.config.walkers)]
        return [paths for paths in chunks if paths]


def pack_runs(
    folders: Sequence[str | Path],
    kind: MapKind = "optimal",
    discard_ns: float = 0.0,
    native: str | None = None,
    held_out: float = 0.0,
    source: str = "cgfe reference",
) -> CGFrames:
    """Map the frames of sampler runs to Cα beads; one trajectory per walker.

    Parameters
    ----------
    folders : sequence of path
        Runs of the same peptide at the same temperature and frame interval.
    kind : str
        Force map; `optimal` is fitted to frames spread over all walkers' beginnings.
    discard_ns : float
        Dropped from the beginning of every biased walker, where the bias still grows fast.
    native : str, optional
        PDB file of the folded structure, or `folded` for the embedded hairpin.
    held_out : float
        Share of the trajectories, at least one, that the file names as the test split; 0: none.
        They are spread evenly over the runs' walkers.
    source : str
        Recorded as the origin.

    Raises
    ------
    InputError
        If a folder is no run, or runs do not belong together.
    """
    runs = [_open_run(Path(folder)) for folder in folders]
    first = runs[0].config
    peptide = peptide_from_pdb(runs[0].folder / "topology.pdb")
    for run in runs[1:]:
        for key in ("sequence", "pdb", "solvent", "temperature_kelvin", "frame_interval_ps"):
            if getattr(run.config, key) != getattr(first, key):
                raise InputError(
                    f"{run.folder}: {key} is {getattr(run.config, key)}, but {runs[0].folder} "
                    f"has {getattr(first, key)}."
                )
    mapping = _fit_mapping(kind, runs, peptide.topology)
    walkers = [(run, paths) for run in runs for paths in run.walkers]
    parts = [
        _read_walker(run, paths, mapping, discard_ns)
        for run, paths in tqdm(walkers, desc="mapping", unit="walker")
    ]
    positions = np.concatenate([part.positions for part in parts])
    index = np.repeat(np.arange(len(parts)), [len(part.positions) for part in parts])
    biased = np.array([w for w, part in enumerate(parts) if part.log_weights is not None])
    names = tuple(residue.name for residue in peptide.topology.residues())
    logs = [part.log_weights for part in parts]
    weights = None
    tests = _held_out([log is None for log in logs], held_out)
    try:
        weights = combined_weights(
            [part.positions for part in parts], logs, first.frame_interval_ps, list(tests)
        )
    except InputError as error:
        if len(biased):
            raise
        log.warning("frames have no weights, so raw counts stand for equilibrium: %s", error)
    unknown = [np.full(len(part.positions), np.nan) for part in parts]
    bias_logs = [u if x is None else x for x, u in zip(logs, unknown, strict=True)]
    return CGFrames(
        positions=positions,
        forces=np.concatenate([part.forces for part in parts]),
        all_atom_energies=np.concatenate([part.energies for part in parts]),
        trajectory_index=index.astype(np.int32),
        weights=weights,
        bias_log_weights=np.concatenate(bias_logs) if len(biased) else None,
        biased_trajectories=biased.astype(np.int32),
        test_trajectories=tests,
        residue_names=names,
        masses=np.array([RESIDUE_MASSES.get(name, 110.0) for name in names]),
        bonds=_bead_bonds(peptide.topology),
        native_positions=_native_positions(native, len(names)),
        temperature_kelvin=first.temperature_kelvin,
        frame_interval_ps=first.frame_interval_ps,
        force_mapping=kind,
        force_field=FORCE_FIELDS[first.solvent],
        source=f"{source}; OpenMM {version('openmm')}, "
        f"{first.time_step_fs:g} fs LangevinMiddle, {first.friction_per_ps:g}/ps",
        name="packed runs",
    )


def _held_out(unbiased: list[bool], share: float) -> NDArray[np.int32]:
    """Return evenly spread trajectories, unbiased ones where there are: their counts mean more."""
    if not 0 <= share < 1:
        raise InputError(f"held-out share is {share:g}, expected at least 0 and less than 1.")
    if share == 0:
        return np.zeros(0, dtype=np.int32)
    candidates = np.flatnonzero(unbiased) if any(unbiased) else np.arange(len(unbiased))
    count = max(1, round(share * len(candidates)))
    if count >= len(candidates):
        raise InputError(f"{len(candidates)} trajectories are too few to hold one out.")
    chosen = ((np.arange(count) + 0.5) * len(candidates) / count).astype(int)
    return candidates[chosen].astype(np.int32)


def _open_run(folder: Path) -> _Run:
    path = folder / "config.yaml"
    if not path.is_file():
        raise InputError(f"{folder}: no sampler run (config.yaml is missing).")
    merged = OmegaConf.merge(OmegaConf.structured(SamplerConfig), OmegaConf.load(path))
    config = OmegaConf.to_object(merged)
    assert isinstance(config, SamplerConfig)
    run = _Run(folder, config)
    if not run.walkers:
        raise InputError(f"{folder}: no finished chunk yet.")
    return run


def _fit_mapping(kind: MapKind, runs: list[_Run], topology: app.Topology) -> CarbonAlphaMapping:
    system = implicit_solvent_system(topology)
    constraints = [
        tuple(system.getConstraintParameters(i)[:2]) for i in range(system.getNumConstraints())
    ]
    forces = None
    if kind == "optimal":
        chunks = [path for run in runs for paths in run.walkers for path in paths[:20]]
        each = max(1, MAP_FRAMES // len(chunks))
        forces = np.concatenate([_chunk(path)["forces"][:: max(1, 50 // each)] for path in chunks])
    return CarbonAlphaMapping.fit(
        kind, alpha_carbons(topology), system.getNumParticles(), constraints, forces
    )


@dataclass(frozen=True)
class _Walker:
    positions: NDArray[np.float32]
    forces: NDArray[np.float32]
    energies: NDArray[np.float64]
    log_weights: NDArray[np.float64] | None


def _read_walker(
    run: _Run, paths: list[Path], mapping: CarbonAlphaMapping, discard_ns: float
) -> _Walker:
    metadynamics, kt = run.config.metadynamics, thermal_energy(run.config.temperature_kelvin)
    positions, forces, energies, log_weights = [], [], [], []
    for data in _chunks(paths):
        positions.append(mapping.map_positions(data["positions"]))
        forces.append(mapping.map_forces(data["forces"].astype(np.float64)))
        energies.append(data["energies"])
        if metadynamics is not None:
            log_weights.append((data["bias"] - data["bias_offset"]) / kt)
    skip = 0
    if metadynamics is not None:
        skip = round(discard_ns * 1000 / run.config.frame_interval_ps)
        if skip >= sum(map(len, energies)):
            raise InputError(
                f"{run.folder}: a biased walker of {sum(map(len, energies))} frames has nothing "
                f"left after the discarded {discard_ns:g} ns; choose a smaller --discard-ns."
            )
    return _Walker(
        _rounded(np.concatenate(positions)[skip:], POSITION_STEP),
        _rounded(np.concatenate(forces)[skip:], FORCE_STEP),
        np.concatenate(energies)[skip:],
        np.concatenate(log_weights)[skip:] if log_weights else None,
    )


def _chunks(paths: list[Path]) -> Iterator[dict[str, NDArray[np.float64]]]:
    for path in paths:
        yield _chunk(path)


def _chunk(path: Path) -> dict[str, NDArray[np.float64]]:
    with open_hdf5(path) as file:
        return {name: file[name][()] for name in file}


def _rounded(values: NDArray[np.floating], step: float) -> NDArray[np.float32]:
    return (np.round(values / step) * step).astype(np.float32)


def _bead_bonds(topology: app.Topology) -> NDArray[np.int64]:
    """Return pairs of neighbouring residues of one chain."""
    pairs: list[tuple[int, int]] = []
    for chain in topology.chains():
        residues = [residue.index for residue in chain.residues()]
        pairs += itertools.pairwise(residues)
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _native_positions(native: str | None, beads: int) -> NDArray[np.float64] | None:
    if native is None:
        return None
    peptide = peptide_from_pdb(HAIRPIN if native == "folded" else native)
    chosen = peptide.positions[alpha_carbons(peptide.topology)] * ANGSTROM_PER_NM
    if len(chosen) != beads:
        raise InputError(f"native structure {native} has {len(chosen)} residues, expected {beads}.")
    return chosen - chosen.mean(axis=0)
