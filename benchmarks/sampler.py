"""All-atom sampling: many walkers in the C++ kernel, and OpenMM's CPU platform.

    python -m benchmarks --only sampler

A rate is of all walkers together: microseconds that they are simulated for in a day. OpenMM runs as
many one-thread walkers as there are cores, or one walker with all of them; its force field is the
stock obc2.xml, or has the native GBSAOBCForce in its place.
"""

import ctypes
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import app

from benchmarks import peptide_operations
from benchmarks.machine import WIDTHS, multiply_adds, thread_counts
from benchmarks.settings import Settings
from benchmarks.turns import Advance, Row, Work, take_turns
from cgfe.all_atom.batched import BatchedSystem, Dynamics, Walkers, usable_cores
from cgfe.all_atom.parameters import Parameters
from cgfe.all_atom.system import (
    HAIRPIN,
    Peptide,
    implicit_solvent_system,
    peptide_from_pdb,
    peptide_from_sequence,
)

PASSES = "sampler's passes"
"""Section of the rows that tell where the time goes."""
TIME_STEP_PS, FRICTION_PER_PS, TEMPERATURE = 0.004, 0.5, 300.0
HOT, HOT_STEP_PS = 700.0, 0.003
DAY = 86400.0
CHUNK = 250
"""Steps of a call of the kernel, a frame in 1 ps: at its end energies cost a step more."""
LOOPS = 10
"""Calls of the ceiling's loop in a turn, 10 ms each."""
INSTRUCTIONS = ("x86-64-v3", "x86-64-v2")
"""AVX2 and SSE, beside all that the processor has."""
PEPTIDES: dict[str, Callable[[], Peptide]] = {
    "chignolin": lambda: peptide_from_pdb(HAIRPIN),
    "helix": lambda: peptide_from_sequence("AAQAAAAQAAAAQAA", caps=True),
    "GAG": lambda: peptide_from_sequence("GAG"),
}


@dataclass(frozen=True)
class Case:
    """A peptide with walkers to start from.

    Attributes
    ----------
    positions, velocities : array (W, A, 3)
        nm and nm/ps, at 300 K; every other walker was hot before, since which series a Born
        integral takes depends on all walkers of a vector.
    """

    name: str
    topology: app.Topology
    system: openmm.System
    positions: NDArray[np.float32]
    velocities: NDArray[np.float32]

    @classmethod
    def of(cls, name: str, steps: int) -> "Case":
        """Minimise the peptide and let walkers part for some steps, half of them hot."""
        peptide = PEPTIDES[name]()
        system = implicit_solvent_system(peptide.topology)
        platform = openmm.Platform.getPlatformByName("CPU")
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
        context.setPositions(peptide.positions)
        openmm.LocalEnergyMinimizer.minimize(context, maxIterations=200)
        start = context.getState(positions=True).getPositions(asNumpy=True)._value
        batched = BatchedSystem(system)
        walkers = batched.walkers(np.repeat(start[None], batched.lanes * usable_cores(), axis=0))
        hot = np.arange(walkers.count) % 2 == 1
        walkers.temperatures = np.where(hot, HOT, TEMPERATURE)
        walkers.thermalise(np.arange(walkers.count, dtype=np.uint64), batched.masses)
        batched.evaluate(walkers)
        batched.advance(walkers, Dynamics(max(1, steps // 2), 0.001, 5.0))
        batched.advance(walkers, Dynamics(steps, HOT_STEP_PS, 1.0))
        walkers.temperatures = np.full(walkers.count, TEMPERATURE)
        batched.advance(walkers, Dynamics(max(1, steps // 4), HOT_STEP_PS, 5.0))
        return cls(name, peptide.topology, system, walkers.positions, walkers.velocities)

    @property
    def title(self) -> str:
        return f"{self.name}, {self.positions.shape[1]} atoms"

    def walkers(self, batched: BatchedSystem, count: int) -> Walkers:
        """Return the first walkers, ready to advance."""
        walkers = batched.walkers(self.positions[:count])
        walkers.velocities = self.velocities[:count]
        batched.evaluate(walkers)
        return walkers


def measure(settings: Settings, advance: Advance | None = None) -> list[Row]:
    """Return rates of all ways to sample each peptide, in turns, and the kernel's passes.

    Nothing where no compiler is.
    """
    if not BatchedSystem.available():
        return []
    rows = []
    names = settings.peptides
    for number, name in enumerate(names):

        def partly(share: float, number: int = number) -> None:
            if advance is not None:
                advance((number + share) / len(names))

        case = Case.of(name, settings.melting_steps)
        works = kernel_works(case) | openmm_works(case)
        seconds = take_turns(
            {key: work for key, (work, _) in works.items()},
            settings.turns,
            settings.turn_seconds,
            partly,
        )
        rows += [
            Row(
                "sampler", case.title, key, seconds[key], walkers * TIME_STEP_PS * 1e-6 * DAY,
                "walker-µs a day", {"walkers": walkers},
            )
            for key, (_, walkers) in works.items()
        ]  # fmt: skip
        rows += passes(case, settings)
    return rows


def kernel_works(case: Case) -> dict[str, tuple[Work, int]]:
    """Return steps of the kernel and their walkers, by threads and instructions.

    Each thread has the walkers of one vector, so that narrower vectors have fewer walkers.
    """
    cores = usable_cores()
    native = BatchedSystem(case.system)
    works = {"cgfe": (native, cores)}
    works |= {f"cgfe, {n} thread{'s' * (n > 1)}": (native, n) for n in thread_counts() if n < cores}
    for instructions in INSTRUCTIONS:
        other = compiled(case, f"-march={instructions}", lambda b: b.lanes < native.lanes)
        if other is not None:
            works[f"cgfe, {instructions}"] = (other, cores)
    return {
        key: (_kernel_work(case, batched, threads), batched.lanes * threads)
        for key, (batched, threads) in works.items()
    }


def compiled(
    case: Case, option: str, took: Callable[[BatchedSystem], bool]
) -> BatchedSystem | None:
    """Return the system compiled with one more option, None where the compiler did not take it."""
    batched = BatchedSystem(case.system, options=(option,))
    return batched if took(batched) else None


def _kernel_work(case: Case, batched: BatchedSystem, threads: int) -> Work:
    walkers = case.walkers(batched, batched.lanes * threads)
    dynamics = Dynamics(CHUNK, TIME_STEP_PS, FRICTION_PER_PS)

    def work(calls: int) -> int:
        for _ in range(calls):
            batched.advance(walkers, dynamics, threads)
        return CHUNK * calls

    return work


def openmm_works(case: Case) -> dict[str, tuple[Work, int]]:
    """Return steps of OpenMM's CPU platform and their walkers."""
    cores = usable_cores()
    stock = implicit_solvent_system(case.topology, native=False)
    works = {}
    for name, system in (("GBSAOBCForce", case.system), ("obc2.xml", stock)):
        works[f"OpenMM, {name}, {cores} walkers"] = _openmm_work(case, system, cores, 1), cores
        if cores > 1:
            works[f"OpenMM, {name}, 1 walker"] = _openmm_work(case, system, 1, cores), 1
    return works


def _openmm_work(case: Case, system: openmm.System, walkers: int, threads: int) -> Work:
    platform = openmm.Platform.getPlatformByName("CPU")
    contexts = []
    for walker in range(walkers):
        integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, FRICTION_PER_PS, TIME_STEP_PS)
        context = openmm.Context(system, integrator, platform, {"Threads": str(threads)})
        context.setPositions(case.positions[walker].astype(float))
        context.setVelocities(case.velocities[walker].astype(float))
        contexts.append((context, integrator))
    pool = ThreadPoolExecutor(walkers)

    def steps_of(item: tuple[openmm.Context, openmm.Integrator], calls: int) -> None:
        item[1].step(calls)

    def work(calls: int) -> int:
        # OpenMM frees Python's lock while it steps.
        list(pool.map(steps_of, contexts, [calls] * walkers))
        return calls

    return work


def passes(case: Case, settings: Settings) -> list[Row]:
    """Return each pass's CPU time of a step of one vector, and its share of the ceiling.

    The ceiling, multiply-adds in registers, is by CPU time in the same turns, so that shares are
    right on a busy machine too.
    """
    batched = compiled(case, "-DCGFE_TIMING", lambda b: hasattr(b._kernel, "peptide_times"))
    if batched is None:
        return []
    walkers = case.walkers(batched, batched.lanes)
    parameters = Parameters.of_system(case.system, batched.layout)
    classes = peptide_operations.pair_classes(walkers.positions, parameters, batched.layout)
    counted = peptide_operations.walker_step(parameters, batched.layout, classes)
    times, peak = pass_times(batched, walkers, settings.turns, settings.turn_seconds)
    total = np.median(times.sum(axis=1))
    rows = []
    for name, seconds in zip(peptide_operations.PASSES, times.T, strict=True):
        row = Row(PASSES, case.title, name, seconds.tolist(), batched.lanes, "steps")
        flops = row.rate[1] * counted[name]
        row.facts = {"operations": counted[name], "gflops": flops / 1e9}
        row.facts["share_of_step"] = float(np.median(seconds) / total)
        if name == "Born radii":
            row.facts["pairs"] = asdict(classes)
        if peak:
            row.facts["share_of_peak"] = flops / peak
        rows.append(row)
    return rows


def pass_times(
    batched: BatchedSystem, walkers: Walkers, turns: int, turn_seconds: float
) -> tuple[NDArray[np.float64], float]:
    """Return CPU seconds of one step (turns, passes), and the ceiling's operations per second.

    Parameters
    ----------
    batched : BatchedSystem
        Compiled with -DCGFE_TIMING.
    walkers : Walkers
        Of one vector.
    """
    seconds = np.zeros(len(peptide_operations.PASSES))
    read = batched._kernel.peptide_times
    loops = multiply_adds()

    def run(steps: int) -> NDArray[np.float64]:
        read(ctypes.c_void_p(seconds.ctypes.data))
        batched.advance(walkers, Dynamics(steps, TIME_STEP_PS, FRICTION_PER_PS), threads=1)
        read(ctypes.c_void_p(seconds.ctypes.data))
        return seconds.copy()

    def ceiling() -> float:
        rates = [0.0]
        for width, (work, flops) in loops.items():
            began = time.thread_time()
            work(LOOPS)
            rates.append(LOOPS * flops * WIDTHS[width] / (time.thread_time() - began))
        return max(rates)

    run(CHUNK)
    steps = max(CHUNK, int(turn_seconds * CHUNK / run(CHUNK).sum()))
    times, peaks = [], []
    for _ in range(turns):
        times.append(run(steps) / steps)
        peaks.append(ceiling())
    return np.array(times), float(np.median(peaks))
