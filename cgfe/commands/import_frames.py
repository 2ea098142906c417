"""`cgfe import`: other programs' trajectories and data sets as a frames file."""

from collections.abc import Sequence
from pathlib import Path

from cgfe.commands.parsing import Parser
from cgfe.errors import InputError

EPILOG = """\
formats (found out when --format is left out):
  mdtraj     trajectories that mdtraj reads, one SOURCE each, with --topology; forces inside
             (.trr), in --forces FILE ..., or in STEM_forces.npy|.h5|.trr beside, or none
  openmm     output_ID.h5 (mdtraj's HDF5 convention with forces), or folders of them
  fu-berlin  folder with chig_coor_TAG.npy, chig_force_TAG.npy and structure.pdb
  majewski   NAME_ca_coords.npy with _forces.npy, _deltaforces.npy, _embeddings.npy
  mlcg       HDF5 of mlcg: a group per molecule with cg_coords, cg_forces or cg_delta_forces
  npz        .npz with positions, residue_names or embeddings, forces, ...

examples:
  cgfe import run.xtc --topology run.pdb --forces run_forces.npy --temperature 300 --output f.h5
  cgfe import chignolin/ --format fu-berlin --temperature 350 --frame-interval 100 --output f.h5
  cgfe import data/1abc/result/output_1abc.h5 --temperature 300 --output f.h5

Temperature and time between frames come from the source or from the options: there is no default.
"""


def run(words: Sequence[str]) -> None:
    """Import as the command line says."""
    parser = Parser("import", "Read trajectories and data sets into a frames file.", EPILOG)
    parser.add_argument("source", nargs="+", metavar="SOURCE", help="file or folder")
    parser.add_argument("--format", help="name of the format (default: found out)")
    parser.add_argument("--output", required=True, help="frames file (.h5) to write")
    parser.add_argument("--temperature", type=float, help="K (default: what the source tells)")
    parser.add_argument(
        "--frame-interval",
        type=float,
        help="ps between frames of the source (default: what the source tells)",
    )
    parser.add_argument("--topology", help="PDB, PSF, PRMTOP, ... of the source's atoms")
    parser.add_argument(
        "--forces",
        nargs="+",
        default=(),
        metavar="FILE",
        help="force files, one per trajectory, or 'none' for positions alone",
    )
    parser.add_argument(
        "--force-unit",
        choices=("kcal/mol/angstrom", "kJ/mol/nm"),
        help="of forces in bare arrays (default: told from their thermal size along the bonds)",
    )
    parser.add_argument(
        "--force-map",
        choices=("slice", "constraint_aware", "optimal"),
        help="how atomic forces become bead forces (default: optimal)",
    )
    parser.add_argument(
        "--embedding",
        choices=("cgfe", "one_letter", "majewski"),
        help="table of bead-type numbers (default: the format's own)",
    )
    parser.add_argument(
        "--native",
        metavar="FILE",
        help="structure (.pdb, .gro, ...) of the fold, or the number of a frame of the source, "
        "from 0: ΔF and foldings need it",
    )
    parser.add_argument(
        "--folded-rmsd",
        type=float,
        default=2.0,
        metavar="ANGSTROM",
        help="a frame is folded up to this Cα RMSD to the native structure (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="equilibrium weights of the source's frames: .npy, or text with one number a line",
    )
    parser.add_argument("--molecule", help="which molecule of an mlcg file")
    parser.add_argument(
        "--stride", type=int, default=1, help="keep every N-th frame (default: %(default)s)"
    )
    parser.add_argument(
        "--buffer-mb", type=float, default=64.0, help="memory for frames (default: %(default)s)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(list(words[1:]))
    output = Path(options.output)
    if output.suffix != ".h5":
        raise InputError(f"--output {output}: expected a name that ends with .h5.")
    sources = [Path(path) for path in options.source]
    if any(path.resolve() == output.resolve() for path in sources):
        raise InputError(f"--output {output}: is the source itself.")

    from cgfe.files import check_output
    from cgfe.readers import open_source
    from cgfe.readers.chunks import ImportSettings
    from cgfe.readers.convert import import_frames
    from cgfe.readers.source import ReaderOptions

    check_output(output)
    reader_options = ReaderOptions(
        topology=options.topology,
        forces=tuple(options.forces),
        force_unit=options.force_unit,
        embedding=options.embedding,
        molecule=options.molecule,
    )
    name, source = open_source(sources, reader_options, options.format)
    done = import_frames(
        source,
        output,
        ImportSettings(
            temperature_kelvin=options.temperature,
            frame_interval_ps=options.frame_interval,
            force_map=options.force_map,
            stride=options.stride,
            buffer_megabytes=options.buffer_mb,
            native=options.native,
            folded_rmsd=options.folded_rmsd,
            weights=options.weights,
            origin="cgfe " + " ".join(words),
        ),
        progress=not options.quiet,
    )
    for note in done.notes:
        print(f"note: {note}")
    print(
        f"imported: {done.path} ({name}, {done.frames} frames of {done.beads} beads, "
        f"{done.frames * done.frame_interval_ps / 1000:g} ns, {done.trajectories} trajectories, "
        f"forces: {done.force_mapping})"
    )
