"""Distributions and contacts are those of the frames that were given."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from cgfe.analysis.free_energy import TICGrid
from cgfe.analysis.metrics import js_divergence
from cgfe.analysis.tica import TICAProjection
from cgfe.array_types import FloatArray, RealArray
from cgfe.data.frames import CGFrames
from cgfe.geometry import rmsd
from cgfe.reference.projection import Projection
from cgfe.reference.system import BeadSystem
from cgfe.simulation.structure import (
    BINS,
    CONTACT,
    CONTACTS,
    ERRORS,
    QUANTITIES,
    RESAMPLES,
    SampledStructures,
    StructureComparison,
    StructureFrames,
)


def projection_of(beads: int, third: bool = True) -> Projection:
    """Return a projection whose third TIC is the distance of the first two beads from 3.8 Å."""
    pairs = np.stack(np.triu_indices(beads, 1), axis=1)
    components = np.zeros((len(pairs), 1))
    components[0] = 1
    tica = TICAProjection(pairs, np.full(len(pairs), 3.8), components, np.ones(1), 1.0, "none")
    return Projection(tica, TICGrid.from_samples(np.eye(2)), tica if third else None)


def some(
    positions: RealArray, weights: FloatArray | None = None, trajectories: int = 2
) -> StructureFrames:
    """Return frames in trajectories of one length."""
    number = np.arange(len(positions)) * trajectories // len(positions)
    mass = np.ones(len(positions)) if weights is None else weights
    return StructureFrames(positions, mass, number, np.zeros(trajectories, dtype=np.int64))


def compared(
    system: BeadSystem, sampled: StructureFrames, model: StructureFrames, third: bool = True
) -> StructureComparison:
    projection = projection_of(sampled.positions.shape[1], third)
    return SampledStructures(system, sampled, projection).compare(model)


def means(arrays: dict[str, np.ndarray], name: str) -> dict[str, float]:
    """Return the mean of each quantity by its density, which must be normalised."""
    edges = arrays["structure_edges"]
    middles, widths = (edges[:, 1:] + edges[:, :-1]) / 2, np.diff(edges, axis=1)
    density = arrays[f"structure_{name}"]
    inside = (density * widths).sum(axis=1)
    np.testing.assert_allclose(inside, 1, atol=1e-9 if name == "reference" else 0.2)
    return dict(zip(QUANTITIES, (density * middles * widths).sum(axis=1) / inside, strict=True))


def test_samples_of_the_reference_are_common_to_all_models(tiny: CGFrames) -> None:
    system, known = BeadSystem.of(tiny), some(tiny.positions, trajectories=10)
    sampled = SampledStructures(system, known, projection_of(tiny.bead_count))
    one = some(np.tile(tiny.positions[:50] * np.float32(1.01), (4, 1, 1)), trajectories=4)
    other = some(np.tile(tiny.positions[:50] * np.float32(1.02), (4, 1, 1)), trajectories=4)
    found = [sampled.compare(frames, seed) for seed, frames in ((1, one), (2, one), (3, other))]
    assert set(found[0].resampled) == set(found[0].intervals) == set(ERRORS)
    for key, samples in found[0].resampled.items():
        assert len(samples) == RESAMPLES
        # Replicas that are all alike add nothing of their own.
        np.testing.assert_array_equal(samples, found[1].resampled[key])
        low, high = found[0].intervals[key]
        spread = 2 * 2.26 * samples.std(ddof=1) * (10 / 9) ** 0.5  # t of nine degrees of freedom
        assert spread == pytest.approx(high - low, rel=0.05) or low == 0
    both = [c.resampled["contact_error"] for c in found[1:]]
    assert np.corrcoef(both)[0, 1] > 0.5


def test_densities_have_the_weighted_means_of_the_frames(tiny: CGFrames) -> None:
    system = BeadSystem.of(tiny)
    random = np.random.default_rng(0)
    weights = random.exponential(size=len(tiny))
    model = tiny.positions[:500] * np.float32(1.01)
    arrays = compared(system, some(tiny.positions, weights), some(model)).arrays
    sampled, own = means(arrays, "reference"), means(arrays, "model")
    widths = dict(zip(QUANTITIES, np.ptp(arrays["structure_edges"], axis=1) / BINS, strict=True))
    lengths = np.linalg.norm(np.diff(tiny.positions, axis=1), axis=2)
    centred = tiny.positions - tiny.positions.mean(axis=1, keepdims=True)
    size = np.sqrt((centred**2).sum(axis=2).mean(axis=1))
    assert tiny.native_positions is not None
    far = rmsd(tiny.positions, tiny.native_positions)
    slow = lengths[:, 0] - 3.8
    known = {"bonds": lengths.mean(axis=1), "gyration": size, "rmsd": far, "tic3": slow}
    for name, values in known.items():
        expected = np.average(values, weights=weights)
        assert sampled[name] == pytest.approx(expected, abs=widths[name]), name
    assert own["bonds"] == pytest.approx(1.01 * lengths[:500].mean(), abs=widths["bonds"])
    first, second = -np.diff(tiny.positions, axis=1)[:, :-1], np.diff(tiny.positions, axis=1)[:, 1:]
    cosines = (first * second).sum(axis=2) / lengths[:, :-1] / lengths[:, 1:]
    angles = np.degrees(np.arccos(cosines)).mean(axis=1)
    assert sampled["angles"] == pytest.approx(
        np.average(angles, weights=weights), abs=widths["angles"]
    )
    assert own["angles"] == pytest.approx(angles[:500].mean(), abs=widths["angles"])


def test_contacts_are_counted_by_weight(tiny: CGFrames) -> None:
    system = BeadSystem.of(tiny)
    weights = np.where(np.arange(len(tiny)) < 10, 3.0, 0.0)
    sampled, model = some(tiny.positions, weights), some(tiny.positions[:20])
    arrays = compared(system, sampled, model).arrays
    for name, frames in (("reference", tiny.positions[:10]), ("model", tiny.positions[:20])):
        near = np.linalg.norm(frames[:, :, None] - frames[:, None], axis=3) <= CONTACT
        expected = near.mean(axis=0)
        places = np.abs(np.subtract.outer(np.arange(10), np.arange(10)))
        found = arrays[f"contacts_{name}"]
        np.testing.assert_allclose(found[places > 2], expected[places > 2])
        assert np.isnan(found[places <= 2]).all()


def test_what_a_system_lacks_is_left_out(tiny: CGFrames, first_beads) -> None:
    system = BeadSystem.of(first_beads(2))
    frames = tiny.positions[:50, :2]
    found = compared(system, some(frames), some(frames[:5]), third=False)
    arrays = found.arrays
    known = np.isfinite(arrays["structure_edges"]).all(axis=1)
    assert dict(zip(QUANTITIES, known, strict=True)) == {
        "bonds": True, "angles": False, "dihedrals": False, "gyration": True, "rmsd": False,
        "end_to_end": True, "tic3": False,
    }  # fmt: skip
    assert np.isnan(arrays["contacts_model"]).all()
    assert {*found.metrics} == {*ERRORS}
    told = {"js_bonds", "js_gyration", "js_end_to_end"}
    assert {k for k, v in found.metrics.items() if np.isfinite(v)} == told
    assert {*found.intervals} == {*found.floor} == {*found.floor_high} == told
    assert StructureFrames.of_replicas(frames[:0], 0) is None


def test_frames_without_weight_tell_nothing(tiny: CGFrames) -> None:
    system, frames = BeadSystem.of(tiny), tiny.positions[:100]
    nothing = compared(system, some(frames, np.zeros(100)), some(frames))
    assert {*nothing.metrics} == {*ERRORS}
    assert np.isnan([*nothing.metrics.values()]).all()
    assert nothing.arrays == {}
    # Of trajectories, half of which have no weight, samples of these alone are left out.
    half = some(frames, np.repeat([1.0, 0.0], 50), 4)
    found = compared(system, half, some(frames))
    assert np.isfinite([*found.metrics.values(), *found.floor.values()]).all()
    drawn = half.draws(np.random.default_rng(0))
    assert 100 < len(drawn) < 200
    assert (drawn[:, :2].sum(axis=1) > 0).all()


def test_trajectories_are_drawn_among_their_kind(tiny: CGFrames) -> None:
    frames = some(tiny.positions[:120], None, 6)
    kinds = replace(frames, kind=np.array([0, 0, 1, 1, 1, 1]))
    assert (kinds.draws(np.random.default_rng(0))[:, :2].sum(axis=1) == 2).all()


def test_errors_are_those_of_the_distributions(tiny: CGFrames) -> None:
    system = BeadSystem.of(tiny)
    frames = tiny.positions
    whole = SampledStructures(system, some(frames), projection_of(10))
    same = whole.compare(some(frames)).metrics
    assert same == pytest.approx(dict.fromkeys(ERRORS, 0.0), abs=1e-12)
    half = frames[: len(frames) // 2]
    twice = np.where(np.arange(len(frames)) < len(half), 2.0, 0.0)
    weighted = compared(system, some(half), some(frames, twice)).metrics
    assert weighted == pytest.approx(same, abs=1e-12)
    found = whole.compare(some(half))
    errors = found.metrics
    assert whole.errors(some(half)) == pytest.approx(errors)
    ends = [np.linalg.norm(x[:, -1] - x[:, 0], axis=1) for x in (frames, half)]
    edges = found.arrays["structure_edges"][QUANTITIES.index("end_to_end")]
    counts = [np.histogram(x, edges)[0] for x in ends]
    shares = [
        np.append(c / len(x), 1 - c.sum() / len(x)) for c, x in zip(counts, ends, strict=True)
    ]
    assert errors["js_end_to_end"] == pytest.approx(js_divergence(*shares), rel=1e-9)
    apart = abs(found.arrays["contacts_model"] - found.arrays["contacts_reference"])
    assert errors[CONTACTS] == pytest.approx(np.nanmean(apart))
    assert min(errors.values()) > 0
    far = half.copy()
    far[0] *= 5  # one frame that is far off changes nothing but its own share
    assert whole.errors(some(far)) == pytest.approx(errors, abs=5 / len(half))
    assert whole.errors(some(frames + 100)) == pytest.approx(same, abs=1e-3)


def test_of_a_long_simulation_all_replicas_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cgfe.simulation.structure.MOST_FRAMES", 100)
    positions = np.broadcast_to(np.arange(400.0)[:, None, None], (400, 2, 3)).astype(np.float32)
    frames = StructureFrames.of_replicas(positions, 4)
    assert frames is not None
    assert (frames.positions[:, 0, 0] % 4 == frames.trajectory).all()
    assert np.bincount(frames.trajectory).tolist() == [25] * 4


EXPERIMENTS = 60


def test_intervals_hold_the_expectation_and_floors_what_a_perfect_model_scores() -> None:
    """Two beads whose distance has two states, in shares that each trajectory has for itself."""
    random = np.random.default_rng(0)

    def made(trajectories: int, share: float) -> StructureFrames:
        own = random.beta(8 * share, 8 * (1 - share), (trajectories, 1))
        length = np.where(random.random((trajectories, 60)) < own, 4.0, 6.0)
        positions = np.zeros((trajectories * 60, 5, 3), np.float32)
        positions[:, :, 0] = 4 * np.arange(5)
        positions[:, 4, 0] += (length + random.normal(0, 0.5, length.shape)).ravel()
        return some(positions, None, trajectories)

    bonds = np.stack([np.arange(4), np.arange(1, 5)], axis=1)
    system = BeadSystem(("GLY",) * 5, np.ones(5, np.int64), np.ones(5), bonds, 300.0, None)
    for share in (0.4, 0.6):
        found = [
            SampledStructures(system, made(16, 0.4), projection_of(5)).compare(made(24, share), k)
            for k in range(EXPERIMENTS)
        ]
        for key in ("js_end_to_end", CONTACTS):
            scores = np.array([x.metrics[key] for x in found])
            if share == 0.4:
                quadratic = key != CONTACTS
                scored = scores.mean() if quadratic else np.mean(scores**2) ** 0.5
                told = np.mean([x.floor[key] for x in found])
                assert told == pytest.approx(scored, rel=0.25), key
                above = sum(x.metrics[key] > x.floor_high[key] for x in found)
                assert above <= binom.ppf(0.9987, EXPERIMENTS, 0.08)
                continue
            error = scores.std() / EXPERIMENTS**0.5
            held = [
                x.intervals[key][0] - 2 * error <= scores.mean() <= x.intervals[key][1] + 2 * error
                for x in found
            ]
            assert np.mean(held) >= 0.95 - 3 * (0.95 * 0.05 / EXPERIMENTS) ** 0.5, key
