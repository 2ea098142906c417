"""The loss of training: force matching and energy matching, each always reported unweighted."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from cgfe.errors import InputError


@dataclass(frozen=True)
class LossConfig:
    """Weights of the two terms and the meaning of the energy term.

    Parameters
    ----------
    energy_weight : float
        w_E, per (kcal/mol)².
    force_weight : float, optional
        w_F, per (kcal/mol/Å)². By default 1 - w_E, the convex form of arXiv 2509.14600.
    energy_target : "delta" or "total"
        delta: the network's energy of each frame against its label minus the prior's energy
        (arXiv 2509.14600). total: the weighted mean of network plus prior energy over the frames of
        one TIC bin against the bin's target, since a surface over TICs says something about
        conditional means and nothing about single frames.
    gauge : "fixed", "centred" or "learned"
        What is done about the arbitrary constant of the reference energies. fixed: nothing.
        centred: each system's mean residual in the batch is removed. learned: one offset per
        system is trained.
    weighted : bool
        Frames count by their weight in all means.
    """

    energy_weight: float = 0.0
    force_weight: float | None = None
    energy_target: Literal["delta", "total"] = "delta"
    gauge: Literal["fixed", "centred", "learned"] = "fixed"
    weighted: bool = False

    def check(self) -> None:
        """Check every value.

        Raises
        ------
        InputError
            Naming the option, what was found and what was expected.
        """
        if not self.energy_weight >= 0:
            raise InputError(f"energy_weight is {self.energy_weight}, expected 0 or more.")
        if self.force_weight is None and self.energy_weight > 1:
            raise InputError(
                f"energy_weight is {self.energy_weight}, expected at most 1 while force_weight "
                "is not given and taken as 1 - energy_weight."
            )
        if self.force_weight is not None and not self.force_weight >= 0:
            raise InputError(f"force_weight is {self.force_weight}, expected 0 or more.")
        if self.weights == (0, 0):
            raise InputError("force_weight and energy_weight are both 0, expected one above 0.")
        choices = {"energy_target": ("delta", "total"), "gauge": ("fixed", "centred", "learned")}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                expected = " or ".join(known)
                raise InputError(f"{name} is {getattr(self, name)!r}, expected {expected}.")

    @property
    def weights(self) -> tuple[float, float]:
        """(w_F, w_E)."""
        force_weight = 1 - self.energy_weight if self.force_weight is None else self.force_weight
        return force_weight, self.energy_weight


class WeightedLoss(nn.Module):
    """w_F · MSE(force) + w_E · MSE(energy), as in arXiv 2509.14600.

    Parameters
    ----------
    config : LossConfig
    num_systems : int
        Number of values that the batch field `system` can take.

    Raises
    ------
    InputError
        If the configuration makes no sense.

    Notes
    -----
    The total target's bin means are over the frames in the batch. With n frames of a bin, their
    squared error exceeds that of the true mean by the variance within the bin over n in
    expectation, so large batches come closer to matching conditional means.
    """

    def __init__(self, config: LossConfig, num_systems: int = 1) -> None:
        super().__init__()
        config.check()
        self.config = config
        if config.gauge == "learned":
            # Without an energy term it gets no gradient, which distributed training forbids.
            self.offsets = nn.Parameter(
                torch.zeros(num_systems), requires_grad=config.energy_weight > 0
            )

    def forward(
        self, network_energy: Tensor, network_forces: Tensor, batch: Batch
    ) -> dict[str, Tensor]:
        """Compare the network with the reference of a batch.

        Parameters
        ----------
        network_energy : Tensor (G,)
            kcal/mol, without the prior.
        network_forces : Tensor (A, 3)
            kcal/mol/Å, without the prior.
        batch : Batch
            With `batch` (A,), `system` (G,), `prior_energy` (G,), `prior_forces` (A, 3);
            for the force term `forces` (A, 3), reference forces including the prior's share;
            for the energy term `energy_label` (G,) with target delta, or `tic_bin` (G,), -1
            outside the grid, and `bin_target` (G,), the target of each frame's bin, with target
            total; `weight` (G,) if frames are weighted.

        Returns
        -------
        dict of scalars
            `loss`; `force_mse`, (kcal/mol/Å)², mean over components; `energy_mse`, (kcal/mol)².
            The two terms are unweighted and there also at weight 0, unless the batch has no
            reference for them.

        Raises
        ------
        InputError
            If a term with a positive weight, or the weighting, lacks its fields.
        """
        force_weight, energy_weight = self.config.weights
        energy_fields = {"delta": ("energy_label",), "total": ("tic_bin", "bin_target")}
        frame_weights = self._frame_weights(network_energy, batch)
        terms = {}
        if _has(batch, ("forces",), "force_weight", force_weight):
            residual = network_forces - (batch.forces - batch.prior_forces)
            squares = residual.square().mean(-1)
            terms["force_mse"] = _mean(squares, frame_weights[batch.batch])
        fields = energy_fields[self.config.energy_target]
        if _has(batch, fields, "energy_weight", energy_weight):
            terms["energy_mse"] = self._energy_mse(network_energy, frame_weights, batch)
        # A term of weight 0 is left out, not multiplied: its gradient costs time.
        weights = {"force_mse": force_weight, "energy_mse": energy_weight}
        loss = torch.stack([weights[name] * terms[name] for name in terms if weights[name] > 0])
        return {"loss": loss.sum()} | {name: term.detach() for name, term in terms.items()}

    def _frame_weights(self, like: Tensor, batch: Batch) -> Tensor:
        if not self.config.weighted:
            return torch.ones_like(like)
        if "weight" not in batch:
            raise InputError("weighted is true, but the data have no frame weights.")
        return batch.weight.to(like.dtype)

    def _energy_mse(self, network_energy: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        energy, system = network_energy + batch.prior_energy, batch.system
        if self.config.gauge == "learned":
            energy = energy + self.offsets[system]
        if self.config.energy_target == "delta":
            residual = energy - batch.energy_label
        else:
            residual, weights, system = _bin_residuals(energy, weights, batch)
        if self.config.gauge == "centred":
            residual = residual - _group_means(residual, weights, system)[0][system]
        return _mean(residual.square(), weights)


def _bin_residuals(energy: Tensor, weights: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Average the residuals of each system's bins: means, summed weights, systems (K,)."""
    inside = batch.tic_bin >= 0
    system, tic_bin = batch.system[inside], batch.tic_bin[inside]
    residual = (energy - batch.bin_target)[inside]
    # One number for each pair: `unique` along a dimension compares one row at a time.
    bins = int(tic_bin.max()) + 1 if len(tic_bin) else 1
    keys, group = (system * bins + tic_bin).unique(return_inverse=True)
    # The targets are equilibrium means, so the frames of a bin count by their weight even where
    # bins, and the forces, count by their number of frames.
    own = batch.weight[inside].to(energy.dtype) if "weight" in batch else weights[inside]
    means, mass = _group_means(residual, own, group, len(keys))
    totals = _group_means(residual, weights[inside], group, len(keys))[1]
    return means, torch.where(mass > 0, totals, 0.0), keys // bins


def _group_means(
    values: Tensor, weights: Tensor, group: Tensor, groups: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the weighted mean (K,) and the summed weight (K,) of each group of `values`."""
    if groups is None:
        groups = int(group.max()) + 1 if len(group) else 0
    totals = weights.new_zeros(groups).index_add(0, group, weights)
    sums = values.new_zeros(groups).index_add(0, group, weights * values)
    return sums / _positive(totals), totals


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (weights * values).sum() / _positive(weights.sum())


def _positive(totals: Tensor) -> Tensor:
    # Where all weights are zero, or no frame is inside the grid, the sum above it is zero too.
    return torch.where(totals > 0, totals, torch.ones_like(totals))


def _has(batch: Batch, fields: tuple[str, ...], option: str, weight: float) -> bool:
    missing = [field for field in fields if field not in batch]
    if missing and weight > 0:
        raise InputError(
            f"{option} is {weight}, but the data have no {' and no '.join(missing)}; "
            "expected them in every frame, or a weight of 0."
        )
    return not missing
