"""FreeEnergyResult: what one comparison of a model with its reference found, as files.

`free_energy.json` holds the numbers, `free_energy.npz` the densities and structures that the
report draws; a second and further system of a run adds its name to both.
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from cgfe.errors import InputError
from cgfe.files import replacing

RESAMPLED = "_resampled"
"""Behind a metric's key, the name of its bootstrap samples in the .npz."""


@dataclass(frozen=True)
class FreeEnergyResult:
    """Metrics and densities of one system.

    Attributes
    ----------
    system : str
    metrics : dict
        js, js_train, kl_reference_model, mse_kt2, w1_tic1, w1_tic2, delta_f_kt,
        macrostate_error_kt, coverage, outside, blown_up, heating, split_half_js; where the frames
        are there, those of
        `cgfe.simulation.structure.StructureComparison`, and mean_force_mse.
    intervals : dict
        (low, high) of each metric, 95 %, over trajectories of the reference and replicas.
    floor, floor_high : dict
        What a perfect model would score, in mean and with 95 % at most: js, w1_tic1, w1_tic2,
        delta_f_kt, macrostate_error_kt (`cgfe.analysis.comparison`), and those of structures.
    training : dict
        What the training frames themselves score against these: what a model scores that has
        learned their populations by heart. Empty if they are the same, and in older files.
    compared_with : str
        The frames that it was compared with: train, validation or test.
    prior : dict
        The metrics of the prior alone; empty where it was not simulated.
    equilibrium : dict
        `cgfe.analysis.equilibrium`: reached (yes, no, unknown), js_change with its ends,
        correlation_times, longer; empty where it is not known.
    trapping : dict
        `cgfe.simulation.trapping`: replicas that never left the state that they began in, the
        deepest bin, how bonds stretch; empty in older files.
    simulation : dict
        replicas, steps, seconds, replica_steps_per_second, kinetic_temperature_kelvin, seed,
        device, epoch, step.
    edges : tuple of array (n1 + 1,), (n2 + 1,)
    reference, model, prior_density : array (n1, n2)
        Probability of each TIC bin; prior_density may be None.
    residue_names : tuple of str
    reference_structures, model_structures : array (S, N, 3)
        Frames nearest to the S deepest separate minima of the reference surface, in each
        ensemble; model frames are NaN where the model has none near.
    resampled : dict of arrays (R,)
        Metrics of bootstrap samples of reference and replicas; sample r of the reference is the
        same for every model, so that its error cancels in differences. Older files have js alone.
    structure_tics : array (S, 2)
        Where those minima lie.
    structure_edges, structure_reference, structure_model : array (Q, B + 1), (Q, B), (Q, B)
        Distributions of `cgfe.simulation.structure.QUANTITIES`, fewer or none in older
        files.
    contacts_reference, contacts_model : array (N, N)
        Probabilities of contacts; empty in older files.
    """

    system: str
    metrics: dict[str, float]
    floor: dict[str, float]
    prior: dict[str, float]
    simulation: dict[str, Any]
    edges: tuple[NDArray[np.float64], NDArray[np.float64]]
    reference: NDArray[np.float64]
    model: NDArray[np.float64]
    prior_density: NDArray[np.float64] | None = None
    compared_with: str = "validation"
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    floor_high: dict[str, float] = field(default_factory=dict)
    training: dict[str, float] = field(default_factory=dict)
    equilibrium: dict[str, Any] = field(default_factory=dict)
    trapping: dict[str, Any] = field(default_factory=dict)
    resampled: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    residue_names: tuple[str, ...] = ()
    structure_tics: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    reference_structures: NDArray[np.float32] = field(
        default_factory=lambda: np.zeros((0, 0, 3), np.float32)
    )
    model_structures: NDArray[np.float32] = field(
        default_factory=lambda: np.zeros((0, 0, 3), np.float32)
    )
    structure_edges: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    structure_reference: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    structure_model: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    contacts_reference: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    contacts_model: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))

    def save(self, folder: str | Path, suffix: str = "") -> None:
        """Write both files into `folder`."""
        content = {
            "system": self.system,
            **self.metrics,
            "compared_with": self.compared_with,
            "intervals": self.intervals,
            "floor": self.floor,
            "floor_high": self.floor_high,
            "training": self.training,
            "equilibrium": self.equilibrium,
            "trapping": self.trapping,
            "prior": self.prior,
            "simulation": self.simulation,
            "residue_names": self.residue_names,
        }
        arrays = {
            "edges_1": self.edges[0],
            "edges_2": self.edges[1],
            **{name: getattr(self, name) for name in _ARRAYS if getattr(self, name) is not None},
            **{f"{key}{RESAMPLED}": samples for key, samples in self.resampled.items()},
        }
        with replacing(Path(folder) / f"free_energy{suffix}.npz") as temporary:
            np.savez_compressed(temporary, allow_pickle=False, **arrays)
        with replacing(Path(folder) / f"free_energy{suffix}.json") as temporary:
            # NaN is no JSON, so a metric without a value (no native structure) is null.
            temporary.write_text(json.dumps(_without_nan(content), indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path, suffix: str = "") -> "FreeEnergyResult":
        """Read what `save` wrote.

        Raises
        ------
        InputError
            If a file is missing or unreadable.
        """
        path = Path(folder) / f"free_energy{suffix}.json"
        try:
            content = _with_nan(json.loads(path.read_text()))
            with np.load(path.with_suffix(".npz"), allow_pickle=False) as file:
                arrays = dict(file)
            return cls(
                system=content.pop("system"),
                # An older file compared halves of the training frames, which is no floor.
                floor=content.pop("floor") if "floor_high" in content else {},
                intervals={k: tuple(v) for k, v in content.pop("intervals", {}).items()},
                floor_high=content.pop("floor_high", {}),
                training=content.pop("training", {}),
                compared_with=content.pop("compared_with", "train"),
                equilibrium=content.pop("equilibrium", {}),
                trapping=content.pop("trapping", {}),
                prior=content.pop("prior"),
                simulation=content.pop("simulation"),
                residue_names=tuple(content.pop("residue_names")),
                metrics={k: v for k, v in content.items() if k != "floor"},
                edges=(arrays["edges_1"], arrays["edges_2"]),
                resampled={
                    name.removesuffix(RESAMPLED): samples
                    for name, samples in arrays.items()
                    if name.endswith(RESAMPLED)
                },
                **{name: arrays[name] for name in _ARRAYS if name in arrays},  # type: ignore[arg-type]
            )
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise InputError(f"{path}: no readable free-energy result ({error}).") from None


@dataclass(frozen=True)
class PriorResult:
    """What the prior alone scores, as a file in the cache.

    Attributes
    ----------
    metrics : dict
        As in `FreeEnergyResult`.
    density : array (n1, n2)
        Probability of each TIC bin.
    """

    metrics: dict[str, float]
    density: NDArray[np.float64]

    def save(self, path: str | Path) -> None:
        """Write an .npz file."""
        metrics = np.frombuffer(json.dumps(_without_nan(self.metrics)).encode(), np.uint8)
        with replacing(path) as temporary:
            np.savez_compressed(
                temporary, allow_pickle=False, metrics=metrics, density=self.density
            )

    @classmethod
    def load(cls, path: str | Path) -> "PriorResult":
        """Read what `save` wrote.

        Raises
        ------
        InputError
            If the file is missing or unreadable.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(_with_nan(json.loads(file["metrics"].tobytes())), file["density"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise InputError(f"{path}: no readable judgement of a prior ({error}).") from None


_ARRAYS = (
    "reference",
    "model",
    "prior_density",
    "structure_tics",
    "reference_structures",
    "model_structures",
    "structure_edges",
    "structure_reference",
    "structure_model",
    "contacts_reference",
    "contacts_model",
)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _with_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_nan(item) for item in value]
    return math.nan if value is None else value
