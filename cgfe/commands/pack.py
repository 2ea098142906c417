"""`cgfe pack`: map sampled runs to one file of CG frames."""

from collections.abc import Sequence

from cgfe.commands.parsing import Parser

EPILOG = """\
Frames of biased runs carry weights from their bias; unbiased runs packed with them get the
populations of their regions from these. Example:
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
        source="cgfe " + " ".join(words),
    )
    frames.save(options.output)
    if frames.weights is None:
        print("no biased run: frames have no weights, so raw counts stand for equilibrium")
    elif lost := int((frames.weights == 0).sum()):
        print(f"{lost} frames lie where no biased run has been; their weight is 0")
    print(
        f"packed: {options.output} ({len(frames)} frames, {frames.nanoseconds:.1f} ns, "
        f"{len(frames.trajectory_slices())} trajectories)"
    )
