"""CGFramesDataModule: frames files in, labelled batches out."""

import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor

from cgfe.data.embedded import EMBEDDED, EMBEDDED_MEAN_FORCES
from cgfe.data.frames import CGFrames
from cgfe.data.splits import Split, SplitConfig, split_frames
from cgfe.errors import InputError, check_seed, require
from cgfe.files import cache_folder, make_folder
from cgfe.memory import machine_memory
from cgfe.reference.config import ReferenceConfig
from cgfe.reference.fingerprint import fingerprint
from cgfe.reference.reference import Reference
from cgfe.reference.training_frames import rows_of
from cgfe.training.arrays import (
    beads_of,
    stored_frames,
    stored_training,
    system_tensors,
    training_bytes,
)
from cgfe.training.batches import FrameLoader, NoFrames, System
from cgfe.training.mean_forces import read_mean_forces
from cgfe.training.streaming import StreamedSystem

HOLDS = 2
"""Raised whenever a cached reference holds more than before, so that none without it is served."""
LONGEST_STEM = 200
"""Bytes of a frames file's name, so that `predictions-NAME-rank0.h5` and such names can be."""

_Read = tuple[CGFrames, Split, Reference, NDArray[np.float64]]
"""Of one file; last, what is known of the frames' coordinates (F, 2)."""


class CGFramesDataModule(L.LightningDataModule):
    """Serves CG frames with reference forces and energy labels.

    Several frames files, of different proteins, train one network; each batch holds frames of
    one of them.

    Parameters
    ----------
    frames : str or list of str
        Frames files (.h5), or `chignolin` or `helix` for an embedded set.
    batch_size : int
        Frames per optimizer step and process.
    reference : ReferenceConfig
        TICA, grid and labels, fitted once on the training split.
    block_ps : float
        Length of the blocks of trajectory that are dealt out to the splits, where a file has
        fewer than 12 trajectories; of more, whole ones are dealt out.
    gap_ps : float, optional
        Left out of a block where the one before it is of another split; by default half of
        block_ps. Blocks are only independent if it is several of the slowest timescales.
    validation_share : float
        Of the trajectories, or blocks, unless the file names its validation trajectories.
    test_share : float
        Of the trajectories, or blocks, unless the file names its test trajectories.
    stride : int
        Serve every stride-th frame for training (the reference is fitted on all).
    full_epochs : bool
        Serve them so often that an epoch is as long as without a stride: what more frames bring is
        then seen at the same number of steps.
    split_seed : int
        Which trajectories or blocks go to which split.
    order_seed : int, optional
        Order of the training frames; the command line takes seed_everything by default.
    cache_dir : str, optional
        Where fitted references are kept; by default the user's cache folder.
    mean_forces : str or list of str, optional
        Files of mean forces (`cgfe reference` with mean_forces), or names of embedded sets; by
        default those that come with an embedded set. Several of one system count as one: further
        configurations, of a model itself say, stand beside those that hold some out. What is held
        out is compared with at each validation and test (`mean_force_mse`).
    memory_gb : float, optional
        Memory (2^30 bytes) that the training frames of one process may take; by default half of
        the machine's, shared among its processes. A larger set is streamed: it is copied to
        `cache_dir` once and read from there, so a fast disk helps. The order of the frames is
        then another one than in memory, so a run that is to be resumed on another machine should
        set this.
    """

    def __init__(
        self,
        frames: str | list[str] = "chignolin",
        batch_size: int = 512,
        reference: ReferenceConfig = ReferenceConfig(),  # noqa: B008 (never changed)
        block_ps: float = 200.0,
        gap_ps: float | None = None,
        validation_share: float = 0.15,
        test_share: float = 0.1,
        stride: int = 1,
        split_seed: int = 0,
        order_seed: int | None = None,
        cache_dir: str | None = None,
        memory_gb: float | None = None,
        mean_forces: str | list[str] | None = None,
        full_epochs: bool = False,
    ) -> None:
        super().__init__()
        for name, value in (
            *(("batch_size", batch_size), ("stride", stride), ("block_ps", block_ps)),
            ("memory_gb", 1.0 if memory_gb is None else memory_gb),
        ):
            require(0 < value < math.inf, f"data.{name}", value, "a positive finite value")
        for name, seed in (("split_seed", split_seed), ("order_seed", order_seed)):
            check_seed(f"data.{name}", seed)
        # Without test frames the final figures would be of frames that the fit has seen.
        for name, share in (("validation_share", validation_share), ("test_share", test_share)):
            require(0 < share < 1, f"data.{name}", share, "a share between 0 and 1")
        # A config's `frames: null` comes here, whatever the types say.
        sources = [frames] if isinstance(frames, str) else list(frames or [])
        if not sources:
            raise InputError("data.frames names no file.")
        self.paths = [Path(EMBEDDED.get(source, source)) for source in sources]
        self.names = [path.stem for path in self.paths]
        if mean_forces is None:
            given = [x for x in sources if x in EMBEDDED_MEAN_FORCES]
        else:
            given = [mean_forces] if isinstance(mean_forces, str) else [*mean_forces]
        for name in given:
            if name in EMBEDDED and name not in EMBEDDED_MEAN_FORCES:
                raise InputError(f"data.mean_forces: no mean forces come with {name}; name a file.")
        self.mean_force_paths = [Path(EMBEDDED_MEAN_FORCES.get(x, x)) for x in given]
        self.batch_size = batch_size
        for name in self.names:
            if (size := len(os.fsencode(name))) > LONGEST_STEM:
                raise InputError(
                    f"data.frames: {name[:40]}... has {size} bytes, expected {LONGEST_STEM} at "
                    "most, since files of a run are called by it."
                )
        if len(set(self.names)) < len(self.names):
            raise InputError(f"data.frames has files of one name ({', '.join(self.names)}).")
        reference.check()
        self.reference_config = reference
        gap = 0.5 * block_ps if gap_ps is None else gap_ps
        require(0 <= gap < math.inf, "data.gap_ps", gap, "a finite time of 0 or more")
        self.split_config = SplitConfig(validation_share, test_share, block_ps, gap, split_seed)
        self.stride, self.full_epochs = stride, full_epochs
        self.order_seed = order_seed or 0
        self.cache_dir = Path(cache_dir) if cache_dir else cache_folder()
        self.memory_gb = memory_gb
        self.frames: list[CGFrames] = []
        self.splits: list[Split] = []
        self.references: list[Reference] = []  # of a checkpoint, perhaps: `go_without`
        self.systems: list[System] = []
        self.mean_forces: list[CGFrames | None] = []
        self._read: list[_Read] = []

    def prepare_data(self) -> None:
        """Fit the references and put them into the cache (on one rank of each node).

        So are the arrays of a set that is to be streamed. What was read stays for `setup`, which
        on the other ranks finds all in the cache.
        """
        if self.references:
            return
        self._read = self._load(store=True)

    def setup(self, stage: str | None = None) -> None:
        """Load frames and references, and compute prior and labels of every frame once."""
        if self.references:
            return
        read, self._read = self._read or self._load(store=False), []
        streams = self.streams()
        self.systems = [
            self._system(frames, reference, number, streams, tics)
            for number, (frames, _, reference, tics) in enumerate(read)
        ]
        self.frames = [frames for frames, *_ in read]
        self.splits = [split for _, split, *_ in read]
        self.references = [reference for *_, reference, _ in read]
        if streams:
            rank_zero_info(
                f"Frames stream from {self.cache_dir}: they take {self._needed() / 2**30:.2f} GB, "
                f"more than the {self._budget() / 2**30:.2f} GB of memory that they may."
            )

    def streams(self) -> bool:
        """Return whether the frames take more memory than they may, and stay on disk."""
        return self._needed() > self._budget()

    def _needed(self) -> int:
        return sum(training_bytes(path) for path in self.paths)

    def _budget(self) -> float:
        if self.memory_gb is not None:
            return self.memory_gb * 2**30
        trainer: Any = self.trainer
        return machine_memory() / 2 / (trainer.num_devices if trainer else 1)

    def train_dataloader(self) -> FrameLoader:
        """Return shuffled batches of the training split."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> FrameLoader | NoFrames:
        """Return the validation split, mixed, in the same order every time."""
        return self._loader("validation", mixed=True) if self.systems else NoFrames()

    def test_dataloader(self) -> FrameLoader | NoFrames:
        """Return the test split, mixed, in the same order every time."""
        return self._loader("test", mixed=True) if self.systems else NoFrames()

    def predict_dataloader(self) -> FrameLoader:
        """Return the test split in order."""
        return self._loader("test")

    def split_indices(self, part: str) -> list[Tensor]:
        """Return the frame indices of a split (`train`, `validation`, `test`), per system."""
        return [torch.from_numpy(rows_of(getattr(split, part))) for split in self.splits]

    def _loader(self, part: str, shuffle: bool = False, mixed: bool = False) -> FrameLoader:
        indices = self.split_indices(part)
        if not any(len(x) for x in indices):
            raise InputError(f"data: the {part} split is empty; raise its share.")
        if shuffle:
            times = self.stride if self.full_epochs else 1
            indices = [x[:: self.stride].repeat(times)[: len(x)] for x in indices]
        if mixed:
            # Means over bins and batches are only comparable with training's if the frames of a
            # batch do not follow each other in time.
            generator = torch.Generator().manual_seed(0)
            indices = [
                system.mixed(x, self.batch_size, generator)
                for system, x in zip(self.systems, indices, strict=True)
            ]
        trainer: Any = self.trainer
        return FrameLoader(
            self.systems,
            indices,
            self.batch_size,
            shuffle,
            self.order_seed,
            trainer.global_rank if trainer else 0,
            trainer.world_size if trainer else 1,
            _progress(trainer) if shuffle and trainer else None,
        )

    def _load(self, store: bool) -> list[_Read]:
        """Read every file and its reference, which is fitted, and stored, if it is not cached."""
        loaded = []
        streams = self.streams()
        # Before the references are fitted, which takes far longer.
        beads = [residue_names for residue_names, _ in map(beads_of, self.paths)]
        self.mean_forces = read_mean_forces(self.mean_force_paths, beads)
        for path in self.paths:
            frames = stored_frames(path, self.cache_dir) if streams else CGFrames.load(path)
            split = split_frames(frames, self.split_config)
            tics = np.full((len(frames), 2), np.nan)
            reference = self._reference(frames, split, store, tics)
            if store and streams:
                stored_training(frames, reference, self.cache_dir, tics)
            loaded.append((frames, split, reference, tics))
        return loaded

    def _reference(
        self, frames: CGFrames, split: Split, store: bool, tics: NDArray[np.float64]
    ) -> Reference:
        key = fingerprint(frames, split, self.reference_config)
        path = self.cache_dir / f"reference-{key}-{HOLDS}.npz"
        if path.exists():
            with suppress(InputError):  # a damaged one is fitted anew
                return Reference.load(path)
        reference = Reference.fit(frames, split, self.reference_config, key, tics)
        if store:
            make_folder(self.cache_dir)
            reference.save(path)
        return reference

    def _system(
        self,
        frames: CGFrames,
        reference: Reference,
        number: int,
        streams: bool,
        tics: NDArray[np.float64],
    ) -> System:
        if not streams:
            return system_tensors(frames, reference, number, tics)
        paths = stored_training(frames, reference, self.cache_dir, tics)
        bead_types = torch.from_numpy(reference.system.bead_types)
        return StreamedSystem(paths, bead_types, number, len(self.paths))


def _progress(trainer: Any) -> Callable[[], tuple[int, float]]:
    """Return a function that tells how many batches training has taken, resumed runs included.

    And how many it takes in an epoch, which `limit_train_batches` can lower.
    """
    return lambda: (
        int(trainer.fit_loop.epoch_loop.batch_progress.total.processed),
        trainer.fit_loop.max_batches,
    )
