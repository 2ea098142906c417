"""How much is measured: in full, quickly, or next to nothing for tests."""

from dataclasses import dataclass, replace

from cgfe.model.schnet import CGSchNetConfig


@dataclass(frozen=True)
class Settings:
    """Sizes, turns and times of a run.

    Attributes
    ----------
    network : CGSchNetConfig
        Gaussian radial functions, since the libraries compared share those.
    turns, turn_seconds : int, float
        Turns of each variant and what one should take.
    heavy_turns : int
        Turns of what takes seconds a step.
    batch_size : int
    simulations : tuple of (beads, replicas)
        10 beads are chignolin, others synthetic chains.
    scaling_replicas, scaling_beads : tuple of int
    beads_replicas : int
        Replicas at which the number of beads varies.
    validation_replicas, validation_steps : int
    commands : int
        Runs of each command.
    fits : int
        Runs of `Reference.fit`.
    peptides : tuple of str
        Names in `sampler.PEPTIDES`.
    melting_steps : int
        Hot steps that part their walkers.
    """

    network: CGSchNetConfig = CGSchNetConfig(radial_basis="gaussian")  # noqa: RUF009 (frozen)
    turns: int = 9
    turn_seconds: float = 0.5
    heavy_turns: int = 5
    batch_size: int = 512
    simulations: tuple[tuple[int, int], ...] = ((10, 512), (10, 1), (80, 64))
    scaling_replicas: tuple[int, ...] = (1, 4, 16, 64, 256, 1024, 4096)
    scaling_beads: tuple[int, ...] = (10, 20, 40, 80, 160)
    beads_replicas: int = 64
    validation_replicas: int = 128
    validation_steps: int = 10_000
    commands: int = 5
    fits: int = 3
    peptides: tuple[str, ...] = ("chignolin", "helix")
    melting_steps: int = 3000


FULL = Settings()
QUICK = replace(
    FULL,
    turns=5,
    turn_seconds=0.15,
    heavy_turns=3,
    simulations=((10, 512), (10, 1), (80, 4)),
    scaling_replicas=(1, 16, 256),
    scaling_beads=(10, 40),
    beads_replicas=8,
    validation_steps=500,
    commands=2,
    fits=1,
    melting_steps=1000,
)
