"""TemperatureLadder: replica exchange of simulated replicas."""

import numpy as np
from numpy.typing import ArrayLike

from cgfe.analysis.exchange import exchanged
from cgfe.array_types import BoolArray, FloatArray
from cgfe.errors import InputError
from cgfe.units import thermal_energy


class TemperatureLadder:
    """Replicas that trade temperatures, T of them a ladder; ladders do not see each other.

    Replica r belongs to ladder r // T. At first it has temperature r % T.

    Parameters
    ----------
    temperature : float
        K, of the coldest.
    factors : sequence of float
        Temperatures of a ladder as multiples of the coldest, rising from 1; [1] is no exchange.
    replicas : int
        A multiple of the ladder's length.
    seed : int

    Attributes
    ----------
    slots : int array (L, T)
        Which temperature each replica has.
    tried, accepted : int array (T - 1,)
        Attempts between neighbouring temperatures so far, and how many traded.

    Raises
    ------
    InputError
        If the factors or the number of replicas make no sense.
    """

    def __init__(self, temperature: float, factors: ArrayLike, replicas: int, seed: int) -> None:
        self.factors = check_ladder(factors)
        length = len(self.factors)
        if replicas % length:
            raise InputError(
                f"replicas is {replicas}, expected a multiple of the ladder's {length} "
                "temperatures."
            )
        self.inverse_kt = 1 / (thermal_energy(temperature) * self.factors)
        self.slots = np.tile(np.arange(length), (replicas // length, 1))
        self.tried, self.accepted = np.zeros((2, length - 1), dtype=np.int64)
        self._attempts, self._random = 0, np.random.default_rng(seed)

    @property
    def heat(self) -> FloatArray:
        """Root of each replica's temperature (R,) in units of the coldest: of its velocities."""
        return np.sqrt(self.factors[self.slots.ravel()])

    @property
    def cold(self) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        """Number (L,) of the replica of each ladder that has the lowest temperature."""
        ladders, length = self.slots.shape
        return np.arange(ladders) * length + self.slots.argmin(axis=1)

    @property
    def by_temperature(self) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
        """Numbers (R,) of the replicas of each ladder from its lowest temperature on."""
        ladders, length = self.slots.shape
        return (np.arange(ladders)[:, None] * length + self.slots.argsort(axis=1)).ravel()

    @property
    def acceptance(self) -> list[float]:
        """Share of the attempts between neighbouring temperatures that traded; NaN of none."""
        pairs = zip(self.accepted.tolist(), self.tried.tolist(), strict=True)
        return [a / t if t else float("nan") for a, t in pairs]

    def attempt(self, energies: FloatArray, whole: BoolArray) -> FloatArray:
        """Try the pairs whose turn it is; return what velocities (R,) are to be scaled with.

        Parameters
        ----------
        energies : array (R,)
            kcal/mol.
        whole : bool array (R,)
            Replicas that have not blown up; others keep their temperature.
        """
        before, heat, shape = self.slots, self.heat, self.slots.shape
        parity = self._attempts % 2
        self._attempts += 1
        self.slots = exchanged(
            before,
            energies.reshape(shape),
            self.inverse_kt,
            parity,
            self._random.random((shape[0], shape[1] // 2)),
            whole.reshape(shape),
        )
        turn = slice(parity, shape[1] - 1, 2)
        self.tried[turn] += shape[0]
        risen = (self.slots > before)[:, :, None] & (before[:, :, None] == np.arange(shape[1]))
        self.accepted[turn] += risen.sum(axis=(0, 1))[:-1][turn]
        return self.heat / heat


def check_ladder(factors: ArrayLike) -> FloatArray:
    """Return the factors (T,).

    Raises
    ------
    InputError
        If they are not finite, do not rise, or do not begin with 1.
    """
    found = np.atleast_1d(np.asarray(factors, dtype=np.float64))
    good = found.ndim == 1 and len(found) > 0 and bool(np.isfinite(found).all())
    if not good or found[0] != 1 or not (np.diff(found) > 0).all():
        raise InputError(
            f"ladder is {found.tolist()}, expected multiples of the data's temperature that rise "
            "from 1, as [1, 1.4], or [1] for no exchange."
        )
    return found
