"""Where walkers start: extended, heated, a helix, the folded hairpin, or spread frames of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cgfe.all_atom.config import SamplerConfig
from cgfe.all_atom.system import (
    HAIRPIN,
    Peptide,
    alpha_carbons,
    peptide_from_pdb,
    peptide_from_sequence,
)
from cgfe.errors import InputError
from cgfe.geometry import k_centres, pair_distances
from cgfe.hdf5 import open_hdf5
from cgfe.units import ANGSTROM_PER_NM

MAX_START_FRAMES = 20_000


@dataclass(frozen=True)
class Heating:
    """A stretch of dynamics on the way to a start; without a temperature at the walker's own."""

    kelvin: float | None
    picoseconds: float
    time_step_fs: float

    @property
    def steps(self) -> int:
        return round(self.picoseconds * 1000 / self.time_step_fs)


HEATED = {
    "coil": (Heating(600.0, 100.0, 4.0),),
    # The hairpin's and most helices' memory is gone in tens of ps at 700 K; cooling in steps
    # keeps what it falls into from being a frozen hot chain.
    "melted": (Heating(700.0, 150.0, 3.0), Heating(450.0, 50.0, 4.0), Heating(None, 100.0, 4.0)),
}
"""Starts that are made by heating the extended chain (or the PDB file's)."""
KNOWN = ("extended", *HEATED, "helix", "folded")
"""All others are PDB files, or folders of runs."""


def start_structures(
    config: SamplerConfig, peptide: Peptide, walkers: Sequence[int]
) -> NDArray[np.float64]:
    """Return positions (walkers, atoms, 3) in nm; of heated starts those before the heating.

    A folder's frames are spread over Cα-distance space (k-centres) and walker w takes the w-th,
    so that rare regions are started from as often as common ones.

    Raises
    ------
    InputError
        If a start is none of those that `SamplerConfig.starts` names, or has other atoms.
    """
    found = {
        start: _structures(start, config, peptide, max(walkers) + 1)
        for start in dict.fromkeys(map(config.start_of, walkers))
    }
    # One structure serves all walkers, or there is one for each (or fewer, in a short run).
    chosen = [(found[config.start_of(walker)], walker) for walker in walkers]
    return np.array([each[walker % len(each)] for each, walker in chosen])


def check_starts(config: SamplerConfig, peptide: Peptide) -> None:
    """Check that all starts can be made, those too that no walker takes yet.

    Raises
    ------
    InputError
        As `start_structures`.
    """
    for start in config.starts:
        if Path(start).is_dir() and start not in KNOWN:
            _run_chunks(Path(start), peptide)
        else:
            _structures(start, config, peptide, 1)


def _structures(
    start: str, config: SamplerConfig, peptide: Peptide, count: int
) -> NDArray[np.float64]:
    """Return positions (1 or `count`, atoms, 3)."""
    if start == "extended" or start in HEATED:
        return peptide.positions[None]
    if start == "helix":
        if config.sequence is None:
            raise InputError("start helix needs a 'sequence' to build a helix of.")
        return peptide_from_sequence(config.sequence, config.caps, helix=True).positions[None]
    if Path(start).is_dir():
        return _spread_frames(Path(start), peptide, count, config.seed)
    path = HAIRPIN if start == "folded" else start
    if not Path(path).is_file():
        raise InputError(
            f"start {start!r} is none of {', '.join(KNOWN)}, a PDB file, or a run's folder."
        )
    other = peptide_from_pdb(path)
    if _atom_names(other) != _atom_names(peptide):
        what = "folded, chignolin's hairpin," if start == "folded" else path
        raise InputError(
            f"start {what} has {len(other.positions)} atoms that differ from the system's "
            f"{len(peptide.positions)}; expected the same peptide, a PDB file of its fold for "
            "example."
        )
    return other.positions[None]


def _atom_names(peptide: Peptide) -> list[tuple[str, str]]:
    return [(atom.residue.name, atom.name) for atom in peptide.topology.atoms()]


def _spread_frames(folder: Path, peptide: Peptide, count: int, seed: int) -> NDArray[np.float64]:
    frames = []
    for chunk in _run_chunks(folder, peptide):
        with open_hdf5(chunk) as file:
            frames.append(file["positions"][()])
    positions = np.concatenate(frames)
    stride = max(1, len(positions) // MAX_START_FRAMES)
    positions = positions[::stride]
    features = pair_distances(positions[:, alpha_carbons(peptide.topology)])
    chosen = k_centres(features, count, seed)
    return positions[chosen].astype(np.float64) / ANGSTROM_PER_NM


def _run_chunks(folder: Path, peptide: Peptide) -> list[Path]:
    """Return the chunks of all walkers of a run of this peptide."""
    chunks = sorted(folder.glob("walker-*/chunk-*.h5"))
    if not chunks:
        raise InputError(f"start {folder}: the folder holds no sampled chunks.")
    with open_hdf5(chunks[0]) as file:
        atoms = file["positions"].shape[1]
    if atoms != len(peptide.positions):
        raise InputError(
            f"start {folder}: frames of {atoms} atoms, expected {len(peptide.positions)}."
        )
    return chunks
