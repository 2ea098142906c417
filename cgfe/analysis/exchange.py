"""Replica exchange: who trades temperatures, and how well they travel.

Neighbouring slots i and i + 1 of a ladder of temperatures are tried at attempts of the parity of i.
With E_i the potential energy of the replica in slot i, they trade with probability
min(1, exp[(β_i - β_{i+1})(E_i - E_{i+1})]) (Sugita & Okamoto 1999,
doi 10.1016/S0009-2614(99)01123-9).
"""

import numpy as np

from cgfe.array_types import BoolArray, FloatArray, IntArray


def exchanged(
    slots: IntArray,
    energies: FloatArray,
    inverse_kt: FloatArray,
    parity: int,
    uniforms: FloatArray,
    whole: BoolArray | None = None,
) -> IntArray:
    """Return the slots (L, T) of the replicas of L ladders after an attempt.

    Parameters
    ----------
    slots : int array (L, T)
        Of each replica; a permutation in each row.
    energies : array (L, T)
        Potential energy of each replica.
    inverse_kt : array (T,)
        β of each slot, falling.
    parity : int
        0 tries the pairs (0, 1), (2, 3), ..., 1 the pairs (1, 2), (3, 4), ...
    uniforms : array (L, T // 2)
        Random numbers in [0, 1).
    whole : bool array (L, T), optional
        Replicas that may trade; all by default.
    """
    replica = np.argsort(slots, axis=1)
    lower = np.arange(parity, slots.shape[1] - 1, 2)
    cold, hot = replica[:, lower], replica[:, lower + 1]
    rows = np.arange(len(slots))[:, None]
    with np.errstate(invalid="ignore"):  # of energies that are not finite, none is accepted
        difference = energies[rows, cold] - energies[rows, hot]
        exponent = (inverse_kt[lower] - inverse_kt[lower + 1]) * difference
        accepted = uniforms[:, : len(lower)] < np.exp(np.minimum(exponent, 0.0))
    if whole is not None:
        accepted &= whole[rows, cold] & whole[rows, hot]
    after = slots.copy()
    after[rows, cold] += accepted
    after[rows, hot] -= accepted
    return after


def round_trips(slots: IntArray, size: int) -> int:
    """Return how often a replica came from slot 0 to slot `size` - 1 and back to 0.

    Parameters
    ----------
    slots : int array (attempts,)
        Of one replica, in time.
    size : int
        Of the ladder.
    """
    ends = slots[(slots == 0) | (slots == size - 1)]
    turns = ends[np.append(True, np.diff(ends) != 0)[: len(ends)]]
    if len(turns) and turns[0] != 0:
        turns = turns[1:]
    return max(0, (len(turns) - 1) // 2)
