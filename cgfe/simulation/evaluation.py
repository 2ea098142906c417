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

from cgfe.analysis.basins import basins
from cgfe.analysis.comparison import (
    Comparison,
    compare_ensembles,
    compare_totals,
    js_of_shares,
    macrostate_error_kt,
    mse_kt2,
)
from cgfe.analysis.ensemble import Ensemble
from cgfe.analysis.equilibrium import Equilibrium, check_equilibrium
from cgfe.analysis.intervals import Interval
from cgfe.analysis.metrics import (
    independent_frames,
    kl_divergence,
    split_half_js,
)
from cgfe.array_types import IntArray
from cgfe.geometry import rmsd
from cgfe.kernels.fast_potential import accelerated
from cgfe.model.potential import Potential
from cgfe.reference.ensembles import Part
from cgfe.reference.reference import Reference
from cgfe.simulation.langevin import LangevinSimulation, SimulationConfig, SimulationResult
from cgfe.simulation.results import FreeEnergyResult, PriorResult
from cgfe.simulation.trapping import deepest_bin

MAX_STRUCTURES = 4
MINIMUM_SEPARATION_BINS = 4


@dataclass(frozen=True)
class Judgement:
    """Figures of one simulation and what the report draws of it.

    Attributes
    ----------
    comparison : Comparison
        Metrics (`blown_up` and `split_half_js` too), intervals, floor.
    part : str
        What it was compared with: training, validation or test frames.
    density : array (n1, n2)
    tics : array (F, 2)
    positions : array (F, N, 3)
        Frames after burn-in of the replicas that stayed whole, all of them at one time after
        those at another.
    replicas : int
        That stayed whole.
    independent_frames : float
        Effective sample size of the simulation.
    equilibrium : Equilibrium or None
        None where no replica stayed whole, or there is one frame.
    """

    comparison: Comparison
    part: Part
    density: NDArray[np.float64]
    tics: NDArray[np.float64]
    positions: NDArray[np.float32]
    replicas: int
    independent_frames: float
    equilibrium: Equilibrium | None

    @property
    def metrics(self) -> dict[str, float]:
        """The figures by name."""
        return self.comparison.metrics


def simulate(
    potential: Potential,
    reference: Reference,
    config: SimulationConfig,
    device: torch.device | str,
    rank: int = 0,
    world_size: int = 1,
    progress: Callable[[int], None] | None = None,
    last: NDArray[np.float32] | None = None,
    turn: int = 0,
) -> SimulationResult:
    """Run this process's share of the replicas, started evenly over TIC space.

    Every process gets equally many ladders (rounded up), with its own random stream.

    Parameters
    ----------
    potential, reference, config, device
    rank, world_size : int
    progress : callable, optional
        See `LangevinSimulation.run`.
    last : array (R, N, 3), optional
        Where this process's replicas ended before, to go on from; those that are NaN start anew.
    turn : int
        How often they were simulated before: each time has its own random stream.
    """
    frames = torch.from_numpy(reference.starts.positions)
    simulation = LangevinSimulation(
        accelerated(potential.to(device), frames) if config.fast else potential,
        torch.from_numpy(reference.system.masses),
        reference.system.temperature_kelvin,
        config.time_step_ps,
        config.friction_per_ps,
        (config.seed or 0) * 10_007 + turn * world_size + rank,
        device,
        config.ladder,
        config.exchange_interval,
    )
    length = len(config.ladder)
    ladders = -(-config.replicas // (length * world_size))
    starts = reference.starts.deal(ladders * length * world_size, rank, world_size)
    if last is not None and last.shape == starts.shape:
        starts = np.where(np.isfinite(last), last, starts)
    return simulation.run(torch.from_numpy(starts), config.steps, config.save_interval, progress)


def judge(
    reference: Reference,
    positions: NDArray[np.float32],
    blown_up: NDArray[np.bool_],
    burn_in: float,
    part: Part = "validation",
    seed: int = 0,
) -> Judgement:
    """Compare simulated positions with what was sampled.

    Parameters
    ----------
    reference : Reference
    positions : array (frames, replicas, N, 3)
        Å. Replicas that blew up are left out of the density and counted in `blown_up`.
    blown_up : bool array (replicas,)
    burn_in : float
        Share of the frames, from the first one on, that is left out.
    part : "train", "validation" or "test"
        The sampled frames to compare with; training frames where there are no such ones.
    seed : int
        Of the bootstrap over replicas.
    """
    part, sampled = reference.ensembles.best_for(part)
    kept = positions[int(burn_in * len(positions)) :, ~blown_up]
    if kept.size == 0:
        return _nothing(sampled, part, positions.shape[2:], _states(reference))
    frames, replicas = kept.shape[:2]
    flat = kept.reshape(-1, *positions.shape[2:])
    native = reference.system.native_positions
    tics = reference.projection.tica.project(flat)
    folded = None if native is None else rmsd(flat, native) <= reference.system.folded_rmsd
    replica = np.tile(np.arange(replicas), frames)

    def ensemble(chosen: slice) -> Ensemble:
        own = None if folded is None else folded[chosen]
        return Ensemble.from_samples(sampled.grid, tics[chosen], replica[chosen], None, own)

    model = ensemble(slice(None))
    found = compare_ensembles(sampled, model, seed, states=_states(reference))
    in_time = tics.reshape(frames, replicas, -1)
    learned = reference.ensembles.train.totals().joint
    extra = {
        "js_train": float(js_of_shares(learned, model.totals().joint)),
        "blown_up": float(blown_up.mean()),
        "split_half_js": split_half_js(in_time, model.grid),
    }
    independent = independent_frames(in_time) if frames > 3 else float("nan")
    middle = frames // 2 * replicas
    settled = None
    if middle:
        halves = (ensemble(slice(0, middle)), ensemble(slice(middle, None)))
        js = found.metrics["js"]
        settled = check_equilibrium(sampled, halves, js, independent / replicas, seed)
    metrics = found.metrics | extra
    return Judgement(
        replace(found, metrics=metrics),
        part,
        model.probability,
        tics,
        flat,
        replicas,
        independent,
        settled,
    )


def _nothing(
    sampled: Ensemble, part: Part, bead_shape: tuple[int, ...], states: IntArray
) -> Judgement:
    """Return the judgement of a model of which no replica stayed whole: the worst there is."""
    probability = sampled.probability
    nowhere = np.zeros(probability.size)
    metrics = {
        "js": float(np.log(2)),
        "kl_reference_model": kl_divergence(np.append(probability, 0), np.append(nowhere, 1)),
        "mse_kt2": float(mse_kt2(probability.ravel(), nowhere)),
        **dict.fromkeys(("w1_tic1", "w1_tic2", "delta_f_kt", "split_half_js"), float("nan")),
        "macrostate_error_kt": float(macrostate_error_kt(probability.ravel(), nowhere, states)),
        "js_train": float(np.log(2)),
        "coverage": 0.0,
        "outside": 1.0,
        "blown_up": 1.0,
    }
    return Judgement(
        Comparison(metrics, {}, {}, {}, {}),
        part,
        np.zeros_like(probability),
        np.zeros((0, 2)),
        np.zeros((0, *bead_shape), np.float32),
        0,
        0.0,
        None,
    )


def free_energy_result(
    system: str,
    reference: Reference,
    judgement: Judgement,
    prior: Judgement | PriorResult | None,
    simulation: dict[str, Any],
    trapping: dict[str, Any] | None = None,
) -> FreeEnergyResult:
    """Gather what the report needs of a judgement.

    Parameters
    ----------
    system : str
    reference, judgement, prior
    simulation : dict
        How it was simulated; with `kinetic_temperature_kelvin` the result has the metric `heating`.
    trapping : dict, optional
        Of `trapping_facts`.
    """
    _, sampled = reference.ensembles.best_for(judgement.part)
    probability = sampled.probability
    minima, positions = surface_minima(sampled), reference.starts.positions
    tica, settled = reference.projection.tica, judgement.equilibrium
    found = judgement.comparison
    wells = dict(trapping or {})
    if len(judgement.tics):
        wells["deepest"] = deepest_bin(probability, judgement.density)
    heat: dict[str, float] = {}
    if (kinetic := simulation.get("kinetic_temperature_kelvin")) is not None:
        heat["heating"] = kinetic / reference.system.temperature_kelvin - 1
    return FreeEnergyResult(
        system=system,
        metrics=found.metrics | heat,
        intervals=found.intervals,
        floor=found.floor,
        floor_high=found.floor_high,
        training=_of_training(reference, judgement.part),
        compared_with=judgement.part,
        prior=prior.metrics if prior else {},
        simulation=simulation
        | {
            "independent_frames": judgement.independent_frames,
            "reference_trajectories": len(sampled),
            "reference_timescale_ps": float(tica.timescales_ps[0]),
        },
        equilibrium={}
        if settled is None
        else {
            "reached": settled.reached,
            "js_change": settled.change.value,
            "js_change_low": settled.change.low,
            "js_change_high": settled.change.high,
            "correlation_times": settled.times,
            "longer": settled.longer,
        },
        trapping=wells,
        edges=sampled.grid.edges,
        reference=probability,
        model=judgement.density,
        prior_density=prior.density if prior else None,
        resampled=found.resampled,
        residue_names=reference.system.residue_names,
        structure_tics=minima,
        reference_structures=_nearest(minima, reference, tica.project(positions), positions),
        model_structures=_nearest(minima, reference, judgement.tics, judgement.positions),
    )


def _of_training(reference: Reference, part: Part) -> dict[str, float]:
    """Return what the training frames score against others: what learning them by heart gives."""
    if part == "train":
        return {}
    _, sampled = reference.ensembles.best_for(part)
    own = reference.ensembles.train.totals()
    found = compare_totals(sampled.totals(), own, sampled.grid, _states(reference))
    return {k: float(x) for k, x in found.items()}


def _states(reference: Reference) -> IntArray:
    """Return the metastable state (n1, n2) of each bin, of the training frames' surface."""
    return basins(reference.ensembles.train.probability)


def with_mean_force_error(
    result: FreeEnergyResult, model: Interval, prior: Interval
) -> FreeEnergyResult:
    """Return a result with the errors against mean forces too, whose floor is taken as 0."""
    name = "mean_force_mse"
    return replace(
        result,
        metrics=result.metrics | {name: model.value},
        intervals=result.intervals | {name: (model.low, model.high)},
        floor=result.floor | {name: 0.0},
        prior=result.prior | {name: prior.value} if result.prior else {},
    )


def surface_minima(sampled: Ensemble) -> NDArray[np.float64]:
    """Return TIC positions (S, 2) of the deepest separate minima of a sampled surface."""
    smooth = ndimage.gaussian_filter(sampled.probability, 1.0)
    size = 2 * MINIMUM_SEPARATION_BINS + 1
    peaks = np.argwhere((smooth == ndimage.maximum_filter(smooth, size)) & (smooth > 0))
    order = np.argsort(-smooth[tuple(peaks.T)])[:MAX_STRUCTURES]
    first, second = sampled.grid.centres
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
