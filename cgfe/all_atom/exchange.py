"""Replica exchange: copies of a system trade temperatures, so that cold ones borrow hot crossings.

A walker is a *replica*: its positions are continuous in time, and exchange gives it another
temperature (a *slot* of the ladder), never another place. So a chunk file holds one replica, and
its `slots` (frames, attempts) say at which temperature each stretch of it ran; a frame belongs to
its last slot, the one it was sampled in. All else follows from these: the frames of one
temperature, acceptance, round trips.

Who trades is decided by `cgfe.analysis.exchange`; velocities are then scaled by
sqrt(T_new / T_old). Those of LangevinMiddle are of half a step ago, and must be scaled as of now:
else every exchange heats the stiff modes by (c - 1)² (ω dt)² kT / 8 each, with c the scale: of 17
atoms that traded 300 for 450 K every 0.4 ps the mean energy at 450 K was 0.07 ± 0.02 kcal/mol above
that of direct sampling, and is 0.013 ± 0.016 now (at 300 K 0.013 ± 0.007).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgfe.all_atom.batched import BOLTZMANN_KJ, Walkers
from cgfe.all_atom.chunks import chunk_files, read_chunk, read_end, stream
from cgfe.all_atom.config import SamplerConfig
from cgfe.analysis.exchange import exchanged, round_trips
from cgfe.errors import InputError
from cgfe.files import replacing

EXCHANGE_FILE = "exchange.json"
EXCHANGE_STREAM = 1
"""Purpose of the random stream, that of a ladder's first replica, which exchanges draw from."""


class ReplicaExchange:
    """The hook of the batched engine that exchanges temperatures.

    Parameters
    ----------
    config : SamplerConfig
        With `temperatures_kelvin`.
    masses : array (A,)
        amu.

    Attributes
    ----------
    steps : int
        Of dynamics between two attempts.
    slots : array (W,)
        Present slot of each walker that the chunk began with.
    """

    def __init__(self, config: SamplerConfig, masses: NDArray[np.floating]) -> None:
        self._half_step_over_mass = (config.time_step_fs / 2000 / masses)[:, None]
        self.temperatures = np.array(config.ladder)
        self.steps = round(config.exchange_interval_ps * 1000 / config.time_step_fs)
        self.slots = np.zeros(0, dtype=np.int64)
        self._folder, self._seed = config.output, config.seed
        self._per_frame = config.steps_per_frame // self.steps
        self._per_chunk = self._per_frame * config.chunk_frames
        self._attempt = 0
        self._randoms: list[np.random.Generator] = []
        self._history: list[NDArray[np.int64]] = []

    def begin(
        self,
        chunk: int,
        numbers: Sequence[int],
        last: Mapping[str, NDArray[Any]] | None,
        walkers: Walkers,
    ) -> None:
        """Take the slots that the last chunk ended with (replica r of a ladder starts in r).

        Raises
        ------
        InputError
            If those are no permutation (`require_permutations`).
        """
        size = len(self.temperatures)
        self.slots = np.array(numbers) % size if last is None else last["end_slot"].astype(np.int64)
        require_permutations(self.slots.reshape(-1, size), self._folder)
        walkers.temperatures = self.temperatures[self.slots]
        self._attempt = chunk * self._per_chunk
        self._randoms = [
            np.random.default_rng(stream(self._seed, first, chunk + 1, EXCHANGE_STREAM))
            for first in numbers[::size]
        ]
        self._history = []

    def act(self, walkers: Walkers) -> None:
        """Try one exchange of each pair whose turn it is."""
        self._history.append(self.slots.copy())
        size = len(self.temperatures)
        before, shape = self.slots, (len(self._randoms), size)
        self.slots = exchanged(
            before.reshape(shape),
            walkers.energies.reshape(shape),
            1 / (BOLTZMANN_KJ * self.temperatures),
            self._attempt % 2,
            np.array([random.random(size // 2) for random in self._randoms]),
        ).reshape(-1)
        self._attempt += 1
        scale = np.sqrt(self.temperatures[self.slots] / self.temperatures[before])[:, None, None]
        # What this adds along constraints, the next step takes out again.
        half_kick = walkers.forces * self._half_step_over_mass
        walkers.velocities = scale * (walkers.velocities + half_kick) - half_kick
        walkers.temperatures = self.temperatures[self.slots]

    def frame(self, walkers: Walkers) -> dict[str, NDArray[Any]]:
        """Record nothing besides `slots`, which come with the end of the chunk."""
        return {}

    def end(self) -> dict[str, NDArray[Any]]:
        """Return `slots` (W, frames, attempts) and `end_slot` (W,)."""
        history = np.array(self._history, dtype=np.int16).T
        shape = (len(self.slots), -1, self._per_frame)
        return {"slots": history.reshape(shape), "end_slot": self.slots.astype(np.int16)}


@dataclass(frozen=True)
class ExchangeReport:
    """How well replicas travelled.

    Attributes
    ----------
    temperatures_kelvin : list of float
    acceptance : list of float
        Share of the attempts between slots i and i + 1 that were accepted; NaN of none.
    attempts : list of int
    round_trips : int
        Ways of a replica from the lowest temperature to the highest and back, of all replicas.
    round_trips_per_us : float
        Per µs of all replicas together.
    nanoseconds : float
        Of all replicas together.
    """

    temperatures_kelvin: list[float]
    acceptance: list[float]
    attempts: list[int]
    round_trips: int
    round_trips_per_us: float
    nanoseconds: float

    @classmethod
    def of_run(cls, config: SamplerConfig) -> "ExchangeReport":
        """Read what all finished chunks of a run tell."""
        folder, size = Path(config.output), len(config.ladder)
        tried, accepted, trips, steps = np.zeros(size - 1, int), np.zeros(size - 1, int), 0, 0
        for first in range(0, config.walkers, size):
            history = ladder_history(folder, range(first, first + size))
            for pair in range(size - 1):
                turns = np.arange(pair % 2, len(history) - 1, 2)
                before = (history[turns] == pair).argmax(axis=1)
                tried[pair] += len(turns)
                accepted[pair] += int((history[turns + 1, before] != pair).sum())
            trips += sum(round_trips(history[:, r], size) for r in range(size))
            steps += (len(history) - 1) * size
        nanoseconds = steps * config.exchange_interval_ps / 1000
        return cls(
            temperatures_kelvin=list(config.ladder),
            acceptance=[a / t if t else float("nan") for a, t in zip(accepted, tried, strict=True)],
            attempts=[int(t) for t in tried],
            round_trips=trips,
            round_trips_per_us=trips / max(nanoseconds / 1000, 1e-12),
            nanoseconds=nanoseconds,
        )

    def save(self, folder: Path) -> None:
        """Write it as exchange.json."""
        with replacing(folder / EXCHANGE_FILE) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1))

    def __str__(self) -> str:
        shares = ", ".join(f"{share:.2f}" for share in self.acceptance)
        return (
            f"exchange: accepted {shares} from {self.temperatures_kelvin[0]:g} to "
            f"{self.temperatures_kelvin[-1]:g} K, {self.round_trips} round trips, "
            f"{self.round_trips_per_us:.1f} per µs of all replicas"
        )


def ladder_history(folder: Path, replicas: Sequence[int]) -> NDArray[np.int64]:
    """Return the slots (attempts + 1, T) of a ladder's replicas before each attempt and at the end.

    Only chunks that all of its replicas have count.

    Raises
    ------
    InputError
        If the slots of a time are no permutation (`require_permutations`).
    """
    columns = []
    files = [chunk_files(folder, replica) for replica in replicas]
    count = min(map(len, files))
    for position, paths in enumerate(files):
        parts = [read_chunk(path, "slots")["slots"].ravel() for path in paths[:count]]
        end = [position] if not count else [int(read_end(paths[count - 1])["end_slot"])]
        columns.append(np.concatenate([*parts, end]).astype(np.int64))
    history = np.array(columns).T
    require_permutations(history, folder)
    return history


def require_permutations(slots: NDArray[np.integer], folder: str | Path) -> None:
    """Check that at each time (N, T) a ladder's replicas are in one slot each.

    Raises
    ------
    InputError
        If not: then the files of its replicas are of different histories.
    """
    size = slots.shape[1]
    wrong = (np.sort(slots, axis=1) != np.arange(size)).any(axis=1)
    if wrong.any():
        raise InputError(
            f"{folder}: replicas of a ladder are in slots {slots[wrong][0].tolist()}, expected "
            f"each of 0 to {size - 1} once; their chunks are of different histories and no sample."
        )
