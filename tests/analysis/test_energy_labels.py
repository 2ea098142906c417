"""Energy labels against densities known in closed form."""

import numpy as np
import pytest
from scipy.stats import gaussian_kde, multivariate_normal, norm

from cgfe.analysis.energy_labels import FLOOR_REACH, EnergyLabels
from cgfe.analysis.free_energy import effective_sample_size
from cgfe.errors import InputError
from cgfe.units import thermal_energy

TEMPERATURE = 300.0
KT = thermal_energy(TEMPERATURE)
FRAMES = 40_000


def kernel_error(density: np.ndarray, bandwidths: float, dimensions: int) -> np.ndarray:
    """Standard error of ln p of a kernel density: Var p = p / (F (2 √π)^d h^d), h^d the
    product of bandwidths (Wand and Jones 1995, section 2.5)."""
    variance = 1 / (FRAMES * (2 * np.sqrt(np.pi)) ** dimensions * bandwidths * density)
    return np.sqrt(variance)


@pytest.mark.parametrize("estimator", ["marginal", "joint"])
def test_labels_equal_a_direct_kernel_sum(estimator: str) -> None:
    # The table moves each frame by at most half a cell, 1/12 bandwidth along each axis. Under
    # many frames that averages out; in the tail ln p of one kernel, 1 to 2 bandwidths away,
    # moves by up to 0.1 or 0.2.
    random = np.random.default_rng(0)
    tics = random.normal(size=(2000, 2)) @ np.array([[1.0, 0.7], [0.0, 0.5]]) + [3, -7]
    # Weights that narrow the distribution, so that its weighted covariance matters.
    weights = np.exp(-((tics[:, 0] - 3) ** 2)) * (tics[:, 0] > 2.5)
    labels = EnergyLabels.fit(tics, weights, TEMPERATURE, estimator)  # type: ignore[arg-type]
    kept = weights > 0
    groups = [[0, 1]] if estimator == "joint" else [[0], [1]]
    known = -KT * sum(
        gaussian_kde(tics[kept][:, group].T, weights=weights[kept]).logpdf(tics[:, group].T)
        for group in groups
    )
    crowded = kept & (known < np.quantile(known[kept], 0.7))
    found = labels.energies(tics)
    np.testing.assert_allclose(found[crowded], known[crowded], atol=0.04 * KT)
    np.testing.assert_allclose(found[kept], known[kept], atol=0.2 * KT)


@pytest.mark.parametrize("estimator", ["marginal", "joint"])
def test_gaussian_gives_its_quadratic_form(estimator: str) -> None:
    # A Gaussian kernel turns a Gaussian of variance σ² into one of σ² (1 + h²).
    random = np.random.default_rng(1)
    scales, dimensions = np.array([1.0, 0.2]), 2 if estimator == "joint" else 1
    tics = random.normal(size=(FRAMES, 2)) * scales
    labels = EnergyLabels.fit(tics, None, TEMPERATURE, estimator)  # type: ignore[arg-type]
    bandwidth = FRAMES ** (-1 / (dimensions + 4))
    points = random.uniform(-1.8, 1.8, (50, 2))
    known = -norm.logpdf(points, scale=np.sqrt(1 + bandwidth**2)) + np.log(scales)
    if estimator == "joint":
        error = kernel_error(norm.pdf(points).prod(axis=1), bandwidth**2, 2)
    else:
        error = np.linalg.norm(kernel_error(norm.pdf(points), bandwidth, 1), axis=1)
    found = labels.energies(points * scales) / KT
    # Four standard errors at each point, and the moments' own error (1 / √F) in the shape.
    assert (np.abs(found - known.sum(axis=1)) < 4 * error + 0.02).all()


def test_joint_sees_the_correlation_that_marginal_misses() -> None:
    random = np.random.default_rng(2)
    covariance = np.array([[1.0, 0.8], [0.8, 1.0]])
    tics = random.multivariate_normal([0, 0], covariance, FRAMES)
    along, across = np.array([[1.5, 1.5]]), np.array([[1.0, -1.0]])
    joint = EnergyLabels.fit(tics, None, TEMPERATURE, "joint")
    marginal = EnergyLabels.fit(tics, None, TEMPERATURE, "marginal")
    density = multivariate_normal([0, 0], covariance)
    bandwidths = FRAMES ** (-1 / 3) * np.sqrt(np.linalg.det(covariance))
    smooth = multivariate_normal([0, 0], covariance * (1 + FRAMES ** (-1 / 3)))
    for point in (along, across):
        error = kernel_error(density.pdf(point[0]), bandwidths, 2)
        assert joint.energies(point)[0] / KT == pytest.approx(
            -smooth.logpdf(point[0]), abs=4 * error + 0.02
        )
    # -ln p differs by 3.75 kT between the two points in one sense, by 1.25 kT in the other.
    difference = (across @ np.linalg.inv(covariance) @ across.T).item() / 2
    difference -= (along @ np.linalg.inv(covariance) @ along.T).item() / 2
    assert (marginal.energies(across) - marginal.energies(along))[0] / KT < -1
    assert difference == pytest.approx(3.75)
    assert (joint.energies(across) - joint.energies(along))[0] / KT > 3


def test_double_well() -> None:
    random = np.random.default_rng(3)
    left = random.random(FRAMES) < 0.8
    wells = np.where(left, -1.0, 1.5) + random.normal(0, 0.25, FRAMES)
    labels = EnergyLabels.fit(wells[:, None], None, TEMPERATURE, "marginal")
    bandwidth = FRAMES**-0.2 * wells.std(ddof=1)
    points = np.linspace(-1.6, 2.1, 40)

    def density(width: float) -> np.ndarray:
        return 0.8 * norm.pdf(points, -1, width) + 0.2 * norm.pdf(points, 1.5, width)

    smooth = density(np.hypot(0.25, bandwidth))
    error = kernel_error(smooth, bandwidth, 1)
    difference = labels.energies(points[:, None]) / KT + np.log(smooth)
    sampled = error < 0.2
    assert sampled.sum() > 30
    # The share in each well is binomial: ln(0.2) is known to 0.01.
    assert (np.abs(difference) < 4 * error + 0.04)[sampled].all()
    barrier, deep = labels.energies(np.array([[0.25], [-1.0]])) / KT
    assert barrier > deep + 4


@pytest.mark.parametrize("estimator", ["marginal", "joint"])
def test_labels_are_bounded_everywhere(estimator: str) -> None:
    random = np.random.default_rng(4)
    tics = np.concatenate([random.normal(size=(1000, 2)), [[40.0, -3.0]]])
    labels = EnergyLabels.fit(tics, None, TEMPERATURE, estimator)  # type: ignore[arg-type]
    far = np.array([[1e6, 0], [-1e6, 1e6], [20.0, 60.0], [np.float64(1e300), 0]])
    bound = labels.energies(far[1:2])[0]
    dimensions = 2 if estimator == "joint" else 1
    width = len(tics) ** (-1 / (dimensions + 4))
    determinant = np.linalg.det(np.cov(tics.T)) if dimensions == 2 else tics.var(0, ddof=1).prod()
    floor = 2 * np.log(np.sqrt(2 * np.pi) * width) + np.log(determinant) / 2
    floor += (2 / dimensions) * (FLOOR_REACH**2 / 2 + np.log(len(tics)))
    assert bound / KT == pytest.approx(floor, rel=1e-6)
    everywhere = np.concatenate([labels.energies(far), labels.energies(tics)])
    assert np.isfinite(everywhere).all()
    assert (everywhere <= bound + 1e-9).all()
    # The lone frame stands above the floor, by its own kernel's peak.
    assert labels.energies(tics[-1:])[0] < bound - 0.9 * FLOOR_REACH**2 / 2 * KT


@pytest.mark.parametrize("estimator", ["marginal", "joint"])
def test_weights_turn_one_ensemble_into_another(estimator: str) -> None:
    # Frames of N(0, 1), weighted by exp(s1 - 1/2), are frames of N(1, 1) along TIC 1.
    random = np.random.default_rng(5)
    tics = random.normal(size=(FRAMES, 2))
    weights = np.exp(tics[:, 0])
    labels = EnergyLabels.fit(tics, weights, TEMPERATURE, estimator)  # type: ignore[arg-type]
    energies = labels.energies(np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])) / KT
    # Standard error of ln p is below 0.05 for 15,000 effective frames at these densities.
    np.testing.assert_allclose(energies - energies[1], [0.5, 0, 0.5], atol=0.2)
    # Counting a frame twice is giving it weight 2.
    doubled = np.concatenate([tics[:500], tics[:100]])
    twice = np.where(np.arange(500) < 100, 2.0, 1.0)
    first = EnergyLabels.fit(tics[:500], twice, TEMPERATURE, estimator)  # type: ignore[arg-type]
    shares = twice / 600
    np.testing.assert_allclose(first.tables[0].mean, doubled.mean(0)[: len(first.tables[0].mean)])
    assert effective_sample_size(shares) == pytest.approx(600**2 / 800)


@pytest.mark.parametrize("estimator", ["marginal", "joint"])
def test_arrays_round_trip(estimator: str) -> None:
    tics = np.random.default_rng(6).normal(size=(300, 2))
    labels = EnergyLabels.fit(tics, None, TEMPERATURE, estimator)  # type: ignore[arg-type]
    arrays = labels.to_arrays()
    assert all(array.dtype.kind in "bif" for array in arrays.values())
    again = EnergyLabels.from_arrays(arrays)
    assert (again.estimator, again.temperature) == (estimator, TEMPERATURE)
    np.testing.assert_array_equal(again.energies(tics), labels.energies(tics))


def test_marginal_sums_any_number_of_tics() -> None:
    tics = np.random.default_rng(7).normal(size=(300, 3))
    three = EnergyLabels.fit(tics, None, TEMPERATURE, "marginal")
    each = [EnergyLabels.fit(tics[:, [c]], None, TEMPERATURE, "marginal") for c in range(3)]
    together = sum(labels.energies(tics[:, [c]]) for c, labels in enumerate(each))
    np.testing.assert_allclose(three.energies(tics), together)


def test_errors_say_what_is_wrong() -> None:
    tics = np.random.default_rng(8).normal(size=(50, 3))
    with pytest.raises(InputError, match="estimator is 'knn'"):
        EnergyLabels.fit(tics, None, TEMPERATURE, "knn")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one or two TICs, found 3"):
        EnergyLabels.fit(tics, None, TEMPERATURE, "joint")
    tics[:, 1] = 0.25
    with pytest.raises(InputError, match=r"TICs \[2\]"):
        EnergyLabels.fit(tics, None, TEMPERATURE, "marginal")
