"""Contrastive estimation: what it comes to, by hand, of another model, and what is kept."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_geometric.data import Batch

from cgfe.errors import InputError
from cgfe.model.potential import Potential
from cgfe.reference.reference import Reference
from cgfe.simulation.evaluation import simulate
from cgfe.simulation.langevin import SimulationConfig, SimulationResult
from cgfe.training.batches import batch_of
from cgfe.training.losses import (
    ContrastiveEstimation,
    ForceMatching,
    Losses,
    Setting,
    Turn,
    WeightedLoss,
)
from cgfe.training.losses.contrastive import HELD, KEPT
from cgfe.training.losses.draws import drawn
from cgfe.training.module import CGForceField
from cgfe.units import thermal_energy
from tests.training.small_models import NETWORK, evaluated

NAME = "contrastive_entropy"
KT = thermal_energy(300.0)
SHORT = SimulationConfig(replicas=16, steps=200, save_interval=10, burn_in=0.1, ladder=[1.0])
SIZE = 24


class Discrete:
    """A model of one bead in one of a few states, beside samples of another."""

    def __init__(self, samples: Tensor) -> None:
        self.energies = torch.zeros(len(samples), dtype=torch.float64, requires_grad=True)
        system = SimpleNamespace(bead_types=np.zeros(1, dtype=np.int64), temperature_kelvin=300.0)
        reference: Any = SimpleNamespace(system=system)
        network: Any = None
        self.term = ContrastiveEstimation(batch_size=KEPT)
        self.loss = WeightedLoss(Losses(contrastive=self.term)).double()
        self.loss.attach(Setting(network, [reference], self.evaluate))
        found = positions_of(samples)
        self.term.get_buffer("samples_0")[: len(found)] = found
        self.term.counts[0, 0] = len(found)

    def evaluate(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return self.energies[batch.pos[:, 0].long()], torch.zeros_like(batch.pos)

    def entropy(self, data: Tensor) -> Tensor:
        positions = positions_of(data)
        zeros = torch.zeros(len(positions)).double()
        types = torch.zeros(1, dtype=torch.long)
        batch = batch_of(positions, types, 0, prior_energy=zeros)
        found: Tensor = self.loss(*self.evaluate(batch), batch, Turn())["loss"]
        return found


def positions_of(counts: Tensor) -> Tensor:
    states = torch.arange(len(counts)).repeat_interleave(counts).double()
    return states[:, None, None].expand(-1, 1, 3).contiguous()


def test_at_its_least_the_model_is_the_data_and_the_constant_the_free_energy() -> None:
    data, samples = torch.tensor([50, 200, 30, 120]), torch.tensor([300, 100, 250, 350])
    model = Discrete(samples)
    assert model.entropy(data).item() == pytest.approx(np.log(2))
    optimizer = torch.optim.LBFGS(
        [model.energies, model.term.constants], max_iter=400, tolerance_grad=1e-10,
        tolerance_change=1e-14, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        entropy = model.entropy(data)
        entropy.backward()
        return entropy

    optimizer.step(closure)
    p, q = data.double() / data.sum(), samples.double() / samples.sum()
    # Of the prior q and a network of energies E, p = q exp(−E / kT) / Z and c = −ln Z.
    boltzmann = q * (-model.energies.detach() / KT).exp()
    torch.testing.assert_close(boltzmann / boltzmann.sum(), p, rtol=1e-4, atol=1e-6)
    constant = model.term.constants.item()
    assert constant == pytest.approx(-np.log(boltzmann.sum().item()), abs=1e-4)
    middle = (p + q) / 2
    divergence = ((p * (p / middle).log()).sum() + (q * (q / middle).log()).sum()) / 2
    assert model.entropy(data).item() == pytest.approx(np.log(2) - divergence.item(), abs=1e-8)


def test_its_gradient_is_that_of_differences() -> None:
    model = Discrete(torch.tensor([30, 10, 25]))
    data = torch.tensor([5, 20, 3])
    with torch.no_grad():
        model.energies += torch.tensor([0.4, -1.0, 0.2])
        model.term.constants += 0.7
    values = (model.energies, model.term.constants)
    gradients = torch.autograd.grad(model.entropy(data), values)
    for value, gradient in zip(values, gradients, strict=True):
        for i in range(len(value)):
            found = []
            for step in (1e-6, -2e-6):
                with torch.no_grad():
                    value[i] += step
                found.append(model.entropy(data).item())
            with torch.no_grad():
                value[i] += 1e-6
            assert (found[0] - found[1]) / 2e-6 == pytest.approx(gradient[i].item(), rel=1e-5)


class Simulations:
    """Simulates as a fit does; keeps what was asked for and found."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.names: list[str] = []
        self.runs: list[SimulationResult] = []
        self.lost: list[int] = []

    def __call__(
        self, potential: Potential, system: int, config: SimulationConfig, name: str
    ) -> SimulationResult:
        run = simulate(potential, self.reference, config, "cpu")
        run.blown_up[self.lost] = True
        self.names.append(name)
        self.runs.append(run)
        return run


def module_of(reference: Reference, fits: bool = False, **options: Any) -> CGForceField:
    torch.manual_seed(0)
    term = ContrastiveEstimation(**{"batch_size": SIZE, "simulation": SHORT, **options})
    module = CGForceField(NETWORK, losses=Losses(ForceMatching(0.5), contrastive=term))
    module.set_references([reference], ["tiny"], seed=5, fits=fits)
    return module


def started(module: CGForceField, simulations: Simulations) -> ContrastiveEstimation:
    assert module.loss is not None
    module.loss.before_fit(simulations)
    term = module.loss.terms[NAME]
    assert isinstance(term, ContrastiveEstimation)
    return term


@pytest.fixture(scope="module")
def other_file(
    reference: Reference, tmp_path_factory: pytest.TempPathFactory
) -> tuple[CGForceField, Path]:
    """A model with a network of its own, and its checkpoint."""
    torch.manual_seed(8)
    model = CGForceField(replace(NETWORK, num_filters=4))
    model.set_references([reference], ["tiny"])
    path = tmp_path_factory.mktemp("other") / "other.ckpt"
    content: dict[str, Any] = {"state_dict": model.state_dict()}
    model.on_save_checkpoint(content)
    torch.save(content, path)
    return model, path


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("of_prior", [True, False])
@pytest.mark.parametrize("double", [False, True])
def test_by_hand(
    reference: Reference,
    batch: Batch,
    other_file: tuple[CGForceField, Path],
    weighted: bool,
    of_prior: bool,
    double: bool,
) -> None:
    """What is told from samples, in training and of those held out; the kernels evaluate."""
    model = None if of_prior else str(other_file[1])
    module = module_of(reference, model=model, weighted=weighted)
    module = module.double() if double else module
    simulations = Simulations(reference)
    simulations.lost = [15]
    term = started(module, simulations)
    assert simulations.names == [model or "prior alone"]
    begun = term.constants.item()
    with torch.no_grad():
        term.constants += 0.3
    contrast = reference.potential() if of_prior else other_file[0].potential()
    own = reference.potential(module.network.float() if not double else None)

    def odds(positions: Tensor) -> np.ndarray:
        energy = own.energy_and_forces(positions)[0].detach().numpy().astype(float)
        if double:
            types = batch.bead_types[: positions.shape[1]]
            energy = energy + module.network.energy(positions.double(), types).detach().numpy()
        known = contrast.energy_and_forces(positions)[0].detach().numpy()
        return np.asarray((known - energy) / KT + begun + 0.3)

    first = odds(term.get_buffer("samples_0")[:SIZE].float())
    assert first.mean() == pytest.approx(0.3, abs=1e-3)  # even odds, but for what was added
    data = odds(batch.pos.unflatten(0, (batch.num_graphs, -1)))
    weights = batch.weight.numpy() if weighted else np.ones(len(data))
    # Sixteen trajectories of twenty frames: two are burnt, one trajectory flew apart.
    assert term.counts.tolist() == [[12 * 18, 3 * 18]]
    for held, part in enumerate(("train", "validation")):
        rows = drawn(int(term.counts[0, held]), SIZE, 9, 5) + (KEPT if held else 0)
        samples = odds(term.get_buffer("samples_0")[rows].float())
        missed = np.average(np.log1p(np.exp(-data)), weights=weights)
        expected = (missed + np.log1p(np.exp(samples)).mean()) / 2
        turn = Turn(part, 9)  # type: ignore[arg-type]
        found = evaluated(module, module._in_own_precision(batch), turn)
        assert found[NAME].item() == pytest.approx(expected, rel=1e-3)
        whole = 0.5 * found["force_mse"].item() + expected
        assert found["loss"].item() == pytest.approx(whole, rel=1e-3)


def test_samples_are_of_whole_trajectories_those_held_out_of_others(reference: Reference) -> None:
    simulations = Simulations(reference)
    simulations.lost = [3]
    term = started(module_of(reference), simulations)
    (run,) = simulations.runs
    seen = [
        {frame.tobytes() for frame in run.positions[2:, k]} for k in range(run.positions.shape[1])
    ]
    kept = term.get_buffer("samples_0").numpy()
    train, held = (kept[:216], kept[KEPT : KEPT + 54])
    own = [{frame.tobytes() for frame in part} for part in (train, held)]
    assert [len(part) for part in own] == [216, 54], "drawn twice"
    apart = (4, 8, 12)  # every fourth that stayed whole
    assert own[0] == set().union(*(seen[k] for k in range(16) if k not in (3, *apart)))
    assert own[1] == set().union(*(seen[k] for k in apart))
    assert len(kept) == KEPT + HELD


def test_a_checkpoint_holds_the_samples(reference: Reference, batch: Batch) -> None:
    simulations = Simulations(reference)
    module, other = module_of(reference), module_of(reference)
    started(module, simulations).constants.data += 0.2
    other.load_state_dict(module.state_dict())
    started(other, simulations)
    assert len(simulations.runs) == 1, "made anew though they are there"
    for turn in (Turn("train", 4), Turn("test", 1)):
        expected = evaluated(module, batch, turn)
        assert expected[NAME].item() > 0
        for name, value in evaluated(other, batch, turn).items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=0)


def test_another_model_than_that_of_the_samples_is_refused(
    reference: Reference, other_file: tuple[CGForceField, Path], tmp_path: Path
) -> None:
    _, path = other_file
    module = module_of(reference, model=str(path))
    started(module, Simulations(reference))
    resumed = module_of(reference, fits=True, model=str(path))
    resumed.load_state_dict(module.state_dict())
    started(resumed, Simulations(reference))
    changed = torch.load(path)
    for name, value in changed["state_dict"].items():
        if name.endswith("output.0.weight"):
            value += 1.0
    torch.save(changed, tmp_path / "changed.ckpt")
    again = module_of(reference, fits=True, model=str(tmp_path / "changed.ckpt"))
    again.load_state_dict(module.state_dict())
    with pytest.raises(InputError, match=r"changed.ckpt is another model than the one whose"):
        started(again, Simulations(reference))


def test_another_seed_makes_others(reference: Reference) -> None:
    kept = []
    for seed in (None, 5, 6):
        config = replace(SHORT, seed=seed)
        term = started(module_of(reference, simulation=config), Simulations(reference))
        kept.append(term.get_buffer("samples_0"))
    torch.testing.assert_close(kept[0], kept[1], rtol=0, atol=0)  # the fit's own is 5
    assert not torch.equal(kept[1], kept[2])


def test_without_samples_or_weight_it_is_left_out(reference: Reference, batch: Batch) -> None:
    simulations = Simulations(reference)
    idle = module_of(reference, weight=0.0)
    assert not started(idle, simulations).constants.requires_grad
    assert not simulations.runs
    for module in (idle, module_of(reference)):
        assert set(evaluated(module, batch, Turn())) == {"loss", "force_mse"}


def test_the_other_model_may_be_gone_when_a_fit_has_ended(
    reference: Reference, batch: Batch, other_file: tuple[CGForceField, Path], tmp_path: Path
) -> None:
    module = module_of(reference, model=str(other_file[1]))
    started(module, Simulations(reference))
    gone = str(tmp_path / "gone.ckpt")
    judged = module_of(reference, model=gone)
    judged.load_state_dict(module.state_dict())
    assert NAME in evaluated(module.eval(), batch, Turn("validation"))
    assert NAME not in evaluated(judged.eval(), batch, Turn("validation"))
    with pytest.raises(InputError, match=r"gone.ckpt: no such checkpoint"):
        module_of(reference, fits=True, model=gone)


def test_a_model_of_other_beads_is_refused(
    reference: Reference, other_file: tuple[CGForceField, Path]
) -> None:
    system = reference.system
    swapped = replace(reference, system=replace(system, bead_types=system.bead_types[::-1].copy()))
    sentence = r"contrastive.model is .*other.ckpt, a model of other beads; expected one of the 10"
    with pytest.raises(InputError, match=sentence):
        module_of(swapped, fits=True, model=str(other_file[1]))


def test_what_cannot_be_is_refused(reference: Reference) -> None:
    for options, sentence in (
        ({"batch_size": 0}, "contrastive.batch_size is 0, expected above 0"),
        ({"simulation": SimulationConfig(replicas=5)}, r"simulation.replicas is 5, .*at least 6"),
        ({"simulation": SimulationConfig(steps=-1)}, "contrastive.simulation.steps is -1"),
    ):
        with pytest.raises(InputError, match=sentence):
            Losses(contrastive=ContrastiveEstimation(**options)).check()
    simulations = Simulations(reference)
    simulations.lost = list(range(15))
    with pytest.raises(InputError, match=r"of 16 trajectories 1 stayed whole, .* 2 at least"):
        started(module_of(reference), simulations)


def test_constants_of_a_term_that_begins_later_are_of_the_network_then(
    reference: Reference, batch: Batch
) -> None:
    module = module_of(reference)
    assert module.loss is not None
    module.loss.terms[NAME].begin = 1  # type: ignore[assignment]
    term = started(module, Simulations(reference))
    assert term.constants.item() == 0
    with torch.no_grad():
        module.network.get_parameter("output.2.bias").add_(30.0)
    beads = batch.num_nodes // batch.num_graphs
    own = module._in_own_precision(batch)
    for number in range(2):
        module.loss(*module.energy_and_forces(own), own, Turn("train", number, 1))
        assert term.constants.item() == pytest.approx(30.0 * beads / KT, rel=0.3)
        with torch.no_grad():
            module.network.get_parameter("output.2.bias").zero_()
