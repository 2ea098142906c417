"""Peak memory of a simulation, or of training steps, in a process of its own.

python -m benchmarks.memory NETWORK BEADS REPLICAS
python -m benchmarks.memory NETWORK BATCH_SIZE
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.settings import FULL, Settings
from benchmarks.turns import Advance, Row

MEGABYTE = 2**20
STEPS = 3


def measure(settings: Settings, advance: Advance | None = None) -> list[Row]:
    """Return a row for each point of the scaling, whose `facts` hold the memory in MB.

    `peak_mb` is of the whole process, `own_mb` what came after the imports and the chain.
    """
    from benchmarks.simulation import scaling_points

    points = scaling_points(settings)
    rows = []
    for number, (kind, beads, replicas) in enumerate(points):
        facts = {"beads": beads, "replicas": replicas}
        case = f"{beads} beads, {replicas} replicas"
        rows.append(_row(f"memory over {kind}", case, settings, facts))
        if advance is not None:
            advance((number + 1) / (len(points) + 1))
    size = settings.batch_size
    rows.append(_row("memory of training", f"batch {size}", settings, {"batch_size": size}))
    return rows


def _row(section: str, case: str, settings: Settings, facts: dict[str, int]) -> Row:
    words = [json.dumps(asdict(settings.network)), *map(str, facts.values())]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", *words],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    memory = {"peak_mb": found["after"] / MEGABYTE}
    if "replicas" in facts:  # in training the peak before is that of loading the frames
        memory["own_mb"] = (found["after"] - found["before"]) / MEGABYTE
    return Row(section, case, "cgfe", [found["seconds"]], items="runs", facts=facts | memory)


def peak_bytes() -> int:
    """Return the most memory that this process has had in RAM."""
    try:
        # ru_maxrss of a child begins with its parent's memory on Linux, and the parent of this
        # process is large.
        status = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Simulate, or train, a few steps and print the memory as JSON."""
    from cgfe.model.schnet import CGSchNetConfig

    network, *sizes = sys.argv[1:]
    settings = replace(FULL, network=CGSchNetConfig(**json.loads(network)))
    prepare = _simulation if len(sizes) == 2 else _training
    run = prepare(settings, *map(int, sizes))
    before, began = peak_bytes(), time.perf_counter()
    run()
    seconds = time.perf_counter() - began
    print(json.dumps({"before": before, "after": peak_bytes(), "seconds": seconds}))


def _simulation(settings: Settings, beads: int, replicas: int) -> Callable[[], object]:
    from benchmarks.simulation import fast_potential, simulation_work
    from benchmarks.systems import synthetic

    system = synthetic(beads)

    def run() -> None:
        work, _ = simulation_work(fast_potential(system, settings), system, replicas)
        work(STEPS)

    return run


def _training(settings: Settings, batch_size: int) -> Callable[[], object]:
    from benchmarks.training import data, force_field, module_step, repeated

    frames = data(batch_size)
    batches = [next(iter(frames.train_dataloader()))]

    def run() -> None:
        repeated(module_step(force_field(frames, settings.network)), batches)(STEPS)

    return run


if __name__ == "__main__":
    main()
