"""`cgfe report`: one HTML page of a run."""

from collections.abc import Sequence

from cgfe.commands.parsing import Parser


def run(words: Sequence[str]) -> None:
    """Write the report that the command line asks for."""
    parser = Parser("report", "Draw a run's figures and tables into one self-contained page.")
    parser.add_argument("run_dir", metavar="RUN_DIR", help="folder of a cgfe fit")
    parser.add_argument("--output", help="HTML file (default: RUN_DIR/report.html)")
    options = parser.parse_args(list(words[1:]))
    from cgfe.report.run import write_report

    print(f"report: {write_report(options.run_dir, options.output)}")
