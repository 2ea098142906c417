"""Whether the parts of a reference that was read belong together and hold usable numbers."""

from typing import Any

import numpy as np

from cgfe.data.checks import LARGEST_BEAD_TYPE, check_numbers_of
from cgfe.errors import InputError
from cgfe.model.prior import PriorEnergy
from cgfe.reference.projection import Projection
from cgfe.reference.system import BeadSystem


def check_parts(
    system: BeadSystem, prior: PriorEnergy, projection: Projection, starts: Any
) -> None:
    """Check what a simulation and its judgement compute with.

    Raises
    ------
    InputError
        If a shape is wrong, a number is not finite, or an index names no bead.
    """
    beads = len(system.residue_names)
    tica, third = projection.tica, projection.third or projection.tica.only(slice(0, 1))
    shapes: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(("masses", "bead_types"), (beads,)),
        "native_positions": (beads, 3),
        "TICA mean": (len(tica.pairs),),
        "TIC 3 mean": (len(third.pairs),),
        "TIC 3 components": (len(third.pairs), 1),
        "start positions": (len(starts), beads, 3),
    }
    arrays = {
        "masses": system.masses,
        "bead_types": system.bead_types,
        "native_positions": system.native_positions,
        "start positions": starts,
        "TICA mean": tica.mean,
        "TICA components": tica.components,
        "TICA timescales": tica.timescales_ps,
        "TIC 3 mean": third.mean,
        "TIC 3 components": third.components,
        **{f"prior {name}": x.numpy() for name, x in prior.terms.state_dict().items()},
    }
    for name, values in arrays.items():
        if values is None:
            continue
        check_numbers_of("reference", name, values)
        expected = shapes.get(name, values.shape)
        if values.shape != expected or 0 in values.shape:
            raise InputError(f"reference: {name} has shape {values.shape}, expected {expected}.")
    if tica.components.ndim != 2 or tica.components.shape[0] != len(tica.pairs):
        raise InputError(
            f"reference: TICA components have shape {tica.components.shape} for "
            f"{len(tica.pairs)} distances."
        )
    indices = {"bonds": system.bonds, "TICA pairs": tica.pairs, "TIC 3 pairs": third.pairs}
    terms: Any = prior.terms
    indices |= {f"prior {name} index": term.index.numpy() for name, term in terms.items()}
    for name, index in indices.items():
        if index.dtype.kind not in "iu" or index.ndim != 2 or not _within(index, beads):
            raise InputError(f"reference: {name} are no indices of {beads} beads.")
    _check_values(system, projection)


def _check_values(system: BeadSystem, projection: Projection) -> None:
    if (system.masses <= 0).any() or not 0 < system.temperature_kelvin < np.inf:
        raise InputError("reference: masses and temperature must be positive.")
    if not 0 < system.folded_rmsd < np.inf:
        raise InputError(f"reference: folded_rmsd is {system.folded_rmsd} Å.")
    types = system.bead_types
    if types.dtype.kind not in "iu" or (types < 0).any() or (types > LARGEST_BEAD_TYPE).any():
        raise InputError("reference: bead types must be whole and not negative.")
    for edges in projection.grid.edges:
        rising = edges.ndim == 1 and len(edges) > 1 and (np.diff(edges) > 0).all()
        if not rising or not np.isfinite(edges).all():
            raise InputError("reference: the edges of the grid's bins do not rise.")
    if not 0 < projection.tica.lag_ps < np.inf:
        raise InputError(f"reference: TICA lag is {projection.tica.lag_ps} ps.")


def _within(index: Any, beads: int) -> bool:
    return bool(((index >= 0) & (index < beads)).all())
