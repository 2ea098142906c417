"""The code blocks of README and docs: found, and run one after the other in one folder.

What is run is what the page says, with smaller sizes behind it (`SMALLER`): every command of cgfe
takes the last value of an option that is given twice. A block below `<!-- not run: reason -->` is
one that only a reader can run; its lines of cgfe are still parsed, so that no option in it is
stale. A block with a title is a file of that name, which later commands read.
"""

import glob
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from cgfe.all_atom.config import read_config
from cgfe.cli import main
from cgfe.commands.parsing import Parser

ROOT = Path(__file__).parents[2]

SMALLER = {
    "fit --config": (
        "--data.block_ps=20 --data.gap_ps=0 --data.cache_dir=cache --data.batch_size=64 "
        "--data.reference.tica_lag_ps=4 --data.reference.bins=12 --data.reference.starts=16 "
        "--model.network.hidden_channels=8 --model.network.num_filters=8 "
        "--model.network.num_layers=1 --model.network.num_radial=8 --trainer.max_epochs=1 "
        "--trainer.enable_progress_bar=false --trainer.enable_model_summary=false "
        "--free_energy.every_n_epochs=0 --free_energy.simulation.replicas=4 "
        "--free_energy.simulation.steps=100 --free_energy.simulation.save_interval=10 "
        "--free_energy.final.replicas=4 --free_energy.final.steps=100"
    ),
    "fit --config configs/chignolin.yaml --config configs/free_energy.yaml": (
        "--free_energy.every_n_epochs=1 --trainer.max_epochs=3 "
        '--model.losses.begin={"relative_entropy":1} --model.losses.chains.number=8'
    ),
    "fit --ckpt_path": "--trainer.max_epochs=2",
    "fit --ckpt_path last --run_dir": "--trainer.max_epochs=3",
    "validate": "--free_energy.simulation.steps=200",
    "simulate": "--steps=500",
    "reference": (
        "sequence=GGGGGGGGGG walkers=8 nanoseconds=0.08 frame_interval_ps=0.4 "
        "exchange_interval_ps=0.4 chunk_frames=100 equilibration_ps=0.4 starts=[extended]"
    ),
    "reference --config configs/reference/chignolin_exchange.yaml": (
        "walkers=16 temperatures_kelvin=[300,315]"
    ),
    "reference --config configs/reference/chignolin_mean_forces.yaml": (
        "mean_forces.configurations=[6,2,2] mean_forces.average_ps=0.08 mean_forces.settle_ps=0.04"
    ),
    "pack --runs": "--every-ps=0.4 --discard-ns=0 --native=runs/reference/chignolin/topology.pdb",
}
"""What is put behind a command that begins like this, in place of its hours."""

TINY = "--data.frames=tiny.h5"
"""The set of a `fit` whose command names none: a piece of the embedded one."""

INCLUDED = ("sampling/README.md", "benchmarks/README.md")
"""What pages of the site take in whole."""

BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+?) -->\n+)?"
    r"```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?[^\n]*\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    place: str
    language: str
    text: str
    title: str | None
    reason: str | None
    """Why it is not run; None: it is."""


def pages() -> list[Path]:
    """Return README and the pages of the site, in the order of its navigation."""
    text = (ROOT / "mkdocs.yml").read_text()
    # Tags of Python objects stand in the rest of the file.
    nav = yaml.safe_load(text[text.index("nav:") :])["nav"]
    listed = (ROOT / "docs" / name for name in _names(nav))
    return [ROOT / "README.md", *listed, *(ROOT / name for name in INCLUDED)]


def _names(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, dict):
        yield from _names(list(entry.values()))
    else:
        for part in entry:
            yield from _names(part)


def blocks(page: Path) -> list[Block]:
    """Return a page's blocks in their order."""
    text = page.read_text()
    return [
        Block(
            f"{page.relative_to(ROOT)}, line {text.count(chr(10), 0, found.start('language')) + 1}",
            *(found[name] for name in ("language", "text", "title", "reason")),
        )
        for found in BLOCK.finditer(text)
    ]


def commands(text: str) -> list[list[str]]:
    """Return the commands of a shell block as words, without comments; lines that go on, joined."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run(block: Block, names: dict[str, Any], done: set[str]) -> None:
    """Run a block in the current folder.

    Parameters
    ----------
    block : Block
    names : dict
        What the page's Python blocks before it have defined.
    done : set of str
        Commands that were run already: one that stands on several pages is run once.
    """
    if block.title is not None:
        Path(block.title).write_text(block.text)
    elif block.language == "yaml":
        yaml.safe_load(block.text)
    elif block.language == "bash":
        for words in commands(block.text):
            if shlex.join(words) not in done:
                run_command(words, block.reason is None)
                done.add(shlex.join(words))
    elif block.language == "python" and block.reason is None:
        exec(compile(block.text, block.place, "exec"), names)
    elif block.language == "python":
        compile(block.text, block.place, "exec")


def run_command(words: list[str], really: bool) -> None:
    """Run a command of cgfe with smaller sizes, or only parse it; of make, see that it could run.

    Raises
    ------
    AssertionError
        If it fails, or is of another program and not marked as one that the reader runs.
    """
    if words[:3] == ["python", "-m", "cgfe"]:
        words = words[2:]
    if words[0] == "cgfe" and really:
        assert main(smaller(words[1:])) == 0, shlex.join(words)
    elif words[0] == "cgfe":
        parse(words[1:])
    elif words[0] == "make":
        done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    else:
        assert not really, f"{shlex.join(words)}: how is this run in a test?"


def smaller(words: list[str]) -> list[str]:
    """Return a command line of cgfe with names of several files filled in, and smaller sizes."""
    found = [
        name for word in words for name in (sorted(glob.glob(word)) if "[" in word or "*" in word
                                            else []) or [word]
    ]  # fmt: skip
    for beginning, more in SMALLER.items():
        if found[: len(beginning.split())] == beginning.split():
            found += more.split()
    if found[:2] == ["fit", "--config"] and "--data.frames" not in words:
        found.append(TINY)
    return found


class Parsed(Exception):
    """Raised where a command has read its command line."""


def parse(words: list[str]) -> None:
    """Let a command of cgfe read its command line, and stop there."""

    def read(parser: Parser, line: list[str]) -> None:
        options = parse_args(parser, line)
        if hasattr(options, "settings"):
            read_config(options.config, settings=options.settings).check()
        raise Parsed

    parse_args = Parser.parse_args
    with (
        mock.patch.object(Parser, "parse_args", read),
        mock.patch("cgfe.commands.training.TrainingCLI.before_instantiate_classes",
                   side_effect=Parsed),
    ):  # fmt: skip
        try:
            code = main(words)
        except Parsed:
            return
    raise AssertionError(f"cgfe {shlex.join(words)}: exit code {code}")
