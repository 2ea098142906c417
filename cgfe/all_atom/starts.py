"""Where walkers start: extended, random coil, the folded hairpin, or spread frames of a run."""

from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from openmm import app

from cgfe.all_atom.system import Peptide, alpha_carbons, peptide_from_pdb
from cgfe.errors import InputError
from cgfe.files import open_hdf5
from cgfe.geometry import k_centres, pair_distances
from cgfe.units import ANGSTROM_PER_NM

HAIRPIN = str(files("cgfe") / "data" / "hairpin.pdb")
COIL_TEMPERATURE = 600.0
COIL_STEPS = 25_000
MAX_SCOUT_FRAMES = 20_000


def start_positions(
    start: str, peptide: Peptide, simulation: app.Simulation, walker: int, seed: int
) -> NDArray[np.float64]:
    """Return starting positions (atoms, 3) in nm.

    Parameters
    ----------
    start : str
        `extended`, `coil`, `folded`, a PDB file with the same atoms, or the folder of an
        earlier run: its frames are spread over Cα-distance space (k-centres) and walker w
        takes the w-th, so that rare regions are started from as often as common ones.
    simulation : Simulation
        Used for the hot run that makes a coil.

    Raises
    ------
    InputError
        If the start is none of these or has other atoms.
    """
    if start == "extended":
        return peptide.positions
    if start == "coil":
        return _random_coil(peptide, simulation)
    if Path(start).is_dir():
        return _spread_frame(Path(start), peptide, walker, seed)
    path = HAIRPIN if start == "folded" else start
    if not Path(path).is_file():
        raise InputError(
            f"start {start!r} is none of extended, coil, folded, a PDB file, or a run's folder."
        )
    other = peptide_from_pdb(path)
    if _atom_names(other) != _atom_names(peptide):
        raise InputError(
            f"start {path} has {len(other.positions)} atoms that differ from the system's "
            f"{len(peptide.positions)}; expected the same peptide."
        )
    return other.positions


def _atom_names(peptide: Peptide) -> list[tuple[str, str]]:
    return [(atom.residue.name, atom.name) for atom in peptide.topology.atoms()]


def _random_coil(peptide: Peptide, simulation: app.Simulation) -> NDArray[np.float64]:
    """Melt the extended chain; the caller's minimisation quenches it."""
    context, integrator = simulation.context, simulation.integrator
    temperature = integrator.getTemperature()
    context.setPositions(peptide.positions)
    simulation.minimizeEnergy(maxIterations=500)
    integrator.setTemperature(COIL_TEMPERATURE)
    context.setVelocitiesToTemperature(COIL_TEMPERATURE, integrator.getRandomNumberSeed())
    simulation.step(COIL_STEPS)
    integrator.setTemperature(temperature)
    positions: NDArray[np.float64] = (
        context.getState(positions=True).getPositions(asNumpy=True)._value
    )
    return positions


def _spread_frame(folder: Path, peptide: Peptide, walker: int, seed: int) -> NDArray[np.float64]:
    chunks = sorted(folder.glob("walker-*/chunk-*.h5"))
    if not chunks:
        raise InputError(f"start {folder}: the folder holds no sampled chunks.")
    frames = []
    for chunk in chunks:
        with open_hdf5(chunk) as file:
            frames.append(file["positions"][()])
    positions = np.concatenate(frames)
    stride = max(1, len(positions) // MAX_SCOUT_FRAMES)
    positions = positions[::stride]
    if positions.shape[1] != len(peptide.positions):
        raise InputError(
            f"start {folder}: frames of {positions.shape[1]} atoms, "
            f"expected {len(peptide.positions)}."
        )
    features = pair_distances(positions[:, alpha_carbons(peptide.topology)])
    chosen = k_centres(features, walker + 1, seed)[walker]
    return positions[chosen].astype(np.float64) / ANGSTROM_PER_NM
