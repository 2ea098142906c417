"""Sampling all-atom peptides with OpenMM: several walkers, resumable after any kill.

A walker's trajectory is a row of chunk files. A chunk holds its frames and the exact state at
its end, and is renamed into place when complete, so the newest chunk is all that a restart
needs: a killed run loses at most the chunk that was being sampled. Every chunk seeds its own
random stream from (seed, walker, chunk), so an interrupted run and an uninterrupted one draw
the same numbers.
"""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context, parent_process
from pathlib import Path

import h5py
import numpy as np
import openmm
from numpy.typing import NDArray
from omegaconf import OmegaConf
from openmm import app, unit
from tqdm import tqdm

from cgfe.all_atom.bias import Metadynamics, SharedBias
from cgfe.all_atom.starts import start_positions
from cgfe.all_atom.system import (
    FORCE_FIELDS,
    Peptide,
    explicit_solvent_system,
    fastest_platform,
    implicit_solvent_system,
    named_platform,
    peptide_from_pdb,
    peptide_from_sequence,
    solvated,
)
from cgfe.errors import InputError
from cgfe.files import make_folder, open_hdf5, replacing
from cgfe.units import ANGSTROM_PER_NM, KCAL_PER_KJ

ADAPTIVE = "adaptive"
ADAPTIVE_FILE = "starts.npz"


@dataclass
class SamplerConfig:
    """Everything that one sampling run depends on; the keys of a `configs/reference` file."""

    output: str = "runs/reference/chignolin"
    """Folder of the run: topology.pdb, config.yaml, one folder of chunks per walker."""
    sequence: str | None = None
    """One-letter codes; the chain gets charged ends."""
    pdb: str | None = None
    """A PDB file instead of a sequence."""
    starts: list[str] = field(default_factory=lambda: ["extended"])
    """Walker w starts from starts[w % len(starts)]: `extended`, `coil`, `folded` (the embedded
    chignolin hairpin), a PDB file, the folder of an earlier run, whose frames are spread, or
    `adaptive`: frames of `scouts` from where the populations are least certain."""
    scouts: list[str] = field(default_factory=list)
    """Folders of earlier runs that adaptive starts are drawn from (those without a bias)."""
    walkers: int = 2
    nanoseconds: float = 1.0
    """Length of each walker's trajectory."""
    solvent: str = "implicit"
    """`implicit`: OBC2; `explicit`: TIP3P-FB water with PME at 1 atm, for a GPU. Only the peptide's
    atoms are kept, so the energies of explicit runs include the water's."""
    temperature_kelvin: float = 300.0
    friction_per_ps: float = 0.5
    time_step_fs: float = 4.0
    hydrogen_mass: float = 4.0
    frame_interval_ps: float = 1.0
    chunk_frames: int = 50
    equilibration_ps: float = 20.0
    """Dynamics after minimisation, before the first frame."""
    metadynamics: Metadynamics | None = None
    """Well-tempered metadynamics on Cα positions, one bias shared by all walkers."""
    processes: int = 0
    """Walkers that run at the same time; 0 means one per CPU core (one in all on a GPU)."""
    platform: str | None = None
    """OpenMM platform; by default the fastest one here."""
    seed: int = 1

    def check(self) -> None:
        """Raise InputError if values make no sense together."""
        if (self.sequence is None) == (self.pdb is None):
            raise InputError("give exactly one of 'sequence' and 'pdb' in the sampler's config.")
        positive = ("walkers", "nanoseconds", "temperature_kelvin", "time_step_fs", "chunk_frames")
        for name in (*positive, "frame_interval_ps", "hydrogen_mass"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)}; expected a positive value.")
        if abs(self.steps_per_frame * self.time_step_fs / 1000 - self.frame_interval_ps) > 1e-9:
            raise InputError(
                f"frame_interval_ps {self.frame_interval_ps} is no multiple of time_step_fs "
                f"{self.time_step_fs}."
            )
        if self.solvent not in FORCE_FIELDS:
            raise InputError(
                f"solvent is {self.solvent!r}; expected one of {', '.join(FORCE_FIELDS)}."
            )
        if not self.starts:
            raise InputError("starts is empty; expected at least one start.")
        if ADAPTIVE in self.starts and not self.scouts:
            raise InputError("adaptive starts need scouts: the folders of earlier runs.")

    @property
    def steps_per_frame(self) -> int:
        return max(1, round(self.frame_interval_ps * 1000 / self.time_step_fs))

    @property
    def chunks(self) -> int:
        frames = self.nanoseconds * 1000 / self.frame_interval_ps
        return max(1, round(frames / self.chunk_frames))


def sample(config: SamplerConfig, progress: bool = True) -> Path:
    """Run all walkers of `config` to their end, going on from what is on disk.

    Returns
    -------
    Path
        The run's folder, ready for `cgfe.all_atom.pack.pack_runs`.
    """
    config.check()
    peptide = _peptide(config)
    folder = make_folder(config.output)
    _claim_folder(folder, config, peptide)
    if ADAPTIVE in config.starts:
        _choose_adaptive(folder, config, peptide)
    platform = named_platform(config.platform) if config.platform else fastest_platform().getName()
    on_cpu = platform in ("CPU", "Reference")
    # A bias has contexts of its own inside, which take their number of threads from here.
    os.environ.setdefault("OPENMM_CPU_THREADS", "1")
    processes = config.processes or (_cores() if on_cpu else 1)
    with ProcessPoolExecutor(
        min(processes, config.walkers), get_context("spawn"), initializer=_end_with_parent
    ) as pool:
        jobs = [pool.submit(_run_walker, config, w, platform) for w in range(config.walkers)]
        try:
            _watch(config, jobs, progress)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return folder


def chunk_files(folder: Path, walker: int) -> list[Path]:
    """Return the finished chunks of one walker, in order."""
    return sorted(folder.glob(f"walker-{walker:03d}/chunk-*.h5"))


def _cores() -> int:
    """Return the cores this process may use; macOS does not tell more than their number."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _peptide(config: SamplerConfig) -> Peptide:
    if config.pdb is not None:
        return peptide_from_pdb(config.pdb)
    assert config.sequence is not None
    return peptide_from_sequence(config.sequence)


def _claim_folder(folder: Path, config: SamplerConfig, peptide: Peptide) -> None:
    """Write config and topology, or check that the folder belongs to the same physics."""
    path = folder / "config.yaml"
    free = {"output", "nanoseconds", "walkers", "processes", "platform"}  # may change on resuming
    new = OmegaConf.to_container(OmegaConf.structured(config))
    assert isinstance(new, dict)
    if path.exists():
        old = OmegaConf.to_container(OmegaConf.load(path))
        assert isinstance(old, dict)
        changed = [str(k) for k in new if k not in free and new[k] != old.get(k)]
        if changed:
            raise InputError(
                f"{folder} holds a run with another {', '.join(changed)}; "
                "choose another output folder or restore the setting."
            )
    else:
        with replacing(folder / "topology.pdb") as temporary, open(temporary, "w") as file:
            app.PDBFile.writeFile(peptide.topology, peptide.positions * unit.nanometer, file)
    with replacing(path) as temporary:
        OmegaConf.save(OmegaConf.create(new), temporary)


def _choose_adaptive(folder: Path, config: SamplerConfig, peptide: Peptide) -> None:
    """Choose all adaptive starts at once and keep them: the scouts may go on growing."""
    path = folder / ADAPTIVE_FILE
    if path.exists():
        with np.load(path) as file:
            if len(file["positions"]) >= config.walkers:
                return
    from cgfe.all_atom.adaptive import uncertain_frames  # deeptime is only needed here

    chosen = uncertain_frames(config.scouts, peptide, config.walkers, config.seed)
    with replacing(path) as temporary:
        np.savez(temporary, positions=chosen)


def _watch(config: SamplerConfig, jobs: list[Future[None]], progress: bool) -> None:
    """Show ns, ns/day and time left until every walker is done; raise what a walker raised."""
    folder, total = Path(config.output), config.walkers * config.chunks
    chunk_ns = config.chunk_frames * config.frame_interval_ps / 1000

    def done() -> int:
        return sum(len(chunk_files(folder, w)[: config.chunks]) for w in range(config.walkers))

    first, started = done(), time.monotonic()
    bar_format = "{desc}: {percentage:3.0f}% |{bar}| {elapsed} < {remaining} {postfix}"
    with tqdm(
        total=total, initial=first, disable=not progress, bar_format=bar_format, desc="sampling"
    ) as bar:
        while True:
            finished = all(job.done() for job in jobs)
            for job in jobs:
                if job.done():
                    job.result()
            now = done()
            days = (time.monotonic() - started) / 86400
            bar.set_postfix_str(
                f"{now * chunk_ns:.2f} of {total * chunk_ns:.2f} ns, "
                f"{(now - first) * chunk_ns / days:.0f} ns/day",
                refresh=False,
            )
            bar.update(now - bar.n)
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
    walker_folder = make_folder(folder / f"walker-{walker:03d}")
    first = len(chunk_files(folder, walker))
    if first >= config.chunks:
        return
    simulation = WalkerSimulation(config, walker, platform)
    if first:
        simulation.load(chunk_files(folder, walker)[-1])
    else:
        simulation.start()
    for chunk in range(first, config.chunks):
        simulation.run_chunk(chunk, walker_folder / f"chunk-{chunk:05d}.h5")


class WalkerSimulation:
    """One walker: an OpenMM context, its bias if any, and the writing of chunks."""

    def __init__(self, config: SamplerConfig, walker: int, platform: str) -> None:
        self.config = config
        self.walker = walker
        self.peptide = _peptide(config)
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
            self.bias = SharedBias(
                config.metadynamics,
                system,
                topology,
                config.temperature_kelvin,
                config.steps_per_frame,
                config.chunk_frames,
                Path(config.output) / "bias",
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
        context.setVelocitiesToTemperature(self.config.temperature_kelvin, self._stream(0) % 2**31)
        self.simulation.step(round(self.config.equilibration_ps * 1000 / self.config.time_step_fs))

    def _start_positions(self) -> NDArray[np.float64]:
        config = self.config
        start = config.starts[self.walker % len(config.starts)]
        if start == ADAPTIVE:
            with np.load(Path(config.output) / ADAPTIVE_FILE) as file:
                return np.asarray(file["positions"][self.walker])
        return start_positions(start, self.peptide, self.simulation, self.walker, config.seed)

    def _in_water(self, platform: str) -> Peptide:
        """Return the walker's box; it is kept, since its number of waters depends on the start."""
        path = Path(self.config.output) / f"walker-{self.walker:03d}" / "solvated.pdb"
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
        with open_hdf5(chunk) as file:
            if self.solvated is not None:
                context.setPeriodicBoxVectors(*file["end_box"][()])
            context.setPositions(file["end_positions"][()])
            context.setVelocities(file["end_velocities"][()])

    def run_chunk(self, chunk: int, path: Path) -> None:
        """Sample one chunk and write it under `path`."""
        config, context = self.config, self.simulation.context
        self._seed(chunk + 1)
        records: dict[str, list[NDArray[np.float64] | float]] = {
            name: [] for name in ("positions", "forces", "energies", "bias", "variables")
        }
        advance: Callable[[int], None] = self.simulation.step
        if self.bias is not None:
            self.bias.apply(context)
            bias = self.bias
            advance = lambda steps: bias.step(self.simulation, steps)  # noqa: E731
        for _ in range(config.chunk_frames):
            advance(config.steps_per_frame)
            self._record(records)
        state = context.getState(positions=True, velocities=True)
        with replacing(path) as temporary, h5py.File(temporary, "w") as file:
            for name in ("positions", "forces"):
                file[name] = np.array(records[name], dtype=np.float32)
            file["energies"] = np.array(records["energies"])
            file["end_positions"] = state.getPositions(asNumpy=True)._value
            file["end_velocities"] = state.getVelocities(asNumpy=True)._value
            if self.solvated is not None:
                file["end_box"] = state.getPeriodicBoxVectors(asNumpy=True)._value
            if self.bias is not None:
                file["bias"] = np.array(records["bias"])
                file["variables"] = np.array(records["variables"])
                file["bias_table"] = self.bias.table_kcal()

    def _record(self, records: dict[str, list[NDArray[np.float64] | float]]) -> None:
        context = self.simulation.context
        state = context.getState(
            positions=True, forces=True, energy=True, groups=self.unbiased_groups
        )
        positions = state.getPositions(asNumpy=True)._value[: self.atoms] * ANGSTROM_PER_NM
        energy = state.getPotentialEnergy()._value * KCAL_PER_KJ
        if not np.isfinite(energy) or not np.isfinite(positions).all():
            raise RuntimeError(f"walker {self.walker} blew up; try a shorter time step.")
        # Centred in float64: far from the origin float32 would lose digits.
        records["positions"].append(positions - positions.mean(axis=0))
        records["forces"].append(
            state.getForces(asNumpy=True)._value[: self.atoms] * (KCAL_PER_KJ / ANGSTROM_PER_NM)
        )
        records["energies"].append(energy)
        if self.bias is not None:
            records["bias"].append(self.bias.energy_kcal(context))
            records["variables"].append(self.bias.variables(context))

    def _stream(self, chunk: int) -> int:
        entropy = np.random.SeedSequence([self.config.seed, self.walker, chunk])
        return int(entropy.generate_state(1)[0])

    def _seed(self, chunk: int) -> None:
        """Start the random stream of a chunk; OpenMM takes a new seed only on reinitialisation.

        The state is carried over by hand: `preserveState=True` would carry over the old random
        stream as well.
        """
        context = self.simulation.context
        state = context.getState(positions=True, velocities=True)
        number = self._stream(chunk) % (2**31 - 1) + 1
        self.simulation.integrator.setRandomNumberSeed(number)
        for force in self.simulation.system.getForces():
            if isinstance(force, openmm.MonteCarloBarostat):
                force.setRandomNumberSeed(number)
        context.reinitialize()
        if self.solvated is not None:
            context.setPeriodicBoxVectors(*state.getPeriodicBoxVectors())
        context.setPositions(state.getPositions(asNumpy=True))
        context.setVelocities(state.getVelocities(asNumpy=True))
