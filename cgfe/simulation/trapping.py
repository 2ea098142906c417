"""What a simulation says of wells that hold replicas, as a result keeps it.

Keys of the dict: `began`, `stayed` (folded, unfolded), `share`, `foldings`, `unfoldings`, `memory`
(value, low, high) of `cgfe.analysis.trapping`; `deepest` of `deepest_bin`; `bonds` of
`cgfe.simulation.stretch`. What a system lacks (a native structure, a bond outside of rings) has no
keys.
"""

from typing import Any

import numpy as np

from cgfe.analysis.trapping import follow_replicas
from cgfe.array_types import FloatArray
from cgfe.geometry import rmsd
from cgfe.model.potential import Potential
from cgfe.reference.reference import Reference
from cgfe.simulation.langevin import SimulationResult
from cgfe.simulation.stretch import scan_bonds


def trapping_facts(
    potential: Potential, reference: Reference, run: SimulationResult, seed: int = 0
) -> dict[str, Any]:
    """Return how the replicas of a simulation moved, and how the potential's bonds stretch.

    Parameters
    ----------
    potential : Potential
    reference : Reference
    run : SimulationResult
        Of `cgfe.simulation.evaluation.simulate`, of all processes together. Ladders that blew up
        are left out.
    seed : int
        Of the bootstrap over ladders.
    """
    scans = scan_bonds(potential, reference)
    found: dict[str, Any] = {} if scans is None else {"bonds": scans.facts()}
    native = reference.system.native_positions
    kept = run.positions[:, ~run.blown_up]
    if native is None or kept.size == 0:
        return found
    distance = rmsd(kept.reshape(-1, *kept.shape[2:]), native).reshape(kept.shape[:2])
    moved = follow_replicas(
        distance,
        run.followed[:, ~run.blown_up],
        rmsd(run.starts, native),
        reference.system.folded_rmsd,
        seed,
    )
    return found | {
        "began": list(moved.began),
        "stayed": list(moved.stayed),
        "share": moved.share,
        "foldings": moved.foldings,
        "unfoldings": moved.unfoldings,
        "memory": [moved.memory.value, moved.memory.low, moved.memory.high],
    }


def deepest_bin(reference: FloatArray, model: FloatArray) -> dict[str, float]:
    """Return how much of the model lies in its fullest bin, and what the reference has.

    Parameters
    ----------
    reference, model : array (n1, n2)
        Probability of each TIC bin.

    Returns
    -------
    dict
        `model`, `reference` (each in its own fullest bin) and `reference_there` (the reference in
        the model's).
    """
    place = np.unravel_index(model.argmax(), model.shape)
    return {
        "model": float(model.max()),
        "reference": float(reference.max()),
        "reference_there": float(reference[place]),
    }
