"""Superposition, RMSD and spread choices with known answers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from cgfe.geometry import k_centres, rmsd, superpose


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), beads=st.integers(4, 12))
def test_rmsd_undoes_rotation_and_translation_only(seed: int, beads: int) -> None:
    random = np.random.default_rng(seed)
    reference = random.normal(0, 4, (beads, 3))
    rotations = Rotation.random(5, random_state=seed).as_matrix()
    moved = np.einsum("nd,fed->fne", reference, rotations) + random.normal(0, 9, (5, 1, 3))
    np.testing.assert_allclose(rmsd(moved, reference), 0, atol=1e-6)
    np.testing.assert_allclose(
        superpose(moved, reference), np.stack([reference - reference.mean(0)] * 5), atol=1e-8
    )
    other = random.normal(0, 4, (1, beads, 3))
    by_scipy = Rotation.align_vectors(reference - reference.mean(0), (other - other.mean(1))[0])[1]
    assert rmsd(other, reference)[0] == pytest.approx(by_scipy / np.sqrt(beads))


def test_rmsd_of_a_mirror_image_is_not_zero() -> None:
    reference = np.array([[0.0, 0, 0], [3.8, 0, 0], [0, 3.8, 0], [0, 0, 3.8]])
    assert rmsd(reference[None] * [1, 1, -1], reference)[0] > 1


def test_rmsd_keeps_precision_in_single_precision() -> None:
    reference = np.random.default_rng(0).normal(0, 4, (10, 3)).astype(np.float32)
    assert rmsd(reference[None] + np.float32(100), reference)[0] < 1e-4


def test_k_centres_take_the_farthest_point_each_time() -> None:
    crowd = np.random.default_rng(0).normal(0, 0.1, (500, 2))
    points = np.concatenate([crowd, [[10.0, 0.0], [0.0, 20.0]]])
    chosen = k_centres(points, 3, seed=1)
    assert chosen[0] < 500
    np.testing.assert_array_equal(chosen[1:], [501, 500])
    np.testing.assert_array_equal(k_centres(points, 40, seed=1)[:3], chosen)
    assert sorted(k_centres(points[-5:], 9, seed=0)) == [0, 1, 2, 3, 4]
