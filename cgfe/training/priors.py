"""The priors alone, as the model is simulated and judged: what the network must beat.

A judgement is kept in the cache, so that runs of the same prior and budget, a resumed run and
`cgfe validate` do not simulate it again.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import lightning as L
from lightning.pytorch.utilities.rank_zero import rank_zero_debug

from cgfe.errors import InputError
from cgfe.reference.ensembles import Part
from cgfe.reference.reference import Reference
from cgfe.simulation.evaluation import judge
from cgfe.simulation.langevin import SimulationConfig
from cgfe.simulation.results import PriorResult
from cgfe.training.module import CGForceField
from cgfe.training.replicas import simulate_together
from cgfe.version import __version__

HOLDS = 2
"""Raised with the figures of a kept judgement, so that none without them is served."""


def judged_prior(
    trainer: L.Trainer,
    module: CGForceField,
    system: int,
    config: SimulationConfig,
    folder: Path,
    part: Part = "validation",
) -> PriorResult:
    """Return what the prior alone scores, simulated if `folder` does not hold it yet.

    Parameters
    ----------
    trainer, module : Trainer, CGForceField
    system : int
    config : SimulationConfig
    folder : Path
        The cache.
    part : str
        The sampled frames to compare with.
    """
    reference = module.references[system]
    path = folder / f"prior-{_key(trainer, module, reference, config, part)}.npz"
    known: PriorResult | None = None
    if trainer.is_global_zero:
        known = _known(path)
    # All processes simulate, or none: what one sees on its disk must not decide for it alone.
    known = trainer.strategy.broadcast(known)
    if known is not None:
        rank_zero_debug(f"The prior alone was simulated before: {path}.")
        return known
    potential = reference.potential().to(module.device)
    run = simulate_together(trainer, module, potential, reference, config, "prior alone")
    judgement = judge(reference, run.positions, run.blown_up, config.burn_in, part)
    found = PriorResult(judgement.metrics, judgement.density)
    if trainer.is_global_zero:
        found.save(path)
    return found


def _known(path: Path) -> PriorResult | None:
    try:
        return PriorResult.load(path) if path.is_file() else None
    except InputError:
        return None  # damaged; it is replaced


def _key(
    trainer: L.Trainer,
    module: CGForceField,
    reference: Reference,
    config: SimulationConfig,
    part: Part,
) -> str:
    """Return a hash of all that a prior's trajectories depend on.

    Another kind of device, or number of processes, has other random numbers.
    """
    where = [trainer.world_size, module.device.type]
    facts = [reference.fingerprint, asdict(config), *where, part, __version__, HOLDS]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
