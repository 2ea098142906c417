"""Speed of simulations with plain autograd and with the fast forces, in one run.

    python benchmarks/simulation.py --replicas 1 64 512 --threads 1

The two take turns, so that other load on the machine meets both alike; the ratio of each turn
to autograd in the same turn is reported with its spread over the turns.
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
import torch

from cgfe.datamodule import EMBEDDED
from cgfe.frames import CGFrames
from cgfe.potential import Potential
from cgfe.priors import PriorEnergy
from cgfe.schnet import CGSchNet, CGSchNetConfig
from cgfe.simulation import LangevinSimulation

SIZES = ((64, 2), (128, 4))
TURN_SECONDS = 0.5
FEWEST_STEPS, SAVE_INTERVAL = 2, 50


def chignolin() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions (F, N, 3), bonds and bead types of the embedded protein."""
    frames = CGFrames.load(str(EMBEDDED["chignolin"]))
    return frames.positions, frames.bonds, frames.bead_types


def globules(beads: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the same of made-up compact chains, for sizes of which there are no data."""
    random = np.random.default_rng(0)
    positions = np.zeros((512, beads, 3))
    for bead in range(1, beads):
        step = random.normal(size=(len(positions), 3)) - 0.05 * positions[:, bead - 1]
        step *= random.normal(3.8, 0.05, (len(step), 1)) / np.linalg.norm(step, axis=1)[:, None]
        positions[:, bead] = positions[:, bead - 1] + step
    bonds = np.stack([np.arange(beads - 1), np.arange(1, beads)], axis=1)
    return positions.astype(np.float32), bonds, random.integers(0, 20, beads)


def forms(
    positions: np.ndarray, bonds: np.ndarray, types: np.ndarray, hidden: int, layers: int
) -> dict[str, LangevinSimulation]:
    """Return simulations of one potential; speed does not depend on its parameters."""
    torch.manual_seed(0)
    config = CGSchNetConfig(hidden_channels=hidden, num_filters=hidden, num_layers=layers)
    prior = PriorEnergy.fit(positions, bonds, 300.0)
    plain = Potential(prior, CGSchNet(config), torch.from_numpy(types))
    potentials = {"autograd": plain, "fast": plain.fast(torch.from_numpy(positions))}
    masses = np.full(len(types), 110.0)
    return {
        name: LangevinSimulation(potential, masses, 300.0, 0.002, 1.0, seed=0)
        for name, potential in potentials.items()
    }


def turn(simulation: LangevinSimulation, start: torch.Tensor, steps: int) -> tuple[float, int]:
    """Return replica-steps per second and the steps of a turn of the wanted length."""
    result = simulation.run(start, steps, min(steps, SAVE_INTERVAL))
    wanted = TURN_SECONDS * steps / result.seconds
    fit = max(FEWEST_STEPS, int(wanted))
    return result.replica_steps_per_second, fit - fit % SAVE_INTERVAL or fit


def measure(
    simulations: dict[str, LangevinSimulation], start: torch.Tensor, turns: int
) -> dict[str, list[float]]:
    """Return each form's replica-steps per second in each turn."""
    steps = dict.fromkeys(simulations, FEWEST_STEPS)
    rates: dict[str, list[float]] = {name: [] for name in simulations}
    for number in range(-2, turns):  # two turns find the number of steps
        for name, simulation in simulations.items():
            rate, fit = turn(simulation, start, steps[name])
            if number < 0:
                steps[name] = fit
            else:
                rates[name].append(rate)
    return rates


def main() -> None:
    """Measure, print a table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 64, 512])
    parser.add_argument("--turns", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--threads", type=int, help="default: torch's choice")
    parser.add_argument("--hidden", type=int, choices=[h for h, _ in SIZES], help="default: all")
    parser.add_argument("--beads", type=int, help="default: the 10 of chignolin")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    positions, bonds, types = globules(options.beads) if options.beads else chignolin()
    rows = []
    print(f"{len(types)} beads, {torch.get_num_threads()} threads")
    print("hidden layers replicas form     replica-steps/s  times autograd (quartiles)")
    for hidden, layers in [size for size in SIZES if options.hidden in (None, size[0])]:
        simulations = forms(positions, bonds, types, hidden, layers)
        for replicas in options.replicas:
            chosen = torch.linspace(0, len(positions) - 1, replicas).long()
            rates = measure(simulations, torch.from_numpy(positions)[chosen], options.turns)
            for name, own in rates.items():
                ratios = [b / a for a, b in zip(rates["autograd"], own, strict=True)]
                low, middle, high = statistics.quantiles(ratios, n=4)
                print(
                    f"{hidden:6} {layers:6} {replicas:8} {name:8} {statistics.median(own):15.0f}"
                    f"  {middle:.1f} ({low:.1f} to {high:.1f})",
                    flush=True,
                )
                size = {"hidden": hidden, "layers": layers, "replicas": replicas, "form": name}
                rows.append({**size, "rates": own, "ratio": [low, middle, high]})
    if options.json:
        facts = {"threads": torch.get_num_threads(), "torch": torch.__version__}
        facts |= {"beads": len(types), "rows": rows}
        options.json.write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
