"""MeanForceMatching: forces at configurations whose forces are averages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch

from cgfe.array_types import FloatArray, RealArray
from cgfe.data.frames import CGFrames
from cgfe.errors import InputError, require
from cgfe.kernels.fast_potential import accelerated
from cgfe.reference.ensembles import PARTS, Part
from cgfe.reference.reference import Reference
from cgfe.training.batches import batch_of
from cgfe.training.losses.draws import drawn
from cgfe.training.losses.term import LossTerm, Prediction, Setting


@final
class MeanForceMatching(LossTerm):
    """Mean squared error of forces, (kcal/mol/Å)², against forces averaged at fixed beads.

    At every batch B of the C configurations of its system (`data.mean_forces`, without those held
    out) are drawn and evaluated beside it,

        1/B Σ_c w_c |f(R_c) − F̄_c|² / 3N,   w_c ∝ 1 / (σ_c² + ⟨σ²⟩),   ⟨w⟩ = 1,

    with f of the network, F̄_c the mean force less the prior's and σ_c² the mean square of its
    standard errors over the configuration's 3N components. A mean force is −∇W up to that error and
    to what its averaging time leaves as it was, slow side chains (arXiv 2602.14531), so that of
    this loss far less is noise than of that of instantaneous forces.
    At a validation or test it is that of the configurations held out for it.

    Parameters
    ----------
    weight : float
        Per (kcal/mol/Å)².
    weighted : bool
        Configurations count by their own weight too.
    batch_size : int
        Configurations of each step and process.

    Notes
    -----
    Of all weighted least squares those by the inverse variance of the residual have the least
    variance (Aitken). That variance is more than σ_c², since σ_c² is an estimate of few degrees of
    freedom and a network cannot fit everything: with ⟨σ²⟩ in place of that rest no configuration
    counts more than twice one whose error is average. Weights bring no bias where errors are
    symmetric: the sign of a mean's error then says nothing of the size of the difference between
    its two halves, which is all that σ_c² knows. Configurations are drawn equally often, so that
    the estimate is without bias over the draw; which ones a batch draws is a matter of the seed
    and its number alone.
    """

    log_name = "mean_force_matching_mse"

    def __init__(self, weight: float = 1.0, weighted: bool = False, batch_size: int = 64) -> None:
        super().__init__(weight, weighted)
        self.batch_size = batch_size
        self._parts: list[dict[Part, Configurations]] = []

    def check_settings(self) -> None:
        """Check the batch size."""
        require(self.batch_size > 0, self.key("batch_size"), self.batch_size, "above 0")

    def attach(self, setting: Setting) -> None:
        """Take the mean forces of each system, those for training and those held out apart."""
        self._setting = setting
        self._parts = [
            {} if frames is None else _by_part(frames, reference, self.weighted)
            for frames, reference in zip(setting.mean_forces, setting.references, strict=False)
        ]

    def check(self, names: Sequence[str], references: Sequence[Reference]) -> None:
        """Check, before a fit, that every system has mean forces for training.

        Raises
        ------
        InputError
            If one has none.
        """
        for system, name in enumerate(names if self._setting.fits else []):
            if not self._parts or "train" not in self._parts[system]:
                raise InputError(
                    f"{self.option} is {self.weight:g}, but data.mean_forces has no configurations "
                    f"of {name} outside its validation and test trajectories; expected some, as "
                    "`cgfe reference` with mean_forces writes them."
                )

    def forward(self, prediction: Prediction, batch: Batch) -> Tensor | None:
        """Return the mean squared error of what is drawn; None where none are held out."""
        system, turn = int(batch.system[0]), prediction.turn
        own = self._parts[system].get(turn.part) if self._parts else None
        if own is None:
            return None
        rows = drawn(len(own.weights), self.batch_size, turn.number, self._setting.seed)
        positions, targets, weights = (
            x[rows].to(prediction.energy) for x in (own.positions, own.targets, own.weights)
        )
        types = batch.bead_types[: positions.shape[1]]
        _, forces = self._setting.energy_and_forces(batch_of(positions, types, system))
        squares = (forces.view_as(targets) - targets).square().mean(dim=(1, 2))
        return (weights * squares).mean()

    def extra_repr(self) -> str:
        """Describe the settings."""
        return f"{super().extra_repr()}, batch_size={self.batch_size}"


@dataclass(frozen=True)
class Configurations:
    """Configurations with mean forces of one part of one system."""

    positions: Tensor
    """(C, N, 3)"""
    targets: Tensor
    """(C, N, 3), mean forces less the prior's"""
    weights: Tensor
    """(C,), mean 1"""


def inverse_variances(errors: RealArray) -> FloatArray:
    """Return 1 / (σ_c² + ⟨σ²⟩) of standard errors (C, N, 3): alike where all are 0.

    Returns
    -------
    array (C,)
        Mean 1.
    """
    variances = np.square(errors, dtype=np.float64).mean(axis=(1, 2))
    floor = variances.mean()
    weights = 1 / (variances + floor) if floor > 0 else np.ones(len(variances))
    return np.asarray(weights / weights.mean())


def _by_part(frames: CGFrames, reference: Reference, weighted: bool) -> dict[Part, Configurations]:
    held = {"validation": frames.validation_trajectories, "test": frames.test_trajectories}
    parts = np.full(len(frames), "train", dtype="<U10")
    for part, names in held.items():
        parts[np.isin(frames.trajectory_index, names)] = part
    if weighted and frames.weights is None:
        raise InputError("weighted is true, but the mean forces have no weights.")
    prior = accelerated(reference.potential(), torch.from_numpy(reference.starts.positions))
    assert frames.forces is not None
    assert frames.force_standard_errors is not None
    found: dict[Part, Configurations] = {}
    for part in PARTS:
        rows = np.flatnonzero(parts == part)
        if not len(rows):
            continue
        positions = torch.from_numpy(frames.positions[rows])
        weights = inverse_variances(frames.force_standard_errors[rows])
        if weighted and frames.weights is not None:
            weights = weights * frames.weights[rows]
            weights = weights / weights.mean()
        found[part] = Configurations(
            positions,
            torch.from_numpy(frames.forces[rows]) - prior.energy_and_forces(positions)[1],
            torch.from_numpy(weights),
        )
    return found
