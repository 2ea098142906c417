"""Relative entropy: its exact gradient, effective sample sizes, and what a simulation changes."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import Batch

from cgfe.errors import InputError
from cgfe.reference.reference import Reference
from cgfe.simulation.evaluation import Judgement
from cgfe.training.batches import batch_of
from cgfe.training.losses import (
    ForceMatching,
    Losses,
    RelativeEntropy,
    Setting,
    Turn,
    WeightedLoss,
)
from cgfe.training.losses.draws import drawn
from cgfe.training.losses.relative_entropy import KEPT
from cgfe.training.module import CGForceField
from cgfe.units import thermal_energy
from tests.training.small_models import NETWORK, evaluated

GAP, ESS = "relative_entropy_gap", "relative_entropy_ess"
KT = thermal_energy(300.0)
STATES = 6


class Discrete:
    """A model of one bead in one of a few states, each with an energy that is trained."""

    def __init__(self, **options: Any) -> None:
        self.energies = torch.zeros(STATES, dtype=torch.float64, requires_grad=True)
        types = np.zeros(1, dtype=np.int64)
        system = SimpleNamespace(bead_types=types, temperature_kelvin=300.0)
        term = RelativeEntropy(batch_size=KEPT, **options)
        self.loss = WeightedLoss(Losses(relative_entropy=term))
        self.term = term
        reference: Any = SimpleNamespace(system=system)
        network: Any = None
        self.loss.attach(Setting(network, [reference], self.evaluate))

    def evaluate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        energy = self.energies[batch.pos[:, 0].long()]
        return energy, torch.zeros_like(batch.pos)

    def probability(self) -> Tensor:
        return torch.softmax(-self.energies / KT, 0)

    def simulate(self, counts: Tensor) -> None:
        """Show it how often each state was visited."""
        found: Any = SimpleNamespace(positions=positions_of(counts).numpy())
        network: Any = None
        self.term.after_simulation(0, network, found)

    def terms(self, counts: Tensor, turn: Turn = Turn()) -> dict[str, Tensor]:  # noqa: B008
        batch = batch_of(positions_of(counts), torch.zeros(1, dtype=torch.long), 0)
        found: dict[str, Tensor] = self.loss(*self.evaluate(batch), batch, turn)
        return found


def positions_of(counts: Tensor) -> Tensor:
    states = torch.arange(STATES).repeat_interleave(counts).double()
    return states[:, None, None].expand(-1, 1, 3).contiguous()


def counts_of(seed: int, total: int = KEPT) -> Tensor:
    """Numbers of visits of which every state has some."""
    shares = np.random.default_rng(seed).dirichlet(np.full(STATES, 5.0))
    counts = torch.from_numpy(np.floor(shares * (total - STATES))).long() + 1
    counts[0] += total - counts.sum()
    return counts


@pytest.mark.parametrize("seed", range(4))
def test_the_gradient_is_exactly_that_of_the_relative_entropy(seed: int) -> None:
    """Visits just as often as the energies then have it, energies now of another model."""
    model, visits, data = Discrete(), counts_of(seed), counts_of(seed + 100, 500)
    with torch.no_grad():
        model.energies += -KT * (visits / KEPT).log()
    model.simulate(visits)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model.energies += 0.3 * torch.randn(STATES, generator=random) + 40.0  # any constant
    found = model.terms(data, Turn("train", 3))
    assert 0.3 < found[ESS].item() < 1
    (gradient,) = torch.autograd.grad(found["loss"], model.energies)
    share = data / data.sum()
    entropy = (share * (share.log() - model.probability().log())).sum()
    (expected,) = torch.autograd.grad(entropy, model.energies)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    means = ((share - model.probability()) * model.energies).sum() / KT
    assert found[GAP].item() == pytest.approx(means.item(), abs=1e-4)


def test_rounds_of_simulation_and_descent_come_to_the_data() -> None:
    model, data = Discrete(), counts_of(7, 500)
    random = np.random.default_rng(0)
    optimizer = torch.optim.SGD([model.energies], lr=0.1 * KT)
    for number in range(200):
        if number % 20 == 0:
            share = model.probability().detach().numpy()
            model.simulate(torch.from_numpy(random.multinomial(KEPT, share)))
        optimizer.zero_grad()
        model.terms(data, Turn("train", number))["loss"].backward()
        optimizer.step()
    # The error of the last simulation: each share is off by sqrt(p (1 - p) / KEPT).
    share = data / data.sum()
    error = (share * (1 - share) / KEPT).sqrt()
    assert ((model.probability() - share).abs() < 4.5 * error).all()


def test_without_a_simulation_it_is_nothing_and_every_parameter_takes_part() -> None:
    model = Discrete()
    found = model.terms(counts_of(0))
    assert (found[GAP].item(), found[ESS].item()) == (0, 0)
    found["loss"].backward()
    assert model.energies.grad is not None
    assert not model.energies.grad.any()


def test_batches_whose_weights_few_share_go_without() -> None:
    visits, data = torch.full((STATES,), 100), counts_of(1)
    model = Discrete(least_share=0.5)
    model.simulate(visits)
    assert model.terms(data)[ESS].item() == pytest.approx(1)
    for last in (1.0, -3.0, 1.0):  # kT, of the last state's energy
        with torch.no_grad():
            model.energies[-1] = last * KT
        weights = np.append(np.ones(STATES - 1), np.exp(-last))
        share = weights.sum() ** 2 / (weights**2).sum() / STATES
        assert (share > 0.5) == (last > 0)
        for turn in (Turn(), Turn("validation", 0)):
            found = model.terms(data, turn)
            (gradient,) = torch.autograd.grad(found["loss"], model.energies)
            if share > 0.5:
                assert found[ESS].item() == pytest.approx(share, rel=1e-5)
                assert gradient.any()
            else:
                assert (found[GAP].item(), found[ESS].item()) == (0, 0)
                assert not gradient.any()
    with torch.no_grad():
        model.energies[-1] = -3 * KT
    model.simulate(visits)  # of this model
    assert model.terms(data)[ESS].item() == pytest.approx(1)


def test_after_a_simulation_without_whole_replicas_it_is_nothing() -> None:
    model, data = Discrete(), counts_of(1)
    model.simulate(counts_of(0))
    assert model.terms(data)[ESS].item() > 0
    model.simulate(torch.zeros(STATES, dtype=torch.long))
    assert model.terms(data)[ESS].item() == 0


def test_with_energies_that_are_no_numbers_it_is_nothing() -> None:
    model, data = Discrete(), counts_of(1)
    model.simulate(counts_of(0))
    with torch.no_grad():
        model.energies[2] = float("nan")
    assert model.terms(data)[ESS].item() == 0


@pytest.mark.parametrize("weighted", [False, True])
def test_by_hand_after_a_simulation(
    reference: Reference, batch: Batch, judgement: Judgement, weighted: bool
) -> None:
    """Of the network that was simulated, and after it has changed; by the kernels."""
    module = module_of(reference, weighted=weighted)
    module.learn(0, judgement)
    seen = judgement.positions
    generator = torch.Generator().manual_seed(5)
    kept = torch.randperm(len(seen), generator=generator)[:KEPT].numpy()
    rows = drawn(len(kept), 32, 9, 5).numpy()
    chosen = torch.from_numpy(seen[kept][rows])

    def energies() -> tuple[np.ndarray, np.ndarray]:
        types = batch.bead_types[: chosen.shape[1]]
        with torch.no_grad():
            own = module.network.energy(chosen, types).numpy()
            return own.astype(float), module.network(batch).numpy().astype(float)

    then, _ = energies()
    weights = batch.weight.numpy() if weighted else np.ones(batch.num_graphs)
    for _ in range(2):
        now, data = energies()
        shares = np.exp(-(now - then) / KT)
        gap = np.average(data, weights=weights) - np.average(now, weights=shares)
        found = evaluated(module, batch, Turn("train", 9))
        assert found[GAP].item() == pytest.approx(gap / KT, abs=2e-3)
        ess = shares.sum() ** 2 / (shares**2).sum() / len(shares)
        assert found[ESS].item() == pytest.approx(ess, abs=2e-3)
        with torch.no_grad():
            for parameter in module.network.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
    assert ess < 0.98, "or nothing was reweighted"


def test_a_checkpoint_holds_what_was_visited(
    reference: Reference, batch: Batch, judgement: Judgement
) -> None:
    module, other = module_of(reference), module_of(reference)
    module.learn(0, judgement)
    with torch.no_grad():
        for parameter in module.network.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    other.load_state_dict(module.state_dict())
    expected = evaluated(module, batch, Turn("train", 4))
    assert 0.3 < expected[ESS].item() < 0.98
    for name, value in evaluated(other, batch, Turn("train", 4)).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


def test_a_network_in_float64_too(reference: Reference, batch: Batch, judgement: Judgement) -> None:
    found = []
    for module in (module_of(reference), module_of(reference).double()):
        module.learn(0, judgement)
        terms = evaluated(module, module._in_own_precision(batch), Turn("train", 4))
        assert terms[ESS].item() == pytest.approx(1, abs=1e-5)
        found.append(terms[GAP].item())
    assert found[0] == pytest.approx(found[1], abs=1e-3)


def module_of(reference: Reference, **options: Any) -> CGForceField:
    torch.manual_seed(0)
    term = RelativeEntropy(batch_size=32, **options)
    module = CGForceField(NETWORK, losses=Losses(ForceMatching(1.0), relative_entropy=term))
    module.set_references([reference], ["tiny"], seed=5)
    return module


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RelativeEntropy(batch_size=1), "batch_size is 1, expected above 1"),
        (lambda: RelativeEntropy(least_share=0.0), "least_share is 0.0, expected above 0 and"),
        (lambda: RelativeEntropy(least_share=1.0), "least_share is 1.0, expected above 0 and"),
    ],
)
def test_nonsense_is_refused(make: Callable[[], RelativeEntropy], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Losses(relative_entropy=make()).check()
