"""`cgfe reference-report`: is a frames file converged enough to judge models by?"""

from collections.abc import Sequence
from pathlib import Path

from cgfe.commands.parsing import Parser

EPILOG = """\
Halves of the data, unbiased against biased sampling, bootstraps, implied timescales and a
Chapman-Kolmogorov test, with a verdict in words. Example:
  cgfe reference-report frames.h5 --output convergence.html
"""


def run(words: Sequence[str]) -> None:
    """Analyse the frames and write the page."""
    parser = Parser("reference-report", "Judge the convergence of reference frames.", EPILOG)
    parser.add_argument("frames", metavar="FILE", help="frames file (.h5), or 'chignolin'")
    parser.add_argument("--output", help="HTML file (default: FILE's name with .html, here)")
    parser.add_argument("--seed", type=int, default=0, help="of bootstraps (default: %(default)s)")
    options = parser.parse_args(list(words[1:]))
    from tqdm import tqdm

    from cgfe.convergence import analyse
    from cgfe.datamodule import EMBEDDED
    from cgfe.frames import CGFrames
    from cgfe.reference_report import details, headline, write_reference_report

    path = Path(str(EMBEDDED.get(options.frames, options.frames)))
    frames = CGFrames.load(path)
    bar_format = "{desc}: {percentage:3.0f}% |{bar}| {elapsed} < {remaining}"
    with tqdm(total=1.0, bar_format=bar_format) as bar:

        def progress(what: str, share: float) -> None:
            bar.set_description(what, refresh=False)
            bar.update(share - bar.n)

        result = analyse(frames, options.seed, progress)
    output = Path(options.output) if options.output else Path(f"{path.stem}-convergence.html")
    size = f"{path.stat().st_size / 2**20:.1f} MiB"
    write_reference_report(result, path.name, size, output)
    print(" ".join([headline(result), *details(result)]))
    print(f"reference report: {output}")
