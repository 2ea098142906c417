"""Whole trajectories dealt to training, validation and test."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from cgfe.errors import InputError

PARTS = ("training", "validation", "test")


def dealt(
    groups: Sequence[Hashable], validation: float, test: float
) -> dict[str, NDArray[np.int32]]:
    """Return the trajectories of each part, ascending.

    Trajectories of one group (those that started alike) are dealt one after the other, each to the
    part that lacks most of its share so far: so every group, and every stretch of one, is spread
    over the parts as evenly as whole trajectories can be.

    Parameters
    ----------
    groups : sequence
        Group of each trajectory.
    validation, test : float
        Their shares; training gets the rest.

    Raises
    ------
    InputError
        If a share is no share, or a part that is asked for stays empty.
    """
    for name, share in (("validation", validation), ("test", test)):
        if not 0 <= share < 1:
            raise InputError(f"{name} share is {share:g}, expected at least 0 and less than 1.")
    shares = np.array([1 - validation - test, validation, test])
    if shares[0] <= 0:
        raise InputError(
            f"validation share {validation:g} and test share {test:g} leave nothing for training."
        )
    known = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    order = np.argsort([known[group] for group in groups], kind="stable")
    counts = np.zeros(3)
    chosen: list[list[int]] = [[], [], []]
    for place, trajectory in enumerate(order):
        part = int(np.argmax(shares * (place + 1) - counts))
        counts[part] += 1
        chosen[part].append(int(trajectory))
    for name, share, own in zip(PARTS, shares, chosen, strict=True):
        if share > 0 and not own:
            raise InputError(
                f"{len(order)} trajectories are too few for a {name} part of {share:g}."
            )
    return {
        name: np.array(sorted(own), dtype=np.int32) for name, own in zip(PARTS, chosen, strict=True)
    }
