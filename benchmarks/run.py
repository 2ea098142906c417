"""Runs all benchmarks in one process and writes their JSON and plot.

    python -m benchmarks                 # everything, about twelve minutes
    python -m benchmarks --quick         # less of everything
    python -m benchmarks --only training simulation --output somewhere

In the output folder: `benchmarks.json` (all times of all turns, rates and ratios with quartiles),
`benchmarks.png`, and, where pyperf is installed, `pyperf.json` for `python -m pyperf stats` and
`python -m pyperf compare_to`.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import machine, memory, pipeline, sampler, simulation, training
from benchmarks.baselines import HAS_TORCHMD_NET
from benchmarks.plot import plot
from benchmarks.settings import FULL, QUICK, Settings
from benchmarks.turns import Advance, Row
from cgfe.progress import Bar

Section = Callable[[Settings, list[Row], Advance], list[Row]]
"""Measures; gets the machine's rows too, for shares of the ceiling."""

RESULTS = Path(__file__).parent / "results"
FORMAT = 1
SECTIONS: dict[str, tuple[Section, float]] = {
    "machine": (lambda s, _, tell: machine.measure(s.turns, s.turn_seconds, tell), 40),
    "training": (training.measure, 45),
    "simulation": (simulation.compare, 120),
    "scaling": (simulation.scale, 110),
    "sampler": (lambda s, _, tell: sampler.measure(s, tell), 110),
    "memory": (lambda s, _, tell: memory.measure(s, tell), 90),
    "pipeline": (lambda s, _, tell: pipeline.measure(s, tell), 90),
}
"""Each with the seconds that it took on two cores, for the time left."""


class Progress:
    """A bar over the whole run with the time that is left.

    Parameters
    ----------
    names : list of str
        The sections that are run.
    """

    def __init__(self, names: list[str]) -> None:
        self.total = sum(SECTIONS[name][1] for name in names)
        self.done = 0.0
        self.bar = Bar(
            total=100, bar_format="{desc:<11}{percentage:3.0f}%|{bar}| {elapsed} < {remaining} left"
        )

    def section(self, name: str) -> Advance:
        """Begin a section; return what to tell its share done."""
        share = SECTIONS[name][1] / self.total
        begins = self.done
        self.done += share
        self.bar.set_description_str(name)

        def advance(part: float) -> None:
            self.bar.n = round(100 * (begins + share * part), 1)
            self.bar.refresh()

        return advance


def run(settings: Settings, names: list[str]) -> list[Row]:
    """Measure the sections."""
    progress = Progress(names)
    rows: list[Row] = []
    for name in names:
        measure, _ = SECTIONS[name]
        advance = progress.section(name)
        rows += measure(settings, [row for row in rows if row.section == "machine"], advance)
        advance(1.0)
    progress.bar.close()
    return rows


def comparisons(rows: list[Row]) -> list[dict[str, Any]]:
    """Return how many times faster cgfe is than each other variant of the same case."""
    found = []
    for own in rows:
        if own.variant != "cgfe" or own.section not in ("training", "simulation", "sampler"):
            continue
        for other in rows:
            if (other.section, other.case) == (own.section, own.case) and other is not own:
                found.append(
                    {
                        "section": own.section,
                        "case": own.case,
                        "other": other.variant,
                        "times_faster": list(own.times_faster_than(other)),
                    }
                )
    return found


def content(
    settings: Settings, rows: list[Row], seconds: float, memory_kept: bool = False
) -> dict[str, Any]:
    """Return all that the JSON file holds, as plain values."""
    return {
        "format": FORMAT,
        "machine": machine.facts() | {"memory_kept": memory_kept},
        "settings": asdict(settings),
        "seconds": seconds,
        "rows": [row.to_json() for row in rows],
        "comparisons": comparisons(rows),
    }


def table(results: dict[str, Any]) -> str:
    """Return the results as text: rates and ratios, each with its quartiles."""
    ratios = {
        (c["section"], c["case"], c["other"]): c["times_faster"] for c in results["comparisons"]
    }
    lines = []
    section = ""
    for row in results["rows"]:
        if row["section"] != section:
            section = row["section"]
            lines += ["", section]
        low, middle, high = row["items_per_second"]
        if "peak_mb" in row:
            value = f"{row['peak_mb']:6.0f} MB"
            value += f", {row['own_mb']:.0f} of them its own" if "own_mb" in row else ""
        elif row["section"] == "pipeline":
            slow, each, fast = (row["per_unit"] / rate for rate in (low, middle, high))
            value = f"{each:.3g} s ({fast:.3g} to {slow:.3g})"
        elif row["section"] == sampler.PASSES:
            slow, each, fast = (1e6 * row["per_unit"] / rate for rate in (low, middle, high))
            value = f"{each:.3g} µs a step of {row['per_unit']} walkers ({fast:.3g} to {slow:.3g})"
        elif row["section"] == "sampler":
            value = f"{middle:.3g} {row['items']} ({low:.3g} to {high:.3g})"
        else:
            value = f"{middle:.3g} {row['items']}/s ({low:.3g} to {high:.3g})"
        if "share_of_peak" in row:
            value += f", {row['share_of_peak']:.1%} of the ceiling"
        for share in ("share_of_step", "share_of_schedule"):
            if share in row:
                value += f", {row[share]:.1%} {share.removeprefix('share_').replace('_', ' ')}"
        ratio = ratios.get((section, row["case"], row["variant"]))
        if ratio:
            value += f"; cgfe is {ratio[1]:.2f} times as fast ({ratio[0]:.2f} to {ratio[2]:.2f})"
        lines.append(f"  {row['case']:26} {row['variant']:28} {value}")
    return "\n".join(lines).strip()


def write_pyperf(rows: list[Row], path: Path) -> bool:
    """Write pyperf's format; return False where pyperf is not installed."""
    try:
        import pyperf
    except ImportError:
        return False
    benchmarks = []
    for row in rows:
        name = f"{row.section}: {row.case}, {row.variant}"
        runs = [
            pyperf.Run([seconds], metadata={"name": name}, collect_metadata=False)
            for seconds in row.seconds
        ]
        benchmarks.append(pyperf.Benchmark(runs))
    path.unlink(missing_ok=True)
    pyperf.BenchmarkSuite(benchmarks).dump(str(path))
    return True


def main(arguments: list[str] | None = None) -> None:
    """Measure, write the files, print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="sections; default: all")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder; default: %(default)s")
    parser.add_argument(
        "--default-allocator",
        action="store_true",
        help="let the C library return memory to the system, as it does outside of benchmarks",
    )
    options = parser.parse_args(arguments)
    kept = not options.default_allocator and machine.keep_memory()
    settings = QUICK if options.quick else FULL
    names = [name for name in SECTIONS if name in (options.only or SECTIONS)]
    if not HAS_TORCHMD_NET:
        print("torchmd-net is not installed (pip install -e '.[bench]'): left out")
    began = time.perf_counter()
    rows = run(settings, names)
    results = content(settings, rows, time.perf_counter() - began, kept)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "benchmarks.json").write_text(json.dumps(results, indent=1) + "\n")
    plot(results, options.output / "benchmarks.png")
    if not write_pyperf(rows, options.output / "pyperf.json"):
        print("pyperf is not installed (pip install -e '.[bench]'): pyperf.json is left out")
    print(table(results))
    print(f"\nresults: {options.output}, {results['seconds']:.0f} s")
