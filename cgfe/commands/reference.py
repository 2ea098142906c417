"""`cgfe reference`: sample an all-atom peptide, or average forces at its configurations."""

from collections.abc import Sequence

from cgfe.commands.parsing import Parser

EPILOG = """\
Walkers in implicit solvent run in the vector registers of the CPU where a compiler is there, others
by OpenMM (key `engine`). Replica exchange: key `temperatures_kelvin`; a bias: `metadynamics`; mean
forces at the frames of earlier runs: `mean_forces`.
Any key of the config can be set behind it, for example
  cgfe reference --config configs/reference/chignolin.yaml walkers=4 nanoseconds=10
Kill it at any time: the same command goes on where it stopped. Then
  cgfe pack --runs RUN_DIR [RUN_DIR ...] --output frames.h5
"""


def run(words: Sequence[str]) -> None:
    """Sample as the command line says."""
    parser = Parser("reference", "Sample an all-atom peptide.", EPILOG)
    parser.add_argument("--config", required=True, help="YAML file, see configs/reference")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="override the config")
    options = parser.parse_args(list(words[1:]))
    from cgfe.all_atom.config import read_config
    from cgfe.all_atom.sampler import sample

    config = read_config(options.config, settings=options.settings)
    if config.mean_forces is not None:
        from cgfe.all_atom.mean_forces_run import sample_mean_forces

        print(f"mean forces: {sample_mean_forces(config, progress=not options.quiet)}")
        return
    folder = sample(config, progress=not options.quiet)
    print(f"sampled: {folder} ({config.walkers} walkers of {config.nanoseconds:g} ns)")
