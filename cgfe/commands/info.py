"""`cgfe info`: what is in a frames file, a checkpoint or a run."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from cgfe.commands.parsing import Parser
from cgfe.errors import InputError

Line = tuple[str, object]


def run(words: Sequence[str]) -> None:
    """Print what the file holds."""
    parser = Parser("info", "Print what is in a frames file, a checkpoint or a run directory.")
    parser.add_argument("path", metavar="FILE", help="frames file, checkpoint or run directory")
    path = Path(parser.parse_args(list(words[1:])).path)
    from cgfe import info

    if not path.exists():
        raise InputError(f"{path}: no such file or folder.")
    lines: Iterator[Line] | list[Line]
    if path.is_dir():
        lines = info.describe_run(path)
    elif path.suffix == ".ckpt":
        lines = info.describe_checkpoint(path)
    else:
        lines = info.describe_frames(path)
    for name, value in lines:
        print(f"{name + ':':<20} {value}")
