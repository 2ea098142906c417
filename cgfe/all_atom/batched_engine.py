"""The batched kernel as the sampler's engine: all walkers in one process, one in each SIMD lane.

Walkers that depend on each other's company advance together always: those that share a vector of
the kernel (the last bits of their forces do), the replicas of a ladder, all that share a bias. Such
a group goes on from the first chunk that one of its walkers lacks; the others of the group are
computed again with it. Each chunk starts from the files of the one before, whether they were just
written or found, so an interrupted run ends with the same bits as an uninterrupted one.

The same bits need the same width of the CPU's vectors, compiler and version of this program. So
where walkers act on each other (with a `Hook`), files that are there already are not trusted to
be of the history that the missing ones are written from: an incomplete chunk of a group is written
anew as a whole, the missing files last, so that a complete one is of one history. Without a hook
walkers are independent, each file goes on from the one before, and those there are left alone.
"""

from collections.abc import Callable, Mapping, Sequence
from math import lcm
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from numpy.typing import NDArray

from cgfe.all_atom.batched import BatchedSystem, Dynamics, Walkers
from cgfe.all_atom.batched_starts import started
from cgfe.all_atom.chunks import (
    chunk_files,
    chunk_path,
    finite,
    read_end,
    streams,
    walker_folder,
    write_chunk,
)
from cgfe.all_atom.config import SamplerConfig
from cgfe.all_atom.ends import load_ends
from cgfe.all_atom.exchange import ExchangeReport, ReplicaExchange
from cgfe.all_atom.metadynamics import SharedHills
from cgfe.all_atom.progress import SamplingBar, advance_in_pieces, sampling_bar
from cgfe.all_atom.system import Peptide
from cgfe.ending import ending_on_sigterm
from cgfe.errors import InputError
from cgfe.files import make_folder, replacing
from cgfe.units import ANGSTROM_PER_NM, KCAL_PER_KJ

LANES_FILE = "lanes.txt"
"""How many walkers shared a vector of the CPU that a run was begun on."""


class Hook(Protocol):
    """What acts on all walkers between stretches of dynamics: exchange, or a shared bias.

    At the end of a frame's last stretch the frame is recorded first, and then the hook acts: so a
    bias is recorded as it was when the frame was sampled.
    """

    steps: int
    """Length of a stretch; divides that of a frame."""

    def begin(
        self,
        chunk: int,
        numbers: Sequence[int],
        last: Mapping[str, NDArray[Any]] | None,
        walkers: Walkers,
    ) -> None:
        """Begin a chunk of the walkers `numbers`, given the arrays (W, ...) that the last chunk
        ended with."""

    def act(self, walkers: Walkers) -> None:
        """Act after a stretch."""

    def frame(self, walkers: Walkers) -> dict[str, NDArray[Any]]:
        """Return arrays (W, ...) to be recorded with a frame."""

    def end(self) -> dict[str, NDArray[Any]]:
        """Return arrays (W, ...) to be recorded once for each walker and chunk; those named
        `end_...` are handed to the next chunk's `begin`."""


def sample_batched(
    config: SamplerConfig, peptide: Peptide, kernel: BatchedSystem, progress: bool
) -> None:
    """Run all walkers to their end."""
    hook: Hook | None = None
    if config.temperatures_kelvin:
        hook = ReplicaExchange(config, kernel.masses)
    elif config.metadynamics is not None:
        hook = SharedHills(config)
    run = BatchedRun(config, peptide, kernel, hook)
    _tell_other_lanes(run.folder, kernel.lanes)
    with ending_on_sigterm(), sampling_bar(config, run.done_ns(), progress) as bar:
        while together := run.behind():
            run.sample_chunk(*together, bar)
    if config.temperatures_kelvin:
        report = ExchangeReport.of_run(config)
        report.save(Path(config.output))
        rank_zero_info(str(report))


def _tell_other_lanes(folder: Path, lanes: int) -> None:
    """Log that a run goes on with other lanes than it was begun with; a new one's are kept."""
    path = folder / LANES_FILE
    if not path.exists():
        with replacing(path) as temporary:
            temporary.write_text(f"{lanes}\n")
    elif (begun := path.read_text().strip()) != str(lanes):
        rank_zero_info(
            f"{folder} was begun with {begun} walkers a vector and goes on with {lanes}: not with "
            "the bits that it would have had, but with the same distribution."
        )


def needed_bytes(config: SamplerConfig, atoms: int) -> int:
    """Return what all walkers take: their state in the kernel, and a chunk's frames."""
    vector = 3 * 4  # of one atom, float32
    state, frame = atoms * (5 * vector + 2 * vector), atoms * 2 * vector + 8
    return config.walkers * (state + config.chunk_frames * frame)


class BatchedRun:
    """All walkers of a run, group by group."""

    def __init__(
        self, config: SamplerConfig, peptide: Peptide, kernel: BatchedSystem, hook: Hook | None
    ) -> None:
        self.config = config
        self.peptide = peptide
        self.kernel = kernel
        self.hook = hook
        self.folder = Path(config.output)
        size = lcm(kernel.lanes, len(config.ladder))
        if config.metadynamics is not None:
            size = config.walkers
        everyone = range(config.walkers)
        self.groups = [everyone[a : a + size] for a in range(0, config.walkers, size)]
        for walker in everyone:
            make_folder(walker_folder(self.folder, walker))

    def done_ns(self) -> float:
        """Return what all groups have sampled, ns."""
        return sum(self._finished(group) * len(group) for group in self.groups) * (
            self.config.chunk_ns
        )

    def behind(self) -> tuple[list[int], int] | None:
        """Return the walkers of the groups that are furthest behind and their next chunk.

        None if all are done.
        """
        finished = [self._finished(group) for group in self.groups]
        chunk = min(finished)
        if chunk >= self.config.chunks:
            return None
        chosen = (g for g, done in zip(self.groups, finished, strict=True) if done == chunk)
        return [walker for group in chosen for walker in group], chunk

    def _finished(self, group: Sequence[int]) -> int:
        """Return how many chunks all walkers of a group have."""
        chunk = 0
        while chunk < self.config.chunks and all(
            chunk_path(self.folder, walker, chunk).exists() for walker in group
        ):
            chunk += 1
        return chunk

    def sample_chunk(self, numbers: Sequence[int], chunk: int, bar: SamplingBar) -> None:
        """Sample chunk `chunk` of the walkers `numbers` and write it."""
        if self.hook is not None:
            self._require_newest(numbers, chunk)
        walkers, last = self._begun(numbers, chunk)
        if self.hook is not None:
            self.hook.begin(chunk, numbers, last, walkers)
        walkers.seed(streams(self.config.seed, numbers, chunk + 1))
        self.kernel.evaluate(walkers, self.config.processes)
        records = _Records(self.config.chunk_frames, walkers)
        moved = bar.ticker(self.done_ns(), self.config.time_step_fs * 1e-6 * len(numbers))
        for frame in range(self.config.chunk_frames):
            self._to_next_frame(walkers, moved)
            extra = {} if self.hook is None else self.hook.frame(walkers)
            records.add(frame, walkers, numbers, extra)
            if self.hook is not None:
                self.hook.act(walkers)
        ends = {"end_positions": walkers.positions, "end_velocities": walkers.velocities}
        once = {**ends, **(self.hook.end() if self.hook is not None else {})}
        rows = {chunk_path(self.folder, walker, chunk): row for row, walker in enumerate(numbers)}
        there = [path for path in rows if path.exists()]
        missing = [path for path in rows if path not in there]
        for path in missing if self.hook is None else there + missing:
            own = {name: values[rows[path]] for name, values in once.items()}
            write_chunk(path, {**records.of(rows[path]), **own})

    def _require_newest(self, numbers: Sequence[int], chunk: int) -> None:
        """Refuse to write a chunk anew that later ones of the same walkers go on from."""
        later = [path for w in numbers for path in chunk_files(self.folder, w)]
        if any(path.name > chunk_path(self.folder, 0, chunk).name for path in later):
            lost = (chunk_path(self.folder, walker, chunk) for walker in numbers)
            missing = next(path for path in lost if not path.exists())
            raise InputError(
                f"{missing} is missing, but later chunks are there; put it back, or remove what is "
                "later than it of all walkers."
            )

    def _to_next_frame(self, walkers: Walkers, moved: Callable[[int], None]) -> None:
        """Advance to the end of a frame's last stretch, the hook acting between stretches."""
        per_frame = self.config.steps_per_frame
        stretch = per_frame if self.hook is None else self.hook.steps
        config = self.config
        dynamics = Dynamics(stretch, config.time_step_fs / 1000, config.friction_per_ps)
        for begun in range(0, per_frame, stretch):
            if begun and self.hook is not None:
                self.hook.act(walkers)
            advance_in_pieces(self.kernel, walkers, dynamics, config.processes, moved)

    def _begun(
        self, numbers: Sequence[int], chunk: int
    ) -> tuple[Walkers, dict[str, NDArray[Any]] | None]:
        """Return the walkers as the last chunk's files have them, and the `end_...` arrays."""
        if chunk == 0 and self.config.continues is None:
            return started(self.config, self.peptide, self.kernel, numbers), None
        if chunk == 0:
            last = {name: ends[list(numbers)] for name, ends in load_ends(self.config).items()}
        else:
            files = [read_end(chunk_path(self.folder, walker, chunk - 1)) for walker in numbers]
            last = {name: np.array([file[name] for file in files]) for name in files[0]}
        walkers = self.kernel.walkers(last["end_positions"])
        walkers.velocities = last["end_velocities"]
        walkers.temperatures = np.full(len(numbers), self.config.temperature_kelvin)
        return walkers, last


class _Records:
    """The frames of one chunk of all walkers, in the units of the files."""

    def __init__(self, frames: int, walkers: Walkers) -> None:
        shape = (walkers.count, frames, walkers.atoms, 3)
        self._arrays: dict[str, NDArray[Any]] = {
            "positions": np.empty(shape, dtype=np.float32),
            "forces": np.empty(shape, dtype=np.float32),
            "energies": np.empty(shape[:2]),
        }

    def add(
        self,
        frame: int,
        walkers: Walkers,
        numbers: Sequence[int],
        extra: Mapping[str, NDArray[Any]],
    ) -> None:
        positions, energies = walkers.positions, walkers.energies * KCAL_PER_KJ
        for number, energy, place in zip(numbers, energies, positions, strict=True):
            finite(number, float(energy), place)
            row = numbers.index(number)
            # Centred in float64: far from the origin float32 would lose digits.
            angstrom = place.astype(np.float64) * ANGSTROM_PER_NM
            self._arrays["positions"][row, frame] = angstrom - angstrom.mean(axis=0)
        self._arrays["forces"][:, frame] = walkers.forces * (KCAL_PER_KJ / ANGSTROM_PER_NM)
        self._arrays["energies"][:, frame] = energies
        for name, values in extra.items():
            if name not in self._arrays:
                shape = (*self._arrays["energies"].shape, *values.shape[1:])
                self._arrays[name] = np.empty(shape, dtype=values.dtype)
            self._arrays[name][:, frame] = values

    def of(self, row: int) -> dict[str, NDArray[Any]]:
        """Return the arrays (frames, ...) of one walker."""
        return {name: values[row] for name, values in self._arrays.items()}
