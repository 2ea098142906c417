"""What `cgfe import` is told beside the source: force unit, native structure, weights; and what of
a source is no number."""

from collections.abc import Callable
from pathlib import Path

import h5py
import mdtraj
import numpy as np
import pytest

from cgfe.analysis.metrics import FOLDED_RMSD
from cgfe.cli import main
from cgfe.data.frames import CGFrames
from cgfe.geometry import rmsd
from cgfe.readers.force_size import NEAR, ForceSize
from cgfe.units import thermal_energy

TOLD = ("--temperature", "300", "--frame-interval", "1", "--quiet")
KJ = 41.84


@pytest.fixture
def cgfe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run `cgfe import` in an empty folder; return what it says of a refusal, or notes."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> str:
        code = main(["import", *map(str, words), *TOLD, "--output", "out.h5"])
        printed = capsys.readouterr()
        assert code == (2 if printed.err else 0), printed
        return printed.err or printed.out

    return run


def beads(frames: CGFrames, factor: float = 1.0, count: int = 300) -> tuple[str, ...]:
    """Write beads and forces as an .xtc with .npy; return the words that import them."""
    positions = frames.positions[:count]
    simulated = mdtraj.Trajectory(positions / 10, frames.topology(), np.arange(float(count)))
    simulated.save("run.xtc")
    simulated[0].save("top.pdb")
    assert frames.forces is not None
    np.save("run_forces.npy", frames.forces[:count] * factor)
    return ("run.xtc", "--topology", "top.pdb")


def harmonic(frames: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two beads in space tied by a spring of 60 kcal/mol/Å², at 300 K, drawn exactly."""
    random = np.random.default_rng(seed)
    spring, rest, kt = 60.0, 3.8, thermal_energy(300)
    grid = np.linspace(2.5, 5.1, 20_001)
    density = grid**2 * np.exp(-spring * (grid - rest) ** 2 / 2 / kt)
    length = np.interp(random.random(frames), np.cumsum(density) / density.sum(), grid)
    direction = random.normal(size=(frames, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    pull = -spring * (length - rest)[:, None] * direction
    positions = np.stack([np.zeros((frames, 3)), length[:, None] * direction], axis=1)
    noise = random.normal(scale=20, size=(frames, 2, 3))  # other atoms' motion
    return positions, np.stack([-pull, pull], axis=1) + noise, np.array([[0, 1]])


def test_thermal_size_of_exactly_drawn_frames_is_one() -> None:
    sizes = [ForceSize.of(*harmonic(2_000, seed), 300) for seed in range(100)]
    z = np.array([(size.value - 1) / size.standard_error for size in sizes])
    assert abs(z.mean()) < 4 / np.sqrt(len(z))
    # 68 % of a hundred within one standard error, 95 % within two: 4 sigma of their counts.
    assert abs((np.abs(z) < 1).mean() - 0.683) < 4 * np.sqrt(0.683 * 0.317 / len(z))
    assert (np.abs(z) < 2).mean() > 0.954 - 4 * np.sqrt(0.954 * 0.046 / len(z))


def test_thermal_size_of_sampled_frames(embedded: CGFrames) -> None:
    assert embedded.forces is not None
    every = slice(None, None, 20)
    size = ForceSize.of(embedded.positions[every], embedded.forces[every], embedded.bonds, 300)
    assert abs(size.value - 1) < 4 * size.standard_error + 0.02
    assert size.standard_error < 0.02
    assert size.tells(1)
    assert not size.tells(1 / KJ)
    assert NEAR**2 < KJ, "one size could tell both units"


@pytest.mark.parametrize("factor", [1.0, KJ])
def test_bare_forces_of_either_unit(
    factor: float, tiny: CGFrames, cgfe: Callable[..., str]
) -> None:
    words = beads(tiny) if factor == 1 else ("run.xtc", "--topology", "top.pdb")
    if factor != 1:
        beads(tiny, factor)
    said = cgfe(*words)
    assert ("kJ/mol/nm" if factor == KJ else "kcal/mol/angstrom") in said
    assert tiny.forces is not None
    back = CGFrames.load("out.h5").forces
    assert back is not None
    np.testing.assert_allclose(back, tiny.forces[:300], atol=1e-3)


def test_documented_arrays_in_another_unit_are_told(
    tiny: CGFrames, cgfe: Callable[..., str]
) -> None:
    assert tiny.forces is not None
    names = np.array(tiny.residue_names)
    np.savez("a.npz", positions=tiny.positions[:300], forces=tiny.forces[:300] * KJ,
             residue_names=names)  # fmt: skip
    assert "forces are in kJ/mol/nm" in cgfe("a.npz")
    back = CGFrames.load("out.h5").forces
    assert back is not None
    np.testing.assert_allclose(back, tiny.forces[:300], atol=1e-3)


def test_forces_whose_size_tells_nothing(tiny: CGFrames, cgfe: Callable[..., str]) -> None:
    words = beads(tiny)
    np.save("run_forces.npy", np.random.default_rng(0).normal(size=(300, 10, 3)))
    assert "does not tell their unit" in (said := cgfe(*words))
    assert "give --force-unit" in said
    cgfe(*words, "--force-unit", "kJ/mol/nm")
    assert CGFrames.load("out.h5").forces is not None


def test_native_structure_threshold_and_weights(tiny: CGFrames, cgfe: Callable[..., str]) -> None:
    words = (*beads(tiny), "--forces", "none")
    weights = np.linspace(0, 4, 300)
    np.save("w.npy", weights)
    np.savetxt("w.txt", weights)
    cgfe(*words, "--native", "top.pdb", "--folded-rmsd", "1.25", "--weights", "w.npy")
    frames = CGFrames.load("out.h5")
    assert frames.folded_rmsd == 1.25
    assert frames.native_positions is not None
    assert rmsd(tiny.positions[:1], frames.native_positions) < 0.01
    assert frames.weights is not None
    np.testing.assert_allclose(frames.weights, weights / weights.mean())
    cgfe(*words, "--native", "123", "--weights", "w.txt", "--stride", "7")
    frames = CGFrames.load("out.h5")
    assert frames.folded_rmsd == FOLDED_RMSD
    assert frames.native_positions is not None
    assert rmsd(tiny.positions[123:124], frames.native_positions) < 0.02
    assert frames.weights is not None
    np.testing.assert_allclose(frames.weights, weights[::7] / weights[::7].mean())


def test_native_structures_and_weights_that_do_not_fit(
    tiny: CGFrames, first_beads: Callable[[int], CGFrames], cgfe: Callable[..., str]
) -> None:
    words = (*beads(tiny), "--forces", "none")
    other = first_beads(9)
    mdtraj.Trajectory(other.positions[:1] / 10, other.topology()).save("other.pdb")
    assert "but the frames are of TYR-TYR" in cgfe(*words, "--native", "other.pdb")
    assert "no such file" in cgfe(*words, "--native", "none.pdb")
    assert "has 300 frames, counted from 0" in cgfe(*words, "--native", "300")
    assert "--folded-rmsd nan" in cgfe(*words, "--native", "0", "--folded-rmsd", "nan")
    for values, sentence in (
        (np.ones(299), "fewer numbers than"),
        (np.ones(301), "301 numbers, but run.xtc has 300 frames"),
        (-np.ones(300), "not finite, negative"),
        (np.ones((300, 2)), "expected (frames,)"),
    ):
        np.save("w.npy", values)
        assert sentence in cgfe(*words, "--weights", "w.npy")
    Path("w.txt").write_text("1\nmany\n")
    assert "expected one number a line" in cgfe(*words, "--weights", "w.txt")
    assert not Path("out.h5").exists()


def test_the_threshold_moves_what_counts_as_folded(tiny: CGFrames) -> None:
    from dataclasses import replace

    from cgfe.data.splits import Split
    from cgfe.reference.config import ReferenceConfig
    from cgfe.reference.reference import Reference

    split = Split(tiny.trajectory_slices(), [], [])
    config = ReferenceConfig(tica_lag_ps=5, bins=12, starts=16)
    assert tiny.native_positions is not None
    distance = rmsd(tiny.positions, tiny.native_positions)
    threshold = float(np.quantile(distance, 0.3))
    weights = np.ones(len(tiny)) if tiny.weights is None else tiny.weights
    references = {}
    for length in (FOLDED_RMSD, threshold):
        reference = Reference.fit(replace(tiny, folded_rmsd=length), split, config)
        folded = reference.ensembles.train.totals().folded
        expected = weights[distance <= length].sum() / weights.sum()
        assert folded == pytest.approx(expected)
        back = Reference.from_arrays(reference.to_arrays())
        assert back.system.folded_rmsd == length
        references[length] = reference
    assert references[FOLDED_RMSD].fingerprint != references[threshold].fingerprint


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"positions": np.ones((5, 10, 3), complex)}, "positions: holds complex numbers"),
        ({"positions": np.full((5, 10, 3), "x")}, "positions: holds no numbers"),
        ({"forces": np.ones((5, 10, 3), complex)}, "forces: holds complex numbers"),
        ({"weights": np.full(5, "x")}, "weights: holds no numbers"),
        ({"masses": np.full(10, "x")}, "masses: holds no numbers"),
        ({"bonds": np.full((9, 2), "x")}, "bonds: holds no numbers"),
    ],
)
def test_arrays_of_no_numbers(
    change: dict[str, np.ndarray], sentence: str, tiny: CGFrames, cgfe: Callable[..., str]
) -> None:
    arrays = {"positions": tiny.positions[:5], "residue_names": np.array(tiny.residue_names)}
    np.savez("a.npz", **(arrays | change))  # type: ignore[arg-type]
    assert sentence in cgfe("a.npz")
    assert not Path("out.h5").exists()


def test_a_bare_array_and_hdf5_of_no_numbers(tiny: CGFrames, cgfe: Callable[..., str]) -> None:
    words = beads(tiny)
    np.save("run_forces.npy", np.full((300, 10, 3), "x"))
    assert "holds no numbers" in cgfe(*words)
    with h5py.File("a.h5", "w") as file:
        file.create_group("coordinates")
        file["topology"] = "{}"
    assert "out.h5" not in cgfe("a.h5", "--topology", "top.pdb")
    assert "coordinates is" in cgfe("a.h5", "--topology", "top.pdb")


@pytest.mark.parametrize("value", ["inf", "nan", "-1"])
def test_buffers_that_are_no_size(value: str, tiny: CGFrames, cgfe: Callable[..., str]) -> None:
    assert "--buffer-mb" in cgfe(*beads(tiny), "--buffer-mb", value)
