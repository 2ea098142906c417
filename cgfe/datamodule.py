"""CGFramesDataModule: frames files in, labelled batches out."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from cgfe.batches import FrameLoader, SystemTensors
from cgfe.errors import InputError
from cgfe.files import cache_folder, make_folder
from cgfe.frames import CGFrames
from cgfe.potential import Potential
from cgfe.reference import Reference, ReferenceConfig, fingerprint
from cgfe.splits import Split, split_by_blocks

EMBEDDED = {"chignolin": files("cgfe") / "data" / "chignolin.h5"}
PRIOR_BATCH = 4096


class CGFramesDataModule(L.LightningDataModule):
    """Serves CG frames with reference forces and energy labels.

    Several frames files, of different proteins, train one network; each batch holds frames of
    one of them.

    Parameters
    ----------
    frames : str or list of str
        Frames files (.h5), or `chignolin` for the embedded set.
    batch_size : int
        Frames per optimizer step and process.
    reference : ReferenceConfig
        TICA, grid and labels, fitted once on the training split.
    block_ps : float
        Length of the blocks of trajectory that are dealt out to the splits.
    validation_share, test_share : float
        Shares of the blocks.
    stride : int
        Serve every stride-th frame for training (the reference is fitted on all).
    split_seed : int
        Which blocks go to which split.
    order_seed : int, optional
        Order of the training frames; the command line takes seed_everything by default.
    cache_dir : str, optional
        Where fitted references are kept; by default the user's cache folder.
    """

    def __init__(
        self,
        frames: str | list[str] = "chignolin",
        batch_size: int = 512,
        reference: ReferenceConfig = ReferenceConfig(),  # noqa: B008 (never changed)
        block_ps: float = 200.0,
        validation_share: float = 0.15,
        test_share: float = 0.1,
        stride: int = 1,
        split_seed: int = 0,
        order_seed: int | None = None,
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("stride", stride), ("block_ps", block_ps)):
            if value <= 0:
                raise InputError(f"data.{name} is {value}, expected a positive value.")
        sources = [frames] if isinstance(frames, str) else list(frames)
        if not sources:
            raise InputError("data.frames names no file.")
        self.paths = [Path(str(EMBEDDED.get(source, source))) for source in sources]
        self.names = [path.stem for path in self.paths]
        self.batch_size = batch_size
        if len(set(self.names)) < len(self.names):
            raise InputError(f"data.frames has files of one name ({', '.join(self.names)}).")
        reference.check()
        self.reference_config = reference
        self.block_ps = block_ps
        self.shares = (validation_share, test_share)
        self.stride = stride
        self.split_seed = split_seed
        self.order_seed = order_seed or 0
        self.cache_dir = Path(cache_dir) if cache_dir else cache_folder()
        self.frames: list[CGFrames] = []
        self.splits: list[Split] = []
        self.references: list[Reference] = []
        self.systems: list[SystemTensors] = []

    def prepare_data(self) -> None:
        """Fit the references and put them into the cache (on one rank of each node)."""
        for frames, split in self._load():
            path = self._cached(frames, split)
            if not path.exists():
                make_folder(self.cache_dir)
                self._fit(frames, split).save(path)

    def setup(self, stage: str | None = None) -> None:
        """Load frames and references, and compute prior and labels of every frame once."""
        if self.systems:
            return
        for number, (frames, split) in enumerate(self._load()):
            path = self._cached(frames, split)
            reference = Reference.load(path) if path.exists() else self._fit(frames, split)
            self.frames.append(frames)
            self.splits.append(split)
            self.references.append(reference)
            self.systems.append(system_tensors(frames, reference, number))

    def train_dataloader(self) -> FrameLoader:
        """Return shuffled batches of the training split."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> FrameLoader:
        """Return the validation split, mixed, in the same order every time."""
        return self._loader("validation", mixed=True)

    def test_dataloader(self) -> FrameLoader:
        """Return the test split, mixed, in the same order every time."""
        return self._loader("test", mixed=True)

    def predict_dataloader(self) -> FrameLoader:
        """Return the test split in order."""
        return self._loader("test")

    def split_indices(self, part: str) -> list[Tensor]:
        """Return the frame indices of a split (`train`, `validation`, `test`), per system."""
        chosen = []
        for split in self.splits:
            indices = [np.arange(s.start, s.stop) for s in getattr(split, part)]
            chosen.append(torch.from_numpy(np.concatenate(indices or [np.zeros(0, np.int64)])))
        return chosen

    def _loader(self, part: str, shuffle: bool = False, mixed: bool = False) -> FrameLoader:
        indices = self.split_indices(part)
        if not any(len(x) for x in indices):
            raise InputError(f"data: the {part} split is empty; raise its share.")
        if shuffle:
            indices = [x[:: self.stride] for x in indices]
        if mixed:
            # Means over bins and batches are only comparable with training's if the frames of a
            # batch do not follow each other in time.
            generator = torch.Generator().manual_seed(0)
            indices = [x[torch.randperm(len(x), generator=generator)] for x in indices]
        trainer: Any = self.trainer
        return FrameLoader(
            self.systems,
            indices,
            self.batch_size,
            shuffle,
            self.order_seed,
            trainer.global_rank if trainer else 0,
            trainer.world_size if trainer else 1,
            _batches_served(trainer) if shuffle and trainer else None,
        )

    def _load(self) -> list[tuple[CGFrames, Split]]:
        loaded = []
        for path in self.paths:
            frames = CGFrames.load(path)
            loaded.append(
                (frames, split_by_blocks(frames, self.block_ps, *self.shares, self.split_seed))
            )
        return loaded

    def _fit(self, frames: CGFrames, split: Split) -> Reference:
        return Reference.fit(frames, split.train, self.reference_config)

    def _cached(self, frames: CGFrames, split: Split) -> Path:
        key = fingerprint(frames, split.train, self.reference_config)
        return self.cache_dir / f"reference-{key}.npz"


def system_tensors(frames: CGFrames, reference: Reference, number: int) -> SystemTensors:
    """Return the training tensors of one system; prior and labels are computed here, once."""
    positions = torch.from_numpy(frames.positions)
    prior = Potential(reference.prior, None, torch.from_numpy(reference.bead_types))
    parts = [prior.energy_and_forces(part) for part in positions.split(PRIOR_BATCH)]
    tics = np.asarray(reference.tica.project(frames.positions), dtype=np.float64)
    weight = frames.weights if frames.weights is not None else np.ones(len(frames))
    bins = reference.target_grid.bin_index(tics)
    bins[np.isnan(reference.bin_energies)[bins]] = -1
    targets = np.append(reference.bin_energies, 0.0)[bins]  # -1, no target, is the 0 at the end
    return SystemTensors(
        positions=positions,
        forces=None if frames.forces is None else torch.from_numpy(frames.forces),
        prior_energy=torch.cat([energy for energy, _ in parts]),
        prior_forces=torch.cat([forces for _, forces in parts]),
        energy_label=torch.from_numpy(reference.labels.energies(tics)).float(),
        weight=torch.from_numpy(weight).float(),
        tic_bin=torch.from_numpy(bins).long(),
        bin_target=torch.from_numpy(targets).float(),
        bead_types=torch.from_numpy(reference.bead_types),
        system=number,
    )


def _batches_served(trainer: Any) -> Any:
    """Return a function that tells how many batches training has taken, resumed runs included."""
    return lambda: int(trainer.fit_loop.epoch_loop.batch_progress.total.processed)
