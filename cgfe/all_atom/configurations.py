"""Configurations for mean forces: frames of runs that are spread over TIC space, or given ones."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from numpy.typing import NDArray

from cgfe.all_atom.config import MeanForces, SamplerConfig
from cgfe.all_atom.dealing import PARTS, dealt
from cgfe.all_atom.mapped import fit_mapping
from cgfe.all_atom.mean_forces import Choice, nearest_frames, spread_choice
from cgfe.all_atom.sampled import SampledTrajectory, open_runs
from cgfe.all_atom.system import Peptide
from cgfe.analysis.free_energy import TICGrid
from cgfe.analysis.tica import TICAProjection, default_lag_ps
from cgfe.data.force_mapping import CarbonAlphaMapping
from cgfe.data.frames import CGFrames
from cgfe.errors import InputError
from cgfe.files import replacing

MOST_NEAREST = 20_000
"""Frames that the nearest one to a given configuration is looked for among."""


@dataclass(frozen=True)
class Configurations:
    """Where forces are averaged, and by which map; C configurations, ascending by trajectory.

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
    bead_atoms : int array (N,)
    force_map : array (N, A)
        Fitted to the training trajectories.
    frame_interval_ps : array ()
    steered : array ()
        Whether the beads are somewhere else at first.
    """

    positions: NDArray[np.float32]
    beads: NDArray[np.float32]
    trajectory: NDArray[np.int32]
    weights: NDArray[np.float64]
    validation: NDArray[np.int32]
    test: NDArray[np.int32]
    bead_atoms: NDArray[np.int64]
    force_map: NDArray[np.float64]
    frame_interval_ps: NDArray[np.float64]
    steered: NDArray[np.bool_]

    @property
    def mapping(self) -> CarbonAlphaMapping:
        """The force map."""
        return CarbonAlphaMapping(self.bead_atoms, self.force_map, "optimal")

    def save(self, path: Path) -> None:
        """Write an .npz file, complete or not at all."""
        with replacing(path) as temporary:
            np.savez(temporary, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> "Configurations":
        """Read what `save` wrote."""
        with np.load(path) as file:
            return cls(**{field.name: file[field.name] for field in fields(cls)})


def choose(config: SamplerConfig, settings: MeanForces, peptide: Peptide) -> Configurations:
    """Choose configurations by bead positions alone: frames of the runs, or near given ones.

    Raises
    ------
    InputError
        If a run is missing, biased or of another peptide, there are fewer frames than
        configurations, or a frames file has other beads or another temperature.
    """
    trajectories, _ = open_runs(settings.runs, config.temperature_kelvin)
    for trajectory in trajectories:
        _check_run(trajectory, config)
    parts = dealt([t.group for t in trajectories], settings.validation_share, settings.test_share)
    training = [trajectories[number] for number in parts["training"]]
    mapping = fit_mapping("optimal", training, peptide.topology)
    source = _Source(trajectories, mapping, settings.discard_ns)
    if settings.frames is None:
        return _of_runs(settings, config.seed, source, parts)
    return _steered(settings, config, source)


def _check_run(trajectory: SampledTrajectory, config: SamplerConfig) -> None:
    if trajectory.config.metadynamics is not None:
        raise InputError(
            f"{trajectory.folder} is biased; mean forces are averaged at unbiased frames."
        )
    for key in ("sequence", "caps", "pdb", "solvent", "hydrogen_mass"):
        found, expected = getattr(trajectory.config, key), getattr(config, key)
        if found != expected:
            raise InputError(
                f"{trajectory.folder}: {key} is {found}, but the config has {expected}."
            )


class _Source:
    """All-atom frames of runs behind their bead positions."""

    def __init__(
        self,
        trajectories: Sequence[SampledTrajectory],
        mapping: CarbonAlphaMapping,
        discard_ns: float,
    ) -> None:
        self.trajectories = trajectories
        self.mapping = mapping
        self.interval = trajectories[0].config.frame_interval_ps
        self.discarded = round(discard_ns * 1000 / self.interval)
        self.beads = [
            np.concatenate([data["positions"][:, mapping.beads] for data in trajectory.chunks()])[
                self.discarded :
            ]
            for trajectory in trajectories
        ]
        self.owner = np.repeat(np.arange(len(self.beads)), [len(part) for part in self.beads])
        """Trajectory (F,) of each kept frame."""

    def bins(self, *others: NDArray[np.floating]) -> list[NDArray[np.int64]]:
        """Return the bin (F,) of every frame on the grid of the first two TICs.

        Those of other configurations (C, N, 3) follow, -1 outside of the grid.
        """
        tica = TICAProjection.fit(self.beads, self.interval, default_lag_ps(self.interval))
        tics = [tica.project(beads) for beads in (np.concatenate(self.beads), *others)]
        grid = TICGrid.from_samples(tics[0])
        return [grid.bin_index(projected) for projected in tics]

    def all_atoms(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return all-atom positions (C, A, 3) of rows, ascending, among the kept frames."""
        found = []
        for number, trajectory in enumerate(self.trajectories):
            first = int(np.searchsorted(self.owner, number)) - self.discarded
            own = rows[self.owner[rows] == number] - first
            begun = 0
            for data in trajectory.chunks() if len(own) else ():
                length = len(data["positions"])
                here = own[(own >= begun) & (own < begun + length)] - begun
                found.append(data["positions"][here])
                begun += length
        return np.concatenate(found)


def _of_runs(
    settings: MeanForces, seed: int, source: _Source, parts: Mapping[str, NDArray[np.int32]]
) -> Configurations:
    (bins,) = source.bins()
    chosen = _by_part(settings, seed, source.owner, parts, spread_in(bins, settings.thin_share))
    positions = source.all_atoms(chosen.rows)
    owner = source.owner[chosen.rows].astype(np.int32)
    return Configurations(
        positions,
        positions[:, source.mapping.beads],
        owner,
        chosen.weights,
        np.intersect1d(parts["validation"], owner).astype(np.int32),
        np.intersect1d(parts["test"], owner).astype(np.int32),
        source.mapping.beads,
        source.mapping.coefficients,
        np.array(source.interval),
        steered=np.array(False),
    )


Choose = Callable[[NDArray[np.int64], int, int], Choice]
"""Chooses among frames with these numbers so many, by a seed; `rows` count within them."""


def spread_in(bins: NDArray[np.int64], thin_share: float) -> Choose:
    """Return what chooses frames spread over their bins, see `spread_choice`."""
    return lambda own, count, seed: spread_choice(bins[own], count, thin_share, seed)


def least_visited(visits: NDArray[np.integer], thin_share: float) -> Choose:
    """Return what takes a share of the choice where the fewest frames of the runs are.

    Parameters
    ----------
    visits : int array (C,)
        The runs' frames in the bin of each configuration.
    thin_share : float
        The others are drawn at random.
    """

    def choose(own: NDArray[np.int64], count: int, seed: int) -> Choice:
        at_random = spread_choice(np.zeros(len(own), dtype=np.int64), count, 0.0, seed)
        random = np.random.default_rng(seed)
        order = random.permutation(len(own))
        thin = order[np.argsort(visits[own][order], kind="stable")][: round(thin_share * count)]
        others = random.permutation(np.setdiff1d(at_random.rows, thin))[: count - len(thin)]
        rows = np.union1d(thin, others)
        return Choice(rows, np.ones(len(rows)))

    return choose


def _by_part(
    settings: MeanForces,
    seed: int,
    owner: NDArray[np.integer],
    parts: Mapping[str, NDArray[np.integer]],
    choose: Choose,
) -> Choice:
    """Choose in each part by itself."""
    rows, weights = [], []
    for number, (part, count) in enumerate(zip(PARTS, settings.configurations, strict=True)):
        if count:
            own = np.flatnonzero(np.isin(owner, parts[part]))
            choice = choose(own, count, seed + number)
            rows.append(own[choice.rows])
            weights.append(choice.weights)
    every = np.concatenate(rows)
    order = np.argsort(every)
    return Choice(every[order], np.concatenate(weights)[order])


def _steered(settings: MeanForces, config: SamplerConfig, source: _Source) -> Configurations:
    """Choose configurations of a frames file, each with the nearest frame of the runs."""
    frames = CGFrames.load(str(settings.frames))
    beads = np.concatenate(source.beads)
    for what, found, expected in (
        ("beads", frames.bead_count, beads.shape[1]),
        ("K", frames.temperature_kelvin, config.temperature_kelvin),
    ):
        if found != expected:
            raise InputError(f"{settings.frames} has {found:g} {what}, expected {expected:g}.")
    held_out = {"validation": frames.validation_trajectories, "test": frames.test_trajectories}
    every = np.unique(frames.trajectory_index)
    training = np.setdiff1d(every, np.concatenate(list(held_out.values())))
    parts = {"training": training, **held_out}
    visited, bins = source.bins(frames.positions)
    visits = np.where(bins < 0, 0, np.bincount(visited, minlength=bins.max() + 1)[bins])
    # What is held out judges, so that it must not be rarer than the file is.
    held = np.isin(frames.trajectory_index, np.concatenate(list(held_out.values())))
    choose = least_visited(np.where(held, 0, visits), settings.thin_share)
    chosen = _by_part(settings, config.seed, frames.trajectory_index, parts, choose).rows
    candidates = np.arange(len(beads))[:: -(-len(beads) // MOST_NEAREST)]
    targets = np.asarray(frames.positions[chosen], dtype=np.float64)
    nearest, turned = nearest_frames(targets, beads[candidates])
    away = np.sqrt(np.square(turned - beads[candidates[nearest]]).sum(-1).mean(-1))
    rank_zero_info(
        f"Beads are steered to from frames {np.median(away):.2f} Å away (median), at most "
        f"{away.max():.2f}; where {(visits[chosen] == 0).sum()} of {len(chosen)} are, the runs "
        "have no frame."
    )
    order = np.argsort(candidates[nearest], kind="stable")
    positions = source.all_atoms(candidates[nearest][order])
    weights = np.ones(len(frames)) if frames.weights is None else frames.weights
    owner = frames.trajectory_index[chosen]
    return Configurations(
        positions[np.argsort(order)],
        turned.astype(np.float32),
        owner,
        weights[chosen],
        np.intersect1d(frames.validation_trajectories, owner).astype(np.int32),
        np.intersect1d(frames.test_trajectories, owner).astype(np.int32),
        source.mapping.beads,
        source.mapping.coefficients,
        np.array(source.interval),
        steered=np.array(True),
    )
