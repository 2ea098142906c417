"""`cgfe info`: what is in a frames file, a checkpoint or a run, as lines of name and value."""

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from cgfe.commands.parsing import Parser
from cgfe.data.checks import ARRAYS, check_datasets, number_of, residues_of
from cgfe.data.file_format import is_frames_file, open_frames
from cgfe.data.frames import REQUIRED
from cgfe.data.rounded_arrays import STEP, read_rows
from cgfe.errors import InputError
from cgfe.hdf5 import open_hdf5
from cgfe.readers.source import hdf5_array

Line = tuple[str, object]
FORCE_FRAMES = 5000


def run(words: Sequence[str]) -> None:
    """Print what the file holds."""
    parser = Parser("info", "Print what is in a frames file, a checkpoint or a run directory.")
    parser.add_argument("path", metavar="FILE", help="frames file, checkpoint or run directory")
    path = Path(parser.parse_args(list(words[1:])).path)
    if not path.exists():
        raise InputError(f"{path}: no such file or folder.")
    lines: Iterator[Line] | list[Line]
    if path.is_dir():
        lines = describe_run(path)
    elif path.suffix == ".ckpt":
        lines = describe_checkpoint(path)
    else:
        lines = describe_frames(path)
    for name, value in lines:
        print(f"{name + ':':<20} {value}")


def describe_frames(path: Path) -> Iterator[Line]:
    """Describe a frames file without reading its positions.

    Raises
    ------
    InputError
        If it is no frames file.
    """
    with open_hdf5(path) as file:
        if not is_frames_file(file):
            raise InputError(f"{path}: not a frames file; `cgfe import` reads other formats.")
    with open_frames(path) as file:
        yield from _frames_lines(file, path)


def _frames_lines(file: h5py.File, path: Path) -> Iterator[Line]:
    attributes = dict(file.attrs)
    check_datasets(file, str(path), [*REQUIRED, *(key for key in ARRAYS if key in file)])
    frames, beads, _ = file["positions"].shape
    interval = number_of(attributes, "frame_interval_ps", str(path))
    yield "frames file", f"{path} ({_size(path)})"
    yield "beads", f"{beads} ({'-'.join(residues_of(attributes, str(path)))})"
    yield "frames", f"{frames}, one each {interval:g} ps, {frames * interval / 1000:g} ns"
    lengths = np.unique(file["trajectory_index"][()], return_counts=True)[1]
    yield "trajectories", f"{len(lengths)} of {lengths.min()} to {lengths.max()} frames"
    yield "temperature", f"{number_of(attributes, 'temperature_kelvin', str(path)):g} K"
    yield "force field", attributes["force_field"]
    if "forces" in file:
        stride = -(-frames // FORCE_FRAMES)
        part = read_rows(file["forces"], slice(None, None, stride)).astype(np.float64)
        rms = float(np.sqrt((part**2).mean()))
        yield "forces", f"RMS {rms:.1f} kcal/mol/Å a component, map: {attributes['force_mapping']}"
    else:
        yield "forces", "none"
    if "force_standard_errors" in file:
        errors = read_rows(file["force_standard_errors"]).astype(np.float64)
        told = float(np.sqrt((errors**2).mean()))
        yield "mean forces", f"forces are means with a standard error of {told:.2f} kcal/mol/Å"
    if "delta_forces" in file:
        yield "delta forces", "kept from the source; not used in training"
    if "weights" in file:
        weights = file["weights"][()]
        effective = weights.sum() ** 2 / max((weights**2).sum(), np.finfo(float).tiny)
        yield "weights", f"yes, effective frames {effective:.0f} of {frames}"
    else:
        yield "weights", "none, all frames count alike"
    for key in ("biased_trajectories", "validation_trajectories", "test_trajectories"):
        if key in file and len(file[key]):
            yield key.replace("_", " "), ", ".join(map(str, file[key][()]))
    steps = {key: file[key].attrs.get(STEP) for key in ("positions", "forces") if key in file}
    if any(steps.values()):
        units = {"positions": "Å", "forces": "kcal/mol/Å"}
        yield "rounded to", ", ".join(f"{x:.3g} {units[key]}" for key, x in steps.items() if x)
    for key, name in (("all_atom_energies", "energies"), ("native_positions", "native structure")):
        yield name, "yes" if key in file else "none"
    yield "source", attributes["source"]


def describe_checkpoint(path: Path) -> Iterator[Line]:
    """Describe a checkpoint of `cgfe fit`.

    Raises
    ------
    InputError
        If it is no such checkpoint.
    """
    from cgfe.training.checkpoint_checks import reading
    from cgfe.training.checkpoints import CHECKPOINT_KEY, read_checkpoint
    from cgfe.training.module import CGForceField

    state = read_checkpoint(path)
    model = CGForceField.from_checkpoint(state, str(path))
    with reading(str(path)):
        epochs, steps = int(state.get("epoch", 0)) + 1, int(state.get("global_step", 0))
        loss = _settings(state[CHECKPOINT_KEY]["loss"])
    yield "checkpoint", f"{path} ({_size(path)})"
    yield "trained", f"{epochs} epochs, {steps} steps"
    yield "parameters", sum(p.numel() for p in model.network.parameters())
    yield "network", _settings(asdict(model.network_config))
    yield "loss", loss
    for name, reference in zip(model.system_names, model.references, strict=True):
        yield "system", f"{name} ({'-'.join(reference.system.residue_names)})"
        yield "  temperature", f"{reference.system.temperature_kelvin:g} K"
        yield "  training frames", reference.ensembles.frames
        tica = reference.projection.tica
        times = ", ".join(f"{t / 1000:.3g}" for t in tica.timescales_ps)
        yield "  TICA", f"lag {tica.lag_ps:g} ps, implied timescales {times} ns"
        yield "  starts kept", len(reference.starts.positions)


def describe_run(folder: Path) -> Iterator[Line]:
    """Describe a run directory of `cgfe fit` or `cgfe reference`.

    Raises
    ------
    InputError
        If it is neither.
    """
    if not (folder / "config.yaml").is_file():
        raise InputError(f"{folder}: no run directory (config.yaml is missing).")
    if any(folder.glob("walker-*")):
        yield from _sampler_lines(folder)
        return
    yield "run", folder
    checkpoints = sorted((folder / "checkpoints").glob("*.ckpt"))
    yield "checkpoints", ", ".join(path.name for path in checkpoints) or "none"
    metrics = folder / "metrics.csv"
    if metrics.is_file():
        last = _last_metrics(metrics)
        yield "last metrics", _settings({k: _rounded(v) for k, v in last.items()})
    for path in sorted(folder.glob("free_energy*.json")):
        content = _read_json(path)
        numbers = {k: v for k, v in content.items() if isinstance(v, int | float)}
        yield "free energy", f"{content.get('system', path.stem)}: {_settings(numbers)}"
    report = folder / "report.html"
    yield "report", report if report.is_file() else "none yet; cgfe report makes it"
    if checkpoints:
        last_one = folder / "checkpoints" / "last.ckpt"
        yield from describe_checkpoint(last_one if last_one in checkpoints else checkpoints[0])


def _sampler_lines(folder: Path) -> Iterator[Line]:
    from cgfe.all_atom.sampled import run_config

    config: Any = asdict(run_config(folder))
    yield "sampler run", folder
    ladder = config.get("temperatures_kelvin")
    kelvin = "temperatures_kelvin" if ladder else "temperature_kelvin"
    for key in ("engine", "sequence", "caps", "pdb", kelvin, "frame_interval_ps", "walkers"):
        if config.get(key) is not None:
            yield key.replace("_", " "), config[key]
    frames: Counter[str] = Counter()
    for path in sorted(folder.glob("walker-*/chunk-*.h5")):
        with open_hdf5(path) as file:
            frames[path.parent.name] += len(hdf5_array(file, "positions", str(path)))
    ns = sum(frames.values()) * config["frame_interval_ps"] / 1000
    yield "sampled", f"{ns:g} ns in {len(frames)} walkers, {sum(frames.values())} frames"
    yield "biased", "yes" if config.get("metadynamics") is not None else "no"


def _last_metrics(path: Path) -> dict[str, str]:
    """Return the last value of each column."""
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: not a readable table ({error}).") from None
    # Of a line that is too long csv makes a list under None.
    return {str(k): v for row in rows for k, v in row.items() if isinstance(v, str) and v}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path}: not readable JSON ({error}).") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds {str(content)[:40]}, expected figures by name.")
    return content


def _settings(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in values.items()
    )


def _rounded(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:.1f} MiB"
