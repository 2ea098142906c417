"""`cgfe sweep`: run a W&B sweep file on this machine, without an account."""

from collections.abc import Sequence
from pathlib import Path

from cgfe.commands.parsing import Parser
from cgfe.errors import InputError

EPILOG = """\
Examples:
  cgfe sweep sweeps/energy_weight.yaml --jobs 2
  cgfe report runs/sweep-energy_weight                                (what it has shown)
  cgfe sweep sweeps/energy_terms.yaml --from results/energy_terms     (what an export has not)
  optuna-dashboard sqlite:///runs/sweep-energy_weight/study.db      (pip install optuna-dashboard)

Each run has its folder FOLDER/run-NNNN with config.yaml, metrics.csv, log.txt and its report;
FOLDER/results.csv has a row a run. Called again, the command goes on: finished runs are kept,
interrupted ones go on from their last checkpoint. Several of them, on one machine or on several
that share the folder, take points from the same study. Random and Bayesian sweeps (Optuna's TPE)
need run_cap in the file or --count. early_terminate (hyperband) ends runs that are behind.
"""


def run(words: Sequence[str]) -> None:
    """Run what is left of a sweep."""
    parser = Parser("sweep", "Run the points of a W&B sweep file here, some at a time.", EPILOG)
    parser.add_argument("file", metavar="FILE", help="sweep file, as `wandb sweep` takes it")
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs at a time; they share the cores (default: 1)"
    )
    parser.add_argument("--folder", help="of the sweep (default: runs/sweep-FILE'S-NAME)")
    parser.add_argument(
        "--from",
        dest="exported",
        type=Path,
        metavar="EXPORT",
        help="results of the same sweep from elsewhere, which `cgfe report --export` wrote: their "
        "finished runs are copied and not run again",
    )
    parser.add_argument("--count", type=int, help="runs in all (default: the file's run_cap)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of random and Bayesian choices (default: 0)"
    )
    parser.add_argument("--retry-failed", action="store_true", help="run failed points once more")
    options = parser.parse_args(list(words[1:]))
    for name in ("jobs", "count"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} is {value}, expected 1 or more.")
    from cgfe.experiment.first_point import check_first_point
    from cgfe.experiment.runner import RESULTS, run_sweep
    from cgfe.experiment.study import DATABASE, SweepStudy, readable
    from cgfe.experiment.sweep_file import SweepFile

    sweep = SweepFile.load(options.file)
    folder = Path(options.folder or Path("runs") / f"sweep-{sweep.name}")
    if not (folder / DATABASE).exists():
        check_first_point(sweep)
    study = SweepStudy(sweep, folder, options.count, options.seed, options.exported)
    with readable(folder):
        if options.retry_failed:
            print(f"failed runs queued again: {study.retry_failed()}")
        failed = run_sweep(study, options.jobs)
        total = study.counts().total
    print(f"results: {folder / RESULTS}")
    if failed:
        raise InputError(
            f"{failed} of {total} runs failed; {folder / RESULTS} tells why, --retry-failed runs "
            "them again."
        )
