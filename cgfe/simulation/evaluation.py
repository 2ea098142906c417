"""Judging a potential: simulate it, project it on the reference's TICs, compare.

Used at each validation, by `cgfe validate` and for the prior alone, so that all figures come
from one procedure.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from cgfe.analysis.metrics import (
    EnsembleSample,
    compare_counted,
    free_energy_mse_kt2,
    independent_frames,
    kl_divergence,
    reference_floor,
    split_half_js,
)
from cgfe.geometry import rmsd
from cgfe.kernels.fast_potential import accelerated
from cgfe.model.potential import Potential
from cgfe.reference.reference import Reference
from cgfe.simulation.langevin import LangevinSimulation, SimulationConfig, SimulationResult
from cgfe.simulation.results import FreeEnergyResult, PriorResult

MAX_STRUCTURES = 4
MINIMUM_SEPARATION_BINS = 4


@dataclass(frozen=True)
class Judgement:
    """Metrics of one simulation and what the report draws of it."""

    metrics: dict[str, float]
    density: NDArray[np.float64]
    """(n1, n2)"""
    sample: EnsembleSample
    positions: NDArray[np.float32]
    """(F, N, 3), frames after burn-in of the replicas that stayed whole"""
    independent_frames: float
    """Effective sample size of the simulation"""


def simulate(
    potential: Potential,
    reference: Reference,
    config: SimulationConfig,
    device: torch.device | str,
    rank: int = 0,
    world_size: int = 1,
    progress: Callable[[int], None] | None = None,
) -> SimulationResult:
    """Run this process's share of the replicas, started evenly over TIC space.

    Every process gets equally many replicas (rounded up), with its own random stream.
    """
    frames = torch.from_numpy(reference.starts.positions)
    simulation = LangevinSimulation(
        accelerated(potential.to(device), frames) if config.fast else potential,
        torch.from_numpy(reference.system.masses),
        reference.system.temperature_kelvin,
        config.time_step_ps,
        config.friction_per_ps,
        (config.seed or 0) * 10_007 + rank,
        device,
    )
    starts = torch.from_numpy(reference.starts.deal(config.replicas, rank, world_size))
    return simulation.run(starts, config.steps, config.save_interval, progress)


def with_floor(reference: Reference, trajectory_index: NDArray[np.integer]) -> Reference:
    """Return the reference with the metrics between halves of its own frames.

    Parameters
    ----------
    reference : Reference
    trajectory_index : array (F,)
        Of the training frames, which alone tells which of them go together.
    """
    floor = reference_floor(
        reference_sample(reference), trajectory_index, reference.projection.grid
    )
    return replace(reference, floor=floor)


def reference_sample(reference: Reference) -> EnsembleSample:
    """Return the training frames as metrics see them."""
    surface = reference.surface
    return EnsembleSample(surface.tics, surface.weights, surface.rmsd)


def model_sample(reference: Reference, positions: NDArray[np.floating]) -> EnsembleSample:
    """Return simulated positions (F, N, 3) in Å as metrics see them."""
    native = reference.system.native_positions
    distance = None if native is None else rmsd(positions, native)
    return EnsembleSample(reference.projection.tica.project(positions), None, distance)


def judge(
    reference: Reference,
    positions: NDArray[np.float32],
    blown_up: NDArray[np.bool_],
    burn_in: float,
) -> Judgement:
    """Compare simulated positions (frames, replicas, N, 3) with the reference.

    Replicas that blew up are left out of the density and counted in `blown_up`.
    """
    kept = positions[int(burn_in * len(positions)) :, ~blown_up]
    if kept.size == 0:
        return _nothing(reference, positions.shape[2:])
    frames = kept.reshape(-1, *positions.shape[2:])
    sample = model_sample(reference, frames)
    grid, surface = reference.projection.grid, reference.surface
    density, outside = grid.histogram(sample.tics)
    metrics = compare_counted(
        reference_sample(reference),
        sample,
        (surface.probability, surface.outside),
        (density, outside),
    )
    tics = sample.tics.reshape(*kept.shape[:2], -1)
    metrics["blown_up"] = float(blown_up.mean())
    metrics["split_half_js"] = split_half_js(tics, grid)
    independent = independent_frames(tics) if len(tics) > 3 else float("nan")
    return Judgement(metrics, density, sample, frames, independent)


def _nothing(reference: Reference, bead_shape: tuple[int, ...]) -> Judgement:
    """Return the judgement of a model of which no replica stayed whole: the worst there is."""
    probability = reference.surface.probability
    density = np.zeros_like(probability)
    metrics = {
        "js": float(np.log(2)),
        "kl_reference_model": kl_divergence(np.append(probability, 0), np.append(density, 1)),
        "mse_kt2": free_energy_mse_kt2(probability, density),
        **dict.fromkeys(("w1_tic1", "w1_tic2", "delta_f_kt", "split_half_js"), float("nan")),
        "coverage": 0.0,
        "outside": 1.0,
        "blown_up": 1.0,
    }
    sample = EnsembleSample(np.zeros((0, 2)), None, None)
    return Judgement(metrics, density, sample, np.zeros((0, *bead_shape), np.float32), 0.0)


def free_energy_result(
    system: str,
    reference: Reference,
    judgement: Judgement,
    prior: Judgement | PriorResult | None,
    simulation: dict[str, Any],
) -> FreeEnergyResult:
    """Gather what the report needs of a judgement."""
    minima, positions = surface_minima(reference), reference.starts.positions
    tica, floor = reference.projection.tica, reference.floor
    starts = tica.project(positions)
    return FreeEnergyResult(
        system=system,
        metrics=judgement.metrics,
        # The halves of a reference do not blow up, and their own JS is the floor's.
        floor=floor and floor | {"blown_up": 0.0, "split_half_js": floor["js"]},
        prior=prior.metrics if prior else {},
        simulation=simulation
        | {
            "independent_frames": judgement.independent_frames,
            "reference_timescale_ps": float(tica.timescales_ps[0]),
        },
        edges=reference.projection.grid.edges,
        reference=reference.surface.probability,
        model=judgement.density,
        prior_density=prior.density if prior else None,
        residue_names=reference.system.residue_names,
        structure_tics=minima,
        reference_structures=_nearest(minima, reference, starts, positions),
        model_structures=_nearest(minima, reference, judgement.sample.tics, judgement.positions),
    )


def surface_minima(reference: Reference) -> NDArray[np.float64]:
    """Return TIC positions (S, 2) of the deepest separate minima of the reference surface."""
    smooth = ndimage.gaussian_filter(reference.surface.probability, 1.0)
    size = 2 * MINIMUM_SEPARATION_BINS + 1
    peaks = np.argwhere((smooth == ndimage.maximum_filter(smooth, size)) & (smooth > 0))
    order = np.argsort(-smooth[tuple(peaks.T)])[:MAX_STRUCTURES]
    first, second = reference.projection.grid.centres
    return np.stack([first[peaks[order, 0]], second[peaks[order, 1]]], axis=1)


def _nearest(
    minima: NDArray[np.float64],
    reference: Reference,
    tics: NDArray[np.floating],
    positions: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return the frame nearest to each minimum, NaN if none is within two bins."""
    widths = np.array([edges[1] - edges[0] for edges in reference.projection.grid.edges])
    found = np.full((len(minima), *reference.starts.positions.shape[1:]), np.nan, np.float32)
    for row, minimum in enumerate(minima):
        if len(tics):
            distance = np.linalg.norm((tics - minimum) / widths, axis=1)
            if distance.min() <= 2:
                found[row] = positions[distance.argmin()]
    return found
