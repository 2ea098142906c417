"""Reference: everything derived once from the training frames of one system, then frozen.

It holds the prior, TICA, grid, surface, labels, starts and the floor, so that a checkpoint with
a Reference and a network needs no frames file to be simulated and judged.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cgfe import __version__
from cgfe.analysis.energy_labels import EnergyLabels
from cgfe.analysis.free_energy import DEFAULT_BINS, FreeEnergySurface, TICGrid
from cgfe.analysis.mean_energies import conditional_mean_targets, internal_entropy
from cgfe.analysis.metrics import EnsembleSample, reference_floor
from cgfe.analysis.tica import DEFAULT_LAG_PS, TICAProjection
from cgfe.data.frames import CGFrames
from cgfe.errors import InputError
from cgfe.files import replacing
from cgfe.geometry import k_centres, rmsd
from cgfe.model.prior import PriorEnergy
from cgfe.units import thermal_energy

ARRAYS_VERSION = 1
START_CANDIDATES = 20_000
FIT_FRAMES = 500_000
"""Most frames, evenly strided, that the prior and the entropies of bins are fitted to."""
FRAMES_AT_ONCE = 65_536
"""Of all others that are looked at, so that positions need not fit into the memory."""


@dataclass
class ReferenceConfig:
    """What a Reference depends on besides the training frames."""

    tica_lag_ps: float = DEFAULT_LAG_PS
    """TICA lag time, a multiple of the frame interval."""
    tica_scaling: Literal["kinetic_map", "none"] = "kinetic_map"
    """`kinetic_map` scales each TIC by its eigenvalue."""
    bins: int = DEFAULT_BINS
    """Bins per TIC of the free-energy grid."""
    target_bins: int = 8
    """Bins per TIC of the conditional mean energies that `energy_target: total` is matched to;
    coarse, since a bin's entropy needs hundreds of frames."""
    label_estimator: Literal["marginal", "joint"] = "marginal"
    """Density behind the energy labels: product of 1-D densities as in the paper, or the 2-D
    one."""
    starts: int = 256
    """Training frames kept as starts of simulations, spread over TIC space."""
    seed: int = 0
    """Chooses the first start."""

    def check(self) -> None:
        """Raise InputError if a value makes no sense."""
        for name, least in (("bins", 2), ("target_bins", 2), ("starts", 1)):
            if getattr(self, name) < least:
                raise InputError(
                    f"reference.{name} is {getattr(self, name)}, expected at least {least}."
                )


@dataclass(frozen=True)
class Reference:
    """Prior, TICA, reference density, labels and starts of one system."""

    residue_names: tuple[str, ...]
    bead_types: NDArray[np.int64]
    masses: NDArray[np.float64]
    bonds: NDArray[np.int64]
    temperature_kelvin: float
    prior: PriorEnergy
    tica: TICAProjection
    grid: TICGrid
    labels: EnergyLabels
    tics: NDArray[np.float64]
    """(F, 2), training frames"""
    weights: NDArray[np.float64]
    """(F,)"""
    start_positions: NDArray[np.float32]
    """(S, N, 3), spread over TIC space by k-centres"""
    native_positions: NDArray[np.float64] | None
    rmsd: NDArray[np.float64] | None
    """(F,), Å to the native structure"""
    target_grid: TICGrid
    bin_energies: NDArray[np.float64]
    """(n1 n2,), kcal/mol, conditional mean energy F + T S of each bin of target_grid; NaN where
    it cannot be told"""
    fingerprint: str
    """Hash of the frames and settings that all this was derived from"""
    floor: dict[str, float] = field(default_factory=dict)
    """The metrics between two halves of the reference: no model can be told to be better."""

    @property
    def kt(self) -> float:
        """kT in kcal/mol."""
        return thermal_energy(self.temperature_kelvin)

    @property
    def surface(self) -> FreeEnergySurface:
        """Reference free-energy surface."""
        return FreeEnergySurface.from_samples(self.tics, self.weights, self.grid)

    @property
    def sample(self) -> EnsembleSample:
        """Training frames as metrics see them."""
        return EnsembleSample(self.tics, self.weights, self.rmsd)

    def model_sample(self, positions: NDArray[np.floating]) -> EnsembleSample:
        """Return simulated positions (F, N, 3) as metrics see them."""
        distance = None
        if self.native_positions is not None:
            distance = rmsd(positions, self.native_positions)
        return EnsembleSample(np.asarray(self.tica.project(positions)), None, distance)

    @classmethod
    def fit(
        cls, frames: CGFrames, segments: Sequence[slice], config: ReferenceConfig
    ) -> "Reference":
        """Fit on the training segments of `frames` (contiguous pieces of trajectories).

        TICA sees unbiased segments only, since a bias changes the kinetics; the density sees
        all, by their weights. Positions may be mapped from disk: of more than `FIT_FRAMES`
        frames the prior and the entropies of bins see evenly strided ones, as many at most, and
        all else is computed piece by piece.

        Raises
        ------
        InputError
            If there is too little to fit TICA on (no segment longer than the lag).
        """
        positions = [frames.positions[s] for s in segments]
        biased = np.isin([frames.trajectory_index[s.start] for s in segments],
                         frames.biased_trajectories)  # fmt: skip
        kinetic = [x for x, b in zip(positions, biased, strict=True) if not b] or positions
        try:
            tica = TICAProjection.fit(
                kinetic, frames.frame_interval_ps, config.tica_lag_ps, scaling=config.tica_scaling
            )
        except InputError as error:
            raise InputError(f"{frames.name}: {error}") from None
        rows = np.concatenate([np.arange(s.start, s.stop) for s in segments])
        fitted = every(FIT_FRAMES, len(rows))
        chosen = frames.positions[rows[fitted]]
        raw = frames.weights if frames.weights is not None else np.ones(len(frames))
        weights = raw[rows]
        tics = np.concatenate([tica.project(x) for x in _pieces(frames, rows)])
        grid = TICGrid.from_samples(tics, bins=config.bins)
        distance, native = None, frames.native_positions
        if native is not None:
            distance = np.concatenate([rmsd(x, native) for x in _pieces(frames, rows)])
        sample = EnsembleSample(tics, weights, distance)
        target_grid = TICGrid.from_samples(tics, bins=config.target_bins)
        return cls(
            residue_names=frames.residue_names,
            bead_types=frames.bead_types,
            masses=frames.masses,
            bonds=frames.bonds,
            temperature_kelvin=frames.temperature_kelvin,
            prior=PriorEnergy.fit(chosen, frames.bonds, frames.temperature_kelvin, weights[fitted]),
            tica=tica,
            grid=grid,
            labels=EnergyLabels.fit(
                tics, weights, frames.temperature_kelvin, config.label_estimator
            ),
            tics=tics,
            weights=weights,
            start_positions=frames.positions[rows[_spread_starts(tics, config)]],
            native_positions=native,
            rmsd=distance,
            fingerprint=fingerprint(frames, segments, config),
            target_grid=target_grid,
            bin_energies=_mean_energies(
                (chosen, fitted), tics, weights, target_grid, frames.temperature_kelvin
            ),
            floor=reference_floor(sample, frames.trajectory_index[rows], grid),
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything as plain arrays, for checkpoints and files."""
        texts = [self.residue_names, self.floor, self.fingerprint]
        arrays: dict[str, NDArray[Any]] = {
            "version": np.array(ARRAYS_VERSION),
            "texts": np.frombuffer(json.dumps(texts).encode(), np.uint8),
            "temperature_kelvin": np.array(self.temperature_kelvin),
        }
        for name in _PLAIN:
            if getattr(self, name) is not None:
                arrays[name] = getattr(self, name)
        for name in ("prior", "tica", "labels", "grid", "target_grid"):
            arrays |= {f"{name}/{k}": v for k, v in getattr(self, name).to_arrays().items()}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> "Reference":
        """Return the Reference that `to_arrays` took apart."""
        if int(arrays["version"]) != ARRAYS_VERSION:
            raise InputError(
                f"reference arrays have version {int(arrays['version'])}, "
                f"expected {ARRAYS_VERSION}."
            )

        residue_names, floor, key = json.loads(arrays["texts"].tobytes())

        def part(name: str) -> dict[str, NDArray[Any]]:
            prefix = name + "/"
            return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

        return cls(
            **{name: arrays.get(name) for name in _PLAIN},  # type: ignore[arg-type]
            residue_names=tuple(residue_names),
            floor=floor,
            fingerprint=key,
            temperature_kelvin=float(arrays["temperature_kelvin"]),
            grid=TICGrid.from_arrays(part("grid")),
            target_grid=TICGrid.from_arrays(part("target_grid")),
            prior=PriorEnergy.from_arrays(part("prior")),
            tica=TICAProjection.from_arrays(part("tica")),
            labels=EnergyLabels.from_arrays(part("labels")),
        )

    def save(self, path: str | Path) -> None:
        """Write the arrays as .npz (no objects in it)."""
        with replacing(path) as temporary:
            np.savez_compressed(temporary, allow_pickle=False, **self.to_arrays())

    @classmethod
    def load(cls, path: str | Path) -> "Reference":
        """Read what `save` wrote."""
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls.from_arrays(dict(file))
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path}: not a readable reference file ({error}).") from None


_PLAIN = (
    "bead_types",
    "masses",
    "bonds",
    "tics",
    "weights",
    "start_positions",
    "native_positions",
    "rmsd",
    "bin_energies",
)


def fingerprint(frames: CGFrames, segments: Sequence[slice], config: ReferenceConfig) -> str:
    """Return a hash of all that a Reference is derived from, the cache's key."""
    digest = hashlib.sha256()
    for values in (
        *(frames.positions, frames.weights, frames.native_positions, frames.bead_types),
        *(frames.masses, frames.bonds, frames.trajectory_index, frames.biased_trajectories),
    ):
        known = np.empty(0) if values is None else values
        for start in range(0, len(known), FRAMES_AT_ONCE):
            digest.update(np.ascontiguousarray(known[start : start + FRAMES_AT_ONCE]).tobytes())
    facts = [asdict(config), frames.temperature_kelvin, frames.frame_interval_ps, __version__]
    cuts = [(s.start, s.stop) for s in segments]
    digest.update(json.dumps([facts, cuts, frames.residue_names]).encode())
    return digest.hexdigest()[:16]


def every(most: int, frames: int) -> slice:
    """Return the smallest stride through so many frames that takes `most` of them or fewer."""
    return slice(None, None, max(1, -(-frames // most)))


def _pieces(frames: CGFrames, rows: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    for start in range(0, len(rows), FRAMES_AT_ONCE):
        yield frames.positions[rows[start : start + FRAMES_AT_ONCE]]


def _mean_energies(
    chosen: tuple[NDArray[np.float32], slice],
    tics: NDArray[np.float64],
    weights: NDArray[np.float64],
    grid: TICGrid,
    temperature: float,
) -> NDArray[np.float64]:
    """Return F + T S per bin; NaN everywhere if no bin holds enough frames for its entropy.

    The entropy is that of the `chosen` positions, and of their slice of all frames.
    """
    positions, fitted = chosen
    surface = FreeEnergySurface.from_samples(tics, weights, grid)
    count = grid.shape[0] * grid.shape[1]
    try:
        entropy = internal_entropy(positions, grid.bin_index(tics[fitted]), weights[fitted], count)
    except InputError:  # too few frames; the data module says so if the target is asked for
        return np.full(count, np.nan)
    return conditional_mean_targets(surface, entropy, temperature)


def _spread_starts(tics: NDArray[np.float64], config: ReferenceConfig) -> NDArray[np.int64]:
    """Return which frames become starts."""
    stride = max(1, len(tics) // START_CANDIDATES)
    scale = tics.std(axis=0)
    chosen = k_centres(tics[::stride] / scale, config.starts, config.seed)
    return chosen * stride
