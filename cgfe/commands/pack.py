"""`cgfe pack`: map sampled runs to one file of CG frames."""

from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cgfe.commands.parsing import Parser

if TYPE_CHECKING:
    from cgfe.data.frames import CGFrames

EPILOG = """\
Frames carry equilibrium weights, of each part from its own walkers: from the bias of biased runs,
from a Markov state model of unbiased ones, and where both know a region, from both; or none
(--weights counts) where walkers are so long that their counts are right. Of replica exchange the
frames of one temperature are taken; a trajectory is then a ladder. Example:
  cgfe pack --runs runs/reference/chignolin --native folded --every-ps 20 --discard-ns 40 \\
    --validation 0.25 --test 0.25 --weights counts --output frames.h5
"""


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
        choices=("estimated", "counts"),
        help="counts: every frame counts alike (default: %(default)s)",
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

    if options.ends and (options.join or len(options.runs) != 1):
        parser.error("--ends needs exactly one run behind --runs")
    given = {name for name, value in vars(options).items() if value != parser.get_default(name)}
    if options.join and (useless := given - {"join", "output"}):
        parser.error(f"--join takes no --{min(useless).replace('_', '-')}")
    for path in filter(None, (options.output, options.ends)):
        check_output(path)
    if options.ends:
        folder = options.runs[0]
        save_ends(replace(run_config(Path(folder)), output=folder), Path(options.ends))
    if options.join:
        frames = join([CGFrames.load(path) for path in options.join])
    else:
        frames = _packed(options, "cgfe " + " ".join(words))
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
