"""Relative entropy: its exact gradient, descent to the data, and the network by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import Batch

from cgfe.reference.reference import Reference
from cgfe.training.losses import (
    ChainConfig,
    ForceMatching,
    Losses,
    RelativeEntropy,
    Turn,
    chains,
)
from cgfe.training.module import CGForceField
from tests.training.discrete import KT, NUMBER, Discrete, counts_of
from tests.training.small_models import NETWORK

GAP = "relative_entropy_gap"


@pytest.mark.parametrize("seed", range(4))
def test_the_gradient_is_exactly_that_of_the_relative_entropy(seed: int) -> None:
    """Of chains that are in each state just as often as the energies have it, or weighted so."""
    model, visits = Discrete(relative_entropy=RelativeEntropy()), counts_of(seed)
    data = counts_of(seed + 100, 500)
    with torch.no_grad():
        model.energies += 40.0 - KT * (visits / NUMBER).log()  # any constant
    model.visit(visits, None if seed % 2 else counts_of(seed + 50))
    found = model.terms(data)
    (gradient,) = torch.autograd.grad(found["loss"], model.energies)
    share = data / data.sum()

    def entropy(energies: Tensor) -> Tensor:
        return (share * (share.log() - torch.log_softmax(-energies / KT, 0))).sum()

    (expected,) = torch.autograd.grad(entropy(model.energies), model.energies)
    assert expected.abs().max() > 0.05
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    for state, step in enumerate(0.001 * torch.eye(len(share), dtype=torch.float64)):
        with torch.no_grad():
            rise = entropy(model.energies + step) - entropy(model.energies - step)
        assert gradient[state].item() == pytest.approx(rise.item() / 0.002, abs=1e-4)
    means = ((share - model.probability()) * model.energies).sum() / KT
    assert found[GAP].item() == pytest.approx(means.item(), abs=1e-4)


def test_chains_of_the_data_have_no_gradient_but_chance() -> None:
    """The fixed point: over repetitions its mean is 0 within its own error."""
    data = counts_of(3, 500)
    model, random = Discrete(relative_entropy=RelativeEntropy()), np.random.default_rng(0)
    with torch.no_grad():
        model.energies -= KT * (data / data.sum()).log()
    found = []
    for _ in range(400):
        model.visit_by_chance(random)
        (gradient,) = torch.autograd.grad(model.terms(data)["loss"], model.energies)
        found.append(gradient.numpy())
    error = np.std(found, axis=0) / np.sqrt(len(found))
    assert (error > 0).all()
    assert (np.abs(np.mean(found, axis=0)) < 4.5 * error).all()


def test_descent_comes_to_the_data() -> None:
    model, data = Discrete(relative_entropy=RelativeEntropy()), counts_of(7, 500)
    random = np.random.default_rng(0)
    optimizer = torch.optim.SGD([model.energies], lr=0.1 * KT)
    for number in range(300):
        if number % 4 == 0:
            model.visit_by_chance(random)
        optimizer.zero_grad()
        model.terms(data, Turn("train", number))["loss"].backward()
        optimizer.step()
    # The error of one set of chains: each share is off by sqrt(p (1 - p) / NUMBER).
    share = data / data.sum()
    error = (share * (1 - share) / NUMBER).sqrt()
    assert ((model.probability() - share).abs() < 4.5 * error).all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_by_hand(reference: Reference, batch: Batch, weighted: bool, dtype: torch.dtype) -> None:
    """By the kernels, in either precision."""
    torch.manual_seed(0)
    losses = Losses(ForceMatching(1.0), relative_entropy=RelativeEntropy(weighted=weighted))
    losses.chains = ChainConfig(number=24)
    module = CGForceField(NETWORK, losses=losses)
    module.set_references([reference], ["tiny"], seed=5)
    with torch.no_grad():
        for parameter in module.network.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    module = module.to(dtype)
    assert module.loss is not None
    assert module.loss.chains is not None
    own = module._in_own_precision(batch)
    found = module.loss(*module.energy_and_forces(own), own, Turn("train", 0))
    where = module.loss.chains.positions(0)
    with torch.no_grad():
        now = module.network.energy(where, batch.bead_types[: where.shape[1]]).numpy()
        data = module.network(own).numpy()
    weights = batch.weight.numpy() if weighted else np.ones(batch.num_graphs)
    gap = np.average(data, weights=weights) - now.mean()
    assert abs(gap) > 0.01
    assert found[GAP].item() == pytest.approx(gap / KT, abs=2e-3)


def test_a_constant_has_no_gradient_whatever_the_systems_of_other_processes(
    reference: Reference, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several systems a process cannot count on the others' chains of its own."""
    monkeypatch.setattr(chains, "process", lambda: (1, 2))
    losses = Losses(relative_entropy=RelativeEntropy(), chains=ChainConfig(number=24))
    module = CGForceField(NETWORK, losses=losses)
    module.set_references([reference, reference], ["one", "two"], seed=5)
    assert module.loss is not None
    assert module.loss.chains is not None
    module.loss.chains.get_buffer("log_weights_0").copy_(torch.linspace(-1, 1, 24))
    own = module._in_own_precision(batch)
    module.loss(*module.energy_and_forces(own), own, Turn("train", 0))["loss"].backward()
    bias = module.network.get_parameter("output.2.bias").grad
    assert bias is not None
    assert bias.abs().max() < 1e-3  # 17 per unit of weight


@pytest.mark.parametrize(("trained", "counts"), [(None, True), ((0, 9), False), ((1, 18), True)])
def test_what_had_not_begun_is_left_out_of_a_checkpoints_figures(
    reference: Reference, batch: Batch, trained: tuple[int, int] | None, counts: bool
) -> None:
    losses = Losses(ForceMatching(1.0), relative_entropy=RelativeEntropy())
    losses.begin["relative_entropy"] = 1
    module = CGForceField(NETWORK, losses=losses)
    module.set_references([reference], ["tiny"], seed=5)
    module.trained = trained
    assert (GAP in module._step(batch, "validation", 0)) == counts
