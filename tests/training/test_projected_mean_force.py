"""The mean force along the TICs: by hand, its gradient, and that noise brings no bias."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import Batch

from cgfe.analysis.tica import TICAProjection
from cgfe.data.frames import CGFrames
from cgfe.errors import InputError
from cgfe.reference.reference import Reference
from cgfe.training.arrays import system_tensors
from cgfe.training.losses import ForceMatching, Losses, ProjectedMeanForce, Turn
from cgfe.training.losses.projected_mean_force import (
    distance_shares,
    squared_mean,
    tics_and_gradients,
)
from cgfe.training.module import CGForceField
from tests.training.small_models import NETWORK, evaluated

NAME = "projected_mean_force"


def module_of(reference: Reference, weight: float = 1.0, **options: Any) -> CGForceField:
    torch.manual_seed(0)
    term = ProjectedMeanForce(weight, **options)
    module = CGForceField(NETWORK, losses=Losses(ForceMatching(0.5), projected_mean_force=term))
    module.set_references([reference], ["tiny"])
    return module


def gradient_of(positions: Tensor, tica: TICAProjection, k: int) -> Tensor:
    """Return the gradients (G, N, 3) of a TIC by autograd."""
    place = positions.clone().requires_grad_()
    first, second = torch.from_numpy(tica.pairs.copy()).T
    distances = (place[:, first] - place[:, second]).norm(dim=-1)
    tic = distances @ torch.from_numpy(tica.components[:, k].copy())
    (gradient,) = torch.autograd.grad(tic.sum(), place)
    return gradient


def groups_of(*numbers: int) -> tuple[Tensor, int]:
    return torch.tensor(numbers), max(numbers) + 1


def test_squared_means_by_hand() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 3.0, 5.0, 7.0])
    ones = torch.ones(6)
    # (1·2 + 1·4 + 2·4) / 3 of the first, 3·5 of the second, nothing of a single frame.
    first, second = 14 / 3, 15.0
    found = squared_mean(values, ones, *groups_of(0, 0, 0, 1, 1, 2))
    assert found.item() == pytest.approx((3 * first + 2 * second) / 6)
    weights = torch.tensor([1.0, 2.0, 0.0, 0.5, 1.5, 0.0])
    found = squared_mean(values, weights, *groups_of(0, 0, 0, 1, 1, 2))
    assert found.item() == pytest.approx((3 * 2.0 + 2 * 15.0) / 5)
    assert squared_mean(values, torch.zeros(6), *groups_of(0, 0, 0, 1, 1, 2)).item() == 0


def test_it_is_the_product_of_halves_over_all_ways_to_halve() -> None:
    values = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    products = [
        values[list(half)].mean() * values[[i for i in range(6) if i not in half]].mean()
        for half in combinations(range(6), 3)
    ]
    found = squared_mean(values, torch.ones(6).double(), torch.zeros(6).long(), 1)
    assert found.item() == pytest.approx(torch.stack(products).mean().item())


@pytest.mark.parametrize("weighted", [False, True])
def test_noise_brings_no_bias(weighted: bool) -> None:
    """Groups of eight, of means that are known, in noise eight times as large."""
    times, means = 20_000, torch.tensor([1.0, -2.0, 0.0, 0.5], dtype=torch.float64)
    random = torch.Generator().manual_seed(1)
    group = torch.arange(4).repeat_interleave(8)
    weights = torch.rand(32, generator=random).double() + 0.2 if weighted else torch.ones(32)
    noise = torch.randn(times, 32, generator=random, dtype=torch.float64) * 8
    found = torch.stack([squared_mean(means[group] + x, weights.double(), group, 4) for x in noise])
    share = torch.zeros(4).double().index_add(0, group, weights.double()) / weights.sum()
    expected = (share * means.square()).sum().item()
    error = found.std().item() / np.sqrt(times)
    assert found.mean().item() == pytest.approx(expected, abs=4 * error)
    assert error < 0.1 * expected, "or it says nothing"
    plain = (means[group] + noise).unflatten(1, (4, 8)).mean(-1).square().mean()
    assert plain.item() > expected + 40 * error, "the square of a noisy mean"


def test_gradients_of_tics_are_those_of_differences(tiny: CGFrames, reference: Reference) -> None:
    tica = reference.projection.tica
    positions = torch.from_numpy(tiny.positions[::300]).double()
    tics, gradients = tics_and_gradients(positions, distance_shares(tica))
    known = tica.project(positions.numpy())
    shift = tics.numpy() - known
    np.testing.assert_allclose(shift, np.broadcast_to(shift[:1], shift.shape), atol=1e-9)
    torch.testing.assert_close(gradients[:, 1], gradient_of(positions, tica, 1))
    for bead, axis in ((0, 0), (4, 2), (9, 1)):
        step = torch.zeros_like(positions)
        step[:, bead, axis] = 1e-5
        slope = tica.project((positions + step).numpy()) - tica.project((positions - step).numpy())
        np.testing.assert_allclose(gradients[:, :, bead, axis], slope / 2e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("weighted", "tics", "groups"), [(False, 2, 8), (True, 2, 8), (False, 1, 5), (False, 2, 1000)]
)
def test_by_hand(
    tiny: CGFrames, reference: Reference, batch: Batch, weighted: bool, tics: int, groups: int
) -> None:
    module = module_of(reference, weighted=weighted, tics=tics, groups=groups)
    positions = batch.pos.unflatten(0, (batch.num_graphs, -1)).double()
    count = len(positions)
    assert count // 2 < 1000, "or no batch had too few frames"
    _, forces = module.potential().energy_and_forces(positions.float())
    assert tiny.forces is not None
    lacking = (tiny.forces[::17] - forces.detach().numpy()).astype(float)
    weights = batch.weight.numpy() if weighted else np.ones(count)
    expected = 0.0
    for k in range(tics):
        gradient = gradient_of(positions, reference.projection.tica, k)
        along = (lacking * gradient.numpy()).sum((1, 2)) / gradient.square().sum((1, 2)).numpy()
        order = np.argsort(reference.projection.tica.project(positions.numpy())[:, k])
        parts = min(groups, count // 2)
        for group in range(parts):
            rows = order[np.arange(count) * parts // count == group]
            w, x = weights[rows], along[rows]
            pairs = np.outer(w, w) * (1 - np.eye(len(rows)))
            expected += w.sum() / weights.sum() * (pairs * np.outer(x, x)).sum() / pairs.sum()
    for training in (True, False):
        terms = evaluated(module.train(training), batch, Turn())
        assert terms[NAME].item() == pytest.approx(expected, rel=1e-3, abs=0.05)
        whole = 0.5 * terms["force_mse"].item() + terms[NAME].item()
        assert terms["loss"].item() == pytest.approx(whole, rel=1e-4)


def test_the_gradient_is_that_of_differences(reference: Reference, batch: Batch) -> None:
    """In float64, and without the grid of the kernels."""
    module = module_of(reference, groups=4).double().train()
    module.choose_grid()
    module.grid.intervals = None
    batch = module._in_own_precision(batch)
    parameters = list(module.network.parameters())
    assert module.loss is not None
    module.loss.terms["force_mse"].weight = 0.0
    evaluated(module, batch, Turn())["loss"].backward()
    random = torch.Generator().manual_seed(1)
    way = [torch.randn(p.shape, generator=random, dtype=p.dtype) for p in parameters]
    values = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            for parameter, direction in zip(parameters, way, strict=True):
                parameter += step * direction
        values.append(evaluated(module, batch, Turn())[NAME].item())
    slope = sum(
        float((p.grad * d).sum())
        for p, d in zip(parameters, way, strict=True)
        if p.grad is not None
    )
    assert all(p.grad is not None for p in parameters), "distributed training wants all"
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(slope, rel=1e-4)


def test_a_perfect_model_has_nothing_in_the_mean(tiny: CGFrames, reference: Reference) -> None:
    """Its own forces, in noise: those are what force matching never gets rid of."""
    module = module_of(reference, groups=8)
    random = torch.Generator().manual_seed(2)
    tensors = system_tensors(tiny, reference, 0)
    found, forces = [], []
    for _ in range(150):
        batch = tensors.batch(torch.randperm(len(tiny), generator=random)[:64])
        _, own = module.energy_and_forces(batch)
        noise = 8 * torch.randn(own.shape, generator=random)
        batch.forces = own + batch.prior_forces + noise
        terms = evaluated(module, batch, Turn())
        found.append(terms[NAME].item())
        forces.append(terms["force_mse"].item())
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 4 * error
    assert min(found) < 0, "it has no bound"
    assert np.mean(forces) == pytest.approx(64, rel=0.05)


def test_a_batch_of_few_frames_and_a_weight_of_zero(tiny: CGFrames, reference: Reference) -> None:
    tensors = system_tensors(tiny, reference, 0)
    one = evaluated(module_of(reference).train(), tensors.batch(torch.tensor([3])), Turn())
    assert one[NAME].item() == 0
    one["loss"].backward()
    three = tensors.batch(torch.tensor([3, 700, 1400]))
    assert evaluated(module_of(reference), three, Turn())[NAME].item() != 0
    idle = evaluated(module_of(reference, weight=0.0).train(), three, Turn())
    assert idle[NAME].item() != 0
    assert idle["loss"].item() == pytest.approx(0.5 * idle["force_mse"].item())


def test_what_cannot_be_is_refused(reference: Reference, batch: Batch) -> None:
    for name, value in (("tics", 0), ("tics", 3), ("groups", 0)):
        with pytest.raises(
            InputError, match=f"model.losses.projected_mean_force.{name} is {value}"
        ):
            Losses(projected_mean_force=ProjectedMeanForce(**{name: value})).check()
    module = module_of(reference)
    del batch["forces"]
    assert module.loss is not None
    module.loss.terms["force_mse"].weight = 0.0
    with pytest.raises(InputError, match="the data have no forces"):
        evaluated(module, batch, Turn())


def test_what_tics_are_made_of_is_no_part_of_a_checkpoint(reference: Reference) -> None:
    assert not any(NAME in key for key in module_of(reference).state_dict())
