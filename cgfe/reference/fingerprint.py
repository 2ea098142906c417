"""The name under which a reference is kept: a hash of all that it is derived from."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from cgfe import __version__
from cgfe.data.frames import CGFrames
from cgfe.reference.config import ReferenceConfig
from cgfe.reference.training_frames import FRAMES_AT_ONCE


def fingerprint(frames: CGFrames, segments: Sequence[slice], config: ReferenceConfig) -> str:
    """Return a hash of all that a Reference is derived from, the cache's key."""
    digest = hashlib.sha256()
    for values in (
        *(frames.positions, frames.weights, frames.native_positions, frames.bead_types),
        *(frames.masses, frames.bonds, frames.trajectory_index, frames.biased_trajectories),
    ):
        known = np.empty(0) if values is None else values
        for start in range(0, len(known), FRAMES_AT_ONCE):
            digest.update(np.ascontiguousarray(known[start : start + FRAMES_AT_ONCE]).tobytes())
    facts = [asdict(config), frames.temperature_kelvin, frames.frame_interval_ps, __version__]
    cuts = [(s.start, s.stop) for s in segments]
    digest.update(json.dumps([facts, cuts, frames.residue_names]).encode())
    return digest.hexdigest()[:16]
