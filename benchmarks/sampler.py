"""Speed of the all-atom sampler against a plain OpenMM script with the stock obc2.xml.

    python benchmarks/sampler.py --turns 3

They take turns on chignolin, at 300 K and 4 fs, and use the whole machine: the sampler with its
kernel runs as many walkers as lanes and cores, with OpenMM one walker a core, the plain script one
simulation with OpenMM's own choice of threads, and again with one thread.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path

import openmm
from openmm import app

from cgfe.all_atom.batched import BatchedSystem
from cgfe.all_atom.sampler import SamplerConfig, chunk_files, sample
from cgfe.all_atom.system import (
    HAIRPIN,
    fastest_platform,
    implicit_solvent_system,
    peptide_from_pdb,
)

SECONDS = 15.0


def plain_ns_per_day(threads: int | None) -> float:
    """Return ns/day of one simulation on the force field as its file makes it."""
    peptide = peptide_from_pdb(HAIRPIN)
    system = implicit_solvent_system(peptide.topology, native=False)
    platform = fastest_platform()
    properties = {"Threads": str(threads)} if threads and platform.getName() == "CPU" else {}
    integrator = openmm.LangevinMiddleIntegrator(300.0, 0.5, 0.004)
    simulation = app.Simulation(peptide.topology, system, integrator, platform, properties)
    simulation.context.setPositions(peptide.positions)
    simulation.minimizeEnergy(maxIterations=100)
    simulation.step(100)
    steps, began = 0, time.perf_counter()
    while (seconds := time.perf_counter() - began) < SECONDS:
        simulation.step(100)
        steps += 100
    return steps * 4e-6 / seconds * 86400


def sampler_ns_per_day(engine: str) -> float:
    """Return ns/day of all walkers together, forces and files included."""
    walkers = os.cpu_count() or 1
    if engine == "batched":
        peptide = peptide_from_pdb(HAIRPIN)
        walkers *= BatchedSystem(implicit_solvent_system(peptide.topology)).lanes
    with tempfile.TemporaryDirectory() as folder:
        config = SamplerConfig(
            output=folder,
            sequence="YYDPETGTWY",
            starts=["folded"],
            walkers=walkers,
            nanoseconds=1000.0,
            chunk_frames=5 if engine == "batched" else 50,
            equilibration_ps=2.0,
            engine=engine,
        )
        return _rate(config)


def _rate(config: SamplerConfig) -> float:
    """Sample until enough chunks are there, and rate the time between the first and the last."""

    process = multiprocessing.get_context("spawn").Process(target=sample, args=(config, False))
    process.start()
    folder = Path(config.output)
    try:
        while len(chunk_files(folder, 0)) < 1:
            time.sleep(0.01)
        first, began = _done(config, folder), time.perf_counter()
        time.sleep(SECONDS)
        while (now := _done(config, folder)) == first:
            time.sleep(0.01)
        seconds = time.perf_counter() - began
    finally:
        process.terminate()
        process.join()
    return (now - first) * config.chunk_frames * config.frame_interval_ps / 1000 / seconds * 86400


def _done(config: SamplerConfig, folder: Path) -> int:
    return sum(len(chunk_files(folder, walker)) for walker in range(config.walkers))


def main() -> None:
    """Measure, print a table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    ways = {
        "plain script, obc2.xml": lambda: plain_ns_per_day(None),
        "plain script, obc2.xml, one thread": lambda: plain_ns_per_day(1),
        "cgfe reference, OpenMM": lambda: sampler_ns_per_day("openmm"),
        "cgfe reference": lambda: sampler_ns_per_day("batched"),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(options.turns):
        for name, way in ways.items():
            found[name].append(way())
            print(f"turn {turn + 1}: {name}: {found[name][-1]:.0f} ns/day", flush=True)
    plain = found["plain script, obc2.xml"]
    ratios = [a / b for a, b in zip(found["cgfe reference"], plain, strict=True)]
    print(
        f"cgfe reference / plain script: {statistics.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f})"
    )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
