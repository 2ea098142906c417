"""Batches of frames as torch-geometric `Batch` objects, cut from tensors without a Python loop
over frames."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch

from cgfe.errors import InputError

SCALARS = {
    "prior_energy": np.float32,
    "energy_label": np.float32,
    "weight": np.float32,
    "tic_bin": np.int64,
    "bin_target": np.float32,
    "surface_bin": np.int64,
}
"""What there is one number of for each frame."""


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
    surface_bin: Tensor
    """(F,), flat index of the grid of the free-energy surface, -1 outside"""
    bead_types: Tensor
    """(N,)"""
    system: int
    """Number of the system in the data module."""

    in_sequence: ClassVar[bool] = False
    """Whether batches are best taken in the order of `mixed`; here any order is as good."""

    def mixed(self, frames: Tensor, batch_size: int, generator: torch.Generator) -> Tensor:
        """Return frame indices in random order."""
        return frames[torch.randperm(len(frames), generator=generator)]

    def batches(self, chosen: list[Tensor]) -> Iterator[Batch]:
        """Yield a batch of each list of frame indices."""
        return map(self.batch, chosen)

    def batch(self, frames: Tensor) -> Batch:
        """Return the frames with these indices as one `Batch`.

        Fields: pos, forces, prior_forces (A, 3); bead_types, batch (A,); prior_energy,
        energy_label, weight, tic_bin, bin_target, surface_bin, system (G,); ptr (G + 1,);
        one_system, which says that all graphs have the same beads.
        """
        fields = {"prior_forces": self.prior_forces.index_select(0, frames).flatten(0, 1)}
        if self.forces is not None:
            fields["forces"] = self.forces.index_select(0, frames).flatten(0, 1)
        for name in SCALARS:
            fields[name] = getattr(self, name).index_select(0, frames)
        positions = self.positions.index_select(0, frames)
        return batch_of(positions, self.bead_types, self.system, **fields)


def batch_of(positions: Tensor, bead_types: Tensor, system: int, **fields: Tensor) -> Batch:
    """Return frames (G, N, 3) of the beads (N,) of one system as a `Batch`, with further fields."""
    (count, beads, _), device = positions.shape, positions.device
    return Batch(
        one_system=True,
        pos=positions.flatten(0, 1),
        bead_types=bead_types.repeat(count),
        batch=torch.arange(count, device=device).repeat_interleave(beads),
        ptr=torch.arange(0, (count + 1) * beads, beads, device=device),
        system=torch.full((count,), system, device=device),
        **fields,
    )


class System(Protocol):
    """Frames of one system that batches can be made of, in memory or on disk."""

    @property
    def in_sequence(self) -> bool: ...

    def mixed(self, frames: Tensor, batch_size: int, generator: torch.Generator) -> Tensor: ...

    def batches(self, chosen: list[Tensor]) -> Iterator[Batch]: ...


class FrameLoader:
    """Iterate over batches; each batch holds frames of one system.

    The order of an epoch depends on (seed, epoch) alone, and an epoch can be entered at any
    batch, so a resumed run sees the batches that an uninterrupted one would have seen.

    Parameters
    ----------
    systems : list of SystemTensors or StreamedSystem
    frames : list of Tensor (f,)
        The frame indices to serve of each system.
    batch_size : int
    shuffle : bool
    seed : int
    rank, world_size : int
        This process takes every `world_size`-th batch; all take equally many. Batches that are
        left over are dropped when shuffling; else those of each system are made smaller, so that
        every frame is served and every process meets every system.
    progress : callable, optional
        Returns the number of batches that training has consumed so far, and the number that it
        takes in an epoch, if it takes fewer than there are.

    Raises
    ------
    InputError
        If there are too few frames for every process to get a batch.
    """

    def __init__(
        self,
        systems: Sequence[System],
        frames: list[Tensor],
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        progress: Callable[[], tuple[int, float]] | None = None,
    ) -> None:
        self.systems = systems
        self.frames = frames
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.progress = progress
        there = [sum(self._counts())] if shuffle else [len(own) for own in frames if len(own)]
        if min(there) < world_size:
            raise InputError(
                f"data: {world_size} processes share {min(there)} "
                f"{'batches' if shuffle else 'frames of a system'}, expected one each at least."
            )

    def __len__(self) -> int:
        return sum(self._counts()) // self.world_size

    def _counts(self) -> list[int]:
        """Return the number of batches of each system.

        Unequal numbers would leave a process waiting for another's gradient, buffers or metrics.
        """
        counts = [-(-len(frames) // self.batch_size) for frames in self.frames]
        if self.shuffle:
            return counts
        return [-(-count // self.world_size) * self.world_size for count in counts]

    def __iter__(self) -> Iterator[Batch]:
        served, most = self.progress() if self.progress else (0, len(self))
        epoch, first = divmod(served, max(1, int(min(most, len(self)))))
        order = self._order(epoch)[first:]
        batches = [
            system.batches([frames for number, frames in order if number == which])
            for which, system in enumerate(self.systems)
        ]
        for number, _ in order:
            yield next(batches[number])

    def _order(self, epoch: int) -> list[tuple[int, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        batches = []
        for system, count in enumerate(self._counts()):
            frames = self.frames[system]
            if self.shuffle:
                frames = self.systems[system].mixed(frames, self.batch_size, generator)
            parts = frames.split(self.batch_size)
            if count > len(parts):
                parts = frames.tensor_split(count)
            batches += [(system, part) for part in parts if len(part)]
        if self.shuffle:
            order = torch.randperm(len(batches), generator=generator)
            if any(system.in_sequence for system in self.systems):
                # Only which system comes when stays random: its batches keep their sequence.
                systems = torch.tensor([system for system, _ in batches])
                order = systems[order].argsort(stable=True).argsort()
            batches = [batches[i] for i in order.tolist()]
            batches = batches[: len(self) * self.world_size]
        return batches[self.rank :: self.world_size]


class NoFrames:
    """One empty batch for every process: Lightning calls nothing where there is no batch at all."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[None]:
        yield None
