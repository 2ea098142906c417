"""What surrounds steps: loading, reference, free-energy validation, start of the commands."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from torch_geometric.data import Batch

from benchmarks.first_step import PATH_VARIABLE
from benchmarks.settings import Settings
from benchmarks.training import data, force_field, module_step, repeated
from benchmarks.turns import Advance, Row, take_turns
from cgfe.analysis.energy_labels import EnergyLabels
from cgfe.analysis.tica import TICAProjection
from cgfe.model.schnet import CGSchNetConfig
from cgfe.reference.reference import Reference
from cgfe.reference.training_frames import TrainingFrames
from cgfe.simulation.evaluation import judge, simulate
from cgfe.simulation.langevin import SimulationConfig
from cgfe.training.datamodule import CGFramesDataModule

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "configs" / "chignolin.yaml"
SECTION = "pipeline"


def shipped_config() -> dict[str, Any]:
    """Return the config of `make train`."""
    content: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())
    return content


def measure(settings: Settings, advance: Advance | None = None) -> list[Row]:
    """Return the parts of a run of `make train`, and how the commands start."""
    config = shipped_config()
    network = CGSchNetConfig(**config["model"]["network"])
    frames = data(config["data"]["batch_size"])
    tell = advance or (lambda _: None)
    rows = loading(frames, network, settings)
    tell(0.1)
    rows += reference(frames, settings)
    tell(0.2)
    step = next(row for row in rows if row.variant == "training step")
    rows.append(validation(frames, network, settings, config, step))
    tell(0.75)
    rows += start_up(settings)
    tell(1.0)
    return rows


def loading(frames: CGFramesDataModule, network: CGSchNetConfig, settings: Settings) -> list[Row]:
    """Return batches from the loader and training steps of the shipped config, in turns."""
    loader = frames.train_dataloader()

    def endless() -> Iterator[Batch]:
        while True:
            yield from loader

    batches = endless()

    def load(calls: int) -> int:
        for _ in range(calls):
            next(batches)
        return calls

    prepared = [next(batches) for _ in range(8)]
    step = repeated(module_step(force_field(frames, network)), prepared)
    works = {"batch from the loader": load, "training step": step}
    seconds = take_turns(works, settings.turns, settings.turn_seconds)
    rows = [
        Row(SECTION, "loading", name, times, frames.batch_size, "frames")
        for name, times in seconds.items()
    ]
    load_time, step_time = (1 / row.rate[1] for row in rows)
    rows[0].facts["share_of_step"] = load_time / (load_time + step_time)
    return rows


def reference(frames: CGFramesDataModule, settings: Settings) -> list[Row]:
    """Return the time of TICA, of the labels, and of all that `Reference.fit` derives."""
    own, split, config = frames.frames[0], frames.splits[0], frames.reference_config
    found = frames.references[0]
    training = TrainingFrames(own, split.train)
    pieces = training.kinetic()
    (tics,) = training.read(found.projection.tica.project)
    lag = config.lag_ps(own.frame_interval_ps)

    def labels() -> None:
        temperature = found.system.temperature_kelvin
        fitted = EnergyLabels.fit(tics, training.weights, temperature, config.label_estimator)
        fitted.energies(tics)

    parts: dict[str, Callable[[], object]] = {
        "TICA": lambda: TICAProjection.fit(pieces, own.frame_interval_ps, lag),
        "labels, fitted and told": labels,
        "Reference.fit": lambda: Reference.fit(own, split, config),
    }
    rows = []
    for name, part in parts.items():
        seconds = []
        for _ in range(settings.fits):
            began = time.perf_counter()
            part()
            seconds.append(time.perf_counter() - began)
        rows.append(Row(SECTION, "reference", name, seconds, len(tics), "frames"))
    return rows


def validation(
    frames: CGFramesDataModule,
    network: CGSchNetConfig,
    settings: Settings,
    config: dict[str, Any],
    step: Row,
) -> Row:
    """Return one free-energy validation and its share of the shipped schedule.

    The share is what the model's simulations, at this budget, would take of the schedule's
    epochs; the prior's simulation, once in a run, is left out.
    """
    module = force_field(frames, network).eval()
    budget = SimulationConfig(
        replicas=settings.validation_replicas, steps=settings.validation_steps, seed=0
    )
    own = module.references[0]
    began = time.perf_counter()
    run = simulate(module.potential(0), own, budget, "cpu")
    simulated = time.perf_counter() - began
    judge(own, run.positions, run.blown_up, budget.burn_in)
    total = time.perf_counter() - began
    epochs = config["trainer"]["max_epochs"]
    validations = -(-epochs // config["free_energy"]["every_n_epochs"])
    training = epochs * len(frames.train_dataloader()) * frames.batch_size / step.rate[1]
    return Row(
        section=SECTION,
        case="free-energy validation",
        variant=f"{budget.replicas} replicas, {budget.steps} steps",
        seconds=[total],
        per_unit=budget.replicas * budget.steps,
        items="replica-steps",
        facts={
            "simulation_seconds": simulated,
            "judging_seconds": total - simulated,
            "schedule": f"{epochs} epochs, {validations} validations",
            "training_seconds_of_schedule": training,
            "share_of_schedule": validations * total / (validations * total + training),
        },
    )


def start_up(settings: Settings) -> list[Row]:
    """Return `cgfe --help` and `cgfe fit` until its first step is done, in turns.

    The cache of references is warm: `data` has filled it.
    """
    times: dict[str, list[float]] = {"cgfe --help": [], "cgfe fit, first step": []}
    for _ in range(settings.commands):
        began = time.perf_counter()
        _cgfe(["--help"], {})
        times["cgfe --help"].append(time.perf_counter() - began)
        with tempfile.TemporaryDirectory() as folder:
            stamp = Path(folder) / "first_step"
            began = time.time()
            _cgfe(_fit_words(folder), {PATH_VARIABLE: str(stamp)})
            times["cgfe fit, first step"].append(float(stamp.read_text()) - began)
    return [Row(SECTION, "start-up", name, seconds) for name, seconds in times.items()]


def _fit_words(folder: str) -> list[str]:
    return [
        *("fit", "--config", str(SHIPPED), "--run_dir", str(Path(folder) / "run")),
        *("--free_energy.every_n_epochs", "0", "--trainer.max_epochs", "1"),
        *("--trainer.limit_train_batches", "1", "--trainer.enable_progress_bar", "false"),
        "--trainer.callbacks+=benchmarks.first_step.FirstStep",
    ]


def _cgfe(words: list[str], environment: dict[str, str]) -> None:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    subprocess.run(
        [sys.executable, "-m", "cgfe", *words],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
