"""Batches of frames as torch-geometric `Batch` objects, cut from tensors without a Python loop
over frames."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch_geometric.data import Batch


@dataclass(frozen=True)
class SystemTensors:
    """All that training sees of one system's frames; the first dimension is the frame."""

    positions: Tensor
    """(F, N, 3)"""
    forces: Tensor | None
    """(F, N, 3)"""
    prior_forces: Tensor
    """(F, N, 3)"""
    prior_energy: Tensor
    """(F,)"""
    energy_label: Tensor
    """(F,)"""
    weight: Tensor
    """(F,)"""
    tic_bin: Tensor
    """(F,), flat index of the grid of bin targets, -1 where there is no target"""
    bin_target: Tensor
    """(F,), conditional mean energy of the frame's bin"""
    bead_types: Tensor
    """(N,)"""
    system: int
    """Number of the system in the data module."""

    def batch(self, frames: Tensor) -> Batch:
        """Return the frames with these indices as one `Batch`.

        Fields: pos, forces, prior_forces (A, 3); bead_types, batch (A,); prior_energy,
        energy_label, weight, tic_bin, bin_target, system (G,); ptr (G + 1,).
        """
        count, beads = len(frames), len(self.bead_types)
        fields = {
            "pos": self.positions[frames].flatten(0, 1),
            "prior_forces": self.prior_forces[frames].flatten(0, 1),
            "bead_types": self.bead_types.repeat(count),
            "batch": torch.arange(count).repeat_interleave(beads),
            "ptr": torch.arange(0, (count + 1) * beads, beads),
            "system": torch.full((count,), self.system),
        }
        if self.forces is not None:
            fields["forces"] = self.forces[frames].flatten(0, 1)
        for name in ("prior_energy", "energy_label", "weight", "tic_bin", "bin_target"):
            fields[name] = getattr(self, name)[frames]
        return Batch(**fields)


class FrameLoader:
    """Iterate over batches; each batch holds frames of one system.

    The order of an epoch depends on (seed, epoch) alone, and an epoch can be entered at any
    batch, so a resumed run sees the batches that an uninterrupted one would have seen.

    Parameters
    ----------
    systems : list of SystemTensors
    frames : list of Tensor (f,)
        The frame indices to serve of each system.
    batch_size : int
    shuffle : bool
    seed : int
    rank, world_size : int
        This process takes every `world_size`-th batch; all take equally many when shuffling.
    batches_served : callable, optional
        Returns the number of batches that training has consumed so far.
    """

    def __init__(
        self,
        systems: list[SystemTensors],
        frames: list[Tensor],
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        batches_served: Callable[[], int] | None = None,
    ) -> None:
        self.systems = systems
        self.frames = frames
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.batches_served = batches_served

    def __len__(self) -> int:
        total = sum(-(-len(frames) // self.batch_size) for frames in self.frames)
        # Unequal counts would leave a rank waiting for a gradient that never comes.
        return total // self.world_size if self.shuffle else -(-total // self.world_size)

    def __iter__(self) -> Iterator[Batch]:
        served = self.batches_served() if self.batches_served else 0
        epoch, first = divmod(served, max(1, len(self)))
        for system, frames in self._order(epoch)[first:]:
            yield self.systems[system].batch(frames)

    def _order(self, epoch: int) -> list[tuple[int, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        batches = []
        for system, frames in enumerate(self.frames):
            if self.shuffle:
                frames = frames[torch.randperm(len(frames), generator=generator)]
            batches += [(system, part) for part in frames.split(self.batch_size)]
        if self.shuffle:
            order = torch.randperm(len(batches), generator=generator).tolist()
            batches = [batches[i] for i in order]
            batches = batches[: len(self) * self.world_size]
        return batches[self.rank :: self.world_size]
