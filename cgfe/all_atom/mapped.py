"""Trajectories of all atoms to trajectories of beads: mapped, thinned, rounded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from openmm import app

from cgfe.all_atom.sampled import SampledTrajectory
from cgfe.all_atom.system import alpha_carbons, implicit_solvent_system
from cgfe.data.force_mapping import CarbonAlphaMapping, MapKind
from cgfe.errors import InputError
from cgfe.units import thermal_energy

POSITION_STEP = 2.0**-10
"""Å that positions are rounded to: 50 times below the thermal motion of a Cα-Cα bond, so that the
stiffest term of the prior changes by 0.1 kcal/mol/Å at most."""
FORCE_STEP = 2.0**-3
"""kcal/mol/Å: 100 times below the noise of a mapped force, of whose square the rounding's is a
hundred-thousandth."""
ENERGY_STEP = 2.0**-5
"""kcal/mol."""
DISCARDED_NS = 1.0
"""Of a biased walker, where its bias still grows fast."""
MAP_FRAMES = 4000
MAP_CHUNKS = 20


@dataclass(frozen=True)
class MappedTrajectory:
    """Beads of one trajectory.

    Attributes
    ----------
    positions, forces : array (f, N, 3)
        Rounded to `POSITION_STEP` and `FORCE_STEP`.
    energies : array (f,)
    replica : array (f,)
        Walker that a frame was sampled by.
    log_weights : array (f,) or None
        ln of the weight by a bias; 0 of replica exchange, whose counts are right; None of an
        unbiased walker, whose counts are only right when it is long.
    """

    positions: NDArray[np.float32]
    forces: NDArray[np.float32]
    energies: NDArray[np.float64]
    replica: NDArray[np.int32]
    log_weights: NDArray[np.float64] | None


def fit_mapping(
    kind: MapKind, trajectories: Sequence[SampledTrajectory], topology: app.Topology
) -> CarbonAlphaMapping:
    """Return the force map; `optimal` is fitted to frames spread over the first chunks."""
    system = implicit_solvent_system(topology)
    constraints = [
        tuple(system.getConstraintParameters(i)[:2]) for i in range(system.getNumConstraints())
    ]
    forces = None
    if kind == "optimal":
        each = max(1, MAP_FRAMES // len(trajectories) // MAP_CHUNKS)
        forces = np.concatenate(
            [
                data["forces"][:: max(1, len(data["forces"]) // each)]
                for trajectory in trajectories
                for data in trajectory.chunks(MAP_CHUNKS)
            ]
        )
    return CarbonAlphaMapping.fit(
        kind, alpha_carbons(topology), system.getNumParticles(), constraints, forces
    )


def mapped(
    trajectory: SampledTrajectory,
    mapping: CarbonAlphaMapping,
    discard_ns: float | None,
    stride: int,
) -> MappedTrajectory:
    """Map every `stride`-th frame after the discarded ones.

    Raises
    ------
    InputError
        If nothing is left.
    """
    config = trajectory.config
    if discard_ns is None:
        begins = config.metadynamics is not None and config.continues is None
        discard_ns = DISCARDED_NS if begins else 0.0
    skipped = round(discard_ns * 1000 / config.frame_interval_ps)
    parts: list[MappedTrajectory] = []
    first = 0
    for data in trajectory.chunks():
        frames = first + np.arange(len(data["energies"]))
        kept = (frames >= skipped) & ((frames - skipped) % stride == stride - 1)
        first += len(frames)
        parts.append(_mapped_chunk(trajectory, mapping, data, kept))
    if not sum(len(part.energies) for part in parts):
        raise InputError(
            f"{trajectory.folder}: a walker of {first} frames has nothing left after the "
            f"discarded {discard_ns:g} ns; choose a smaller --discard-ns."
        )
    logs = [part.log_weights for part in parts if part.log_weights is not None]
    return MappedTrajectory(
        np.concatenate([part.positions for part in parts]),
        np.concatenate([part.forces for part in parts]),
        np.concatenate([part.energies for part in parts]),
        np.concatenate([part.replica for part in parts]),
        np.concatenate(logs) if logs else None,
    )


def _mapped_chunk(
    trajectory: SampledTrajectory,
    mapping: CarbonAlphaMapping,
    data: dict[str, NDArray[Any]],
    kept: NDArray[np.bool_],
) -> MappedTrajectory:
    config, log_weights = trajectory.config, None
    if config.metadynamics is not None:
        log_weights = (data["bias"] - data["bias_offset"])[kept]
        log_weights /= thermal_energy(config.temperature_kelvin)
    elif trajectory.exchanged:
        log_weights = np.zeros(kept.sum())
    return MappedTrajectory(
        rounded(mapping.map_positions(data["positions"][kept]), POSITION_STEP),
        rounded(mapping.map_forces(data["forces"][kept].astype(np.float64)), FORCE_STEP),
        np.round(data["energies"][kept] / ENERGY_STEP) * ENERGY_STEP,
        data["replica"][kept].astype(np.int32),
        log_weights,
    )


def rounded(values: NDArray[np.floating], step: float) -> NDArray[np.float32]:
    """Return values as multiples of a step."""
    return (np.round(values / step) * step).astype(np.float32)
