"""A frames file's walkers, projected and assigned: all that the ways to its weights need."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cgfe.analysis.core_sets import FOLDED, UNFOLDED
from cgfe.analysis.folding import FoldingData, hops_of_replicas
from cgfe.analysis.free_energy import TICGrid
from cgfe.analysis.metrics import FREE_ENERGY_CEILING_KT
from cgfe.analysis.weights import StateWeights, Walkers
from cgfe.array_types import FloatArray, IntArray
from cgfe.data.checks import FRAMES_AT_ONCE
from cgfe.data.frames import CGFrames
from cgfe.data.weighed import bias_logs
from cgfe.geometry import rmsd
from cgfe.reference.config import ReferenceConfig
from cgfe.reference.projection import Projection, fit_tica
from cgfe.reference.training_frames import TrainingFrames


@dataclass(frozen=True)
class Sampled:
    """Walkers on the grid of a surface, with all that the ways to its weights need.

    Attributes
    ----------
    walkers : Walkers
    msm_share : array (K,)
        Weight of the MSM's free energy of each state in the mean with the bias's.
    bins : int array (F,)
        Of the grid, -1 outside.
    grid : TICGrid
    folded : bool array (F,) or None
        By RMSD; None without a native structure.
    folding : FoldingData or None
    frame_interval_ps : float
    beads : int
    name : str
    hops : (int, int) or None
        Foldings and unfoldings of the replicas of replica exchange.
    """

    walkers: Walkers
    msm_share: FloatArray
    bins: IntArray
    grid: TICGrid
    folded: NDArray[np.bool_] | None
    folding: FoldingData | None
    frame_interval_ps: float
    beads: int
    name: str = "frames"
    hops: tuple[int, int] | None = None

    @property
    def biased(self) -> NDArray[np.bool_]:
        """Which walkers (W,) were sampled under a bias."""
        return self.walkers.biased

    @property
    def nanoseconds(self) -> float:
        """Sampled time."""
        return len(self.bins) * self.frame_interval_ps / 1000

    @classmethod
    def of(cls, frames: CGFrames, seed: int, grid: TICGrid, tics: FloatArray) -> "Sampled":
        """Fit states and weights to frames that are projected already.

        Parameters
        ----------
        frames : CGFrames
        seed : int
        grid : TICGrid
            One for all files whose surfaces are compared.
        tics : array (F, 2)
            Of the frames.

        Raises
        ------
        InputError
            If there is too little for TICA, or a biased trajectory's own weights are missing.
        """
        slices = frames.trajectory_slices()
        trajectories = [frames.positions[s] for s in slices]
        logs = bias_logs(frames, slices)
        fitted = StateWeights.fit(trajectories, logs, frames.frame_interval_ps, seed)
        walkers = fitted.walkers
        folded = folding = hops = None
        if frames.native_positions is not None:
            distance = np.concatenate([
                rmsd(frames.positions[a : a + FRAMES_AT_ONCE], frames.native_positions)
                for a in range(0, len(frames), FRAMES_AT_ONCE)
            ])  # fmt: skip
            folded = distance <= frames.folded_rmsd
            interval_ps = frames.frame_interval_ps
            folding = FoldingData(
                distance, walkers.walker, walkers.biased, interval_ps, frames.folded_rmsd
            )
            if frames.replica_index is not None:
                hops = hops_of_replicas(distance, frames.replica_index, frames.folded_rmsd)
        return cls(
            walkers=walkers,
            msm_share=fitted.msm_share,
            bins=grid.bin_index(tics),
            grid=grid,
            folded=folded,
            folding=folding,
            frame_interval_ps=frames.frame_interval_ps,
            beads=frames.bead_count,
            name=frames.name,
            hops=hops,
        )

    def surface(self, weights: FloatArray, frames: NDArray[np.bool_] | None = None) -> FloatArray:
        """Return the weighted histogram (1 + n1 n2,), its first entry what is outside."""
        bins = self.bins if frames is None else self.bins[frames]
        count = self.grid.shape[0] * self.grid.shape[1]
        mass = np.bincount(bins + 1, weights, minlength=count + 1)
        return np.asarray(mass / mass.sum())

    def delta_f(self, weights: FloatArray) -> tuple[float, float]:
        """Return F(folded) - F(unfolded) in kT, by RMSD and by the core that was last.

        The latter is NaN where biased frames have weight: a bias changes which core was last.
        """
        if self.folded is None or self.folding is None:
            return float("nan"), float("nan")
        inside = weights[self.folded].sum()
        by_rmsd = _delta_f(inside, weights.sum() - inside)
        if self.biased.any() and weights[self.biased[self.walkers.walker]].any():
            return by_rmsd, float("nan")
        state = self.folding.state
        return by_rmsd, _delta_f(weights[state == FOLDED].sum(), weights[state == UNFOLDED].sum())


def _delta_f(folded: float, unfolded: float) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.log(unfolded) - np.log(folded)
    return float(np.clip(value, -FREE_ENERGY_CEILING_KT, FREE_ENERGY_CEILING_KT))


def fit_projection(frames: CGFrames) -> tuple[Projection, FloatArray]:
    """Return TICA of the unbiased frames (all, if all are biased), a grid for all, and the TICs.

    Raises
    ------
    InputError
        If there is too little for TICA.
    """
    config = ReferenceConfig()
    training = TrainingFrames(frames, frames.trajectory_slices())
    tica, _ = fit_tica(training, config)
    (tics,) = training.read(tica.project)
    return Projection.spanning(tica, tics, config), tics
