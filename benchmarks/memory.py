"""Peak memory of a simulation, in a process of its own.

python -m benchmarks.memory BEADS REPLICAS SIZES
"""

import json
import resource
import subprocess
import sys
from dataclasses import asdict
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
        words = [str(beads), str(replicas), json.dumps(asdict(settings.network))]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.memory", *words],
            cwd=Path(__file__).parent.parent,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found = json.loads(done.stdout.splitlines()[-1])
        rows.append(
            Row(
                section=f"memory over {kind}",
                case=f"{beads} beads, {replicas} replicas",
                variant="cgfe",
                seconds=[found["seconds"]],
                items="runs",
                facts={
                    "beads": beads,
                    "replicas": replicas,
                    "peak_mb": found["after"] / MEGABYTE,
                    "own_mb": (found["after"] - found["before"]) / MEGABYTE,
                },
            )
        )
        if advance is not None:
            advance((number + 1) / len(points))
    return rows


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
    """Simulate a few steps and print the memory as JSON."""
    import time
    from dataclasses import replace

    from benchmarks.simulation import fast_potential, simulation_work
    from benchmarks.systems import synthetic
    from cgfe.schnet import CGSchNetConfig

    beads, replicas = int(sys.argv[1]), int(sys.argv[2])
    settings = replace(FULL, network=CGSchNetConfig(**json.loads(sys.argv[3])))
    system = synthetic(beads)
    before, began = peak_bytes(), time.perf_counter()
    work, _ = simulation_work(fast_potential(system, settings), system, replicas)
    work(STEPS)
    seconds = time.perf_counter() - began
    print(json.dumps({"before": before, "after": peak_bytes(), "seconds": seconds}))


if __name__ == "__main__":
    main()
