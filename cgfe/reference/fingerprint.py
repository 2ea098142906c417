"""The name under which a reference is kept: a hash of all that it is derived from."""

import hashlib
import json
from dataclasses import asdict

import numpy as np

from cgfe.analysis.metrics import FOLDED_RMSD
from cgfe.data.frames import CGFrames
from cgfe.data.splits import Split
from cgfe.reference.config import ReferenceConfig
from cgfe.reference.training_frames import FRAMES_AT_ONCE

MEANING = 3
"""Raised whenever the same frames and settings give another Reference than before, so that the
cache serves none that was derived in another way; not with each version of cgfe, so that
checkpoints stay of use."""


def fingerprint(frames: CGFrames, split: Split, config: ReferenceConfig) -> str:
    """Return a hash of all that a Reference is derived from, the cache's key."""
    digest = hashlib.sha256()
    for values in (
        *(frames.positions, frames.weights, frames.native_positions, frames.bead_types),
        *(frames.masses, frames.bonds, frames.trajectory_index, frames.biased_trajectories),
    ):
        known = np.empty(0) if values is None else values
        for start in range(0, len(known), FRAMES_AT_ONCE):
            digest.update(np.ascontiguousarray(known[start : start + FRAMES_AT_ONCE]).tobytes())
    settings = asdict(config) | {"tica_lag_ps": config.lag_ps(frames.frame_interval_ps)}
    facts = [settings, frames.temperature_kelvin, frames.frame_interval_ps, MEANING]
    if frames.folded_rmsd != FOLDED_RMSD:
        facts.append(frames.folded_rmsd)  # where there is no choice, none is in the hash
    cuts = [[(s.start, s.stop) for s in part] for part in vars(split).values()]
    digest.update(json.dumps([facts, cuts, frames.residue_names]).encode())
    return digest.hexdigest()[:16]
