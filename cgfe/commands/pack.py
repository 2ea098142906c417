"""`cgfe pack`: map sampled runs to one file of CG frames, or weigh the frames of one anew."""

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cgfe.commands.parsing import Parser
from cgfe.errors import InputError

if TYPE_CHECKING:
    from cgfe.data.frames import CGFrames

EPILOG = """\
Frames carry equilibrium weights, of each part from its own walkers: from the bias of biased runs,
from a Markov state model of unbiased ones, and where both know a region, from both; or none
(--weights counts) where walkers are so long that their counts are right. Of replica exchange the
frames of one temperature are taken; a trajectory is then a ladder. Example:
  cgfe pack --runs runs/reference/chignolin --native folded --every-ps 20 --discard-ns 40 \\
    --validation 0.25 --test 0.25 --weights counts --output frames.h5
Imported frames of many short trajectories get weights from their own kinetics:
  cgfe pack --frames imported.h5 --output weighed.h5
"""


TAKEN: dict[str, set[str]] = {
    "join": set(),
    "frames": {"weights", "begin_folded_ns"},
    "runs": {
        *("force_map", "discard_ns", "native", "validation", "test", "temperature"),
        *("every_ps", "weights", "ends"),
    },
}
"""Which options each source takes."""


def run(words: Sequence[str]) -> None:
    """Pack as the command line says."""
    parser = Parser("pack", "Map sampled all-atom runs to one file of CG frames.", EPILOG)
    sources = parser.add_mutually_exclusive_group(required=True)
    sources.add_argument("--runs", nargs="+", help="folders of cgfe reference")
    sources.add_argument(
        "--join",
        nargs="+",
        metavar="FILE",
        help="packed stretches of one sampling, joined walker by walker in this order",
    )
    sources.add_argument(
        "--frames",
        metavar="FILE",
        help="a frames file, chignolin or helix, whose frames are to be weighed anew (with "
        "--weights and --begin-folded-ns)",
    )
    parser.add_argument("--output", required=True, help="frames file (.h5) to write")
    parser.add_argument(
        "--force-map",
        default="optimal",
        choices=("slice", "constraint_aware", "optimal"),
        help="how atomic forces become bead forces (default: %(default)s)",
    )
    parser.add_argument(
        "--discard-ns",
        type=float,
        metavar="NS",
        help="dropped from the start of each walker (default: 1 of biased ones, where the bias "
        "still grows fast, else 0)",
    )
    parser.add_argument("--native", help="PDB file of the fold, 'folded' or 'helix'")
    for part in ("validation", "test"):
        parser.add_argument(
            f"--{part}",
            type=float,
            default=0.0,
            metavar="SHARE",
            help=f"share of the walkers that form the {part} split (default: %(default)s, none)",
        )
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="KELVIN",
        help="which one of replica exchange (default: the lowest)",
    )
    parser.add_argument(
        "--every-ps",
        type=float,
        metavar="PS",
        help="spacing of the packed frames (default: that of the runs)",
    )
    parser.add_argument(
        "--weights",
        default="estimated",
        choices=("estimated", "training", "counts"),
        help="training: estimated of the training part alone; counts: every frame counts alike "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--begin-folded-ns",
        type=float,
        metavar="NS",
        help="train on pieces of so many ns of the training trajectories of --frames that each "
        "begin in the fold, as if all had been started there, and test on the whole ones: what "
        "are weights worth?",
    )
    parser.add_argument(
        "--ends",
        metavar="FILE",
        help="write where the walkers of the one run ended, for a run that continues it elsewhere "
        "(key continues)",
    )
    options = parser.parse_args(list(words[1:]))
    from dataclasses import replace
    from pathlib import Path

    from cgfe.all_atom.ends import save_ends
    from cgfe.all_atom.sampled import run_config
    from cgfe.data.frames import CGFrames
    from cgfe.data.join import join
    from cgfe.files import check_output

    if options.ends and (not options.runs or len(options.runs) != 1):
        parser.error("--ends needs exactly one run behind --runs")
    given = {name for name, value in vars(options).items() if value != parser.get_default(name)}
    for source, taken in TAKEN.items():
        if source in given and (useless := given - taken - {source, "output"}):
            parser.error(f"--{source} takes no --{min(useless).replace('_', '-')}")
    for path in filter(None, (options.output, options.ends)):
        check_output(path)
    if options.ends:
        folder = options.runs[0]
        save_ends(replace(run_config(Path(folder)), output=folder), Path(options.ends))
    command = "cgfe " + " ".join(words)
    if options.join:
        frames = join([CGFrames.load(path) for path in options.join])
    elif options.frames:
        frames = _weighed(options, command)
    else:
        frames = _packed(options, command)
    frames.save(options.output)
    if frames.weights is not None and (lost := int((frames.weights == 0).sum())):
        print(f"{lost} frames lie where populations are not known; their weight is 0")
    print(
        f"packed: {options.output} ({len(frames)} frames, {frames.nanoseconds:.1f} ns, "
        f"{len(frames.trajectory_slices())} trajectories)"
    )


def _packed(options: Namespace, source: str) -> "CGFrames":
    from cgfe.all_atom.pack import pack_runs

    return pack_runs(
        options.runs,
        kind=options.force_map,
        discard_ns=options.discard_ns,
        native=options.native,
        validation=options.validation,
        test=options.test,
        temperature=options.temperature,
        every_ps=options.every_ps,
        weights=options.weights,
        source=source,
    )


def _weighed(options: Namespace, command: str) -> "CGFrames":
    from dataclasses import replace

    from cgfe.data.begun_folded import begun_folded
    from cgfe.data.embedded import EMBEDDED
    from cgfe.data.frames import CGFrames
    from cgfe.data.weighed import weighed

    frames = CGFrames.load(EMBEDDED.get(options.frames, options.frames))
    unknown = frames.weights is not None and not len(frames.biased_trajectories)
    if unknown and options.weights != "counts":
        raise InputError(
            f"{frames.name}: has weights already, perhaps of a bias that its kinetics do not know; "
            "--weights counts drops them first."
        )
    if options.begin_folded_ns is not None:
        frames = begun_folded(frames, options.begin_folded_ns)
    return replace(weighed(frames, options.weights), source=f"{frames.source}; {command}")
