"""Implied surfaces: their exact gradient, the fixed point, memory, and the cut."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from cgfe.data.frames import CGFrames
from cgfe.data.splits import Split
from cgfe.errors import InputError
from cgfe.model.schnet import CGSchNetConfig
from cgfe.reference.config import ReferenceConfig
from cgfe.reference.reference import Reference
from cgfe.simulation.evaluation import judge
from cgfe.training.losses import ImpliedFES, Losses, Turn
from cgfe.training.losses.implied_fes import smoothed, truncated
from cgfe.training.module import CGForceField
from tests.training.discrete import BINS, KT, NUMBER, STATES, Discrete, counts_of

BIN = torch.tensor([0, 0, 2, 2, 4, 6])
"""Of each state, of the grid's six; 6 is outside."""
KL, ESS = "implied_fes_kl", "implied_fes_ess"
DATA = counts_of(0, 60)


def plain(**options: float) -> ImpliedFES:
    """Without smoothing, and a cut that is never reached."""
    return ImpliedFES(**{"memory": 1.0, "smoothing": 0.0, "least_share": 1e-9, **options})


def in_bins(shares: Tensor) -> Tensor:
    return shares.new_zeros(7).index_add(0, BIN, shares)


def divergence(reference: Tensor, energies: Tensor) -> Tensor:
    inside, model = reference > 0, in_bins(torch.softmax(-energies / KT, 0))
    return (reference[inside] * (reference[inside] / model[inside]).log()).sum()


def set_surface(model: Discrete, reference: Tensor) -> None:
    model.reference.ensembles.train.probability = reference[:-1].reshape(BINS).numpy()


@pytest.mark.parametrize("seed", range(4))
def test_the_gradient_is_exactly_that_of_the_divergence(seed: int) -> None:
    """Of chains that are in each state as often as the energies have it, some outside the grid."""
    model, visits = Discrete(implied_fes=plain()), counts_of(seed)
    reference = in_bins(counts_of(seed + 50).double())
    reference[-1] = 0
    reference /= reference.sum()
    set_surface(model, reference)
    with torch.no_grad():
        model.energies += 40.0 - KT * (visits / NUMBER).log()
    model.visit(visits)
    found = model.terms(DATA)
    (gradient,) = torch.autograd.grad(found["loss"], model.energies)
    assert found[KL].item() == pytest.approx(divergence(reference, model.energies).item(), abs=1e-3)
    for state, step in enumerate(0.001 * torch.eye(STATES, dtype=torch.float64)):
        with torch.no_grad():
            rise = divergence(reference, model.energies + step)
            rise = rise - divergence(reference, model.energies - step)
        # Of M chains the covariance is estimated with M - 1.
        expected = rise.item() / 0.002 * NUMBER / (NUMBER - 1)
        assert gradient[state].item() == pytest.approx(expected, abs=2e-5)
    assert gradient[-1] < 0, "a state outside must rise in energy"


def test_a_model_with_the_surface_has_no_gradient_but_chance() -> None:
    """The fixed point: over repetitions its mean is 0 within its own error."""
    model, random = Discrete(implied_fes=plain(memory=20)), np.random.default_rng(0)
    visits = counts_of(2)
    visits[-1] = 0
    visits[0] += NUMBER - visits.sum()
    with torch.no_grad():
        model.energies -= KT * (visits / NUMBER).log().clamp(min=-100)
    set_surface(model, in_bins(model.probability().detach()))
    found = []
    for _ in range(1640):
        model.visit_by_chance(random)
        (gradient,) = torch.autograd.grad(model.terms(DATA)["loss"], model.energies)
        found.append(gradient.numpy()[:-1])
    # Blocks of four memories, since what is off in the histogram stays for one.
    blocks = np.reshape(found[40:], (20, 80, STATES - 1)).mean(axis=1)
    error = blocks.std(axis=0) / np.sqrt(len(blocks))
    assert (error > 0).all()
    assert (np.abs(blocks.mean(axis=0)) < 4.5 * error).all()


def test_descent_comes_to_the_surface_and_leaves_the_rest() -> None:
    model, random = Discrete(implied_fes=ImpliedFES(memory=5, smoothing=0)), None
    random = np.random.default_rng(0)
    reference = in_bins(counts_of(11).double())
    reference[-1] = 0
    reference /= reference.sum()
    set_surface(model, reference)
    with torch.no_grad():
        model.energies[0] += 1.0  # within a bin, which the surface does not tell
    optimizer, found = torch.optim.SGD([model.energies], lr=0.1 * KT), []
    for number in range(600):
        model.visit_by_chance(random)
        optimizer.zero_grad()
        model.terms(DATA, Turn("train", number))["loss"].backward()
        optimizer.step()
        found.append(in_bins(model.probability().detach()).numpy())
    inside, at_end = reference.numpy() > 0, np.mean(found[-200:], axis=0)
    # The model swings by what the chains' shares are off by, for a few memories.
    error = np.sqrt(reference.numpy() / NUMBER / 4)
    assert (np.abs(at_end - reference.numpy())[inside] < 5 * error[inside] + 0.005).all()
    energies = model.energies.detach()
    assert energies[0] - energies[1] > 0.7


def test_the_histogram_is_a_running_average_that_a_simulation_replaces(
    tiny: CGFrames, reference: Reference
) -> None:
    model, one, two = Discrete(implied_fes=plain(memory=4)), counts_of(1), counts_of(2)
    term = model.loss.terms[KL]
    assert model.terms(DATA)[KL].item() == 0
    assert model.terms(DATA)[ESS].item() == 0
    model.visit(one)
    expected = in_bins(one.double()) / NUMBER
    torch.testing.assert_close(term.get_buffer("visits_0"), expected)
    model.visit(two)
    expected = 0.75 * expected + 0.25 * in_bins(two.double()) / NUMBER
    torch.testing.assert_close(term.get_buffer("visits_0"), expected)

    module = module_of(reference)
    half = tiny.positions[: len(tiny) // 2]
    positions = half[: len(half) // 8 * 8].reshape(-1, 8, *half.shape[1:])
    judgement = judge(reference, positions, np.zeros(8, dtype=bool), 0.0, "train")
    module.learn(0, judgement)
    assert module.loss is not None
    visits = module.loss.terms[KL].get_buffer("visits_0")
    np.testing.assert_allclose(visits[:-1], judgement.density.ravel())
    assert visits.sum().item() == pytest.approx(1)
    lost = judge(reference, positions, np.ones(8, dtype=bool), 0.0, "train")
    module.learn(0, lost)
    np.testing.assert_allclose(visits[:-1], judgement.density.ravel())


@pytest.fixture(scope="module")
def reference(tiny: CGFrames) -> Reference:
    config = ReferenceConfig(tica_lag_ps=5, bins=12, starts=32)
    return Reference.fit(tiny, Split(tiny.trajectory_slices(), [], []), config)


def module_of(reference: Reference) -> CGForceField:
    network = CGSchNetConfig(hidden_channels=8, num_filters=8, num_layers=1, num_radial=6)
    module = CGForceField(network, losses=Losses(implied_fes=ImpliedFES()))
    module.set_references([reference], ["tiny"], seed=5)
    return module


def test_a_cut_by_hand() -> None:
    ratios, shares = np.array([0.0, 1.0, 4.0, 9.0]), np.array([0.5, 0.3, 0.1, 0.1])
    # Of those above 0: shares 0.6, 0.2, 0.2.
    for least, limit in ((0.4, 9.0), (0.6, 4.0), (0.9, 1.0), (1.0, 1.0)):
        found, share = truncated(ratios, shares, least)
        assert found.tolist() == np.minimum(ratios, limit).tolist(), least
        assert share == pytest.approx(3.2**2 / 20.0)
    for limit, size in ((9.0, 3.2**2 / 20.0), (4.0, 2.2**2 / 7.0), (1.0, 1.0)):
        cut = np.minimum(ratios, limit)
        assert (shares @ cut) ** 2 / (shares @ cut**2) / 0.5 == pytest.approx(size)
    nothing, share = truncated(np.zeros(4), shares, 0.3)
    assert not nothing.any()
    assert share == 0


def test_the_cut_takes_from_the_push_where_the_model_lacks_most() -> None:
    visits = torch.tensor([1200, 300, 300, 190, 5, 5])
    reference = torch.tensor([0.3, 0, 0.2, 0, 0.5, 0, 0], dtype=torch.float64)
    pushes = []
    for least in (1e-9, 0.5):
        model = Discrete(implied_fes=plain(least_share=least))
        set_surface(model, reference)
        model.visit(visits)
        found = model.terms(DATA)
        assert found[ESS].item() < 0.02
        (gradient,) = torch.autograd.grad(found["loss"], model.energies)
        pushes.append(gradient[4].item())
    assert 0 < pushes[1] < 0.5 * pushes[0]


def test_smoothing_spreads_within_the_grid_alone() -> None:
    density = np.zeros(5 * 7 + 1)
    density[2 * 7 + 3], density[-1] = 0.75, 0.25
    found = smoothed(density, (5, 7), 1.0)
    assert found.sum() == pytest.approx(1)
    assert found[2 * 7 + 2] / found[2 * 7 + 3] == pytest.approx(np.exp(-0.5), rel=1e-6)
    assert smoothed(density, (5, 7), 0.0).tolist() == density.tolist()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ImpliedFES(memory=0.5), "memory is 0.5, expected at least 1"),
        (lambda: ImpliedFES(memory=np.inf), "memory is inf, expected at least 1, and finite"),
        (lambda: ImpliedFES(smoothing=-1.0), "smoothing is -1.0, expected at least 0 and"),
        (lambda: ImpliedFES(least_share=0.0), "least_share is 0.0, expected above 0 and at most 1"),
        (lambda: ImpliedFES(least_share=1.5), "least_share is 1.5, expected above 0 and at most 1"),
    ],
)
def test_nonsense_is_refused(make: Callable[[], ImpliedFES], message: str) -> None:
    with pytest.raises(InputError, match=f"model.losses.implied_fes.{message}"):
        Losses(implied_fes=make()).check()
