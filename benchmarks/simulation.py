"""Speed of simulation forces: autograd, filter tables, filter tables compiled, in one run.

    python benchmarks/simulation.py --replicas 1 64 512 --threads 1

The variants take turns, so that other load on the machine meets all of them alike; the ratio of
each turn to the plain potential in the same turn is reported with its spread over the turns.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from cgfe.datamodule import EMBEDDED
from cgfe.fast_forces import TabulatedNetwork
from cgfe.fast_potential import FastPotential
from cgfe.frames import CGFrames
from cgfe.potential import Potential
from cgfe.priors import PriorEnergy
from cgfe.schnet import CGSchNet, CGSchNetConfig

SIZES = ((64, 2), (128, 4))
TURN_SECONDS = 0.3


def variants(frames: CGFrames, hidden: int, layers: int) -> dict[str, Potential | FastPotential]:
    """Return the same potential in all its forms; speed does not depend on the parameters."""
    torch.manual_seed(0)
    config = CGSchNetConfig(hidden_channels=hidden, num_filters=hidden, num_layers=layers)
    network, types = CGSchNet(config), torch.from_numpy(frames.bead_types)
    prior = PriorEnergy.fit(frames.positions, frames.bonds, frames.temperature_kelvin)
    table = TabulatedNetwork(network, types, torch.from_numpy(frames.positions))
    return {
        "autograd": Potential(prior, network, types),
        "tables": FastPotential(prior, table, types, compile="never"),
        "compiled": FastPotential(prior, table, types, compile="always"),
    }


def seconds(function: Callable[[], object], calls: int) -> float:
    """Return the seconds of one call, over some calls."""
    began = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - began) / calls


def measure(
    forms: dict[str, Potential | FastPotential], positions: torch.Tensor, turns: int
) -> dict[str, list[float]]:
    """Return each form's seconds a step in each turn."""
    functions = {
        name: lambda form=form: form.energy_and_forces(positions) for name, form in forms.items()
    }
    times: dict[str, list[float]] = {name: [] for name in functions}
    with torch.no_grad():
        for function in functions.values():
            function()  # compiles, fills caches
        for _ in range(turns):
            for name, function in functions.items():
                calls = max(2, int(TURN_SECONDS / seconds(function, 1)))
                times[name].append(seconds(function, calls))
    return times


def main() -> None:
    """Measure, print a table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 64, 128, 512])
    parser.add_argument("--turns", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--threads", type=int, help="default: torch's choice")
    parser.add_argument("--hidden", type=int, choices=[h for h, _ in SIZES], help="default: all")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    frames = CGFrames.load(str(EMBEDDED["chignolin"]))
    every = torch.from_numpy(frames.positions)
    rows = []
    sizes = [size for size in SIZES if options.hidden in (None, size[0])]
    print(f"{frames.positions.shape[1]} beads, {torch.get_num_threads()} threads")
    print("hidden layers replicas form        steps/s replica-steps/s  times autograd (quartiles)")
    for hidden, layers in sizes:
        for replicas in options.replicas:
            forms = variants(frames, hidden, layers)
            if options.no_compile:
                del forms["compiled"]
            chosen = torch.linspace(0, len(every) - 1, replicas).long()
            times = measure(forms, every[chosen], options.turns)
            for name, own in times.items():
                ratios = [a / b for a, b in zip(times["autograd"], own, strict=True)]
                low, middle, high = statistics.quantiles(ratios, n=4)
                rate = 1 / statistics.median(own)
                print(
                    f"{hidden:6} {layers:6} {replicas:8} {name:9} {rate:9.1f} "
                    f"{rate * replicas:15.0f}  {middle:.2f} ({low:.2f} to {high:.2f})",
                    flush=True,
                )
                rows.append(
                    {
                        "hidden": hidden,
                        "layers": layers,
                        "replicas": replicas,
                        "form": name,
                        "seconds": own,
                        "ratio": [low, middle, high],
                    }
                )
    if options.json:
        facts = {"threads": torch.get_num_threads(), "torch": torch.__version__, "rows": rows}
        options.json.write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
