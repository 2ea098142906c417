"""Energy labels of frames by Boltzmann inversion of the density of their TICs.

E = -kT ln p(s), with p a weighted kernel density of the frames.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from cgfe.analysis.free_energy import effective_sample_size
from cgfe.array_types import RealArray
from cgfe.errors import InputError
from cgfe.units import thermal_energy

Estimator = Literal["marginal", "joint"]

KERNEL_REACH = 6
"""Bandwidths after which a kernel is cut off, and by which a table reaches beyond the data."""

FLOOR_REACH = 4
"""The density never falls below what one frame of average weight adds at so many bandwidths."""

CELLS_PER_BANDWIDTH = 6
MAX_CELLS = 2**22
"""Of one table. Far outliers would ask for more; the cells then grow beyond bandwidth / 6."""


@dataclass(frozen=True)
class DensityTable:
    """A weighted Gaussian kernel density of one or two TICs, tabulated.

    The kernel's covariance is that of the data times n^(-2/(d+4)), n the effective sample size
    and d the number of TICs (Scott 1992), as in scipy's `gaussian_kde`. It is tabulated in
    whitened coordinates z, where kernel and cells are isotropic, and ln p is interpolated
    linearly. p is floored at a single average frame's kernel `FLOOR_REACH` bandwidths away, so
    ln p is finite everywhere; no unweighted frame of the fit is touched by the floor.

    Attributes
    ----------
    columns : array (d,)
        The TICs.
    mean : array (d,)
    whitening : array (d, d)
        z = whitening (s - mean).
    origin : array (d,)
        z of the first cell's centre.
    step : array ()
        Cell width.
    log_density : array (n,) or (n1, n2)
        ln p(s).
    """

    columns: NDArray[np.int64]
    mean: NDArray[np.float64]
    whitening: NDArray[np.float64]
    origin: NDArray[np.float64]
    step: NDArray[np.float64]
    log_density: NDArray[np.float64]

    @classmethod
    def fit(cls, tics: RealArray, weights: RealArray, columns: list[int]) -> "DensityTable":
        """Fit the density of `columns` of tics (F, D) with weights (F,).

        Raises
        ------
        InputError
            If one of these TICs is constant or two are proportional.
        """
        kept = weights > 0
        points = np.asarray(tics[kept][:, columns], dtype=np.float64)
        shares = weights[kept] / weights[kept].sum()
        mean = shares @ points
        samples = effective_sample_size(shares)
        covariance = np.cov(points, rowvar=False, aweights=shares).reshape(len(columns), -1)
        try:
            whitening = np.linalg.inv(np.linalg.cholesky(covariance))
        except np.linalg.LinAlgError:
            raise InputError(
                f"energy labels need TICs that vary independently, found the covariance "
                f"{covariance.tolist()} of TICs {[column + 1 for column in columns]}."
            ) from None
        whitened = (points - mean) @ whitening.T
        origin, step, density = _kernel_density(whitened, shares, samples)
        jacobian = np.linalg.slogdet(whitening).logabsdet
        return cls(np.array(columns), mean, whitening, origin, step, np.log(density) + jacobian)

    def evaluate(self, tics: RealArray) -> NDArray[np.float64]:
        """Return ln p (F,) of tics (F, D); far outside the table it is the floor."""
        whitened = (tics[:, self.columns] - self.mean) @ self.whitening.T
        cells = (whitened - self.origin) / self.step
        return map_coordinates(self.log_density, cells.T, order=1, mode="nearest")


def _kernel_density(
    points: NDArray[np.float64], shares: NDArray[np.float64], samples: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return origin, cell width and floored density of whitened points (F, d).

    KDEpy's FFTKDE needs as many lines and more memory (231 against 131 MB at `MAX_CELLS`, 1.8
    against 0.4 s), and cuts its kernel off where that falls below 1e-4, 4 to 5 bandwidths out,
    where ln p is then off by up to 0.3. At frames its ln p is right to 0.0009 instead of 0.0014
    (root mean square, 200,000 frames, two TICs); the statistical error is far larger.
    """
    dimensions = points.shape[1]
    bandwidth = samples ** (-1 / (dimensions + 4))
    origin = points.min(axis=0) - KERNEL_REACH * bandwidth
    extent = points.max(axis=0) + KERNEL_REACH * bandwidth - origin
    step = max(bandwidth / CELLS_PER_BANDWIDTH, (extent.prod() / MAX_CELLS) ** (1 / dimensions))
    shape = tuple(np.ceil(extent / step).astype(int) + 1)
    cells = np.rint((points - origin) / step).astype(int)
    counts = np.bincount(
        np.ravel_multi_index(tuple(cells.T), shape), shares, minlength=int(np.prod(shape))
    )
    density = gaussian_filter(
        counts.reshape(shape), bandwidth / step, truncate=KERNEL_REACH, mode="constant"
    )
    peak = (np.sqrt(2 * np.pi) * bandwidth) ** -dimensions
    floor = peak * np.exp(-(FLOOR_REACH**2) / 2) / samples
    return origin, np.array(step), np.maximum(density / step**dimensions, floor)


@dataclass(frozen=True)
class EnergyLabels:
    """Per-frame reference energies by Boltzmann inversion of the TIC density.

    `marginal` is E = -kT Σ_c ln p_c(s_c), the product of one-dimensional densities of
    arXiv 2509.14600; `joint` is E = -kT ln p(s), which is right when TICs depend on each other.

    Attributes
    ----------
    tables : tuple of DensityTable
        One per TIC (`marginal`) or one in all (`joint`).
    temperature : float
        K.
    estimator : str
    """

    tables: tuple[DensityTable, ...]
    temperature: float
    estimator: Estimator

    @classmethod
    def fit(
        cls,
        tics: RealArray,
        weights: RealArray | None,
        temperature: float,
        estimator: Estimator,
    ) -> "EnergyLabels":
        """Fit the density of tics (F, D) with weights (F,).

        Raises
        ------
        InputError
            If the estimator is unknown, `joint` gets more than two TICs, or a TIC is constant.
        """
        if estimator not in get_args(Estimator):
            raise InputError(f"estimator is {estimator!r}, expected one of {get_args(Estimator)}.")
        if estimator == "joint" and tics.shape[1] > 2:
            raise InputError(f"estimator joint takes one or two TICs, found {tics.shape[1]}.")
        mass = np.ones(len(tics)) if weights is None else np.asarray(weights, dtype=np.float64)
        every = list(range(tics.shape[1]))
        groups = [every] if estimator == "joint" else [[column] for column in every]
        tables = tuple(DensityTable.fit(tics, mass, columns) for columns in groups)
        return cls(tables, temperature, estimator)

    def energies(self, tics: RealArray) -> NDArray[np.float64]:
        """Return E (F,) in kcal/mol of tics (F, D); finite everywhere."""
        log_density = sum(table.evaluate(tics) for table in self.tables)
        return -thermal_energy(self.temperature) * np.asarray(log_density)

    def to_arrays(self) -> dict[str, NDArray]:
        """Return everything as numeric arrays, for npz files and checkpoints."""
        arrays: dict[str, NDArray] = {
            "temperature": np.array(self.temperature),
            "joint": np.array(self.estimator == "joint"),
        }
        for number, table in enumerate(self.tables):
            for name, value in vars(table).items():
                arrays[f"table{number}.{name}"] = np.asarray(value)
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> "EnergyLabels":
        """Return the labels that `to_arrays` described."""
        names = list(DensityTable.__dataclass_fields__)
        tables: list[DensityTable] = []
        while f"table{len(tables)}.step" in arrays:
            values = (np.asarray(arrays[f"table{len(tables)}.{name}"]) for name in names)
            tables.append(DensityTable(*values))
        estimator: Estimator = "joint" if arrays["joint"] else "marginal"
        return cls(tuple(tables), float(arrays["temperature"]), estimator)
