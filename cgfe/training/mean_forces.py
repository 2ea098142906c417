"""Held-out mean forces, and how far a model's forces are from them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from cgfe.analysis.intervals import Interval
from cgfe.analysis.mean_force import mean_force_error
from cgfe.data.frames import CGFrames
from cgfe.errors import InputError
from cgfe.model.potential import Potential
from cgfe.reference.ensembles import Part
from cgfe.training.module import CGForceField


@dataclass(frozen=True)
class MeanForceError:
    """Mean squared errors against the mean forces of one part, (kcal/mol/Å)²."""

    model: Interval
    prior: Interval


def read_mean_forces(
    paths: Sequence[str | Path], beads: Sequence[tuple[str, ...]]
) -> list[CGFrames | None]:
    """Read files of mean forces, and give each system those of its residues, as one.

    Parameters
    ----------
    paths : sequence of path
    beads : sequence of tuple of str
        Residue names of each system.

    Raises
    ------
    InputError
        If a file has no mean forces, or is of none of the systems or of another temperature than
        another file of its system, or no file of a system names held-out trajectories.
    """
    found: list[CGFrames | None] = [None] * len(beads)
    for path in paths:
        frames = CGFrames.load(path)
        if frames.forces is None or frames.force_standard_errors is None:
            raise InputError(
                f"{path}: it holds no force_standard_errors, expected mean forces as "
                "`cgfe reference` with mean_forces writes them."
            )
        own = [system for system, names in enumerate(beads) if names == frames.residue_names]
        if not own:
            raise InputError(
                f"data.mean_forces: {path} is of {'-'.join(frames.residue_names)}, expected "
                f"files of {' or '.join('-'.join(names) for names in beads)}."
            )
        before = found[own[0]]
        found[own[0]] = frames if before is None else _together(before, frames)
    for frames in filter(None, found):
        if not len(frames.validation_trajectories) + len(frames.test_trajectories):
            raise InputError(
                f"data.mean_forces: {frames.name} names no trajectories for validation or test; "
                "expected a file that does, this one beside it."
            )
    return found


def _together(one: CGFrames, other: CGFrames) -> CGFrames:
    """Return the configurations of two files, whose trajectories are different ones."""
    if one.temperature_kelvin != other.temperature_kelvin:
        raise InputError(
            f"data.mean_forces: {one.name} is at {one.temperature_kelvin:g} K, {other.name} at "
            f"{other.temperature_kelvin:g} K; expected one temperature."
        )
    if np.array_equal(one.positions, other.positions):
        raise InputError(f"data.mean_forces: {other.name} is there twice.")
    named = (one.trajectory_index, one.validation_trajectories, one.test_trajectories)
    beyond = int(np.concatenate(named).max()) + 1
    arrays: dict[str, Any] = {
        key: np.concatenate([getattr(one, key), getattr(other, key)])
        for key in ("positions", "forces", "force_standard_errors")
    }
    for key in ("trajectory_index", "validation_trajectories", "test_trajectories"):
        arrays[key] = np.concatenate([getattr(one, key), getattr(other, key) + beyond])
    weights = None
    if one.weights is not None or other.weights is not None:
        both = [x.weights if x.weights is not None else np.ones(len(x)) for x in (one, other)]
        weights = np.concatenate(both)
    return replace(
        one,
        **arrays,
        weights=weights,
        all_atom_energies=None,
        replica_index=None,
        bias_log_weights=None,
        name=f"{one.name} with {other.name}",
    )


def mean_force_errors(
    trainer: L.Trainer, module: CGForceField, part: Part
) -> list[MeanForceError | None]:
    """Return the errors of model and prior on every system; None where none are held out.

    Parameters
    ----------
    trainer, module : Trainer, CGForceField
        The trainer's data module may hold mean forces.
    part : str
        validation or test.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    return [
        None if frames is None else _error(module, system, frames, part)
        for system, frames in enumerate(data.mean_forces if data is not None else [])
    ]


def _error(
    module: CGForceField, system: int, frames: CGFrames, part: Part
) -> MeanForceError | None:
    names = frames.test_trajectories if part == "test" else frames.validation_trajectories
    rows = np.flatnonzero(np.isin(frames.trajectory_index, names))
    if not len(rows):
        return None
    positions = torch.from_numpy(frames.positions[rows]).to(module.device)
    reference = module.references[system]
    means, errors = frames.forces, frames.force_standard_errors
    assert means is not None
    assert errors is not None

    def compared(potential: Potential) -> Interval:
        dtype = next(iter(module.network.parameters())).dtype
        _, forces = potential.to(module.device).energy_and_forces(positions.to(dtype))
        return mean_force_error(
            forces.cpu().numpy(),
            means[rows],
            errors[rows],
            frames.trajectory_index[rows].astype(np.int64),
            None if frames.weights is None else frames.weights[rows],
        )

    return MeanForceError(compared(module.potential(system)), compared(reference.potential()))
