"""Mean forces as a term of the loss: by hand, its gradient, its weights, and what is drawn."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch

from cgfe.data.frames import CGFrames
from cgfe.errors import InputError
from cgfe.reference.reference import Reference
from cgfe.training.losses import ForceMatching, Losses, MeanForceMatching, Turn
from cgfe.training.losses.draws import drawn
from cgfe.training.losses.mean_force import inverse_variances
from cgfe.training.mean_forces import read_mean_forces
from cgfe.training.module import CGForceField
from tests.training.small_models import NETWORK, evaluated
from tests.training.test_training import SIZES, as_mean_forces, cgfe, rows

NAME = "mean_force_matching_mse"
SIZE = 10


@pytest.fixture(scope="module")
def means(tiny: CGFrames) -> CGFrames:
    """Configurations of six trajectories, of which one is left for training."""
    found = as_mean_forces(tiny)
    weights = np.random.default_rng(3).uniform(0.5, 2.0, len(found))
    return replace(found, weights=weights / weights.mean())


def module_of(
    reference: Reference, means: CGFrames | None, weight: float = 1.0, weighted: bool = False
) -> CGForceField:
    torch.manual_seed(0)
    term = MeanForceMatching(weight, weighted, SIZE)
    module = CGForceField(NETWORK, losses=Losses(ForceMatching(0.5), mean_force=term))
    module.set_references([reference], ["tiny"], [means], seed=7)
    return module


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("part", "held"), [("train", (5,)), ("validation", (0, 1))])
def test_by_hand(
    reference: Reference, means: CGFrames, batch: Batch, weighted: bool, part: str, held: tuple[int]
) -> None:
    module = module_of(reference, means, weighted=weighted).train(part == "train")
    names = np.unique(means.trajectory_index)[list(held)]
    own = np.flatnonzero(np.isin(means.trajectory_index, names))
    assert means.forces is not None
    assert means.force_standard_errors is not None
    assert means.weights is not None
    variances = (means.force_standard_errors[own].astype(float) ** 2).mean(axis=(1, 2))
    weights = 1 / (variances + variances.mean())
    weights *= means.weights[own] if weighted else 1
    weights /= weights.mean()
    _, forces = module.potential().energy_and_forces(torch.from_numpy(means.positions[own]))
    squares = ((forces.numpy() - means.forces[own]) ** 2).mean(axis=(1, 2))
    for number in (0, 3):
        chosen = drawn(len(own), SIZE, number, 7).numpy()
        terms = evaluated(module, batch, Turn(part, number))  # type: ignore[arg-type]
        expected = (weights * squares)[chosen].mean()
        assert terms[NAME].item() == pytest.approx(expected, rel=1e-4)
        whole = 0.5 * terms["force_mse"].item() + expected
        assert terms["loss"].item() == pytest.approx(whole, rel=1e-4)


def test_the_gradient_is_that_of_differences_and_of_autograd(
    reference: Reference, means: CGFrames, batch: Batch
) -> None:
    """In float64; the kernels interpolate filters, autograd does not."""
    module = module_of(reference, means).double().train()
    batch = module._in_own_precision(batch)
    assert module.loss is not None
    term = module.loss.terms[NAME]
    parameters = list(module.network.parameters())

    def gradient() -> tuple[float, list[torch.Tensor]]:
        loss = evaluated(module, batch, Turn("train", 2))[NAME]
        assert not loss.requires_grad, "logged values are detached"
        module.zero_grad()
        module.loss(*module.energy_and_forces(batch), batch, Turn("train", 2))["loss"].backward()  # type: ignore[misc]
        return loss.item(), [p.grad.clone() for p in parameters if p.grad is not None]

    module.loss.terms["force_mse"].weight = 0.0
    _, fast = gradient()
    assert len(fast) == len(parameters)
    module.grid.intervals = None
    _, plain = gradient()
    for a, b in zip(fast, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))
    random = torch.Generator().manual_seed(1)
    way = [torch.randn(p.shape, generator=random, dtype=p.dtype) for p in parameters]
    values = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            for parameter, direction in zip(parameters, way, strict=True):
                parameter += step * direction
        values.append(evaluated(module, batch, Turn("train", 2))[NAME].item())
    slope = sum(float((g * d).sum()) for g, d in zip(plain, way, strict=True))
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(slope, rel=1e-4)
    assert term.weight == 1


def test_at_weight_zero_it_is_logged_and_has_no_gradient(
    reference: Reference, means: CGFrames, batch: Batch
) -> None:
    module = module_of(reference, means, weight=0.0).train()
    terms = evaluated(module, batch, Turn())
    assert terms[NAME].item() > 0
    assert terms["loss"].item() == pytest.approx(0.5 * terms["force_mse"].item())


def test_a_part_without_configurations_is_left_out(
    reference: Reference, means: CGFrames, batch: Batch
) -> None:
    assert means.force_standard_errors is not None
    none = replace(means, test_trajectories=np.zeros(0, np.int32))
    for module in (module_of(reference, none), module_of(reference, None)):
        assert set(evaluated(module.eval(), batch, Turn("test", 0))) == {"loss", "force_mse"}
    assert NAME in evaluated(module_of(reference, none).eval(), batch, Turn("validation", 0))


@pytest.mark.parametrize(("count", "size"), [(12, 5), (7, 20), (6, 6)])
def test_rows_are_drawn_equally_often_and_anew_by_seed_and_number(count: int, size: int) -> None:
    many = [drawn(count, size, number, 3) for number in range(count)]
    assert torch.cat(many).bincount(minlength=count).tolist() == [size] * count
    for number in (0, count - 1):
        assert drawn(count, size, number, 3).tolist() == many[number].tolist()
    order = torch.cat(many)
    assert order[:count].tolist() != order[count : 2 * count].tolist()
    others = torch.cat([drawn(count, size, number, 4) for number in range(count)])
    assert others.tolist() != order.tolist()


def test_no_configuration_counts_more_than_twice_one_of_average_error() -> None:
    errors = np.random.default_rng(0).lognormal(sigma=3, size=(200, 4, 3))
    errors[0] = 0
    weights = inverse_variances(errors)
    variances = (errors**2).mean(axis=(1, 2))
    of_average = weights[1] * (variances[1] + variances.mean()) / (2 * variances.mean())
    assert weights.mean() == pytest.approx(1)
    assert weights.max() == weights[0] == pytest.approx(2 * of_average)
    np.testing.assert_array_equal(inverse_variances(np.zeros((3, 2, 3))), np.ones(3))


def test_weights_from_the_same_halves_bring_no_bias_and_less_variance() -> None:
    """A slope fitted to means whose errors differ; the two halves tell mean and error."""
    random = np.random.default_rng(1)
    slope, times, shape = 1.7, 2000, (60, 4, 3)
    x = random.normal(size=shape)
    spread = random.choice([0.3, 3.0], size=(60, 1, 1))
    found = []
    for _ in range(times):
        halves = slope * x + spread * random.normal(size=(2, *shape))
        mean, error = halves.mean(axis=0), np.abs(halves[0] - halves[1]) / 2
        weights = [np.ones(60), inverse_variances(error)]
        found.append([np.einsum("c,cij,cij->", w, x, mean) / np.einsum("c,cij,cij->", w, x, x)
                      for w in weights])  # fmt: skip
    plain, weighted = np.array(found).T
    for estimates in (plain, weighted):
        error = estimates.std() / np.sqrt(times)
        assert abs(estimates.mean() - slope) < 4 * error
    assert weighted.var() < 0.5 * plain.var()


def test_what_cannot_be_is_refused(reference: Reference, means: CGFrames) -> None:
    with pytest.raises(InputError, match="batch_size is 0, expected above 0"):
        Losses(mean_force=MeanForceMatching(batch_size=0)).check()
    with pytest.raises(InputError, match="the mean forces have no weights"):
        module_of(reference, replace(means, weights=None), weighted=True)
    names = np.unique(means.trajectory_index)
    held = replace(means, test_trajectories=names[2:])
    sentence = r"mean_force.weight is 1, but data.mean_forces has no configurations of tiny outside"
    for frames in ([held], [None], ()):
        module = CGForceField(NETWORK, losses=Losses(mean_force=MeanForceMatching()))
        with pytest.raises(InputError, match=sentence):
            module.set_references([reference], ["tiny"], frames, fits=True)
    # At weight 0, and where a checkpoint is judged whose mean forces are gone, nothing is.
    idle = Losses(ForceMatching(), mean_force=MeanForceMatching(0.0))
    CGForceField(NETWORK, losses=idle).set_references([reference], ["tiny"], [held], fits=True)
    module_of(reference, None)


def test_several_files_of_a_system_count_as_one(means: CGFrames, tmp_path: Path) -> None:
    """Further configurations train; those that are held out stay so."""
    none = np.zeros(0, np.int32)
    further = replace(
        means,
        positions=means.positions + 1,
        weights=None,
        validation_trajectories=none,
        test_trajectories=none,
    )
    paths = [tmp_path / "further.h5", tmp_path / "means.h5"]
    for path, frames in zip(paths, (further, means), strict=True):
        frames.save(path)
    (together,) = read_mean_forces(paths, [means.residue_names])
    assert together is not None
    assert len(together) == 2 * len(means)
    held = np.isin(together.trajectory_index, together.validation_trajectories)
    rows = np.isin(means.trajectory_index, means.validation_trajectories)
    np.testing.assert_array_equal(together.positions[held], means.positions[rows])
    assert len(together.test_trajectories) == len(means.test_trajectories)
    hot = replace(further, temperature_kelvin=310.0)
    hot.save(paths[0])
    with pytest.raises(InputError, match=r"further\.h5 is at 310 K, .*means\.h5 at 300 K"):
        read_mean_forces(paths, [means.residue_names])
    with pytest.raises(
        InputError, match=r"further\.h5 names no trajectories for validation or test"
    ):
        read_mean_forces(paths[:1], [means.residue_names])


@pytest.mark.slow
def test_a_fit_by_mean_forces_alone(tiny: CGFrames, tiny_file: Path, tmp_path: Path) -> None:
    means = as_mean_forces(tiny)
    means.save(tmp_path / "means.h5")
    (tmp_path / "tiny.yaml").write_text(SIZES.format(frames=tiny_file, cache=tmp_path / "cache"))
    words = ["--model.loss=null", "--model.losses.mean_force.weight=1", "--run_dir=run"]
    words += ["--model.losses.mean_force.batch_size=8", "--free_energy.every_n_epochs=0"]
    printed = cgfe(tmp_path, "fit", "--config=tiny.yaml", *words, code=2)
    assert printed.count("cgfe: error: ") == 1
    assert "data.mean_forces has no configurations of tiny" in printed
    words.append(f"--data.mean_forces={tmp_path / 'means.h5'}")
    cgfe(tmp_path, "fit", "--config=tiny.yaml", *words)
    logged = rows(tmp_path / "run")
    fell = [value for (key, _), value in logged.items() if key == f"train/{NAME}"]
    assert len(fell) == 3
    assert fell[-1] < 0.9 * fell[0]
    for key, step in logged:
        if key.endswith("/loss"):
            assert logged[key, step] == pytest.approx(logged[key.replace("loss", NAME), step])
    (tmp_path / "means.h5").unlink()
    printed = cgfe(tmp_path, "validate", "--ckpt_path=run/checkpoints/last.ckpt")
    assert NAME not in printed
    assert "mean forces are not compared with" in printed
