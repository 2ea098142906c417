"""Langevin simulation: the same potential in all its forms, and how cgfe's own scales."""

import time
from typing import Any

import torch

from benchmarks import operations
from benchmarks.baselines import (
    HAS_TORCHMD_NET,
    Baseline,
    BaselinePotential,
    PyGSchNet,
    TorchMDNet,
)
from benchmarks.machine import peak_flops, thread_counts
from benchmarks.settings import Settings
from benchmarks.systems import System, chignolin, synthetic
from benchmarks.turns import Advance, Row, Work, on_threads, take_turns
from cgfe.kernels.fast_potential import accelerated
from cgfe.model.schnet import CGSchNet
from cgfe.simulation.langevin import LangevinSimulation

TIME_STEP_PS, FRICTION_PER_PS = 0.004, 1.0
HEAVY = 10**5
"""Replicas × beads² from which a step of an unfused network takes a second or more."""
SLOW = 1.0
"""Seconds a step of what is not tried on other numbers of threads."""


def system_of(beads: int) -> System:
    """Return chignolin for 10 beads, else a synthetic chain."""
    return chignolin() if beads == 10 else synthetic(beads)


def simulation_work(potential: Any, system: System, replicas: int) -> tuple[Work, list[int]]:
    """Return work that simulates a number of steps, and the replicas that blew up in each run.

    The unit is a force evaluation, since there is one more of them than steps.
    """
    simulation = LangevinSimulation(
        potential, system.masses, system.temperature, TIME_STEP_PS, FRICTION_PER_PS, seed=0
    )
    starts = system.starts(replicas)
    blown_up: list[int] = []

    def work(calls: int) -> int:
        result = simulation.run(starts, calls, calls)
        blown_up.append(int(result.blown_up.sum()))
        return calls + 1

    return work, blown_up


def fast_potential(system: System, settings: Settings) -> Any:
    """Return cgfe's potential as simulations use it."""
    return accelerated(system.potential(settings.network), system.checked)


def potentials(system: System, settings: Settings) -> dict[str, Any]:
    """Return the same potential in all its forms."""
    plain = system.potential(settings.network)
    network = plain.network
    assert isinstance(network, CGSchNet)
    networks: dict[str, Baseline] = {"PyG": PyGSchNet(network)}
    if HAS_TORCHMD_NET:
        networks["torchmd-net"] = TorchMDNet(network, system.beads)
        networks["torchmd-net, pairs given"] = TorchMDNet(network, system.beads, False)
    return {
        "cgfe": fast_potential(system, settings),
        "cgfe, autograd": plain,
        **{
            name: BaselinePotential(plain, other, system.checked)
            for name, other in networks.items()
        },
    }


def choose_threads(potential: BaselinePotential, positions: torch.Tensor) -> None:
    """Let a baseline use the number of threads that is best for it."""
    times = {}
    # All threads first: what is slow even then is left there.
    for count in reversed(thread_counts()):
        potential.threads = count
        potential.energy_and_forces(positions[:1])
        began = time.perf_counter()
        potential.energy_and_forces(positions)
        times[count] = time.perf_counter() - began
        if times[count] > SLOW:
            break
    potential.threads = min(times, key=lambda count: times[count])


def compare(settings: Settings, ceilings: list[Row], advance: Advance | None = None) -> list[Row]:
    """Return the simulation of every form of the potential, in turns."""
    rows = []
    cases = settings.simulations
    for number, (beads, replicas) in enumerate(cases):

        def partly(share: float, number: int = number) -> None:
            if advance is not None:
                advance((number + share) / len(cases))

        system = system_of(beads)
        works, blown_up, threads = {}, {}, {}
        for name, potential in potentials(system, settings).items():
            threads[name] = torch.get_num_threads()
            if isinstance(potential, BaselinePotential):
                choose_threads(potential, system.starts(replicas))
                threads[name] = potential.threads
            works[name], blown_up[name] = simulation_work(potential, system, replicas)
        heavy = replicas * beads**2 >= HEAVY
        turns = settings.heavy_turns if heavy else settings.turns
        seconds = take_turns(works, turns, settings.turn_seconds, partly)
        rows += [
            _row(
                "simulation", name, seconds[name], beads, replicas, settings, ceilings,
                {"threads": threads[name], "blown_up": max(blown_up[name])},
            )
            for name in works
        ]  # fmt: skip
    return rows


def scale(settings: Settings, ceilings: list[Row], advance: Advance | None = None) -> list[Row]:
    """Return cgfe's simulation over replicas, beads and threads, all of them in turns."""
    points = scaling_points(settings)
    systems = {beads: system_of(beads) for beads in {beads for _, beads, _ in points}}
    forms = {beads: fast_potential(system, settings) for beads, system in systems.items()}
    works, blown_up = {}, {}
    for kind, beads, replicas in points:
        for count in thread_counts():
            work, broken = simulation_work(forms[beads], systems[beads], replicas)
            key = (kind, beads, replicas, count)
            works[str(key)], blown_up[key] = on_threads(work, count), broken
    seconds = take_turns(works, settings.heavy_turns, settings.turn_seconds, advance)
    return [
        _row(
            f"scaling over {kind}", f"{count} threads", seconds[str(key)], beads, replicas,
            settings, ceilings, {"threads": count, "blown_up": max(blown_up[key])},
        )
        for key in blown_up
        for kind, beads, replicas, count in [key]
    ]  # fmt: skip


def scaling_points(settings: Settings) -> list[tuple[str, int, int]]:
    """Return (what varies, beads, replicas) of every point."""
    return [("replicas", 10, replicas) for replicas in settings.scaling_replicas] + [
        ("beads", beads, settings.beads_replicas) for beads in settings.scaling_beads
    ]


def _row(
    section: str,
    variant: str,
    seconds: list[float],
    beads: int,
    replicas: int,
    settings: Settings,
    ceilings: list[Row],
    facts: dict[str, Any],
) -> Row:
    case = f"{beads} beads, {replicas} replicas"
    row = Row(section, case, variant, seconds, replicas, "replica-steps")
    counted = operations.simulation_step(settings.network, beads)
    flops = row.rate[1] * counted.flops
    row.facts = {"beads": beads, "replicas": replicas, "gflops": flops / 1e9, **facts}
    peak = peak_flops(ceilings, facts["threads"])
    if peak is not None:
        row.facts["share_of_peak"] = flops / peak
    return row
