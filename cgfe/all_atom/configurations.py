"""Configurations for mean forces: frames of runs that are spread over TIC space, or given ones."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cgfe.all_atom.dealing import PARTS, dealt
from cgfe.all_atom.mean_forces import MeanForces, nearest_frames, spread_choice
from cgfe.all_atom.sampled import SampledTrajectory
from cgfe.errors import InputError
from cgfe.files import replacing
from cgfe.frames import CGFrames
from cgfe.free_energy import TICGrid
from cgfe.mapping import CarbonAlphaMapping
from cgfe.reference import ReferenceConfig
from cgfe.tica import TICAProjection

MOST_NEAREST = 20_000
"""Frames that the nearest one to a given configuration is looked for among."""


@dataclass(frozen=True)
class Configurations:
    """Where forces are averaged; C configurations, ascending by trajectory and frame.

    Attributes
    ----------
    positions : array (C, A, 3)
        Å, of all atoms.
    beads : array (C, N, 3)
        Å, where the beads are held: in `positions` already, unless they are steered there first.
    trajectory : int array (C,)
    weights : array (C,)
    validation, test : int array
        Trajectories of these parts.
    steered : array ()
        Whether the beads are somewhere else at first.
    """

    positions: NDArray[np.float32]
    beads: NDArray[np.float32]
    trajectory: NDArray[np.int32]
    weights: NDArray[np.float64]
    validation: NDArray[np.int32]
    test: NDArray[np.int32]
    steered: NDArray[np.bool_]

    def save(self, path: Path) -> None:
        """Write an .npz file, complete or not at all."""
        with replacing(path) as temporary:
            np.savez(temporary, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "Configurations":
        """Read what `save` wrote."""
        with np.load(path) as file:
            return cls(**{field.name: file[field.name] for field in fields(cls)})


def choose(
    settings: MeanForces,
    seed: int,
    trajectories: Sequence[SampledTrajectory],
    mapping: CarbonAlphaMapping,
) -> Configurations:
    """Choose configurations by bead positions alone: frames of the runs, or near given ones.

    Raises
    ------
    InputError
        If there are fewer frames than configurations, or a frames file has other beads.
    """
    beads = [_beads(trajectory, mapping, settings.discard_ns) for trajectory in trajectories]
    lengths = [len(part) for part in beads]
    owner = np.repeat(np.arange(len(beads)), lengths)
    if settings.frames is not None:
        return _steered(settings, seed, trajectories, np.concatenate(beads), owner, mapping)
    parts = dealt(
        [trajectory.group for trajectory in trajectories],
        settings.validation_share,
        settings.test_share,
    )
    bins = _bins(beads, trajectories[0].config.frame_interval_ps)
    rows, weights = [], []
    for number, (part, count) in enumerate(zip(PARTS, settings.configurations, strict=True)):
        if count:
            own = np.flatnonzero(np.isin(owner, parts[part]))
            choice = spread_choice(bins[own], count, settings.thin_share, seed + number)
            rows.append(own[choice.rows])
            weights.append(choice.weights)
    every = np.concatenate(rows)
    order = np.argsort(every)
    chosen = every[order]
    positions = _all_atoms(trajectories, settings.discard_ns, owner, chosen)
    used = [np.intersect1d(parts[part], owner[chosen]).astype(np.int32) for part in PARTS]
    return Configurations(
        positions,
        positions[:, mapping.beads],
        owner[chosen].astype(np.int32),
        np.concatenate(weights)[order],
        validation=used[1],
        test=used[2],
        steered=np.array(False),
    )


def _steered(
    settings: MeanForces,
    seed: int,
    trajectories: Sequence[SampledTrajectory],
    beads: NDArray[np.float32],
    owner: NDArray[np.int64],
    mapping: CarbonAlphaMapping,
) -> Configurations:
    """Choose configurations of a frames file, each with the nearest frame of the runs."""
    frames = CGFrames.load(str(settings.frames))
    if frames.bead_count != beads.shape[1]:
        raise InputError(
            f"{settings.frames} has {frames.bead_count} beads; the runs have {beads.shape[1]}."
        )
    count = min(sum(settings.configurations), len(frames))
    random = np.random.default_rng(seed)
    chosen = np.sort(random.choice(len(frames), size=count, replace=False))
    candidates = np.arange(len(beads))[:: max(1, len(beads) // MOST_NEAREST)]
    targets = np.asarray(frames.positions[chosen], dtype=np.float64)
    nearest, turned = nearest_frames(targets, beads[candidates])
    sources = candidates[nearest]
    order = np.argsort(sources, kind="stable")
    positions = _all_atoms(trajectories, settings.discard_ns, owner, sources[order])
    positions = positions[np.argsort(order)]
    return Configurations(
        positions,
        turned.astype(np.float32),
        frames.trajectory_index[chosen],
        np.ones(count),
        frames.validation_trajectories,
        frames.test_trajectories,
        steered=np.array(True),
    )


def _beads(
    trajectory: SampledTrajectory, mapping: CarbonAlphaMapping, discard_ns: float
) -> NDArray[np.float32]:
    """Return the bead positions (f, N, 3) of a trajectory after its beginning."""
    parts = [data["positions"][:, mapping.beads] for data in trajectory.chunks()]
    return np.concatenate(parts)[_discarded(trajectory, discard_ns) :]


def _discarded(trajectory: SampledTrajectory, discard_ns: float) -> int:
    return round(discard_ns * 1000 / trajectory.config.frame_interval_ps)


def _bins(beads: Sequence[NDArray[np.float32]], interval: float) -> NDArray[np.int64]:
    """Return the bin (F,) of every frame on the grid of the first two TICs."""
    config = ReferenceConfig()
    lag = max(1, round(config.tica_lag_ps / interval)) * interval
    tica = TICAProjection.fit(beads, interval, lag)
    tics = np.asarray(tica.project(np.concatenate(beads)))
    return TICGrid.from_samples(tics, bins=config.bins).bin_index(tics)


def _all_atoms(
    trajectories: Sequence[SampledTrajectory],
    discard_ns: float,
    owner: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> NDArray[np.float32]:
    """Return all-atom positions (C, A, 3) of rows, ascending, among the kept frames."""
    found = []
    for number, trajectory in enumerate(trajectories):
        first = int(np.searchsorted(owner, number)) - _discarded(trajectory, discard_ns)
        own = rows[owner[rows] == number] - first
        begun = 0
        for data in trajectory.chunks() if len(own) else ():
            length = len(data["positions"])
            here = own[(own >= begun) & (own < begun + length)] - begun
            found.append(data["positions"][here])
            begun += length
    return np.concatenate(found)
