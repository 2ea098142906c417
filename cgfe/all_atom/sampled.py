"""Sampler runs as packing reads them: trajectories at one temperature, piece by piece."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgfe.all_atom.chunks import chunk_files, read_chunk
from cgfe.all_atom.config import SamplerConfig, read_config
from cgfe.all_atom.ends import starts_of
from cgfe.all_atom.exchange import require_permutations
from cgfe.errors import InputError

PER_FRAME = ("positions", "forces", "energies")


@dataclass(frozen=True)
class SampledTrajectory:
    """What is one trajectory of the packed frames: a walker, or one temperature of a ladder.

    The frames of one temperature hop between the replicas of a ladder, and the replicas wait for
    each other's places, so of replica exchange nothing smaller than the ladder is independent.

    Attributes
    ----------
    folder : Path
    config : SamplerConfig
    walkers : sequence of int
        One, or the replicas of a ladder.
    slot : int
        Temperature of the ladder.
    group : tuple
        Run and start; trajectories of one group are dealt evenly to training, validation and test.
    """

    folder: Path
    config: SamplerConfig
    walkers: Sequence[int]
    slot: int
    group: tuple[str, str]

    @property
    def exchanged(self) -> bool:
        """Whether it is one temperature of replica exchange."""
        return len(self.walkers) > 1

    def chunks(self, most: int | None = None) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the arrays of the first chunks; of a ladder those frames that are in its slot.

        They come with `replica` (frames,): the walker that a frame was sampled by.

        Raises
        ------
        InputError
            If a ladder's replicas are not in one slot each.
        """
        files = [chunk_files(self.folder, walker) for walker in self.walkers]
        for paths in list(zip(*files, strict=False))[:most]:
            if self.exchanged:
                yield self._in_slot(paths)
            else:
                data = read_chunk(paths[0], *self._names())
                yield {**data, "replica": np.full(len(data["energies"]), self.walkers[0])}

    def _names(self) -> tuple[str, ...]:
        return PER_FRAME + (("bias", "bias_offset") if self.config.metadynamics else ())

    def _in_slot(self, paths: Sequence[Path]) -> dict[str, NDArray[Any]]:
        parts = [read_chunk(path, "slots", *PER_FRAME) for path in paths]
        # A frame was sampled in the slot of its last stretch; of each time one replica is there.
        slots = np.array([part["slots"][:, -1] for part in parts])
        require_permutations(slots.T, self.folder)
        replica = (slots == self.slot).argmax(axis=0)
        frames = np.arange(slots.shape[1])
        chosen = {
            name: np.array([parts[r][name][f] for r, f in zip(replica, frames, strict=True)])
            for name in PER_FRAME
        }
        return {**chosen, "replica": np.array(self.walkers)[replica]}


def open_runs(
    folders: Sequence[str | Path], temperature: float | None
) -> tuple[list[SampledTrajectory], float]:
    """Return the trajectories of runs at one temperature, by default the lowest of the first run.

    Raises
    ------
    InputError
        If a folder is no run or was not sampled at that temperature, or runs do not belong
        together: a run that continues another is no independent one, and a walker's two stretches
        are one trajectory.
    """
    runs = [(Path(folder), run_config(Path(folder))) for folder in folders]
    first_folder, first = runs[0]
    kelvin = first.ladder[0] if temperature is None else temperature
    trajectories = []
    for folder, config in runs:
        if config.continues is not None and len(runs) > 1:
            raise InputError(
                f"{folder}: this run continues another ({config.continues}), so it is not "
                "independent of it; pack each stretch alone and join them by cgfe pack --join."
            )
        for key in ("sequence", "caps", "pdb", "solvent", "frame_interval_ps"):
            if getattr(config, key) != getattr(first, key):
                raise InputError(
                    f"{folder}: {key} is {getattr(config, key)}, but {first_folder} has "
                    f"{getattr(first, key)}."
                )
        found = _of_run(folder, config, kelvin)
        if not found:
            raise InputError(f"{folder}: no finished chunk yet.")
        trajectories += found
    return trajectories, kelvin


def _of_run(folder: Path, config: SamplerConfig, kelvin: float) -> list[SampledTrajectory]:
    size = len(config.ladder)
    slots = [s for s, sampled in enumerate(config.ladder) if abs(sampled - kelvin) < 0.005]
    if not slots:
        sampled = ", ".join(f"{x:g}" for x in config.ladder)
        raise InputError(f"{folder}: temperature {kelvin:g} K was not sampled, but {sampled} K.")
    ladders = [range(a, a + size) for a in range(0, config.walkers, size)]
    starts = starts_of(replace(config, output=str(folder)))
    return [
        SampledTrajectory(
            folder,
            config,
            ladder,
            slots[0],
            (str(folder), starts[ladder[0]] if size == 1 else ""),
        )
        for ladder in ladders
        if all(chunk_files(folder, walker) for walker in ladder)
    ]


def run_config(folder: Path) -> SamplerConfig:
    """Return the settings of the run in a folder.

    Raises
    ------
    InputError
        If it holds no run, or its config.yaml is another program's.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise InputError(f"{folder}: no sampler run (config.yaml is missing).")
    if (folder / "checkpoints").is_dir() or (folder / "metrics.csv").is_file():
        raise InputError(f"{folder}: the run of a fit, expected one of cgfe reference.")
    # Before there was a choice of engines OpenMM was the engine.
    return read_config(path, SamplerConfig(engine="openmm"))
