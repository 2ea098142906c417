"""The `cgfe` command: finds the subcommand and imports only what that one needs."""

import gc
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

from cgfe.errors import InputError
from cgfe.files import long_names_told
from cgfe.version import __version__

COMMANDS = {
    "fit": ("training", "train a force field on CG frames, with free-energy validation"),
    "validate": ("training", "simulate a checkpoint and compare its free energy again"),
    "test": ("training", "losses of a checkpoint on the held-out test split"),
    "predict": ("training", "energies and forces of a checkpoint on the test split, as HDF5"),
    "sweep": ("sweep", "run a W&B sweep file here, without an account"),
    "simulate": ("simulate", "run Langevin dynamics of a checkpoint, write a trajectory"),
    "report": ("report", "draw a run, or decide a sweep, on one HTML page"),
    "reference": ("reference", "sample an all-atom peptide"),
    "pack": ("pack", "map sampled all-atom runs to one file of CG frames"),
    "reference-report": ("reference_report", "tell whether reference frames are converged"),
    "import": ("import_frames", "read trajectories and data sets of other programs"),
    "info": ("info", "print what is in a frames file, a checkpoint or a run"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; return the exit code, 2 where the user's input is wrong."""
    share_cores()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if words[0] == "--version":
        print(f"cgfe {__version__}")
        return 0
    try:
        if words[0] not in COMMANDS:
            raise InputError(
                f"{words[0]!r} is no command of cgfe; expected one of {', '.join(COMMANDS)}."
            )
        with collector_resting():
            command = import_module(f"cgfe.commands.{COMMANDS[words[0]][0]}")
        with long_names_told():
            command.run(words)
        sys.stdout.flush()
    except BrokenPipeError:  # who reads has enough, as `| head` does
        # Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except InputError as error:
        print(f"cgfe: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def share_cores() -> None:
    """Let idle threads wait for microseconds, not milliseconds, before they sleep.

    Longer, and they stall as soon as another process shares the cores; not at all, and every
    short operation wakes them anew: on two cores training ran at 34 steps/s without waiting, 54
    with this and 60 with endless waiting. It must be set before torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


@contextmanager
def collector_resting() -> Iterator[None]:
    """Keep the garbage collector from what is imported, now and later.

    Imports make hundreds of thousands of objects that stay, and each round of the collector looks
    at all of them: importing Lightning took 4.5 s with it and 3.3 s without, on a busy machine.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _usage() -> str:
    lines = [f"  {name:<16} {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: cgfe COMMAND [options]",
            "",
            "Train coarse-grained force fields and judge their free-energy surface.",
            "",
            *lines,
            "",
            "cgfe COMMAND --help tells a command's options. A first run:",
            "  cgfe fit --config configs/chignolin.yaml",
        ]
    )
