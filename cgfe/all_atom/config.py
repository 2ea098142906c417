"""The settings of a sampling run: every key of a `configs/reference` file."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from cgfe.all_atom.bias import Metadynamics
from cgfe.all_atom.system import (
    FORCE_FIELDS,
    Peptide,
    peptide_from_pdb,
    peptide_from_sequence,
)
from cgfe.errors import InputError

DROPPED = ("scouts",)
"""Keys that runs of earlier versions have written, empty."""
ENGINES = ("auto", "batched", "openmm")
POSITIVE = (
    "walkers",
    "nanoseconds",
    "temperature_kelvin",
    "time_step_fs",
    "chunk_frames",
    "frame_interval_ps",
    "exchange_interval_ps",
    "hydrogen_mass",
    "friction_per_ps",
)


@dataclass
class MeanForces:
    """Settings of a run that averages forces at fixed beads."""

    runs: list[str] = field(default_factory=list)
    """Folders of earlier runs of the same peptide without a bias: their frames are the
    configurations."""
    frames: str | None = None
    """A frames file whose beads are the configurations instead, of each part from its own
    trajectories. Each is steered to from the nearest frame of `runs`, and should be given time to
    settle."""
    configurations: list[int] = field(default_factory=lambda: [1000, 0, 0])
    """For training, validation and test, each from its own walkers."""
    validation_share: float = 0.25
    """Of the walkers, as `test_share`."""
    test_share: float = 0.25
    """Of the walkers: dealt as `cgfe pack` deals the same runs with `--validation` and `--test`."""
    thin_share: float = 0.5
    """Share of the configurations that are spread over the visited bins of the first two TICs, so
    that thinly visited parts have them too; of the training part of `frames` it is taken from where
    the fewest frames of `runs` are. The others are drawn at random."""
    discard_ns: float = 0.0
    """Left out of each walker's beginning."""
    steer_ps: float = 20.0
    """In which the beads go to a configuration of `frames`."""
    settle_ps: float = 1.0
    """Dynamics at fixed beads before the average begins."""
    average_ps: float = 20.0
    """Of chignolin the error's square falls from 1.0 to 0.6, 0.4 and 0.2 (kcal/mol/Å)² from 5 ps to
    10, 20 and 50, slower than the time, so that more configurations tell more than longer ones."""

    def check(self) -> None:
        """Raise InputError if values make no sense together."""
        if not self.runs:
            raise InputError("mean_forces: runs is empty; expected folders of earlier runs.")
        counts = self.configurations
        if len(counts) != 3 or min(counts) < 0 or sum(counts) == 0:
            raise InputError(
                f"mean_forces: configurations is {counts}; expected three numbers, of training, "
                "validation and test."
            )
        if not 0 <= self.thin_share <= 1:
            raise InputError(f"mean_forces: thin_share is {self.thin_share:g}, expected 0 to 1.")
        for name in ("steer_ps", "settle_ps", "discard_ns"):
            if getattr(self, name) < 0:
                raise InputError(f"mean_forces: {name} is {getattr(self, name):g}, below 0.")
        if self.average_ps <= 0:
            raise InputError(f"mean_forces: average_ps is {self.average_ps:g}; expected above 0.")


@dataclass
class SamplerConfig:
    """Everything that one sampling run depends on; the keys of a `configs/reference` file."""

    output: str = "runs/reference/chignolin"
    """Folder of the run: topology.pdb, config.yaml, one folder of chunks per walker."""
    sequence: str | None = None
    """One-letter codes; the chain gets charged ends."""
    caps: bool = False
    """Ac- and -NH2 at the ends of `sequence` in place of charges; caps have no bead."""
    pdb: str | None = None
    """A PDB file instead of a sequence."""
    starts: list[str] = field(default_factory=lambda: ["extended"])
    """Walker w starts from starts[w % len(starts)], replica r of ladder l from
    starts[(l + r) % len(starts)]: `extended`, `coil` (100 ps at 600 K), `melted` (150 ps at 700 K,
    then cooled), `helix`, `folded` (the embedded chignolin hairpin), a PDB file, or the folder
    of an earlier run, whose frames are spread."""
    continues: str | None = None
    """File of another run's ends (`cgfe pack --ends`) that its walkers go on from, in place of
    `starts`; the seed must be another one."""
    walkers: int = 2
    """Independent trajectories, of replica exchange the replicas of all ladders. The batched engine
    fills vectors of 16 (AVX-512), 8 (AVX2) or 4 of them."""
    nanoseconds: float = 1.0
    """Length of each walker's trajectory."""
    engine: str = "auto"
    """`batched`: this project's kernel, one walker per SIMD lane; `openmm`; `auto`: batched for
    implicit solvent where OpenMM would run on a CPU and the kernel knows the system."""
    solvent: str = "implicit"
    """`implicit`: OBC2; `explicit`: TIP3P-FB water with PME at 1 atm, for a GPU. Only the peptide's
    atoms are kept, so the energies of explicit runs include the water's."""
    temperature_kelvin: float = 300.0
    """K, of the dynamics, the frames and all that is fitted to them."""
    temperatures_kelvin: list[float] | None = None
    """Replica exchange between these T temperatures, ascending, in place of `temperature_kelvin`:
    walkers l T to l T + T - 1 are the replicas of ladder l."""
    exchange_interval_ps: float = 1.0
    """Between two attempts; even and odd neighbours take turns."""
    friction_per_ps: float = 0.5
    """1/ps."""
    time_step_fs: float = 4.0
    """fs; 4 needs the heavy hydrogens and constrained bonds to them."""
    hydrogen_mass: float = 4.0
    """amu, taken from the atom that a hydrogen is bound to."""
    frame_interval_ps: float = 1.0
    """Between kept frames, a multiple of the time step."""
    chunk_frames: int = 50
    """Frames of a file; what is lost when a run is killed is less than that."""
    equilibration_ps: float = 20.0
    """Dynamics after minimisation, before the first frame."""
    metadynamics: Metadynamics | None = None
    """Well-tempered metadynamics on Cα positions, one bias shared by all walkers."""
    mean_forces: MeanForces | None = None
    """Forces averaged at fixed beads, at configurations of earlier runs, in place of walkers."""
    processes: int = 0
    """Threads of the batched engine, or walkers that OpenMM runs at the same time; 0 means one per
    CPU core (of OpenMM's walkers one in all on a GPU)."""
    platform: str | None = None
    """OpenMM platform; by default the fastest one here. To name one is to choose OpenMM."""
    seed: int = 1
    """Of starts, velocities and noise; another one for a run that continues an earlier one."""

    def check(self) -> None:
        """Raise InputError if values make no sense together."""
        if (self.sequence is None) == (self.pdb is None):
            raise InputError("give exactly one of 'sequence' and 'pdb' in the sampler's config.")
        if self.caps and self.sequence is None:
            raise InputError("caps: true needs a 'sequence'; a PDB file has the ends that it has.")
        for name in POSITIVE:
            _require(name, getattr(self, name), "a positive value", getattr(self, name) > 0)
        for name in ("equilibration_ps", "processes", "seed"):
            _require(name, getattr(self, name), "0 or more", getattr(self, name) >= 0)
        if not _whole(self.frame_interval_ps * 1000, self.time_step_fs):
            raise InputError(
                f"frame_interval_ps {self.frame_interval_ps} is no multiple of time_step_fs "
                f"{self.time_step_fs}."
            )
        for name, choices in (("solvent", tuple(FORCE_FIELDS)), ("engine", ENGINES)):
            if getattr(self, name) not in choices:
                raise InputError(
                    f"{name} is {getattr(self, name)!r}; expected one of {', '.join(choices)}."
                )
        if not self.starts:
            raise InputError("starts is empty; expected at least one start.")
        if self.temperatures_kelvin is not None:
            self._check_exchange(self.temperatures_kelvin)
        if self.mean_forces is not None:
            self._check_mean_forces(self.mean_forces)

    def _check_exchange(self, temperatures: list[float]) -> None:
        if len(temperatures) < 2:
            raise InputError(
                f"temperatures_kelvin is {temperatures}; replica exchange needs at least two."
            )
        pairs = zip([0.0, *temperatures], temperatures, strict=False)
        # A NaN is not above anything.
        if not all(low < high < math.inf for low, high in pairs):
            raise InputError(
                f"temperatures_kelvin is {temperatures}; expected positive values in ascending "
                "order."
            )
        if self.walkers % len(temperatures):
            raise InputError(
                f"walkers is {self.walkers}; replica exchange between {len(temperatures)} "
                f"temperatures needs a multiple of {len(temperatures)}."
            )
        if not _whole(self.frame_interval_ps, self.exchange_interval_ps) or not _whole(
            self.exchange_interval_ps * 1000, self.time_step_fs
        ):
            raise InputError(
                f"exchange_interval_ps is {self.exchange_interval_ps}; expected a multiple of "
                f"time_step_fs {self.time_step_fs} that divides frame_interval_ps "
                f"{self.frame_interval_ps}."
            )
        if self.metadynamics is not None:
            raise InputError("temperatures_kelvin and metadynamics exclude each other; drop one.")

    def _check_mean_forces(self, settings: MeanForces) -> None:
        settings.check()
        others = ("metadynamics", "temperatures_kelvin", "continues", "platform")
        for name in (name for name in others if getattr(self, name) is not None):
            raise InputError(f"mean_forces and {name} exclude each other; drop one.")
        if self.solvent != "implicit" or self.engine == "openmm":
            raise InputError(
                f"mean_forces needs the batched engine in implicit solvent; found solvent "
                f"{self.solvent} and engine {self.engine}."
            )

    @property
    def steps_per_frame(self) -> int:
        return max(1, round(self.frame_interval_ps * 1000 / self.time_step_fs))

    @property
    def chunks(self) -> int:
        frames = self.nanoseconds * 1000 / self.frame_interval_ps
        return max(1, round(frames / self.chunk_frames))

    @property
    def chunk_ns(self) -> float:
        """Time that a chunk of one walker covers."""
        return self.chunk_frames * self.frame_interval_ps / 1000

    @property
    def ladder(self) -> tuple[float, ...]:
        """Temperatures that walkers run at, one without replica exchange."""
        return tuple(self.temperatures_kelvin or [self.temperature_kelvin])

    def start_of(self, walker: int) -> str:
        """Return where a walker starts."""
        # The next ladder begins one start further, so that every temperature sees all starts.
        return self.starts[sum(divmod(walker, len(self.ladder))) % len(self.starts)]


def read_config(
    path: str | Path, default: SamplerConfig | None = None, settings: Sequence[str] = ()
) -> SamplerConfig:
    """Return the config in a YAML file.

    Parameters
    ----------
    path : path
    default : SamplerConfig, optional
        Where keys that the file lacks come from.
    settings : sequence of str
        `key=value`, which override the file.

    Raises
    ------
    InputError
        If there is no such file, or it is no sampler's config.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file.")
    try:
        found = OmegaConf.load(path)
        if not isinstance(found, DictConfig):
            raise InputError(f"{path}: a list, expected the keys of a sampler's config.")
        for key in DROPPED:
            if found.get(key) == []:
                found.pop(key)
        base = OmegaConf.structured(default or SamplerConfig())
        config = OmegaConf.to_object(
            OmegaConf.merge(base, found, OmegaConf.from_dotlist(list(settings)))
        )
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: {str(error).splitlines()[0]}.") from None
    assert isinstance(config, SamplerConfig)
    return config


def peptide_of(config: SamplerConfig) -> Peptide:
    """Return the molecule that a config names.

    Raises
    ------
    InputError
        As `peptide_from_pdb` and `peptide_from_sequence`.
    """
    if config.pdb is not None:
        return peptide_from_pdb(config.pdb)
    assert config.sequence is not None
    return peptide_from_sequence(config.sequence, config.caps)


def _require(name: str, value: float, expected: str, holds: bool) -> None:
    """Refuse a number for which a comparison does not hold (of NaN none does), or infinite."""
    if not holds or math.isinf(value):
        raise InputError(f"{name} is {value}; expected {expected}.")


def _whole(length: float, part: float) -> bool:
    """Return whether a length is a multiple of a part, up to rounding."""
    count = round(length / part)
    return count >= 1 and abs(count * part - length) < 1e-9 * max(1.0, abs(length))
