"""Bad input of every kind ends in a result or one sentence: never a traceback, a hang or a crash.

A few cases of each kind run with the other tests; `make fuzz` runs 1,000 frames files, 1,000
checkpoints, and 300 of the other kinds, and prints the counts.
"""

import copy
import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from random import Random

import mdtraj
import numpy as np
import pytest
import torch
import yaml

from cgfe.all_atom.config import read_config
from cgfe.cli import COMMANDS
from cgfe.data.frames import CGFrames
from cgfe.data.splits import SplitConfig, split_frames
from cgfe.data.writer import writing_frames
from cgfe.model.schnet import CGSchNetConfig
from cgfe.reference.config import ReferenceConfig
from cgfe.reference.reference import Reference
from cgfe.training.module import CGForceField
from tests.commands.fuzzing import (
    Tally,
    with_other_bytes,
    with_other_members,
    with_other_values,
)

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="forks on Linux only")

CONFIGS = Path(__file__).parents[2] / "configs"
LARGE = pytest.param(1000, marks=pytest.mark.fuzz)
SMALLER = pytest.param(300, marks=pytest.mark.fuzz)
REFERENCE = ReferenceConfig(tica_lag_ps=5, bins=12, starts=16)


def command(*words: object) -> None:
    """Run a command as `cgfe` does, but let its errors pass."""
    texts = [str(word) for word in words]
    import_module(f"cgfe.commands.{COMMANDS[texts[0]][0]}").run(texts)


@pytest.fixture(scope="module")
def small(tiny: CGFrames) -> CGFrames:
    """250 frames of each trajectory, with every optional array."""
    chosen = np.concatenate([np.arange(s.start, s.start + 250) for s in tiny.trajectory_slices()])
    assert tiny.forces is not None
    count = len(chosen)
    return dataclasses.replace(
        tiny,
        positions=tiny.positions[chosen],
        forces=tiny.forces[chosen],
        trajectory_index=tiny.trajectory_index[chosen],
        all_atom_energies=np.linspace(-300, -200, count),
        weights=np.linspace(0.5, 1.5, count),
        bias_log_weights=np.linspace(-1, 1, count),
        replica_index=np.zeros(count, np.int32),
    )


@pytest.fixture(scope="module")
def checkpoint(small: CGFrames) -> dict[str, object]:
    """What a fit keeps."""
    split = split_frames(small, SplitConfig(block_ps=20))
    model = CGForceField(CGSchNetConfig(hidden_channels=8, num_filters=8, num_layers=1))
    model.set_references([Reference.fit(small, split, REFERENCE)], ["chignolin"])
    kept: dict[str, object] = {"state_dict": model.state_dict(), "epoch": 6, "global_step": 77}
    model.on_save_checkpoint(kept)
    return kept


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, in memory where there is one for that."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["cgfe"])
    return tmp_path


@pytest.mark.parametrize("cases", [12, LARGE])
def test_frames_files(cases: int, small: CGFrames, folder: Path) -> None:
    small.save(folder / "rounded.h5")
    plain = dataclasses.replace(small, position_step=0.0, force_step=0.0, weights=None,
                                bias_log_weights=None, replica_index=None)  # fmt: skip
    with writing_frames(folder / "plain.h5") as writer:
        writer.append(plain)
    bases = [(folder / name).read_bytes() for name in ("rounded.h5", "plain.h5")]
    path = folder / "case.h5"

    def use() -> None:
        for step in (lambda: command("info", path), lambda: use_frames(path)):
            step()

    def use_frames(path: Path) -> None:
        frames = CGFrames.load(path)
        Reference.fit(frames, split_frames(frames, SplitConfig(block_ps=20)), REFERENCE)

    tally = Tally("frames file")
    path.write_bytes(bases[0])
    tally.control(use)
    for seed in range(cases):
        random = Random(seed)
        base = random.choice(bases)
        path.write_bytes(base if seed % 2 else with_other_bytes(base, random))
        if seed % 2:
            with_other_members(path, random)
        tally.watch(seed, use)
    tally.check()


@pytest.mark.parametrize("cases", [12, LARGE])
def test_checkpoints(cases: int, checkpoint: dict[str, object], folder: Path) -> None:
    path = folder / "case.ckpt"
    torch.save(checkpoint, path)
    base = path.read_bytes()

    def use() -> None:
        command("info", path)
        output = folder / "out.dcd"
        command("simulate", "--ckpt_path", path, "--output", output, "--steps", 20,
                "--save_interval", 10, "--device", "cpu")  # fmt: skip

    tally = Tally("checkpoint")
    tally.control(use)
    for seed in range(cases):
        random = Random(seed)
        if seed % 2:
            torch.save(with_other_values(copy.copy(checkpoint), random), path)
        else:
            path.write_bytes(with_other_bytes(base, random))
        tally.watch(seed, use)
    tally.check()


def trajectories(frames: CGFrames, folder: Path) -> dict[str, list[str]]:
    """Write the beads in several formats; return the files to change, and how each is read."""
    simulated = mdtraj.Trajectory(frames.positions[:60] / 10, frames.topology(), np.arange(60.0))
    simulated[0].save(folder / "top.pdb")
    for suffix in ("xtc", "dcd", "trr", "nc", "pdb", "gro"):
        simulated.save(str(folder / f"run.{suffix}"))
    np.savez(folder / "run.npz", positions=frames.positions[:60], weights=np.ones(60),
             residue_names=np.array(frames.residue_names), temperature=np.array(300.0))  # fmt: skip
    np.save(folder / "a_coords.npy", frames.positions[:60])
    told = ["--temperature", "300", "--frame-interval", "1", "--output", "out.h5", "--quiet"]
    top = ["--topology", "top.pdb", *told]
    return {
        **{f"run.{suffix}": top for suffix in ("xtc", "dcd", "trr", "nc", "gro")},
        "top.pdb": ["run.xtc", *top],
        "run.pdb": told,
        "run.npz": told[2:],
        "a_coords.npy": [*top, "--forces", "none"],
    }


@pytest.mark.parametrize("cases", [18, SMALLER])
def test_trajectories(cases: int, small: CGFrames, folder: Path) -> None:
    ways = trajectories(small, folder)
    tally = Tally("trajectory")
    for seed in range(cases):
        random = Random(seed)
        name = sorted(ways)[seed % len(ways)]
        path = folder / name
        content = path.read_bytes()
        words = ways[name] if name == "top.pdb" else [name, *ways[name]]
        use = partial(command, "import", *words)
        if seed < len(ways):
            tally.control(use)
        path.write_bytes(with_other_bytes(content, random))
        tally.watch(seed, use)
        path.write_bytes(content)
    tally.check()


@pytest.mark.parametrize("cases", [12, SMALLER])
def test_configs_of_the_sampler(cases: int, folder: Path) -> None:
    bases = [path.read_text() for path in sorted((CONFIGS / "reference").glob("*.yaml"))]
    watch_configs(Tally("sampler config"), cases, bases, lambda path: read_config(path).check())


@pytest.mark.parametrize("cases", [4, SMALLER])
def test_configs_of_fits(cases: int, small: CGFrames, folder: Path) -> None:
    small.save(folder / "frames.h5")
    config = yaml.safe_load((CONFIGS / "chignolin.yaml").read_text())
    config["data"] |= {"frames": "frames.h5", "cache_dir": "cache", "block_ps": 20,
                       "reference": {"tica_lag_ps": 5, "bins": 12, "starts": 16}}  # fmt: skip
    config["model"]["network"] |= {"hidden_channels": 8, "num_filters": 8}
    short = {"replicas": 4, "steps": 40, "save_interval": 10}
    config["free_energy"] = {"every_n_epochs": 1, "simulation": short, "final": None}
    config["trainer"] |= {"accelerator": "cpu", "enable_progress_bar": False}
    # Where a key is missing its default takes minutes: the embedded set, a long simulation.
    small_ones = {key: config[key] for key in ("data", "free_energy", "trainer")}
    Path("small.yaml").write_text(yaml.safe_dump(small_ones))
    for module in ("cgfe.commands.training", "cgfe.report.run", "cgfe.report.plots"):
        import_module(module)  # which every child would import anew

    def use(path: Path) -> None:
        words = ("--config", "small.yaml", "--config", path)
        command("fit", *words, "--trainer.fast_dev_run", "true")

    watch_configs(Tally("fit config"), cases, [yaml.safe_dump(config)], use)


def watch_configs(
    tally: Tally, cases: int, bases: list[str], use: Callable[[Path], object]
) -> None:
    path = Path("case.yaml")
    for base in bases:
        path.write_text(base)
        tally.control(lambda: use(path))
    for seed in range(cases):
        random = Random(seed)
        base = random.choice(bases)
        if seed % 4:
            path.write_text(yaml.safe_dump(with_other_values(yaml.safe_load(base), random)))
        else:
            path.write_bytes(with_other_bytes(base.encode(), random))
        tally.watch(seed, lambda: use(path))
    tally.check()
