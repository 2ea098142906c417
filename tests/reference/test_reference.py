"""Reference: its parts by themselves, on the way through arrays, and from files of version 1."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cgfe.analysis.metrics import FOLDED_RMSD
from cgfe.analysis.tica import TICAProjection
from cgfe.data.frames import CGFrames
from cgfe.data.splits import Split
from cgfe.errors import InputError
from cgfe.geometry import rmsd
from cgfe.reference.config import ReferenceConfig
from cgfe.reference.fingerprint import fingerprint
from cgfe.reference.reference import Reference
from cgfe.reference.starts import Starts
from cgfe.reference.training_frames import TrainingFrames
from cgfe.simulation.evaluation import (
    judge,
)

CONFIG = ReferenceConfig(tica_lag_ps=5, bins=12, target_bins=3, starts=9)
OLD = Path(__file__).with_name("version_1.npz")
"""Of 800 frames, written by the version before references had parts."""
CHANGED = {"mse_kt2", "w1_tic1", "w1_tic2"}
OLD_METRICS = {
    "js": 0.4756986966998346,
    "kl_reference_model": 5.070359687063372,
    "mse_kt2": 8.535449613048087,
    "w1_tic1": 0.7076338173796899,
    "w1_tic2": 0.8592456225193875,
    "delta_f_kt": 2.233260319944559,
    "coverage": 0.6178450792334109,
    "outside": 0.006666666666666667,
    "blown_up": 0.0,
    "split_half_js": 0.6931471805599452,
}


@pytest.fixture(scope="module")
def training(tiny: CGFrames) -> TrainingFrames:
    """All but the end of each trajectory of the tiny set."""
    return TrainingFrames(tiny, [slice(s.start, s.stop - 100) for s in tiny.trajectory_slices()])


@pytest.fixture(scope="module")
def reference(training: TrainingFrames) -> Reference:
    return Reference.fit(training.frames, Split(list(training.segments), [], []), CONFIG)


def test_training_frames_are_those_of_the_segments(training: TrainingFrames) -> None:
    frames = training.frames
    expected = np.concatenate([frames.positions[s] for s in training.segments])
    first, second = training.read(lambda x: x, lambda x: x[:, 0, 0])
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(second, expected[:, 0, 0])
    np.testing.assert_array_equal(training.evenly()[0], expected)
    assert frames.weights is not None
    np.testing.assert_array_equal(
        training.weights, np.concatenate([frames.weights[s] for s in training.segments])
    )


def test_kinetics_are_of_unbiased_segments_unless_all_are_biased(
    training: TrainingFrames,
) -> None:
    frames = training.frames
    index, biased = frames.trajectory_index[training.rows], frames.biased_trajectories
    kept = np.concatenate(training.kinetic())
    (positions,) = training.read(lambda x: x)
    np.testing.assert_array_equal(kept, positions[~np.isin(index, biased)])
    pieces = [s for s in training.segments if frames.trajectory_index[s.start] in biased]
    assert len(pieces) == 2
    only = TrainingFrames(frames, pieces)
    assert sum(map(len, only.kinetic())) == len(only.rows)


def test_positions_are_read_once_and_projected_once(
    training: TrainingFrames, monkeypatch: pytest.MonkeyPatch
) -> None:

    projected, project = [], TICAProjection.project

    def counted(tica: TICAProjection, positions: np.ndarray) -> np.ndarray:
        projected.append(len(positions))
        return project(tica, positions)

    monkeypatch.setattr(TICAProjection, "project", counted)
    Reference.fit(training.frames, Split(list(training.segments), [], []), CONFIG)
    assert sum(projected) == len(training.rows)


def test_ensembles_are_what_the_frames_are_on_the_grid(
    reference: Reference, training: TrainingFrames
) -> None:
    train, projection = reference.ensembles.train, reference.projection
    (positions,) = training.read(lambda x: x)
    tics = projection.tica.project(positions)
    counted = np.histogram2d(*tics.T, bins=projection.grid.edges, weights=training.weights)[0]
    np.testing.assert_allclose(train.probability, counted / training.weights.sum(), atol=1e-12)
    assert len(train) == len(training.segments)
    assert reference.ensembles.frames == len(tics)
    native = reference.system.native_positions
    assert native is not None
    folded = training.weights[rmsd(positions, native) <= FOLDED_RMSD].sum()
    assert train.totals().folded == pytest.approx(folded / training.weights.sum())
    biased = [
        training.frames.trajectory_index[s.start] in training.frames.biased_trajectories
        for s in training.segments
    ]
    assert train.kind.tolist() == [int(b) for b in biased]


def test_models_are_compared_with_frames_that_no_fit_has_seen(tiny: CGFrames) -> None:
    pieces = tiny.trajectory_slices()
    split = Split(pieces[:4], pieces[4:5], pieces[5:])
    reference = Reference.fit(tiny, split, CONFIG)
    for part, piece in (("validation", pieces[4]), ("test", pieces[5])):
        frames = tiny.positions[piece][:, None]
        found = judge(reference, frames, np.zeros(1, bool), 0.0, part)  # type: ignore[arg-type]
        assert found.part == part
        own = replace(tiny, weights=None)
        same = judge(Reference.fit(own, split, CONFIG), frames, np.zeros(1, bool), 0.0, part)  # type: ignore[arg-type]
        assert same.metrics["js"] == pytest.approx(0, abs=1e-12)
        assert (
            same.metrics["js"]
            < judge(reference, frames, np.zeros(1, bool), 0.0, "train").metrics["js"]
        )
    bare = Reference.fit(tiny, Split(pieces, [], []), CONFIG)
    assert judge(bare, tiny.positions[:9, None], np.zeros(1, bool), 0.0).part == "train"


def test_a_bin_without_mean_energy_is_no_target(reference: Reference) -> None:
    assert reference.labels.knows_bins
    energies = np.where(np.arange(9) == 4, np.nan, np.arange(9.0))
    labels = replace(reference.labels, bin_energies=energies)
    first, second = labels.grid.centres
    every = np.stack(np.meshgrid(first, second, indexing="ij"), axis=-1).reshape(-1, 2)
    bins, targets = labels.bin_targets(np.vstack([every, [[1e3, 0]]]))
    assert bins.tolist() == [0, 1, 2, 3, -1, 5, 6, 7, 8, -1]
    assert targets.tolist() == [0, 1, 2, 3, 0, 5, 6, 7, 8, 0]
    assert not replace(labels, bin_energies=np.full(9, np.nan)).knows_bins


def test_starts_are_dealt_evenly_and_begin_anew(reference: Reference) -> None:
    positions = reference.starts.positions
    assert positions.shape == (9, 10, 3)
    np.testing.assert_array_equal(
        reference.starts.deal(20), positions[[*range(9), *range(9), 0, 1]]
    )
    numbered = Starts(np.arange(9, dtype=np.float32)[:, None, None])
    of_ranks = [numbered.deal(7, rank, 2).ravel().tolist() for rank in (0, 1)]
    assert of_ranks == [[0, 2, 4, 6], [1, 3, 5, 7]]


@pytest.mark.parametrize(("interval", "lag"), [(20, 20), (1, 20), (15, 15), (8, 16), (40, 40)])
def test_the_lag_is_by_default_the_multiple_of_the_interval_nearest_to_20_ps(
    interval: float, lag: float, tiny: CGFrames
) -> None:
    assert ReferenceConfig().lag_ps(interval) == lag
    assert ReferenceConfig(tica_lag_ps=5).lag_ps(interval) == 5
    frames = replace(tiny, frame_interval_ps=float(interval))
    split = Split(frames.trajectory_slices(), [], [])
    # Told or not, it is the same reference.
    keys = {fingerprint(frames, split, ReferenceConfig(x)) for x in (None, float(lag), 1000.0)}
    assert len(keys) == 2


def test_arrays_hold_everything(reference: Reference, training: TrainingFrames) -> None:
    arrays = reference.to_arrays()
    assert max(x.nbytes for x in arrays.values()) < 32 * len(training.rows)
    assert all(value.dtype != object for value in arrays.values())
    back = Reference.from_arrays(arrays)
    assert back.fingerprint == reference.fingerprint
    assert back.system.residue_names == training.frames.residue_names
    for key, value in arrays.items():
        np.testing.assert_array_equal(back.to_arrays()[key], value, err_msg=key)
    with pytest.raises(InputError, match="version 3, expected 1 or 2"):
        Reference.from_arrays(arrays | {"version": np.array(3)})


def test_the_third_tic_is_kept_apart(tiny: CGFrames, reference: Reference) -> None:
    projection = reference.projection
    assert projection.third is not None
    assert projection.tica.components.shape[1] == 2
    both = TICAProjection.fit(
        TrainingFrames(tiny, tiny.trajectory_slices()).kinetic(),
        tiny.frame_interval_ps,
        CONFIG.lag_ps(tiny.frame_interval_ps),
        dimensions=3,
    )
    whole = Reference.fit(tiny, Split(tiny.trajectory_slices(), [], []), CONFIG).projection
    parts = np.hstack([whole.tica.components, whole.third.components])  # type: ignore[union-attr]
    np.testing.assert_allclose(parts, both.components)
    back = Reference.from_arrays(reference.to_arrays())
    assert back.projection.third is not None
    np.testing.assert_array_equal(back.projection.third.components, projection.third.components)
    older = {k: v for k, v in reference.to_arrays().items() if "third" not in k}
    assert Reference.from_arrays(older).projection.third is None
    two = replace(projection, third=projection.tica)
    with pytest.raises(InputError, match="TIC 3 components"):
        replace(reference, projection=two).check()


def test_of_no_whole_replica_every_figure_is_the_worst(reference: Reference) -> None:
    lost = judge(reference, np.zeros((4, 2, 10, 3), np.float32), np.ones(2, bool), 0.0)
    assert lost.metrics["js"] == lost.metrics["js_train"] == pytest.approx(np.log(2))
    assert lost.metrics["macrostate_error_kt"] > 5
    assert lost.replicas == 0


def test_js_of_the_training_frames_is_that_of_their_ensemble(tiny: CGFrames) -> None:
    pieces = tiny.trajectory_slices()
    reference = Reference.fit(tiny, Split(pieces[:4], pieces[4:], []), CONFIG)
    frames = tiny.positions[:200, None]
    held_out, own = (
        judge(reference, frames, np.zeros(1, bool), 0.0, part)  # type: ignore[arg-type]
        for part in ("validation", "train")
    )
    assert own.metrics["js_train"] == pytest.approx(own.metrics["js"])
    assert held_out.metrics["js_train"] == pytest.approx(own.metrics["js"])
    assert held_out.metrics["js"] != pytest.approx(own.metrics["js"])


def test_without_a_native_structure_there_is_no_rmsd(tiny: CGFrames) -> None:
    unknown = replace(tiny, native_positions=None, weights=None)
    reference = Reference.fit(unknown, Split(unknown.trajectory_slices(), [], []), CONFIG)
    back = Reference.from_arrays(reference.to_arrays())
    for one in (reference, back):
        assert one.ensembles.train.folded is None
        assert one.system.native_positions is None


def test_the_frames_themselves_are_a_perfect_model(tiny: CGFrames) -> None:
    """Known answer: every frame once, in equal weights, is no distance away."""
    equal = replace(tiny, weights=None)
    reference = Reference.fit(equal, Split(equal.trajectory_slices(), [], []), CONFIG)
    replicas = tiny.positions.reshape(6, -1, 10, 3).swapaxes(0, 1)
    metrics = judge(reference, replicas, np.zeros(6, bool), 0.0).metrics
    for name in ("js", "kl_reference_model", "mse_kt2", "w1_tic1", "w1_tic2", "delta_f_kt"):
        assert metrics[name] == pytest.approx(0, abs=1e-9), name
    assert metrics["coverage"] == pytest.approx(1)
    assert metrics["outside"] == 0


def test_files_of_version_1_give_what_they_gave() -> None:
    """Figures are those that the version which wrote the file gave."""
    reference = Reference.load(OLD)
    assert reference.fingerprint == "1ad7e78048b2618e"
    assert "-".join(reference.system.residue_names) == "TYR-TYR-ASP-PRO-GLU-THR-GLY-THR-TRP-TYR"
    assert reference.system.bonds.shape == (9, 2)
    starts = reference.starts.positions
    scales = 1 + 0.002 * np.arange(40, dtype=np.float32)
    positions = scales[:, None, None, None] * starts[None]
    found = judge(reference, positions, np.zeros(5, bool), 0.25).metrics
    # F is cut off before it is aligned since then, and W1 told by histograms.
    known = sorted(OLD_METRICS.keys() - CHANGED)
    assert {k: found[k] for k in known} == pytest.approx(
        {k: OLD_METRICS[k] for k in known}, rel=1e-9
    )
    for key in ("w1_tic1", "w1_tic2"):
        assert found[key] == pytest.approx(OLD_METRICS[key], rel=0.02)
    energies = reference.prior(torch.from_numpy(starts)).numpy()
    np.testing.assert_allclose(energies, [5.0133, 1.3966, 5.4140, 9.0848, 4.1530], atol=1e-4)
    with np.load(OLD) as old:
        labels, tics = reference.labels, old["tics"][:3]
    np.testing.assert_allclose(labels.energies(tics), [2.3607563, 1.34103763, 2.61365249])
    of_bins = [4.01590586, -5.9908343, 13.68834716, 14.13689407]
    np.testing.assert_allclose(labels.bin_energies, of_bins)


def test_what_was_read_from_version_1_is_written_as_parts(tmp_path: Path) -> None:
    reference = Reference.load(OLD)
    reference.save(tmp_path / "new.npz")
    again = Reference.load(tmp_path / "new.npz").to_arrays()
    assert int(again["version"]) == 2
    with np.load(OLD) as old:
        assert int(old["version"]) == 1
        for before, now in (
            ("masses", "system/masses"),
            ("native_positions", "system/native_positions"),
            ("start_positions", "starts/positions"),
            ("tica/components", "projection/tica/components"),
            ("grid/edges_tic2", "projection/grid/edges_tic2"),
            ("target_grid/edges_tic1", "labels/grid/edges_tic1"),
            ("labels/table1.log_density", "labels/inverted/table1.log_density"),
        ):
            np.testing.assert_array_equal(again[now], old[before], err_msg=now)
        weights = old["weights"].sum()
    assert again["ensembles/train/joint_data"].sum() == pytest.approx(weights)
