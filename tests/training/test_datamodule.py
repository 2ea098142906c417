"""Splits, references, batches: what training is served."""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data

from cgfe.analysis.tica import TICAProjection
from cgfe.data.frames import CGFrames
from cgfe.data.splits import SplitConfig, split_frames
from cgfe.errors import InputError
from cgfe.reference.config import ReferenceConfig
from cgfe.reference.reference import Reference
from cgfe.training import datamodule
from cgfe.training.batches import FrameLoader, SystemTensors
from cgfe.training.datamodule import CGFramesDataModule


@pytest.fixture(scope="module")
def data(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> CGFramesDataModule:
    """A set-up data module on the tiny set."""
    module = CGFramesDataModule(
        str(tiny_file),
        batch_size=32,
        block_ps=50,
        reference=ReferenceConfig(tica_lag_ps=5, bins=12),
        cache_dir=str(tmp_path_factory.mktemp("cache")),
    )
    module.prepare_data()
    module.setup()
    return module


def frames_of(pieces: list[slice]) -> set[int]:
    return {i for piece in pieces for i in range(piece.start, piece.stop)}


def test_split_covers_every_frame_once_and_keeps_blocks_whole(tiny: CGFrames) -> None:
    split = split_frames(tiny, SplitConfig(0.2, 0.1, 50, seed=0))
    parts = [frames_of(p) for p in (split.train, split.validation, split.test)]
    assert set.union(*parts) == set(range(len(tiny)))
    assert sum(map(len, parts)) == len(tiny)
    for piece in [*split.train, *split.validation, *split.test]:
        assert piece.stop - piece.start >= 25
        assert len(set(tiny.trajectory_index[piece])) == 1


def test_split_depends_on_the_seed_and_on_nothing_else(tiny: CGFrames) -> None:
    first, second = (split_frames(tiny, SplitConfig(0.2, 0.1, 50, seed=s)) for s in (0, 0))
    assert first == second
    assert first != split_frames(tiny, SplitConfig(0.2, 0.1, 50, seed=1))


def test_held_out_trajectories_are_the_test_split(tiny: CGFrames) -> None:
    held = dataclasses.replace(tiny, test_trajectories=tiny.trajectory_index[-1:])
    split = split_frames(held, SplitConfig(0.2, 0.1, 50, seed=0))
    assert {int(tiny.trajectory_index[i]) for i in frames_of(split.test)} == {
        int(tiny.trajectory_index[-1])
    }


def test_too_few_blocks_are_refused(tiny: CGFrames) -> None:
    with pytest.raises(InputError, match="too few"):
        split_frames(tiny, SplitConfig(0.5, 0.45, 1e6, seed=0))


def test_whole_trajectories_are_dealt_out_where_there_are_enough(tiny: CGFrames) -> None:
    """Of each kind by itself, so that every split has unbiased walkers."""
    many = dataclasses.replace(
        tiny,
        trajectory_index=np.arange(len(tiny), dtype=np.int32) // 60,
        biased_trajectories=np.arange(20, dtype=np.int32),
        test_trajectories=np.zeros(0, np.int32),
    )
    split = split_frames(many, SplitConfig(0.25, 0.25))
    parts = [frames_of(p) for p in (split.train, split.validation, split.test)]
    assert sum(map(len, parts)) == len(tiny)
    for part in parts:
        names = np.unique(many.trajectory_index[sorted(part)])
        assert set(np.flatnonzero(np.isin(many.trajectory_index, names))) == part
        assert 0 < (names < 20).sum() < len(names)
    assert [len(np.unique(many.trajectory_index[sorted(p)])) for p in parts] == [20, 10, 10]


def test_gaps_lie_between_blocks_of_different_splits(tiny: CGFrames) -> None:
    gap = 20
    split = split_frames(tiny, SplitConfig(0.2, 0.1, 50, gap, seed=0))
    whole = split_frames(tiny, SplitConfig(0.2, 0.1, 50, 0, seed=0))
    names = ("train", "validation", "test")
    owner = np.full(len(tiny), -1)
    for number, name in enumerate(names):
        own = sorted(frames_of(getattr(split, name)))
        assert set(own) <= frames_of(getattr(whole, name))
        owner[own] = number
    kept = np.flatnonzero(owner >= 0)
    for a, b in itertools.pairwise(kept):
        if owner[a] != owner[b] and tiny.trajectory_index[a] == tiny.trajectory_index[b]:
            assert (b - a - 1) * tiny.frame_interval_ps >= gap
    assert (owner < 0).any()
    with pytest.raises(InputError, match="leave nothing of blocks"):
        split_frames(tiny, SplitConfig(0.1, 0.1, 50, 1e5))


def test_nothing_is_fitted_to_held_out_frames(data: CGFramesDataModule, tiny: CGFrames) -> None:
    """Changing every frame outside the training split changes nothing but what they are."""
    outside = np.ones(len(tiny), dtype=bool)
    outside[list(frames_of(data.splits[0].train))] = False
    changed = tiny.positions.copy()
    changed[outside] += np.random.default_rng(0).normal(size=changed[outside].shape)
    other = Reference.fit(
        dataclasses.replace(tiny, positions=changed), data.splits[0], data.reference_config
    )
    mine, theirs = data.references[0].to_arrays(), other.to_arrays()
    held_out = ("ensembles/validation", "ensembles/test")
    for key in mine:
        if key != "texts" and not key.startswith(held_out):  # texts: the fingerprint of the file
            np.testing.assert_array_equal(mine[key], theirs[key], err_msg=key)
    key = "ensembles/validation/joint_indices"
    assert not np.array_equal(mine[key], theirs[key])


def test_reference_survives_its_file(data: CGFramesDataModule, tmp_path: Path) -> None:
    reference = data.references[0]
    reference.save(tmp_path / "reference.npz")
    back = Reference.load(tmp_path / "reference.npz")
    for key, value in reference.to_arrays().items():
        np.testing.assert_array_equal(back.to_arrays()[key], value)
    assert back.fingerprint == reference.fingerprint
    whole = (tmp_path / "reference.npz").read_bytes()
    for content in (b"nonsense", whole[:1000], b""):
        (tmp_path / "reference.npz").write_bytes(content)
        with pytest.raises(InputError, match="not a readable reference"):
            Reference.load(tmp_path / "reference.npz")


def test_cache_is_used_and_depends_on_the_settings(
    data: CGFramesDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = CGFramesDataModule(
        str(data.paths[0]), block_ps=50, reference=data.reference_config,
        cache_dir=str(data.cache_dir),
    )  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(Reference, "fit", classmethod(lambda *a: pytest.fail("fitted again")))
        again.prepare_data()
        again.setup()
    assert again.references[0].fingerprint == data.references[0].fingerprint
    again.reference_config = ReferenceConfig(tica_lag_ps=5, bins=13)
    again.systems = []
    again.references = []
    again.prepare_data()
    again.setup()
    assert again.references[0].fingerprint != data.references[0].fingerprint


def test_a_start_reads_hashes_and_projects_once(
    data: CGFramesDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process prepares and sets up; another one, after it, only sets up."""
    counted: Counter[str] = Counter()

    def counting(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            counted[name] += len(arguments[1]) if name == "project" else 1
            return function(*arguments, **options)

        monkeypatch.setattr(owner, name, wrapped)

    for owner, name in (
        (CGFrames, "load"),
        (datamodule, "fingerprint"),
        (TICAProjection, "project"),
        (Reference, "load"),
    ):
        counting(owner, name)
    make = partial(
        CGFramesDataModule, str(data.paths[0]), 32, data.reference_config, 50,
        cache_dir=str(data.cache_dir / "once"),
    )  # fmt: skip
    first, second = make(), make()
    first.prepare_data()
    first.setup("fit")
    frames = len(first.frames[0])
    assert counted == {"load": 1, "fingerprint": 1, "project": frames}
    counted.clear()
    first.prepare_data()
    first.setup("validate")
    assert not counted
    second.setup("fit")
    # Of the reference too, which does not keep what it was made of.
    assert counted == {"load": 2, "fingerprint": 1, "project": frames}
    for one, other in zip((first, data), (second, first), strict=True):
        for key, value in one.references[0].to_arrays().items():
            np.testing.assert_array_equal(other.references[0].to_arrays()[key], value)
        for key, value in vars(one.systems[0]).items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(vars(other.systems[0])[key]))


def test_a_damaged_reference_in_the_cache_is_fitted_anew(
    data: CGFramesDataModule, tmp_path: Path
) -> None:
    make = partial(
        CGFramesDataModule, str(data.paths[0]), 32, data.reference_config, 50,
        cache_dir=str(tmp_path),
    )  # fmt: skip
    first, second = make(), make()
    first.prepare_data()
    (stored,) = tmp_path.glob("reference-*.npz")
    whole = stored.read_bytes()
    stored.write_bytes(whole[: len(whole) // 2])
    second.prepare_data()
    second.setup()
    fingerprint = data.references[0].fingerprint
    assert second.references[0].fingerprint == fingerprint == Reference.load(stored).fingerprint


def test_batches_equal_those_that_torch_geometric_assembles(data: CGFramesDataModule) -> None:
    system = data.systems[0]
    chosen = torch.tensor([5, 0, 17])
    batch = system.batch(chosen)
    assert system.forces is not None
    theirs = Batch.from_data_list(
        [
            Data(
                pos=system.positions[i],
                forces=system.forces[i],
                prior_forces=system.prior_forces[i],
                bead_types=system.bead_types,
                energy_label=system.energy_label[i : i + 1],
                prior_energy=system.prior_energy[i : i + 1],
                weight=system.weight[i : i + 1],
                num_nodes=system.positions.shape[1],
            )
            for i in chosen
        ]
    )
    assert batch.num_graphs == theirs.num_graphs == 3
    for key in theirs.keys():  # noqa: SIM118 (a Batch is no dict)
        if key != "num_nodes":
            torch.testing.assert_close(batch[key], theirs[key])


def test_labels_and_prior_belong_to_their_frames(data: CGFramesDataModule, tiny: CGFrames) -> None:
    system, reference = data.systems[0], data.references[0]
    chosen = [3, 100, len(tiny) - 1]
    tics = np.asarray(reference.projection.tica.project(tiny.positions[chosen]), dtype=np.float64)
    np.testing.assert_allclose(
        system.energy_label[chosen], reference.labels.energies(tics), rtol=1e-5
    )
    energy = reference.prior(torch.from_numpy(tiny.positions[chosen]))
    torch.testing.assert_close(system.prior_energy[chosen], energy, rtol=1e-4, atol=1e-3)


def loader(
    systems: list[SystemTensors], served: int, rank: int = 0, world: int = 1, most: float = math.inf
) -> list[list]:
    frames = [torch.arange(len(s.positions)) for s in systems]
    order = FrameLoader(systems, frames, 64, True, 3, rank, world, lambda: (served, most))
    return [batch.energy_label.tolist() for batch in order]


def frames_in(batches: list[list]) -> list[float]:
    return sorted(label for batch in batches for label in batch)


def test_an_epoch_can_be_entered_anywhere(data: CGFramesDataModule) -> None:
    whole = loader(data.systems, 0)
    assert loader(data.systems, 5) == whole[5:]
    assert loader(data.systems, len(whole)) != whole, "the second epoch has the first's order"
    assert frames_in(loader(data.systems, len(whole))) == frames_in(whole)


def test_epochs_that_are_cut_short_begin_at_their_beginning(data: CGFramesDataModule) -> None:
    seen: list[int] = []

    class Counting(L.LightningModule):
        def training_step(self, batch: Batch, batch_idx: int) -> None:
            seen.append(batch_idx)

        def configure_optimizers(self) -> None:
            return None

    for limit, epochs in ((1.0, 2), (4, 3)):
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            limit_train_batches=limit,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        seen.clear()
        trainer.fit(Counting(), datamodule=data)
        own = len(data.train_dataloader()) if limit == 1.0 else int(limit)
        assert own > 2
        assert seen == epochs * list(range(own))
    data.trainer = None  # other tests take batches without one
    assert loader(data.systems, 4, most=4) == loader(data.systems, len(loader(data.systems, 0)))


def test_ranks_share_an_epoch_without_overlap(data: CGFramesDataModule) -> None:
    whole, parts = loader(data.systems, 0), [loader(data.systems, 0, r, 2) for r in (0, 1)]
    assert len(parts[0]) == len(parts[1]) == len(whole) // 2
    assert [x for pair in zip(*parts, strict=True) for x in pair] == whole[: 2 * (len(whole) // 2)]


def test_several_proteins_are_served_in_batches_of_one(
    data: CGFramesDataModule, first_beads: Callable[[int], CGFrames], tmp_path: Path
) -> None:
    first_beads(8).save(tmp_path / "shorter.h5")
    module = CGFramesDataModule(
        [str(data.paths[0]), str(tmp_path / "shorter.h5")],
        batch_size=64,
        block_ps=50,
        reference=ReferenceConfig(tica_lag_ps=5, bins=12),
        cache_dir=str(data.cache_dir),
    )
    module.prepare_data()
    module.setup()
    sizes = set()
    for batch in module.train_dataloader():
        assert len(set(batch.system.tolist())) == 1
        sizes.add(len(batch.pos) // batch.num_graphs)
    assert sizes == {10, 8}
    assert module.references[1].ensembles.train.folded is None


def test_lag_longer_than_the_trajectories_is_refused(
    data: CGFramesDataModule, tiny: CGFrames
) -> None:
    with pytest.raises(InputError, match="lag"):
        Reference.fit(tiny, data.splits[0], ReferenceConfig(tica_lag_ps=1e5))
