"""Made folders of sweeps, of which the answer is known."""

import csv
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

WEIGHT, SEED, JS = "model.loss.energy_weight", "seed_everything", "free_energy/js"
DELTA_F = "free_energy/delta_f_kt"
WEIGHTS = (0.0, 0.5, 1.0)
Value = Callable[[float, int], float]


def rising(weight: float, seed: int) -> float:
    """JS that is 0.1 worse at weight 1 and the same at 0.5, whatever the seed adds.

    The seed's own part is common to its runs; what is left differs by ± 0.001 times its number.
    """
    own = 0.001 * (seed + 1) * (-1) ** seed if weight == 0.5 else 0.0
    return 0.2 + 0.01 * seed + 0.1 * (weight == 1.0) + own + 0.002 * (seed % 3) * (weight == 1.0)


def write_sweep(
    folder: Path,
    value: Value = rising,
    seeds: int = 8,
    failed: Mapping[tuple[float, int], str] | None = None,
    weights: tuple[float, ...] = WEIGHTS,
    **parameters: Any,
) -> Path:
    """Write what `cgfe sweep` leaves of a grid of weights and seeds."""
    folder.mkdir(parents=True)
    content = {
        "method": "grid",
        "metric": {"name": JS, "goal": "minimize"},
        "parameters": {
            WEIGHT: {"values": [*weights]},
            SEED: {"values": [*range(seeds)]},
            **{name: {"values": values} for name, values in parameters.items()},
        },
    }
    (folder / "sweep.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    rows = []
    for weight in weights:
        for seed in range(seeds):
            error = (failed or {}).get((weight, seed), "")
            row = {
                "run": f"elsewhere/run-{len(rows):04d}",
                "state": "fail" if error else "complete",
                "error": error,
                WEIGHT: weight,
                SEED: seed,
                "epoch": 3.0,
                JS: "" if error else value(weight, seed),
                DELTA_F: "" if error else -value(weight, seed),
            }
            row |= {name: values[0] for name, values in parameters.items()}
            rows.append(row)
    write_rows(folder, rows)
    return folder


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    with open(folder / "results.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    with open(folder / "results.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_saved(
    folder: Path,
    samples: np.ndarray | None,
    walkers: int | None = 16,
    told: Callable[[float, int], dict[str, Any]] | None = None,
) -> None:
    """Write each run's free_energy.json with a floor, and .npz with its resampled figures.

    These are the run's own and `samples` (R,). `told` gives more for the first, of weight and seed.
    """
    for row in (row for row in read_rows(folder) if row[JS]):
        run_dir = folder / Path(row["run"]).name
        run_dir.mkdir(exist_ok=True)
        saved = {
            "js": float(row[JS]),
            "delta_f_kt": float(row[DELTA_F]),
            "compared_with": "validation",
            "floor": {"js": 0.03},
            "floor_high": {"js": 0.05},
            "simulation": {"reference_trajectories": walkers} if walkers else {},
        }
        if told is not None:
            saved |= told(float(row[WEIGHT]), int(row[SEED]))
        (run_dir / "free_energy.json").write_text(json.dumps(saved))
        if samples is not None:
            drawn = {f"{key}_resampled": saved[key] + samples for key in ("js", "delta_f_kt")}
            np.savez(run_dir / "free_energy.npz", **drawn)
