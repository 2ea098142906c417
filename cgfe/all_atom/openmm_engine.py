"""OpenMM as the sampler's engine: one process for each walker that runs at the time."""

import os
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import app, unit

from cgfe.all_atom.bias import BiasVariables, bias_folder
from cgfe.all_atom.chunks import (
    chunk_files,
    chunk_path,
    finite,
    read_chunk,
    stream,
    walker_folder,
    write_chunk,
)
from cgfe.all_atom.config import SamplerConfig, peptide_of
from cgfe.all_atom.openmm_bias import SharedBias
from cgfe.all_atom.progress import sampling_bar
from cgfe.all_atom.starts import HEATED, start_structures
from cgfe.all_atom.system import (
    Peptide,
    explicit_solvent_system,
    implicit_solvent_system,
    solvated,
)
from cgfe.files import make_folder, replacing
from cgfe.units import ANGSTROM_PER_NM, KCAL_PER_KJ

WAITING_BYTES = 2048
"""Of a walker that waits for a process, as measured."""


def needed_bytes(config: SamplerConfig, atoms: int) -> int:
    """Return what all walkers take: their jobs, and a chunk's frames of those that run.

    A frame's positions and forces are in float64 until its chunk is written in float32.
    """
    frame = atoms * 2 * 3 * (8 + 4)
    running = min(config.walkers, config.processes or os.cpu_count() or 1)
    return config.walkers * WAITING_BYTES + running * config.chunk_frames * frame


def sample_with_openmm(config: SamplerConfig, platform: str, progress: bool) -> None:
    """Run all walkers to their end in worker processes."""
    from cgfe.all_atom.batched import usable_cores  # the workers have no use for torch

    # A bias has contexts of its own inside, which take their number of threads from here.
    os.environ.setdefault("OPENMM_CPU_THREADS", "1")
    on_cpu = platform in ("CPU", "Reference")
    processes = config.processes or (usable_cores() if on_cpu else 1)
    with ProcessPoolExecutor(
        min(processes, config.walkers), get_context("spawn"), initializer=_end_with_parent
    ) as pool:
        jobs = [pool.submit(_run_walker, config, w, platform) for w in range(config.walkers)]
        try:
            _watch(config, jobs, progress)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _watch(config: SamplerConfig, jobs: list[Future[None]], progress: bool) -> None:
    """Show how far the walkers are until every one is done; raise what a walker raised."""
    folder = Path(config.output)

    def done_ns() -> float:
        chunks = (len(chunk_files(folder, w)[: config.chunks]) for w in range(config.walkers))
        return sum(chunks) * config.chunk_ns

    with sampling_bar(config, done_ns(), progress) as bar:
        while True:
            finished = all(job.done() for job in jobs)
            for job in jobs:
                if job.done():
                    job.result()
            bar.show(done_ns())
            if finished:
                return
            time.sleep(0.5)


def _end_with_parent() -> None:
    """Let this worker die with the run that started it, whatever killed that.

    A worker left alone would sample on, beside the workers of the run's next start.
    """
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _run_walker(config: SamplerConfig, walker: int, platform: str) -> None:
    """Sample one walker's missing chunks (in a worker process)."""
    folder = Path(config.output)
    make_folder(walker_folder(folder, walker))
    first = len(chunk_files(folder, walker))
    if first >= config.chunks:
        return
    simulation = WalkerSimulation(config, walker, platform)
    if first:
        simulation.load(chunk_files(folder, walker)[-1])
    else:
        simulation.start()
    for chunk in range(first, config.chunks):
        simulation.run_chunk(chunk, chunk_path(folder, walker, chunk))


class WalkerSimulation:
    """One walker: an OpenMM context, its bias if any, and the writing of chunks."""

    def __init__(self, config: SamplerConfig, walker: int, platform: str) -> None:
        self.config = config
        self.walker = walker
        self.peptide = peptide_of(config)
        self.atoms = len(self.peptide.positions)
        topology = self.peptide.topology
        self.solvated: Peptide | None = None
        if config.solvent == "explicit":
            self.solvated = self._in_water(platform)
            topology = self.solvated.topology
            system = explicit_solvent_system(
                topology, config.temperature_kelvin, config.hydrogen_mass
            )
        else:
            system = implicit_solvent_system(topology, config.hydrogen_mass)
        # Unbiased forces are asked for by force group, so the groups are taken before the bias.
        self.unbiased_groups = {force.getForceGroup() for force in system.getForces()}
        self.bias: SharedBias | None = None
        if config.metadynamics is not None:
            folder = bias_folder(Path(config.output))
            self.bias = SharedBias(
                config.metadynamics,
                BiasVariables.kept(folder),
                system,
                config.temperature_kelvin,
                config.chunk_frames,
                folder,
            )
        integrator = openmm.LangevinMiddleIntegrator(
            config.temperature_kelvin, config.friction_per_ps, config.time_step_fs / 1000
        )
        properties = {"Threads": "1"} if platform == "CPU" else {}
        self.simulation = app.Simulation(
            topology,
            system,
            integrator,
            openmm.Platform.getPlatformByName(platform),
            properties,
        )

    def start(self) -> None:
        """Place the walker at its start, minimise, and equilibrate."""
        context = self.simulation.context
        self._seed(0)
        context.setPositions(
            self._start_positions() if self.solvated is None else self.solvated.positions
        )
        self.simulation.minimizeEnergy(maxIterations=500)
        context.setVelocitiesToTemperature(self.config.temperature_kelvin, self._number(0))
        self.simulation.step(round(self.config.equilibration_ps * 1000 / self.config.time_step_fs))

    def _start_positions(self) -> NDArray[np.float64]:
        positions = start_structures(self.config, self.peptide, [self.walker])[0]
        stages = HEATED.get(self.config.start_of(self.walker))
        if stages is None:
            return positions
        context, integrator = self.simulation.context, self.simulation.integrator
        kelvin, step_ps = self.config.temperature_kelvin, self.config.time_step_fs / 1000
        context.setPositions(positions)
        self.simulation.minimizeEnergy(maxIterations=500)
        context.setVelocitiesToTemperature(stages[0].kelvin or kelvin, self._number(0))
        for stage in stages:
            integrator.setTemperature(stage.kelvin or kelvin)
            integrator.setStepSize(stage.time_step_fs / 1000)
            self.simulation.step(stage.steps)
        integrator.setTemperature(kelvin)
        integrator.setStepSize(step_ps)
        return np.array(context.getState(positions=True).getPositions(asNumpy=True)._value)

    def _in_water(self, platform: str) -> Peptide:
        """Return the walker's box; it is kept, since its number of waters depends on the start."""
        path = walker_folder(Path(self.config.output), self.walker) / "solvated.pdb"
        if not path.exists():
            dry = WalkerSimulation(replace(self.config, solvent="implicit"), self.walker, platform)
            box = solvated(Peptide(self.peptide.topology, dry._start_positions()))
            with replacing(path) as temporary, open(temporary, "w") as file:
                app.PDBFile.writeFile(box.topology, box.positions * unit.nanometer, file)
        pdb = app.PDBFile(str(path))
        positions = pdb.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        return Peptide(pdb.topology, np.array(positions))

    def load(self, chunk: Path) -> None:
        """Continue from the state at the end of a chunk."""
        context = self.simulation.context
        names = ["end_box"] if self.solvated is not None else []
        end = read_chunk(chunk, "end_positions", "end_velocities", *names)
        if self.solvated is not None:
            context.setPeriodicBoxVectors(*end["end_box"])
        context.setPositions(end["end_positions"])
        context.setVelocities(end["end_velocities"])

    def run_chunk(self, chunk: int, path: Path) -> None:
        """Sample one chunk and write it under `path`."""
        config, context = self.config, self.simulation.context
        self._seed(chunk + 1)
        records: dict[str, list[Any]] = {
            name: []
            for name in ("positions", "forces", "energies", "bias", "bias_offset", "variables")
        }
        if self.bias is not None:
            self.bias.apply(context)
        for _ in range(config.chunk_frames):
            self.simulation.step(config.steps_per_frame)
            self._record(records)
            if self.bias is not None:
                self.bias.add_hill(context)
        state = context.getState(positions=True, velocities=True)
        arrays: dict[str, NDArray[Any]] = {
            name: np.array(records[name], dtype=np.float32) for name in ("positions", "forces")
        }
        arrays["energies"] = np.array(records["energies"])
        arrays["end_positions"] = state.getPositions(asNumpy=True)._value
        arrays["end_velocities"] = state.getVelocities(asNumpy=True)._value
        if self.solvated is not None:
            arrays["end_box"] = state.getPeriodicBoxVectors(asNumpy=True)._value
        if self.bias is not None:
            for name in ("bias", "bias_offset", "variables"):
                arrays[name] = np.array(records[name])
        write_chunk(path, arrays)

    def _record(self, records: dict[str, list[Any]]) -> None:
        context = self.simulation.context
        state = context.getState(
            positions=True, forces=True, energy=True, groups=self.unbiased_groups
        )
        positions = state.getPositions(asNumpy=True)._value[: self.atoms] * ANGSTROM_PER_NM
        energy = state.getPotentialEnergy()._value * KCAL_PER_KJ
        finite(self.walker, energy, positions)
        # Centred in float64: far from the origin float32 would lose digits.
        records["positions"].append(positions - positions.mean(axis=0))
        records["forces"].append(
            state.getForces(asNumpy=True)._value[: self.atoms] * (KCAL_PER_KJ / ANGSTROM_PER_NM)
        )
        records["energies"].append(energy)
        if self.bias is not None:
            records["bias"].append(self.bias.energy_kcal(context))
            records["bias_offset"].append(self.bias.offset_kcal())
            records["variables"].append(self.bias.variables(context))

    def _number(self, chunk: int) -> int:
        """Return the seed of a chunk; OpenMM's are 31 bits, and 0 means any."""
        return stream(self.config.seed, self.walker, chunk) % (2**31 - 1) + 1

    def _seed(self, chunk: int) -> None:
        """Start the random stream of a chunk; OpenMM takes a new seed only on reinitialisation.

        The state is carried over by hand: `preserveState=True` would carry over the old random
        stream as well.
        """
        context = self.simulation.context
        state = context.getState(positions=True, velocities=True)
        number = self._number(chunk)
        self.simulation.integrator.setRandomNumberSeed(number)
        for force in self.simulation.system.getForces():
            if isinstance(force, openmm.MonteCarloBarostat):
                force.setRandomNumberSeed(number)
        context.reinitialize()
        if self.solvated is not None:
            context.setPeriodicBoxVectors(*state.getPeriodicBoxVectors())
        context.setPositions(state.getPositions(asNumpy=True))
        context.setVelocities(state.getVelocities(asNumpy=True))
