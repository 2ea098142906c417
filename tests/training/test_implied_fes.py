"""Implied surfaces: their exact gradient, the fixed point, what was never visited, and memory."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from cgfe.data.frames import CGFrames
from cgfe.errors import InputError
from cgfe.reference.reference import Reference
from cgfe.simulation.evaluation import judge
from cgfe.training.losses import ImpliedFES, Losses, Turn
from cgfe.training.losses.implied_fes import smoothed
from cgfe.training.module import CGForceField
from tests.training.discrete import BINS, KT, NUMBER, STATES, Discrete, counts_of
from tests.training.small_models import NETWORK

BIN = torch.tensor([0, 0, 2, 2, 4, 6])
"""Of each state, of the grid's six; 6 is outside."""
KL = "implied_fes_kl"
WITHIN = torch.tensor([3, 1, 2, 2, 4, 1])
"""Of each state, its share of its bin."""
DATA = WITHIN * torch.tensor([60, 60, 30, 30, 60, 0])
VISITS = WITHIN * torch.tensor([100, 100, 250, 250, 140, 40])


def plain(memory: float = 1.0) -> ImpliedFES:
    return ImpliedFES(memory=memory, smoothing=0.0)


def in_bins(shares: Tensor) -> Tensor:
    return shares.new_zeros(7).index_add(0, BIN, shares)


def divergence(reference: Tensor, energies: Tensor) -> Tensor:
    inside, model = reference > 0, in_bins(torch.softmax(-energies / KT, 0))
    return (reference[inside] * (reference[inside] / model[inside]).log()).sum()


def start(visits: Tensor, memory: float = 1.0) -> Discrete:
    """A model with the energies that such visits are of, and the data's surface as reference."""
    model, surface = Discrete(implied_fes=plain(memory)), in_bins(DATA / DATA.sum())
    model.reference.ensembles.train.probability = surface[:-1].reshape(BINS).double().numpy()
    model.loss.terms[KL].get_buffer("visits_0").copy_(in_bins(visits.double()) / visits.sum())
    with torch.no_grad():
        model.energies += 40.0 - KT * (visits / visits.sum()).log().clamp(min=-100)
    return model


@pytest.mark.parametrize("order", range(2))
def test_the_gradient_is_exactly_that_of_the_divergence(order: int) -> None:
    """Where states share their bins as in the data; some chains are outside the grid."""
    visits = VISITS.clone()
    visits[:4] = WITHIN[:4] * torch.tensor([100, 100, 250, 250]).roll(2 * order)
    reference, model = in_bins(DATA / DATA.sum()).double(), start(visits)
    model.visit(visits, counts_of(7) if order else None)
    found = model.terms(DATA)
    (gradient,) = torch.autograd.grad(found["loss"], model.energies)
    assert found[KL].item() == pytest.approx(divergence(reference, model.energies).item(), abs=1e-3)
    for state, step in enumerate(0.001 * torch.eye(STATES, dtype=torch.float64)):
        with torch.no_grad():
            rise = divergence(reference, model.energies + step)
            rise = rise - divergence(reference, model.energies - step)
        assert gradient[state].item() == pytest.approx(rise.item() / 0.002, abs=2e-5)
    assert gradient[-1] < 0, "a state outside must rise in energy"


def test_a_model_with_the_surface_has_no_gradient_but_chance() -> None:
    """The fixed point: over repetitions its mean is 0 within its own error."""
    model, random = start(DATA, memory=20), np.random.default_rng(0)
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


def test_descent_comes_to_the_surface() -> None:
    model, random = start(VISITS, memory=5), np.random.default_rng(0)
    reference = in_bins(DATA / DATA.sum()).numpy()
    optimizer, found = torch.optim.SGD([model.energies], lr=0.1 * KT), []
    for number in range(600):
        model.visit_by_chance(random)
        optimizer.zero_grad()
        model.terms(DATA, Turn("train", number))["loss"].backward()
        optimizer.step()
        found.append(in_bins(model.probability().detach()).numpy())
    assert np.abs(found[0] - reference).max() > 0.2
    at_end = np.mean(found[-200:], axis=0)
    # What the shares of one set of chains are off by.
    error = np.sqrt(reference * (1 - reference) / NUMBER)
    assert (np.abs(at_end - reference)[:-1] <= 3 * error[:-1]).all()
    assert at_end[-1] < found[0][-1] / 2, "what is outside only fades away"


def test_what_was_never_visited_is_drawn_down() -> None:
    model = start(VISITS)
    model.visit(torch.tensor([1500, 500, 0, 0, 0, 0]))
    (gradient,) = torch.autograd.grad(model.terms(DATA)["loss"], model.energies)
    assert (gradient[2:5] > 0.05).all()
    assert (gradient[:2] < -0.05).all()
    # A batch without any such frame has nothing to draw down.
    (gradient,) = torch.autograd.grad(
        model.terms(DATA * (torch.arange(STATES) < 2))["loss"], model.energies
    )
    assert not gradient.any()


def test_frames_count_by_their_weight() -> None:
    found = []
    for weighted in (False, True):
        model = start(VISITS)
        model.loss.terms[KL].weighted = weighted  # type: ignore[assignment]
        model.visit(VISITS)
        positions_weight = torch.arange(1, STATES + 1).repeat_interleave(DATA).double()
        (gradient,) = torch.autograd.grad(
            model.terms(DATA, weight=positions_weight)["loss"], model.energies
        )
        found.append(gradient)
    lacking = found[0] > 0
    assert lacking.sum() > 1
    expected = found[0] * torch.arange(1, STATES + 1)
    expected = expected * found[0][lacking].sum() / expected[lacking].sum()
    torch.testing.assert_close(found[1][lacking], expected[lacking])
    torch.testing.assert_close(found[1][~lacking], found[0][~lacking])


def test_the_histogram_is_a_running_average_that_a_simulation_replaces(
    tiny: CGFrames, reference: Reference
) -> None:
    model, one, two = start(VISITS, memory=4), counts_of(1), counts_of(2)
    term = model.loss.terms[KL]
    expected = in_bins(VISITS.double()) / VISITS.sum()
    model.visit(one)
    expected = 0.75 * expected + 0.25 * in_bins(one.double()) / NUMBER
    torch.testing.assert_close(term.get_buffer("visits_0"), expected)
    model.visit(two)
    expected = 0.75 * expected + 0.25 * in_bins(two.double()) / NUMBER
    torch.testing.assert_close(term.get_buffer("visits_0"), expected)

    module = module_of(reference)
    assert module.loss is not None
    assert module.loss.chains is not None
    tics = reference.projection.tica.project(module.loss.chains.positions(0).numpy())
    bins = reference.projection.grid.bin_index(tics)
    visits = module.loss.terms[KL].get_buffer("visits_0")
    begun = np.bincount(bins[bins >= 0], minlength=len(visits) - 1) / len(bins)
    np.testing.assert_allclose(visits[:-1], begun[: len(visits) - 1])
    half = tiny.positions[: len(tiny) // 2]
    positions = half[: len(half) // 8 * 8].reshape(-1, 8, *half.shape[1:])
    judgement = judge(reference, positions, np.zeros(8, dtype=bool), 0.0, "train")
    module.learn(0, judgement)
    np.testing.assert_allclose(visits[:-1], judgement.density.ravel())
    outside = judge(reference, positions * 30, np.zeros(8, dtype=bool), 0.0, "train")
    module.learn(0, outside)
    np.testing.assert_allclose(visits, np.eye(len(visits))[-1])
    module.learn(0, judgement)
    lost = judge(reference, positions, np.ones(8, dtype=bool), 0.0, "train")
    module.learn(0, lost)
    np.testing.assert_allclose(visits[:-1], judgement.density.ravel())


def module_of(reference: Reference) -> CGForceField:
    module = CGForceField(NETWORK, losses=Losses(implied_fes=ImpliedFES()))
    module.set_references([reference], ["tiny"], seed=5)
    return module


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
    ],
)
def test_nonsense_is_refused(make: Callable[[], ImpliedFES], message: str) -> None:
    with pytest.raises(InputError, match=f"model.losses.implied_fes.{message}"):
        Losses(implied_fes=make()).check()
