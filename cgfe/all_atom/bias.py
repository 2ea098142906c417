"""Well-tempered metadynamics on Cα positions: its settings and its collective variables.

The bias depends on the beads alone, so the mapped *unbiased* forces at biased frames are still
right for force matching (arXiv 2510.11148), and only the frames' weights need the bias. Hills are
added after each frame, which is recorded first: the bias of a frame is the one that it was sampled
with.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from openmm import app

from cgfe.all_atom.system import HAIRPIN, alpha_carbons, peptide_from_pdb
from cgfe.data.frames import CGFrames
from cgfe.errors import InputError
from cgfe.files import make_folder, replacing
from cgfe.units import ANGSTROM_PER_NM, thermal_energy

TIC_MARGIN = 0.5
"""Share of the TICs' sampled range that the bias reaches beyond it on each side."""
POINTS_PER_WIDTH = 5
"""Points of the table per width of a hill, as OpenMM has them."""
TABLE_ARRAYS = 8
"""V and its derivatives, a chunk's copy of them while it is read, temporary ones of c(t)."""
VARIABLES_FILE = "variables.npz"


@dataclass
class Metadynamics:
    """Settings of the bias (Barducci, Bussi, Parrinello 2008, 10.1103/PhysRevLett.100.020603).

    The variables are the Cα RMSD to `reference` and the mean of the distances between the
    Cα pairs `strand_pairs` (residue numbers from 1); or, with `tics`, the first two TICs.
    """

    reference: str = "folded"
    """PDB file with the folded structure, or `folded` for the embedded chignolin hairpin."""
    strand_pairs: list[list[int]] = field(default_factory=lambda: [[1, 10], [2, 9], [3, 8]])
    """Residue numbers from 1."""
    bias_factor: float = 8.0
    """How many times hotter the variables are sampled, above 1."""
    hill_height_kj: float = 1.0
    """kJ/mol, OpenMM's unit."""
    rmsd_max: float = 11.0
    """Å, where the bias's table ends; it begins at 0."""
    rmsd_width: float = 0.4
    """Å, of a hill."""
    distance_min: float = 3.0
    """Å, where the table begins."""
    distance_max: float = 36.0
    """Å, where it ends."""
    distance_width: float = 1.0
    """Å, of a hill."""
    tics: str | None = None
    """Frames file whose unbiased trajectories TICA is fitted to; the bias then acts on the slow
    coordinates on which free energies are compared (after Sultan & Pande 2017,
    10.1021/acs.jctc.7b00182)."""
    tic_width: float = 0.2
    """Width of a hill, in units of the TICs."""

    def check(self) -> None:
        """Raise InputError if values make no sense."""
        if not 1 < self.bias_factor < np.inf:
            raise InputError(
                f"metadynamics bias_factor is {self.bias_factor}; expected a value above 1."
            )
        for name in ("hill_height_kj", "rmsd_max", "rmsd_width", "distance_width", "tic_width"):
            if not 0 < getattr(self, name) < np.inf:
                raise InputError(
                    f"metadynamics {name} is {getattr(self, name)}; expected a positive value."
                )
        if not -np.inf < self.distance_min < self.distance_max < np.inf:
            raise InputError(
                f"metadynamics distance_max is {self.distance_max}; expected a value above "
                f"distance_min, {self.distance_min}."
            )


@dataclass(frozen=True)
class BiasVariables:
    """Two functions of the Cα positions, s_k = Σ_p w_pk r_p with the distances r_p of bead pairs.

    Where there is a reference, s_0 is the RMSD to it beside. Units are OpenMM's: nm, and of TICs
    none.

    Attributes
    ----------
    atoms : array (B,)
        Atom of each bead.
    reference : array (B, 3)
        nm; (0, 3) if no variable is an RMSD.
    pairs : array (P, 2)
        Of beads.
    weights : array (P, 2)
        w_pk, dimensionless or of TICs 1/nm.
    lowest, highest, widths : array (2,)
        Ends of the table, and widths of a hill.
    lengths : bool
        Whether the variables are lengths, which files have in Å.
    """

    atoms: NDArray[np.int64]
    reference: NDArray[np.float64]
    pairs: NDArray[np.int64]
    weights: NDArray[np.float64]
    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]
    widths: NDArray[np.float64]
    lengths: bool

    @classmethod
    def of(cls, settings: Metadynamics, topology: app.Topology) -> "BiasVariables":
        """Return the variables that settings ask for.

        Raises
        ------
        InputError
            If a setting makes no sense or is about beads that the chain does not have.
        """
        settings.check()
        beads = alpha_carbons(topology)
        if settings.tics is None:
            return _shape_variables(settings, beads)
        return _tic_variables(settings, settings.tics, beads)

    @property
    def points(self) -> tuple[int, int]:
        """Points of the table along each variable."""
        ratios = POINTS_PER_WIDTH * (self.highest - self.lowest) / self.widths
        first, second = np.maximum(np.ceil(ratios), 2).astype(int)
        return int(first), int(second)

    @property
    def table_bytes(self) -> int:
        """What the table of a bias takes, with the arrays that c(t) is computed by."""
        ratios = POINTS_PER_WIDTH * (self.highest - self.lowest) / self.widths
        # Points of widths that make no sense may be beyond any integer.
        first, second = np.clip(np.ceil(ratios), 2, 1e9)
        return int(first * second) * TABLE_ARRAYS * np.dtype(np.float64).itemsize

    @property
    def file_scale(self) -> float:
        """What a variable is multiplied with on its way to a file."""
        return ANGSTROM_PER_NM if self.lengths else 1.0

    def save(self, folder: Path) -> None:
        """Keep the variables, so that a run goes on with the same bits."""
        path = make_folder(folder) / VARIABLES_FILE
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, allow_pickle=False, **self.to_arrays())

    @classmethod
    def kept(cls, folder: Path) -> "BiasVariables":
        """Return what `save` has kept."""
        with np.load(folder / VARIABLES_FILE) as file:
            return cls.from_arrays(file)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything as arrays, for files."""
        return {name: np.asarray(value) for name, value in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "BiasVariables":
        """Return the variables that `to_arrays` described."""
        own: dict[str, Any] = {key.name: arrays[key.name] for key in fields(cls)}
        own["lengths"] = bool(own["lengths"])
        return cls(**own)


def bias_folder(run: Path) -> Path:
    """Return the folder of a run's bias."""
    return run / "bias"


def table_path(run: Path, chunk: int) -> Path:
    """Return the file with the table that a chunk of the batched engine ended with."""
    return bias_folder(run) / f"table-{chunk:05d}.h5"


def begun_variables(run: Path) -> BiasVariables | None:
    """Return the variables that a run has begun with, None if it has not."""
    folder = bias_folder(run)
    return BiasVariables.kept(folder) if (folder / VARIABLES_FILE).exists() else None


def _shape_variables(settings: Metadynamics, beads: list[int]) -> BiasVariables:
    """Return Cα RMSD and mean strand distance."""
    path = HAIRPIN if settings.reference == "folded" else settings.reference
    reference = peptide_from_pdb(path)
    reference_beads = alpha_carbons(reference.topology)
    if len(reference_beads) != len(beads):
        raise InputError(
            f"metadynamics reference {path} has {len(reference_beads)} residues; "
            f"expected {len(beads)}."
        )
    pairs = _checked_pairs(settings.strand_pairs, len(beads))
    scale = 1 / ANGSTROM_PER_NM
    return BiasVariables(
        atoms=np.array(beads),
        reference=np.array(reference.positions[reference_beads], dtype=np.float64),
        pairs=pairs,
        weights=np.tile([0.0, 1 / len(pairs)], (len(pairs), 1)),
        lowest=np.array([0.0, settings.distance_min * scale]),
        highest=np.array([settings.rmsd_max, settings.distance_max]) * scale,
        widths=np.array([settings.rmsd_width, settings.distance_width]) * scale,
        lengths=True,
    )


def _checked_pairs(strand_pairs: list[list[int]], beads: int) -> NDArray[np.int64]:
    """Return pairs (P, 2) of beads, counted from 0."""
    if not strand_pairs:
        raise InputError("metadynamics strand_pairs is empty; expected pairs of residue numbers.")
    for pair in strand_pairs:
        if len(pair) != 2 or pair[0] == pair[1] or not all(1 <= end <= beads for end in pair):
            raise InputError(
                f"metadynamics strand_pairs has {list(pair)}; expected two different residue "
                f"numbers from 1 to {beads}, since the chain has {beads} beads."
            )
    return np.array(strand_pairs, dtype=np.int64) - 1


def _tic_variables(settings: Metadynamics, path: str, beads: list[int]) -> BiasVariables:
    """Return the first two TICs: weighted sums of Cα distances."""
    from cgfe.analysis.msm import STATE_LAG_PS
    from cgfe.analysis.tica import TICAProjection

    frames = CGFrames.load(path)
    if frames.bead_count != len(beads):
        raise InputError(f"{path} has {frames.bead_count} beads; expected {len(beads)}.")
    pieces = frames.trajectory_slices()
    unbiased = [
        frames.positions[s]
        for s in pieces
        if frames.trajectory_index[s.start] not in frames.biased_trajectories
    ]
    tica = TICAProjection.fit(unbiased, frames.frame_interval_ps, STATE_LAG_PS)
    tics = tica.project(np.concatenate(unbiased))
    # The bias is a table that ends at the bounds: they must lie where no chain comes.
    mean, margin = tica.mean @ tica.components, TIC_MARGIN * np.ptp(tics, axis=0)
    return BiasVariables(
        atoms=np.array(beads),
        reference=np.zeros((0, 3)),
        pairs=tica.pairs,
        weights=tica.components * ANGSTROM_PER_NM,
        lowest=mean + tics.min(axis=0) - margin,
        highest=mean + tics.max(axis=0) + margin,
        widths=np.full(2, settings.tic_width),
        lengths=False,
    )


def bias_offset(table: NDArray[np.float64], temperature: float, bias_factor: float) -> float:
    """Return c(t), the work that the bias has done on the whole ensemble, kcal/mol.

    c = kT ln [∫ exp(γ V / ((γ-1) kT)) / ∫ exp(V / ((γ-1) kT))] (Tiwary & Parrinello 2015,
    10.1021/jp504920s): V - c is comparable between times, so exp((V - c)/kT) weights a frame.
    """
    kt = thermal_energy(temperature)
    scaled = table / ((bias_factor - 1) * kt)
    return float(kt * (_log_sum_exp(bias_factor * scaled) - _log_sum_exp(scaled)))


def _log_sum_exp(values: NDArray[np.float64]) -> float:
    top = values.max()
    return float(top + np.log(np.exp(values - top).sum()))
