"""Starts of the batched engine: minimised by OpenMM, heated and equilibrated by the kernel."""

from collections.abc import Sequence

import numpy as np
import openmm
from numpy.typing import NDArray

from cgfe.all_atom.batched import BatchedSystem, Dynamics, Walkers
from cgfe.all_atom.chunks import streams
from cgfe.all_atom.config import SamplerConfig
from cgfe.all_atom.progress import advance_in_pieces
from cgfe.all_atom.starts import HEATED, start_structures
from cgfe.all_atom.system import Peptide, implicit_solvent_system

MINIMISER_STEPS = 500
HEATING_FRICTION = 1.0
"""1/ps."""


def started(
    config: SamplerConfig, peptide: Peptide, kernel: BatchedSystem, numbers: Sequence[int]
) -> Walkers:
    """Return walkers at their starts, each equilibrated at its own temperature.

    Those with a heated start are heated together while the others wait. Random numbers are those of
    chunk 0, so the same walkers start alike each time.
    """
    structures = start_structures(config, peptide, numbers)
    positions = _minimised(structures, peptide, config.hydrogen_mass).astype(np.float32)
    slots = np.array(numbers) % len(config.ladder)
    temperatures = np.array(config.ladder)[slots]
    for kind in HEATED:
        rows = [row for row, walker in enumerate(numbers) if config.start_of(walker) == kind]
        if rows:
            hot = _heated(kind, rows, config, kernel, numbers, positions, temperatures)
            positions[rows] = hot[rows]
    walkers = _at_rest(config, kernel, numbers, positions, temperatures, purpose=1)
    # Steps of half the length: a minimised start has stiff contacts to get rid of.
    step_ps = config.time_step_fs / 2000
    steps = round(config.equilibration_ps / step_ps)
    advance_in_pieces(
        kernel, walkers, Dynamics(steps, step_ps, config.friction_per_ps), config.processes
    )
    return walkers


def _heated(
    kind: str,
    rows: Sequence[int],
    config: SamplerConfig,
    kernel: BatchedSystem,
    numbers: Sequence[int],
    positions: NDArray[np.float32],
    temperatures: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Return positions (W, A, 3) after heating; what is not in `rows` was simulated in vain.

    It costs nothing, and a walker's bits must not depend on which others are started with it.
    """

    def at(kelvin: float | None) -> NDArray[np.float64]:
        stage = temperatures.copy()
        if kelvin is not None:
            stage[rows] = kelvin
        return stage

    stages = HEATED[kind]
    walkers = _at_rest(config, kernel, numbers, positions, at(stages[0].kelvin), purpose=3)
    for stage in stages:
        walkers.temperatures = at(stage.kelvin)
        dynamics = Dynamics(stage.steps, stage.time_step_fs / 1000, HEATING_FRICTION)
        advance_in_pieces(kernel, walkers, dynamics, config.processes)
    return walkers.positions


def _at_rest(
    config: SamplerConfig,
    kernel: BatchedSystem,
    numbers: Sequence[int],
    positions: NDArray[np.float32],
    temperatures: NDArray[np.float64],
    purpose: int,
) -> Walkers:
    """Return walkers with new velocities and random streams of a purpose."""
    walkers = kernel.walkers(positions)
    walkers.temperatures = temperatures
    walkers.thermalise(streams(config.seed, numbers, 0, purpose), kernel.masses)
    walkers.seed(streams(config.seed, numbers, 0, purpose + 1))
    kernel.evaluate(walkers, config.processes)
    return walkers


def _minimised(
    structures: NDArray[np.float64], peptide: Peptide, hydrogen_mass: float
) -> NDArray[np.float64]:
    """Return structures (W, A, 3), nm, at minima of the energy; equal ones are minimised once."""
    system = implicit_solvent_system(peptide.topology, hydrogen_mass)
    platform = openmm.Platform.getPlatformByName("CPU")
    properties = {"Threads": "1", "DeterministicForces": "true"}
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform, properties)
    known: dict[bytes, NDArray[np.float64]] = {}
    for structure in structures:
        key = structure.tobytes()
        if key not in known:
            context.setPositions(structure)
            openmm.LocalEnergyMinimizer.minimize(context, maxIterations=MINIMISER_STEPS)
            state = context.getState(positions=True)
            known[key] = np.array(state.getPositions(asNumpy=True)._value)
    return np.array([known[structure.tobytes()] for structure in structures])
