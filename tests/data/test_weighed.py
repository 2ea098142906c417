"""Weights of a frames file: each part from itself, right where all begin out of balance."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from cgfe.cli import main
from cgfe.data.begun_folded import begun_folded
from cgfe.data.frames import CGFrames
from cgfe.data.weighed import weighed
from cgfe.errors import InputError
from cgfe.geometry import rmsd

BEADS = 4


def jumping(count: int, rates: tuple[float, float], frames: int, seed: int = 5) -> CGFrames:
    """Four beads on a line, 3 Å apart when folded and 5 Å when not, with thermal noise.

    Every trajectory begins folded; `rates` are of unfolding and folding, a frame.
    """
    random = np.random.default_rng(seed)
    folded = np.ones((count, frames), dtype=bool)
    for now in range(1, frames):
        leave = random.random(count) < np.where(folded[:, now - 1], *rates)
        folded[:, now] = folded[:, now - 1] ^ leave
    positions = np.zeros((count * frames, BEADS, 3))
    spacing = np.where(folded.ravel(), 3.0, 5.0)
    positions[:, :, 0] = spacing[:, None] * np.arange(BEADS)
    positions += random.normal(scale=0.15, size=positions.shape)
    native = np.zeros((BEADS, 3))
    native[:, 0] = 3.0 * np.arange(BEADS)
    return CGFrames(
        positions=positions.astype(np.float32),
        trajectory_index=np.repeat(np.arange(count), frames).astype(np.int32),
        residue_names=("ALA",) * BEADS,
        masses=np.full(BEADS, 71.0),
        bonds=np.array([[0, 1], [1, 2], [2, 3]]),
        temperature_kelvin=300.0,
        frame_interval_ps=20.0,
        native_positions=native,
        folded_rmsd=1.0,
    )


def folded_share(frames: CGFrames, rows: slice = slice(None)) -> float:
    ends = np.linalg.norm(frames.positions[rows, -1] - frames.positions[rows, 0], axis=1)
    weights = np.ones(len(frames)) if frames.weights is None else frames.weights
    return float(np.average(ends < 12, weights=weights[rows]))


def test_short_trajectories_from_the_fold_get_the_populations_of_equilibrium() -> None:
    unfolding, folding = 0.02, 0.005
    frames = weighed(jumping(200, (unfolding, folding), 40), "estimated")
    truth = folding / (unfolding + folding)
    # The variance of ln(rate) is one over the number of jumps.
    raw = folded_share(replace(frames, weights=None))
    jumps = 200 * 40 * np.array([unfolding * raw, folding * (1 - raw)])
    error = truth * (1 - truth) * np.sqrt((1 / jumps).sum())
    assert raw > truth + 6 * error
    assert folded_share(frames) == pytest.approx(truth, abs=3 * error)


def test_each_part_is_weighted_by_itself() -> None:
    parts = {"test_trajectories": np.arange(8, 12, dtype=np.int32)}
    frames = replace(jumping(12, (0.03, 0.03), 400), **parts)
    weights = weighed(frames, "estimated").weights
    assert weights is not None
    assert weights[:3200].mean() == pytest.approx(1)
    assert weights[3200:].mean() == pytest.approx(1)
    other = jumping(4, (0.1, 0.1), 400, seed=6).positions
    changed = replace(frames, positions=np.concatenate([frames.positions[:3200], other]))
    again = weighed(changed, "estimated").weights
    assert again is not None
    np.testing.assert_array_equal(again[:3200], weights[:3200])
    assert (again[3200:] != weights[3200:]).any()
    training = weighed(frames, "training").weights
    assert training is not None
    np.testing.assert_array_equal(training[:3200], weights[:3200])
    np.testing.assert_array_equal(training[3200:], 1.0)
    assert weighed(replace(frames, weights=weights), "counts").weights is None
    # Too short for a model of its own.
    kept = np.r_[:4400, 4400:4403]
    short = replace(
        frames,
        positions=frames.positions[kept],
        trajectory_index=frames.trajectory_index[kept],
        test_trajectories=np.array([11], dtype=np.int32),
    )
    with pytest.raises(InputError, match="weights of the test part: "):
        weighed(short, "estimated")
    with pytest.raises(InputError, match="names no trajectories for validation or test"):
        weighed(jumping(12, (0.03, 0.03), 40), "training")


def test_biased_frames_do_not_count_alike() -> None:
    frames = jumping(12, (0.03, 0.03), 400)
    biased = np.arange(12, dtype=np.int32)
    flat = replace(frames, biased_trajectories=biased, bias_log_weights=np.zeros(4800))
    assert weighed(flat, "counts").weights is None  # one temperature of replica exchange
    shifted = replace(flat, bias_log_weights=np.repeat([0.0, 1.0], 2400))
    tilted = replace(flat, bias_log_weights=np.log(np.arange(4800) + 1.0))
    for uneven in (shifted, tilted):
        with pytest.raises(InputError, match="weights is counts, but a run is biased"):
            weighed(uneven, "counts")
    weights = weighed(tilted, "estimated").weights
    assert weights is not None
    np.testing.assert_allclose(weights, (np.arange(4800) + 1) / 2400.5)
    held_out = replace(tilted, test_trajectories=np.arange(6, 12, dtype=np.int32))
    with pytest.raises(InputError, match="weights is training, but a run is biased"):
        weighed(held_out, "training")
    with pytest.raises(InputError, match="bias_log_weights are missing"):
        weighed(replace(tilted, bias_log_weights=None), "estimated")


def test_pieces_begin_folded_and_the_whole_is_the_test() -> None:
    frames = replace(
        jumping(12, (0.05, 0.05), 400),
        validation_trajectories=np.array([1], dtype=np.int32),
        test_trajectories=np.array([4, 5], dtype=np.int32),
        all_atom_energies=np.arange(4800, dtype=np.float64),
        weights=np.ones(4800),
    )
    pieces = begun_folded(frames, 0.6)
    assert pieces.all_atom_energies is not None
    assert pieces.weights is None
    every = pieces.all_atom_energies.astype(int)
    slices = pieces.trajectory_slices()
    (validation,) = pieces.validation_trajectories
    np.testing.assert_array_equal(every[slices[validation]], np.r_[400:800])
    whole = np.concatenate([every[slices[k]] for k in pieces.test_trajectories])
    np.testing.assert_array_equal(whole, np.r_[:400, 800:1600, 2400:4800])
    training = slices[:validation]
    assert len(slices) == len(training) + 1 + 9
    away = rmsd(frames.positions, np.asarray(frames.native_positions))
    core = away < 0.75 * frames.folded_rmsd
    for own in training:
        assert own.stop - own.start == 30
        assert core[every[own.start]]
        assert (np.diff(every[own]) == 1).all()
    trained = np.concatenate([every[own] for own in training])
    assert len(np.unique(trained)) == len(trained)
    assert np.isin(trained, whole).all()
    # Where a trajectory comes into the core behind a piece, the next one begins.
    first = [own for own in training if every[own.start] < 400]
    assert len(first) > 2
    for one, two in pairwise(first):
        assert not core[every[one.stop - 1] + 1 : every[two.start]].any()


@pytest.mark.parametrize(
    ("change", "nanoseconds", "message"),
    [
        ({"native_positions": None}, 0.6, "no native structure"),
        ({"biased_trajectories": np.array([3], np.int32)}, 0.6, "biased trajectory cannot"),
        ({}, 0.61, r"pieces of 0\.61 ns; expected at least two frames"),
        ({}, float("nan"), "pieces of nan ns"),
        ({}, float("inf"), "pieces of inf ns"),
        ({}, -1.0, "pieces of -1 ns"),
        ({}, 9.0, "no 9 ns begin in the fold"),
    ],
)
def test_what_cannot_be_cut_is_refused(change: dict, nanoseconds: float, message: str) -> None:
    frames = replace(jumping(12, (0.05, 0.05), 400), **change)
    with pytest.raises(InputError, match=message):
        begun_folded(frames, nanoseconds)


def test_the_command_weighs_a_file_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jumping(60, (0.02, 0.01), 100).save(tmp_path / "raw.h5")
    raw, out = str(tmp_path / "raw.h5"), str(tmp_path / "out.h5")
    for kind in ("counts", "training", "estimated"):
        words = ["pack", "--frames", raw, "--begin-folded-ns", "1", "--output", out]
        words += ["--weights", kind]
        assert main(words) == 0
        assert "packed" in capsys.readouterr().out
        frames = CGFrames.load(out)
        expected = weighed(begun_folded(CGFrames.load(raw), 1.0), kind)
        assert (frames.weights is None) == (kind == "counts")
        if frames.weights is not None:
            np.testing.assert_allclose(frames.weights, np.asarray(expected.weights))
        assert frames.source.endswith("cgfe " + " ".join(words))
    # Weights whose origin is not known are not overwritten in silence.
    assert main(["pack", "--frames", out, "--output", raw]) == 2
    assert "has weights already" in capsys.readouterr().err
    assert main(["pack", "--frames", out, "--output", raw, "--weights", "counts"]) == 0
    for source, other in (("--frames", "--native"), ("--runs", "--begin-folded-ns")):
        assert main(["pack", source, raw, other, "1", "--output", out]) == 2
        assert f"{source} takes no {other}" in capsys.readouterr().err


def test_frames_too_short_for_weights_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jumping(3, (0.02, 0.01), 3).save(tmp_path / "short.h5")
    out = tmp_path / "out.h5"
    assert main(["pack", "--frames", str(tmp_path / "short.h5"), "--output", str(out)]) == 2
    assert "weights of the training part" in capsys.readouterr().err
    assert not out.exists()
