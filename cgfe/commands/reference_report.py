"""`cgfe reference-report`: is a frames file converged enough to judge models by?"""

from collections.abc import Sequence
from pathlib import Path

from cgfe.commands.parsing import Parser
from cgfe.errors import InputError

EPILOG = """\
The floor that a perfect model would score, ΔF by every way there is, foldings and unfoldings,
whether starts are forgotten, implied timescales and a Chapman-Kolmogorov test: bootstraps over
walkers, and an answer in words to each question. Examples:
  cgfe reference-report frames.h5 --output convergence.html
  cgfe reference-report unbiased.h5 --against exchange.h5 more_exchange.h5
"""


def run(words: Sequence[str]) -> None:
    """Analyse the frames and write the page."""
    parser = Parser("reference-report", "Judge the convergence of reference frames.", EPILOG)
    parser.add_argument("frames", metavar="FILE", help="frames file (.h5), 'chignolin' or 'helix'")
    parser.add_argument(
        "--against",
        metavar="FILE",
        nargs="+",
        help="frames sampled independently, a second way to check by (the trajectories of all, if "
        "several files)",
    )
    parser.add_argument("--output", help="HTML file (default: FILE's name with .html, here)")
    parser.add_argument("--seed", type=int, default=0, help="of bootstraps (default: %(default)s)")
    options = parser.parse_args(list(words[1:]))
    from cgfe.data.embedded import EMBEDDED
    from cgfe.data.frames import CGFrames
    from cgfe.data.join import side_by_side
    from cgfe.files import check_output
    from cgfe.progress import Bar
    from cgfe.reference.convergence import analyse
    from cgfe.report.reference import details, write_reference_report
    from cgfe.report.verdicts import headline

    if options.output:
        check_output(options.output)
    path = Path(EMBEDDED.get(options.frames, options.frames))
    frames = CGFrames.load(path)
    others = []
    for word in options.against or ():
        second = Path(EMBEDDED.get(word, word))
        if second.resolve() == path.resolve():
            raise InputError(f"--against is {second}, the same file; expected another one.")
        others.append(CGFrames.load(second))
    against = side_by_side(others) if others else None
    bar_format = "{desc}: {percentage:3.0f}% |{bar}| {elapsed} < {remaining}"
    with Bar(total=1.0, bar_format=bar_format) as bar:

        def progress(what: str, share: float) -> None:
            bar.set_description_str(what, refresh=False)
            bar.update(share - bar.n)

        result = analyse(frames, options.seed, progress, against)
    output = Path(options.output) if options.output else Path(f"{path.stem}-convergence.html")
    size = f"{path.stat().st_size / 2**20:.1f} MiB"
    write_reference_report(result, path.name, size, output)
    print("\n".join([headline(result), *details(result)]))
    print(f"reference report: {output}")
