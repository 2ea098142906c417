"""Where to sample next: frames of earlier runs from states whose populations are least certain."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cgfe.all_atom.config import read_config
from cgfe.all_atom.system import Peptide, alpha_carbons
from cgfe.analysis.msm import MSM_LAG_PS, States, estimate, uncertainty
from cgfe.errors import InputError
from cgfe.hdf5 import open_hdf5
from cgfe.units import ANGSTROM_PER_NM


def uncertain_frames(
    folders: list[str], peptide: Peptide, count: int, seed: int
) -> NDArray[np.float64]:
    """Return frames (count, atoms, 3) in nm to start new walkers from.

    An MSM of the unbiased runs among `folders` says how much each state adds to the variance of
    the slow populations (`cgfe.analysis.msm.uncertainty`); starts are drawn by that share. States
    that were seen but are not connected count as the most uncertain one.

    Raises
    ------
    InputError
        If a folder is no run of this peptide, or none of the runs is unbiased.
    """
    beads = alpha_carbons(peptide.topology)
    walkers: list[tuple[list[Path], NDArray[np.float32]]] = []
    interval = 1.0
    for folder in map(Path, folders):
        if not (folder / "config.yaml").is_file():
            raise InputError(f"scouts: {folder} is no sampler run (config.yaml is missing).")
        config = read_config(folder / "config.yaml")
        if config.metadynamics is not None:
            continue  # under a bias there are no rates
        interval = config.frame_interval_ps
        for subfolder in sorted(folder.glob("walker-*")):
            if chunks := sorted(subfolder.glob("chunk-*.h5")):
                walkers.append((chunks, _beads(chunks, beads, len(peptide.positions))))
    if not walkers:
        raise InputError("scouts: adaptive starts need an unbiased run with a finished chunk.")
    states = States.fit([frames for _, frames in walkers], [], interval, seed)
    assigned = [states.assign(frames) for _, frames in walkers]
    share = _shares(assigned, len(states), max(1, round(MSM_LAG_PS / interval)))
    random = np.random.default_rng(seed)
    flat = np.concatenate(assigned)
    walker = np.repeat(np.arange(len(walkers)), [len(part) for part in assigned])
    frame = np.concatenate([np.arange(len(part)) for part in assigned])
    chosen = []
    for state in random.choice(len(states), size=count, p=share):
        pick = random.choice(np.flatnonzero(flat == state))
        chosen.append(_frame(walkers[walker[pick]][0], int(frame[pick])))
    return np.array(chosen) / ANGSTROM_PER_NM


def _shares(assigned: list[NDArray[np.int64]], states: int, lag: int) -> NDArray[np.float64]:
    visited = np.bincount(np.concatenate(assigned), minlength=states) > 0
    try:
        share = uncertainty(estimate(assigned, lag), states)
    except InputError:  # nothing connected yet
        share = np.full(states, np.nan)
    known = np.isfinite(share)
    # Of states that are not connected as uncertain as the worst; every state alike where an MSM
    # of so little data has no spectrum.
    share[~known] = share[known].max(initial=0.0)
    share[~visited] = 0
    if not share.any():
        share[visited] = 1
    return share / share.sum()


def _beads(chunks: list[Path], beads: list[int], atoms: int) -> NDArray[np.float32]:
    parts = []
    for chunk in chunks:
        with open_hdf5(chunk) as file:
            if file["positions"].shape[1] != atoms:
                raise InputError(
                    f"scouts: {chunk} has {file['positions'].shape[1]} atoms, expected {atoms}."
                )
            parts.append(file["positions"][()][:, beads])
    return np.concatenate(parts)


def _frame(chunks: list[Path], frame: int) -> NDArray[np.float64]:
    for chunk in chunks:
        with open_hdf5(chunk) as file:
            length = len(file["positions"])
            if frame < length:
                return np.asarray(file["positions"][frame], dtype=np.float64)
            frame -= length
    raise IndexError(frame)
