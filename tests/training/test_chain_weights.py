"""Weights of chains: against Boltzmann shares that no chain can come to by itself."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from cgfe.training.losses.chain_weights import carried, effective_share, resampled

NUMBER = 4000


@pytest.mark.parametrize("least", [0.3, 0.99])
def test_weights_bring_shares_of_wells_that_nothing_crosses(least: float) -> None:
    """Two wells, harmonic, whose depths and widths the model changes; chains mix within alone.

    The share of the second well comes to that of the partition functions, whether chains are drawn
    anew on the way or not; unweighted it would stay a half.
    """
    random = np.random.default_rng(7)
    second = torch.arange(NUMBER) >= NUMBER // 2

    def energies(x: torch.Tensor, stage: float) -> torch.Tensor:
        return torch.where(second, 0.5 * (1 + 3 * stage) * x**2 - 2.0 * stage, 0.5 * x**2)

    x = torch.from_numpy(random.standard_normal(NUMBER))
    weights, drawn = torch.zeros(NUMBER, dtype=torch.float64), 0
    stages = np.linspace(0, 1, 41)
    for old, new in pairwise(stages):
        weights = carried(weights, energies(x, new) - energies(x, old), 0.1)
        if effective_share(weights) < least:
            rows = resampled(weights, random)
            x, second, weights = x[rows], second[rows], torch.zeros_like(weights)
            drawn += 1
        stiff = torch.where(second, 1 + 3 * new, 1.0)
        fresh = torch.from_numpy(random.standard_normal(NUMBER)) / stiff.sqrt()
        x = torch.where(torch.from_numpy(random.random(NUMBER)) < 0.3, fresh, x)
    assert (drawn > 0) == (least > 0.5)
    partition = np.exp(2.0) / np.sqrt(4.0)  # of the second well, in units of the first's
    expected = partition / (1 + partition)
    share = torch.softmax(weights, 0)[second].sum().item()
    # Of so many chains; each drawing adds less than another sample of them would.
    error = np.sqrt(expected * (1 - expected) / (NUMBER * 0.3))
    assert abs(share - expected) < 4.5 * error
    assert expected > 0.78


def test_a_mean_weight_of_one_and_begun_chains() -> None:
    work = torch.tensor([0.3, float("nan"), -0.2, 0.1])
    found = carried(torch.tensor([0.1, 5.0, 0.0, -0.1]), work, 0.5)
    known = torch.tensor([0.1 - 0.3, 0.2, -0.1 - 0.1], dtype=torch.float64).exp()
    torch.testing.assert_close(found[[0, 2, 3]].exp(), 3 * known / known.sum())
    assert found[1] == 0
    nothing = carried(torch.ones(3), torch.full((3,), torch.nan), 0.5)
    assert (nothing == 0).all()


def test_a_model_that_has_jumped_leaves_weights_as_they_are() -> None:
    weights = torch.tensor([0.5, 0.5, -1.0, 0.0])
    far = torch.tensor([40.0, 0.0, 0.0, -40.0])
    found = carried(weights, far, 0.5)
    torch.testing.assert_close(
        torch.softmax(found, 0), torch.softmax(weights.double(), 0), rtol=1e-12, atol=0
    )
    near = carried(weights, far / 100, 0.5)
    assert (torch.softmax(near, 0) - torch.softmax(weights.double(), 0)).abs().max() > 0.01


def test_effective_share() -> None:
    assert effective_share(torch.zeros(7)) == pytest.approx(1)
    assert effective_share(torch.tensor([0.0, -1e3, -1e3, -1e3])) == pytest.approx(0.25)
    assert effective_share(torch.tensor([900.0, 900.0, 0.0, 0.0])) == pytest.approx(0.5)


def test_drawing_anew_takes_each_by_its_weight() -> None:
    """Never more than one away from it, and by it in the mean."""
    random = np.random.default_rng(3)
    weights = np.random.default_rng(4).dirichlet(np.ones(10)) * 10
    log_weights = torch.from_numpy(np.log(weights))
    counts = np.array(
        [np.bincount(resampled(log_weights, random), minlength=10) for _ in range(4000)]
    )
    assert (np.abs(counts - weights) < 1).all()
    # Of a count with two values next to each other the variance is at most 1/4.
    assert np.abs(counts.mean(0) - weights).max() < 4.5 * 0.5 / np.sqrt(4000)
