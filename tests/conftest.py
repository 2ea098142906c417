"""Fixtures shared by all tests: a small piece of the embedded chignolin set."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cgfe.data.embedded import EMBEDDED
from cgfe.data.frames import CGFrames

PIECE = 400  # frames taken of the beginning of each trajectory


@pytest.fixture(scope="session")
def embedded() -> CGFrames:
    """The embedded chignolin set."""
    return CGFrames.load(str(EMBEDDED["chignolin"]))


@pytest.fixture(scope="session")
def tiny(embedded: CGFrames) -> CGFrames:
    """The first frames of six trajectories of the embedded set, two of them taken as biased.

    Their time is told 20 times too short, so that the blocks and lags of tests are short.
    """
    slices = embedded.trajectory_slices()[::6]
    chosen = np.concatenate([np.arange(s.start, s.start + PIECE) for s in slices])
    optional = {
        key: getattr(embedded, key)[chosen]
        for key in ("forces", "all_atom_energies", "weights")
        if getattr(embedded, key) is not None
    }
    random = np.random.default_rng(0)
    return dataclasses.replace(
        embedded,
        positions=embedded.positions[chosen],
        trajectory_index=embedded.trajectory_index[chosen],
        frame_interval_ps=1.0,
        position_step=0.0,
        force_step=0.0,
        **{"weights": random.uniform(0.5, 1.5, len(chosen)), **optional},
        biased_trajectories=embedded.trajectory_index[[s.start for s in slices[:2]]],
        validation_trajectories=np.zeros(0, np.int32),
        test_trajectories=np.zeros(0, np.int32),
    )


@pytest.fixture(scope="session")
def first_beads(tiny: CGFrames) -> Callable[[int], CGFrames]:
    """`tiny` cut to its first beads: another, smaller protein with a known sequence."""
    assert tiny.forces is not None
    forces = tiny.forces

    def cut(beads: int) -> CGFrames:
        return dataclasses.replace(
            tiny,
            positions=tiny.positions[:, :beads],
            forces=forces[:, :beads],
            residue_names=tiny.residue_names[:beads],
            masses=tiny.masses[:beads],
            bonds=tiny.bonds[: beads - 1],
            bead_types=tiny.bead_types[:beads],
            native_positions=None,
        )

    return cut


@pytest.fixture(scope="session")
def tiny_file(tiny: CGFrames, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny` as a frames file."""
    path = tmp_path_factory.mktemp("frames") / "tiny.h5"
    tiny.save(path)
    return path
