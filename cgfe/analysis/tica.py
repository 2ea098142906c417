"""TICA: the slow coordinates on which free energies are compared.

Features are all bead-bead distances. Time-lagged independent component analysis (Pérez-Hernández
et al. 2013, doi 10.1063/1.4811489) finds their linear combinations of greatest autocorrelation,
C(τ) v = λ C(0) v, here with both covariances made symmetric in time. It is fitted once, on the
training trajectories, and then only applied.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cgfe.array_types import RealArray
from cgfe.errors import InputError
from cgfe.geometry import pair_distances

if TYPE_CHECKING:
    from deeptime.covariance import CovarianceModel

Scaling = Literal["kinetic_map", "none"]

LAG_PS = 20.0
"""What `default_lag_ps` is near to."""
PAIRS_PER_FEATURE = 10
"""Fewest lagged pairs of frames per feature: with n pairs of p noise features the largest
autocorrelation found is about 2 (p / n)^½, so fewer pairs would give slow modes out of nothing."""

SMALLEST_VARIANCE = 1e-6
"""Å²; combinations of distances that vary less are left out of the fit as numerically constant."""

CHUNK = 65_536
DISTANCES_AT_ONCE = 2**24
"""At most so many frames, and distances, are looked at at once: each distance takes some 60 bytes
while it is computed."""


@dataclass(frozen=True)
class TICAProjection:
    """A fitted, frozen projection of bead positions on their slowest components.

    Attributes
    ----------
    pairs : array (P, 2)
        Bead pairs whose distances are the features.
    mean : array (P,)
        Mean distances in Å.
    components : array (P, D)
        Weight of each distance in each component, 1/Å. Each component's sign is such that the
        distance it correlates with most grows with it.
    timescales_ps : array (D,)
        Implied timescales -τ / ln λ, slowest first.
    lag_ps : float
    scaling : str
        `kinetic_map`: components have standard deviation λ, so that Euclidean distances are
        kinetic distances (Noé and Clementi 2015, arXiv 1506.06259); `none`: unit variance.
    """

    pairs: NDArray[np.int64]
    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    timescales_ps: NDArray[np.float64]
    lag_ps: float
    scaling: Scaling

    @classmethod
    def fit(
        cls,
        trajectories: Sequence[RealArray],
        frame_interval_ps: float,
        lag_ps: float,
        dimensions: int = 2,
        scaling: Scaling = "kinetic_map",
        fewest: int | None = None,
    ) -> "TICAProjection":
        """Fit the projection to trajectories.

        Parameters
        ----------
        trajectories : sequence of array (f, N, 3)
            Positions in Å at equal intervals. Those not longer than the lag are left out.
        frame_interval_ps, lag_ps : float
        dimensions : int
            Number of components D.
        scaling : str
        fewest : int, optional
            Accept as few components where no more have a positive autocorrelation; D by default.

        Raises
        ------
        InputError
            If the lag is no multiple of the frame interval, no trajectory is longer than it,
            there are too few lagged pairs, or fewer than D components have a positive
            autocorrelation.
        """
        if scaling not in get_args(Scaling):
            raise InputError(f"scaling is {scaling!r}, expected one of {get_args(Scaling)}.")
        if dimensions < 1:
            raise InputError(f"TICA dimensions is {dimensions}, expected at least 1.")
        lag = _lag_in_frames(lag_ps, frame_interval_ps)
        covariances = _lagged_covariances(trajectories, lag, lag_ps)
        least = dimensions if fewest is None else fewest
        eigenvalues, components = _slowest(covariances, lag_ps, (least, dimensions), scaling)
        correlations = covariances.cov_00 @ components
        correlations /= np.sqrt(np.diag(covariances.cov_00)).clip(1e-12)[:, None]
        strongest = np.abs(correlations).argmax(axis=0)
        components = components * np.sign(correlations[strongest, np.arange(len(strongest))])
        return cls(
            pairs=np.stack(np.triu_indices(trajectories[0].shape[1], 1), axis=1),
            mean=covariances.mean_0,
            components=components,
            timescales_ps=-lag_ps / np.log(eigenvalues),
            lag_ps=float(lag_ps),
            scaling=scaling,
        )

    @property
    def bead_count(self) -> int:
        return int(self.pairs.max()) + 1

    def project(self, positions: RealArray) -> NDArray[np.float64]:
        """Return the components (..., D) of positions (..., N, 3) in Å.

        Raises
        ------
        InputError
            If the positions are of another number of beads.
        """
        if positions.shape[-2:] != (self.bead_count, 3):
            raise InputError(
                f"TICA was fitted to {self.bead_count} beads, "
                f"but positions have shape {tuple(positions.shape)}."
            )
        frames = positions.reshape(-1, self.bead_count, 3)
        result = np.empty((len(frames), self.components.shape[1]))
        step = _frames_at_once(len(self.pairs))
        for start in range(0, len(frames), step):
            part = slice(start, start + step)
            result[part] = (pair_distances(frames[part]) - self.mean) @ self.components
        return result.reshape(*positions.shape[:-2], -1)

    def only(self, chosen: slice) -> "TICAProjection":
        """Return the projection on some of the components."""
        components, timescales = self.components[:, chosen], self.timescales_ps[chosen]
        return replace(self, components=components, timescales_ps=timescales)

    def to_arrays(self) -> dict[str, NDArray]:
        """Return everything as numeric arrays, for npz files and checkpoints."""
        return {
            "pairs": self.pairs,
            "mean": self.mean,
            "components": self.components,
            "timescales_ps": self.timescales_ps,
            "lag_ps": np.array(self.lag_ps),
            "kinetic_map": np.array(self.scaling == "kinetic_map"),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray]) -> "TICAProjection":
        """Return the projection that `to_arrays` described."""
        return cls(
            pairs=np.asarray(arrays["pairs"]),
            mean=np.asarray(arrays["mean"]),
            components=np.asarray(arrays["components"]),
            timescales_ps=np.asarray(arrays["timescales_ps"]),
            lag_ps=float(arrays["lag_ps"]),
            scaling="kinetic_map" if arrays["kinetic_map"] else "none",
        )


def default_lag_ps(frame_interval_ps: float) -> float:
    """Return the multiple of the frame interval that is nearest to 20 ps."""
    return max(1, round(LAG_PS / frame_interval_ps)) * frame_interval_ps


def _lag_in_frames(lag_ps: float, frame_interval_ps: float) -> int:
    ratio = lag_ps / frame_interval_ps
    lag = round(ratio)
    if lag < 1 or abs(ratio - lag) > 1e-6 * lag:
        raise InputError(
            f"TICA lag is {lag_ps:g} ps, expected a positive multiple of the frame interval, "
            f"{frame_interval_ps:g} ps."
        )
    return lag


def _lagged_covariances(
    trajectories: Sequence[RealArray], lag: int, lag_ps: float
) -> "CovarianceModel":
    """Return time-symmetric covariances of the distances, no pair crossing two trajectories."""
    from deeptime.decomposition import TICA  # half a second, which applying a TICA need not wait

    longest = max((len(trajectory) for trajectory in trajectories), default=0)
    if longest <= lag:
        raise InputError(
            f"TICA lag is {lag_ps:g} ps, {lag} frames, but the longest trajectory has "
            f"{longest} frames: a trajectory shorter than the lag time holds no lagged pair."
        )
    beads = trajectories[0].shape[1]
    features = beads * (beads - 1) // 2
    pairs = sum(max(0, len(trajectory) - lag) for trajectory in trajectories)
    if pairs < PAIRS_PER_FEATURE * features:
        raise InputError(
            f"TICA has {pairs} lagged pairs of frames at {lag_ps:g} ps for {features} distances, "
            f"expected at least {PAIRS_PER_FEATURE * features}; sample more or shorten the lag."
        )
    estimator = TICA.covariance_estimator(lag, ncov=5)
    step = _frames_at_once(features)
    for trajectory in trajectories:
        for start in range(0, len(trajectory) - lag, step):
            # Each piece reaches one lag into the next, so that no pair is lost between them.
            piece = slice(start, min(start + step + lag, len(trajectory)))
            distances = pair_distances(np.asarray(trajectory[piece], dtype=np.float64))
            estimator.partial_fit((distances[:-lag], distances[lag:]))
    return estimator.fetch_model()


def _frames_at_once(features: int) -> int:
    return max(1, min(CHUNK, DISTANCES_AT_ONCE // max(1, features)))


def _slowest(
    covariances: "CovarianceModel", lag_ps: float, dimensions: tuple[int, int], scaling: Scaling
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the greatest positive eigenvalues (D,) and their scaled components (P, D).

    D is between the two `dimensions`.
    """
    from deeptime.decomposition import TICA
    from deeptime.numeric import ZeroRankError

    estimator = TICA(epsilon=SMALLEST_VARIANCE, scaling=None if scaling == "none" else scaling)
    try:
        model = estimator.fit_from_covariances(covariances).fetch_model()
    except ZeroRankError:
        raise InputError("TICA finds no bead distance that varies in the trajectories.") from None
    eigenvalues = model.singular_values
    # deeptime sorts by magnitude; a negative autocorrelation is noise, not a slow motion.
    chosen = np.flatnonzero(eigenvalues > 0)[: dimensions[1]]
    if len(chosen) < dimensions[0]:
        raise InputError(
            f"TICA at a lag of {lag_ps:g} ps finds {len(chosen)} components with a positive "
            f"autocorrelation, expected {dimensions[0]}; shorten the lag or sample more."
        )
    return eigenvalues[chosen], model.singular_vectors_left[:, chosen]
