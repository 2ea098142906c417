"""`cgfe report`: one HTML page of a run, or of a sweep."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from cgfe.commands.parsing import Parser
from cgfe.errors import InputError

EPILOG = """\
Examples:
  cgfe report runs/chignolin-20261124-040232
  cgfe report runs/sweep-energy_weight
  cgfe report runs/sweep-energy_weight --metric free_energy/delta_f_kt --baseline 0

Of a sweep, by `cgfe sweep` or by W&B's agents, the page has every run's error against the parameter
that was varied, intervals over seeds, comparisons with the baseline and a verdict in words, which
is printed too; the numbers stand beside the page as .json.
"""


def run(words: Sequence[str]) -> None:
    """Write the report that the command line asks for."""
    parser = Parser(
        "report", "Draw a run or a sweep, figures and tables, into one self-contained page.", EPILOG
    )
    parser.add_argument("folder", metavar="FOLDER", help="of a cgfe fit, or of a sweep")
    parser.add_argument("--output", help="HTML file (default: report.html or sweep.html in FOLDER)")
    sweep = parser.add_argument_group("of a sweep")
    sweep.add_argument(
        "--metric", help="to compare (default: final/js if runs have it, else free_energy/js)"
    )
    sweep.add_argument(
        "--parameter", help="to tell it against; several as A,B (default: all that are varied)"
    )
    sweep.add_argument("--baseline", help="value to compare with (default: the smallest)")
    sweep.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="runs with this value of another parameter alone; may be given several times",
    )
    sweep.add_argument(
        "--export",
        metavar="FOLDER",
        help="copy the runs' results there, without checkpoints, with report, figures and commands",
    )
    options = parser.parse_args(list(words[1:]))
    folder = Path(options.folder)
    from cgfe.experiment.runs import is_sweep

    if is_sweep(folder):
        _report_sweep(folder, options)
        return
    for name in ("metric", "parameter", "baseline", "where", "export"):
        if getattr(options, name):
            raise InputError(f"--{name} is for a sweep, but {folder} is not the folder of one.")
    from cgfe.report.run import write_report

    print(f"report: {write_report(folder, options.output)}")


def _report_sweep(folder: Path, options: Namespace) -> None:
    from cgfe.experiment.export import export_sweep
    from cgfe.experiment.results import parse_where
    from cgfe.experiment.sweep_report import write_sweep_report

    chosen = (options.metric, options.parameter, options.baseline, parse_where(options.where))
    if options.export is None:
        report = write_sweep_report(folder, options.output, *chosen)
    elif options.output is None:
        report = export_sweep(folder, options.export, *chosen)
    else:
        raise InputError("--output and --export: expected one of them, as both name the page.")
    print("\n".join([report.headline, *report.sentences]))
    print(f"numbers: {report.numbers}")
    print(f"report: {report.page}")
