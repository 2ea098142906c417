"""The terms of the prior energy: bonds, angles, dihedrals and repulsion.

Each term is fitted by Boltzmann inversion of its own coordinate q: with the coordinate's volume
element J(q), V(q) = -kT ln [p(q) / J(q)], restricted to the term's functional form.
"""

from collections.abc import Callable
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cgfe.array_types import RealArray
from cgfe.errors import InputError
from cgfe.units import thermal_energy

IndexArray = NDArray[np.integer]

HARMONICS = 3
DIHEDRAL_BINS = 72
CONTACT_QUANTILE = 1e-3
"""Share of the frames in which a pair is closer than its repulsion's σ."""
LARGEST_CONTACT_DISTANCE = 6.0
"""Å; a pair that never met in the data is not pushed apart further than two residues need."""
SMALLEST_DISTANCE = 0.1
"""Å; closer than this the repulsion is constant, so that float32 does not overflow."""
LARGEST_STIFFNESS = 1e6
"""kcal/mol per squared coordinate; beyond it the coordinate is a constant, not a spring."""
FRAMES_AT_ONCE = 16384
VALUES_AT_ONCE = 2**26
"""Coordinates times frames that are inverted at once (0.5 GB, of which some copies are made)."""


def distances(positions: Tensor, index: Tensor) -> Tensor:
    """Return distances (B, K) in Å of bead pairs `index` (K, 2) at positions (B, N, 3)."""
    first, second = index.unbind(1)
    return torch.linalg.vector_norm(_between(positions, first, second), dim=-1)


def angle_cosines(positions: Tensor, index: Tensor) -> Tensor:
    """Return cos θ (B, K) of the angles at the middle bead of triples `index` (K, 3)."""
    first, middle, last = index.unbind(1)
    arm_1 = _between(positions, middle, first)
    arm_2 = _between(positions, middle, last)
    lengths = torch.linalg.vector_norm(arm_1, dim=-1) * torch.linalg.vector_norm(arm_2, dim=-1)
    return (arm_1 * arm_2).sum(-1) / lengths.clamp(min=SMALLEST_DISTANCE**2)


def dihedral_angles(positions: Tensor, index: Tensor) -> Tensor:
    """Return dihedral angles φ (B, K) in radians, in [-π, π], of quadruples `index` (K, 4).

    φ = atan2(|b₂| b₁·(b₂×b₃), (b₁×b₂)·(b₂×b₃)), positive by the IUPAC convention. Unlike the
    arc cosine its gradient is finite at φ = 0 and π.
    """
    a, b, c, d = index.unbind(1)
    bond_1 = _between(positions, a, b)
    bond_2 = _between(positions, b, c)
    bond_3 = _between(positions, c, d)
    normal_1 = torch.linalg.cross(bond_1, bond_2)
    normal_2 = torch.linalg.cross(bond_2, bond_3)
    length = torch.linalg.vector_norm(bond_2, dim=-1)
    return torch.atan2(length * (bond_1 * normal_2).sum(-1), (normal_1 * normal_2).sum(-1))


def _between(positions: Tensor, start: Tensor, end: Tensor) -> Tensor:
    # index_select: on a CPU the gradient of positions[:, end] takes twice as long.
    return positions.index_select(1, end) - positions.index_select(1, start)


class PriorTerm(nn.Module):
    """A sum of energies V(q), each of one coordinate q of a few beads; all state is in buffers.

    Parameters
    ----------
    index : tensor (K, n)
        The beads of each coordinate.
    **parameters : tensor (K, ...)
        The parameters of V, named as in `parameter_names`.
    """

    parameter_names: ClassVar[tuple[str, ...]]
    coordinate_function: ClassVar[Callable[[Tensor, Tensor], Tensor]]
    index: Tensor

    def __init__(self, index: Tensor, **parameters: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)
        for name in self.parameter_names:
            self.register_buffer(name, parameters[name])

    def coordinate(self, positions: Tensor) -> Tensor:
        """Return the coordinates (B, K) at positions (B, N, 3) in Å."""
        return type(self).coordinate_function(positions, self.index)

    def potential(self, coordinate: Tensor) -> Tensor:
        """Return the energies (..., K) in kcal/mol of coordinates (..., K)."""
        raise NotImplementedError

    def forward(self, positions: Tensor) -> Tensor:
        """Return the energy (B,) in kcal/mol at positions (B, N, 3) in Å."""
        return self.potential(self.coordinate(positions)).sum(-1)

    @classmethod
    def invert(cls, values: RealArray, shares: RealArray, kt: float) -> dict[str, RealArray]:
        """Return the parameters of V by Boltzmann inversion of sampled coordinates.

        Parameters
        ----------
        values : array (F, K)
            The coordinates in each frame.
        shares : array (F,)
            Statistical weights that sum to 1.
        kt : float
            kcal/mol.
        """
        raise NotImplementedError

    @classmethod
    def fit(
        cls,
        positions: RealArray,
        index: IndexArray,
        temperature: float,
        weights: RealArray | None = None,
    ) -> Self:
        """Fit the term to frames.

        Parameters
        ----------
        positions : array (F, N, 3)
            Å.
        index : array (K, n)
            The beads of each coordinate.
        temperature : float
            K.
        weights : array (F,), optional
            Weight of each frame.

        Raises
        ------
        InputError
            If positions or weights cannot be used, or a fitted parameter is not finite, or a
            stiffness without bound (a coordinate that does not vary).
        """
        shares = _frame_shares(positions, weights)
        beads = torch.from_numpy(np.asarray(index, dtype=np.int64))
        inverted = []
        for group in beads.split(max(1, VALUES_AT_ONCE // len(positions))):
            values = np.concatenate(
                [
                    cls.coordinate_function(torch.from_numpy(x.astype(np.float64)), group).numpy()
                    for x in np.array_split(positions, -(-len(positions) // FRAMES_AT_ONCE))
                ]
            )
            with np.errstate(divide="ignore", invalid="ignore"):
                inverted.append(cls.invert(values, shares, thermal_energy(temperature)))
        parameters = {
            name: np.concatenate([part[name] for part in inverted]) for name in cls.parameter_names
        }
        for name, fitted in parameters.items():
            usable = np.isfinite(fitted)
            if name == "stiffness":
                usable &= (fitted > 0) & (fitted < LARGEST_STIFFNESS)
            if not usable.all():
                row = int(np.argwhere(~usable)[0][0])
                raise InputError(
                    f"prior term {cls.__name__}: the {name} of beads {index[row].tolist()} is "
                    f"{fitted[row]:.3g} from {len(positions)} frames, expected a finite "
                    "value; the coordinate must vary in the frames."
                )
        tensors = {
            name: torch.tensor(fitted, dtype=torch.float32) for name, fitted in parameters.items()
        }
        return cls(beads, **tensors)


class _Harmonic(PriorTerm):
    """V(q) = k/2 (q - q₀)², with parameters `centre` q₀ and `stiffness` k."""

    parameter_names = ("centre", "stiffness")
    centre: Tensor
    stiffness: Tensor

    def potential(self, coordinate: Tensor) -> Tensor:
        return 0.5 * self.stiffness * (coordinate - self.centre).square()


class HarmonicBonds(_Harmonic):
    """V(r) = k/2 (r - r₀)² in the distance r of bonded beads; `index` (K, 2).

    Parameters: `centre` r₀ (K,) in Å, `stiffness` k (K,) in kcal/mol/Å². Fitted by moments:
    p(r) / r² is a Gaussian of mean r₀ and variance kT / k.
    """

    coordinate_function = distances

    @classmethod
    def invert(cls, values: RealArray, shares: RealArray, kt: float) -> dict[str, RealArray]:
        return _gaussian(values, shares[:, None] / values**2, kt)


class HarmonicAngles(_Harmonic):
    """V(θ) = k/2 (cos θ - c₀)² at the middle bead; `index` (K, 3).

    Parameters: `centre` c₀ (K,), `stiffness` k (K,) in kcal/mol. The volume element
    sin θ dθ = -d(cos θ) is flat in the coordinate cos θ, and the force is finite at every θ.
    Fitted by moments: p(cos θ) is a Gaussian of mean c₀ and variance kT / k. That its range
    ends at cos θ = ±1 is neglected: Cα angles stay below 155°, and an estimate that allows for
    the ends finds no stable well in angles with two.
    """

    coordinate_function = angle_cosines

    @classmethod
    def invert(cls, values: RealArray, shares: RealArray, kt: float) -> dict[str, RealArray]:
        return _gaussian(values, np.broadcast_to(shares[:, None], values.shape), kt)


def _gaussian(values: RealArray, weights: RealArray, kt: float) -> dict[str, RealArray]:
    """Return the harmonic parameters whose Gaussian has the moments of `values` (F, K)."""
    weights = weights / weights.sum(0)
    centre = (weights * values).sum(0)
    variance = (weights * (values - centre) ** 2).sum(0)
    return {"centre": centre, "stiffness": kt / variance}


class FourierDihedrals(PriorTerm):
    """V(φ) = Σ_m a_m cos mφ + b_m sin mφ, m = 1 … 3, of four beads; `index` (K, 4).

    Parameters: `cosine` a and `sine` b (K, 3) in kcal/mol. The sine terms tell a structure from
    its mirror image.

    Fitted by least squares to -kT ln p(φ) on 72 bins; the volume element is flat. Each bin gets
    one pseudo-count beside the frames' counts (scaled to Kish's effective number of frames), so
    an empty bin has a high but finite energy.
    """

    parameter_names = ("cosine", "sine")
    coordinate_function = dihedral_angles
    cosine: Tensor
    sine: Tensor

    def potential(self, coordinate: Tensor) -> Tensor:
        orders = range(1, HARMONICS + 1)
        phases = torch.stack([coordinate * order for order in orders], dim=-1)
        return (self.cosine * phases.cos() + self.sine * phases.sin()).sum(-1)

    @classmethod
    def invert(cls, values: RealArray, shares: RealArray, kt: float) -> dict[str, RealArray]:
        edges = np.linspace(-np.pi, np.pi, DIHEDRAL_BINS + 1)
        density = [np.histogram(angles, bins=edges, weights=shares)[0] for angles in values.T]
        counts = np.stack(density, axis=1) / (shares**2).sum() + 1.0
        phases = np.outer((edges[:-1] + edges[1:]) / 2, np.arange(1, HARMONICS + 1))
        design = np.hstack([np.cos(phases), np.sin(phases), np.ones((DIHEDRAL_BINS, 1))])
        solution = np.linalg.lstsq(design, -kt * np.log(counts))[0]
        return {"cosine": solution[:HARMONICS].T, "sine": solution[HARMONICS:-1].T}


class Repulsion(PriorTerm):
    """V(r) = (σ / r)⁶ × 1 kcal/mol between beads three or more bonds apart; `index` (K, 2).

    Parameters: `contact_distance` σ (K,) in Å, the 0.1 % quantile of the pair's distance, 6 Å at
    most. The term marks where the data end; it does not invert their density.
    """

    parameter_names = ("contact_distance",)
    coordinate_function = distances
    contact_distance: Tensor

    def potential(self, coordinate: Tensor) -> Tensor:
        square = (self.contact_distance / coordinate.clamp(min=SMALLEST_DISTANCE)).square()
        return square * square * square

    @classmethod
    def invert(cls, values: RealArray, shares: RealArray, kt: float) -> dict[str, RealArray]:
        closest = np.quantile(
            values, CONTACT_QUANTILE, axis=0, weights=shares, method="inverted_cdf"
        )
        return {"contact_distance": np.minimum(closest, LARGEST_CONTACT_DISTANCE)}


def _frame_shares(positions: RealArray, weights: RealArray | None) -> NDArray[np.float64]:
    """Return weights that sum to 1, after checking them and the positions."""
    if positions.ndim != 3 or positions.shape[2] != 3 or 0 in positions.shape:
        raise InputError(
            f"prior: positions have shape {positions.shape}, expected (frames, beads, 3)."
        )
    if not np.isfinite(positions).all():
        raise InputError("prior: positions are not finite.")
    if weights is None:
        return np.full(len(positions), 1 / len(positions))
    if weights.shape != (len(positions),) or not (weights >= 0).all() or not weights.sum() > 0:
        raise InputError(
            f"prior: weights of shape {weights.shape} for {len(positions)} frames, expected one "
            "weight per frame, none negative and not all zero."
        )
    return weights.astype(np.float64) / weights.sum()
