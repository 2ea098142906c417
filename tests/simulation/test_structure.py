"""Distributions and contacts are those of the frames that were given."""

import numpy as np
import pytest

from cgfe.analysis.metrics import js_divergence
from cgfe.data.frames import CGFrames
from cgfe.geometry import rmsd
from cgfe.reference.system import BeadSystem
from cgfe.simulation.structure import (
    BINS,
    CONTACT,
    ERRORS,
    QUANTITIES,
    compare_structure,
    structure_errors,
)


def means(arrays: dict[str, np.ndarray], name: str) -> dict[str, float]:
    """Return the mean of each quantity by its density, which must be normalised."""
    edges = arrays["structure_edges"]
    middles, widths = (edges[:, 1:] + edges[:, :-1]) / 2, np.diff(edges, axis=1)
    density = arrays[f"structure_{name}"]
    inside = (density * widths).sum(axis=1)
    np.testing.assert_allclose(inside, 1, atol=1e-9 if name == "reference" else 0.2)
    return dict(zip(QUANTITIES, (density * middles * widths).sum(axis=1) / inside, strict=True))


def test_densities_have_the_weighted_means_of_the_frames(tiny: CGFrames) -> None:
    system = BeadSystem.of(tiny)
    random = np.random.default_rng(0)
    weights = random.exponential(size=len(tiny))
    model = tiny.positions[:500] * np.float32(1.01)
    arrays = compare_structure(system, tiny.positions, weights, model)
    sampled, own = means(arrays, "reference"), means(arrays, "model")
    widths = dict(zip(QUANTITIES, np.ptp(arrays["structure_edges"], axis=1) / BINS, strict=True))
    lengths = np.linalg.norm(np.diff(tiny.positions, axis=1), axis=2)
    centred = tiny.positions - tiny.positions.mean(axis=1, keepdims=True)
    size = np.sqrt((centred**2).sum(axis=2).mean(axis=1))
    assert tiny.native_positions is not None
    far = rmsd(tiny.positions, tiny.native_positions)
    for name, values in (("bonds", lengths.mean(axis=1)), ("gyration", size), ("rmsd", far)):
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
    arrays = compare_structure(system, tiny.positions, weights, tiny.positions[:20])
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
    arrays = compare_structure(system, frames, np.ones(50), frames[:5])
    known = np.isfinite(arrays["structure_edges"]).all(axis=1)
    assert dict(zip(QUANTITIES, known, strict=True)) == {
        "bonds": True, "angles": False, "dihedrals": False, "gyration": True, "rmsd": False,
        "end_to_end": True,
    }  # fmt: skip
    assert np.isnan(arrays["contacts_model"]).all()
    errors = structure_errors(arrays)
    assert {*errors} == {*ERRORS}
    assert {k for k, v in errors.items() if np.isfinite(v)} == {
        "js_bonds", "js_gyration", "js_end_to_end"
    }  # fmt: skip
    assert compare_structure(system, frames, np.ones(50), frames[:0]) == {}
    assert np.isnan([*structure_errors({}).values()]).all()


def test_errors_are_those_of_the_distributions(tiny: CGFrames) -> None:
    system = BeadSystem.of(tiny)
    frames, ones = tiny.positions, np.ones(len(tiny))
    same = structure_errors(compare_structure(system, frames, ones, frames))
    assert same == dict.fromkeys(ERRORS, 0.0)
    half = frames[: len(frames) // 2]
    twice = np.where(np.arange(len(frames)) < len(half), 2.0, 0.0)
    weighted = structure_errors(compare_structure(system, half, ones[: len(half)], frames, twice))
    assert weighted == pytest.approx(same, abs=1e-12)
    found = compare_structure(system, frames, ones, half)
    errors = structure_errors(found)
    ends = [np.linalg.norm(x[:, -1] - x[:, 0], axis=1) for x in (frames, half)]
    edges = found["structure_edges"][QUANTITIES.index("end_to_end")]
    counts = [np.histogram(x, edges)[0] for x in ends]
    shares = [
        np.append(c / len(x), 1 - c.sum() / len(x)) for c, x in zip(counts, ends, strict=True)
    ]
    assert errors["js_end_to_end"] == pytest.approx(js_divergence(*shares), rel=1e-9)
    apart = abs(found["contacts_model"] - found["contacts_reference"])
    assert errors["contact_error"] == pytest.approx(np.nanmean(apart))
    assert min(errors.values()) > 0
    far = half.copy()
    far[0] *= 5  # one frame that is far off changes nothing but its own share
    torn = structure_errors(compare_structure(system, frames, ones, far))
    assert torn == pytest.approx(errors, abs=5 / len(half))
    assert structure_errors(compare_structure(system, frames, ones, frames + 100)) == pytest.approx(
        same, abs=1e-3
    )
