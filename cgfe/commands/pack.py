"""`cgfe pack`: map sampled runs to one file of CG frames."""

from collections.abc import Sequence

from cgfe.commands.parsing import Parser

EPILOG = """\
Frames carry equilibrium weights: from the bias of biased runs, from a Markov state model of
unbiased ones, and where both know a region, from both. Example:
  cgfe pack --runs runs/reference/* --native folded --output frames.h5
"""


def run(words: Sequence[str]) -> None:
    """Pack as the command line says."""
    parser = Parser("pack", "Map sampled all-atom runs to one file of CG frames.", EPILOG)
    parser.add_argument("--runs", nargs="+", required=True, help="folders of cgfe reference")
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
        default=1.0,
        help="dropped from the start of each biased walker, where its bias still grows fast "
        "(default: %(default)s)",
    )
    parser.add_argument("--native", help="PDB file of the fold, or 'folded' for the hairpin")
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the walkers that form the test split (default: %(default)s, none)",
    )
    options = parser.parse_args(list(words[1:]))
    from pathlib import Path

    from cgfe.all_atom.pack import pack_runs
    from cgfe.files import make_folder

    make_folder(Path(options.output).parent)
    frames = pack_runs(
        options.runs,
        options.force_map,
        options.discard_ns,
        options.native,
        options.held_out,
        source="cgfe " + " ".join(words),
    )
    frames.save(options.output)
    if frames.weights is not None and (lost := int((frames.weights == 0).sum())):
        print(f"{lost} frames lie where populations are not known; their weight is 0")
    print(
        f"packed: {options.output} ({len(frames)} frames, {frames.nanoseconds:.1f} ns, "
        f"{len(frames.trajectory_slices())} trajectories)"
    )
