"""The table of a bias that all walkers of the batched kernel share.

Hills are Gaussians, so the table holds at each point not only V but its derivatives, exactly:
the kernel's bicubic Hermite interpolation is then smooth, and right to 1e-5 of a hill between
points a fifth of a hill's width apart. Units: kJ/mol, nm (of TICs none).
"""

import ctypes

import numpy as np
from numpy.typing import NDArray

from cgfe.all_atom.bias import BiasVariables

REACH = 7.0
"""In widths: further out a hill is less than 3e-11 of its height and left out."""


class _Bias(ctypes.Structure):
    """`Bias` of peptide_bias.h."""

    _fields_ = (
        ("beads", ctypes.c_int32),
        ("pairs", ctypes.c_int32),
        ("points", ctypes.c_int32 * 2),
        ("lowest", ctypes.c_double * 2),
        ("spacing", ctypes.c_double * 2),
        *((name, ctypes.c_void_p) for name in ("atoms", "reference", "ends", "weights", "table")),
    )


class BiasTable:
    """V on the points of two variables, no bias at first.

    Beyond its ends the bias goes on with what it is there, without force: it is a function of the
    variables clamped to the table, and so are hills.

    Parameters
    ----------
    variables : BiasVariables

    Attributes
    ----------
    values : array (points of the second, points of the first variable, 4)
        V, dV/ds_0, dV/ds_1, d²V/ds_0 ds_1, with variables in units of the spacing; kJ/mol.
    state : ctypes.Structure
        What the kernel reads.
    """

    def __init__(self, variables: BiasVariables) -> None:
        self.variables = variables
        across, along = variables.points[::-1]
        self.values = np.zeros((across, along, 4))
        self._axes = [
            np.linspace(low, high, count)
            for low, high, count in zip(
                variables.lowest, variables.highest, variables.points, strict=True
            )
        ]
        self._spacing = (variables.highest - variables.lowest) / (np.array(variables.points) - 1)
        # The kernel has their addresses, so they live as long as this object.
        self._atoms = np.ascontiguousarray(variables.atoms, dtype=np.int32)
        self._ends = np.ascontiguousarray(variables.pairs, dtype=np.int32)
        self._weights = np.ascontiguousarray(variables.weights, dtype=np.float64)
        centre = variables.reference.mean(axis=0) if len(variables.reference) else 0.0
        self._reference = np.ascontiguousarray(variables.reference - centre, dtype=np.float64)
        self.state = _Bias(
            len(self._atoms),
            len(self._ends),
            (ctypes.c_int32 * 2)(*variables.points),
            (ctypes.c_double * 2)(*variables.lowest),
            (ctypes.c_double * 2)(*self._spacing),
            self._atoms.ctypes.data,
            self._reference.ctypes.data if len(self._reference) else None,
            self._ends.ctypes.data,
            self._weights.ctypes.data,
            self.values.ctypes.data,
        )

    @property
    def energies(self) -> NDArray[np.float64]:
        """V at the points (second, first variable), kJ/mol."""
        return self.values[..., 0]

    def add(self, places: NDArray[np.float64], heights: NDArray[np.float64]) -> None:
        """Add hills, one after the other.

        Parameters
        ----------
        places : array (W, 2)
            Variables at the hills' tops.
        heights : array (W,)
            kJ/mol.
        """
        inside = np.clip(places, self.variables.lowest, self.variables.highest)
        for place, height in zip(inside, heights, strict=True):
            (rows, second), (columns, first) = (self._gaussian(k, place[k]) for k in (1, 0))
            # V, dV/ds_0, dV/ds_1 and the mixed one are products of value or slope along each.
            self.values[rows, columns] += (
                height * second[:, None, [0, 0, 1, 1]] * first[None, :, [0, 1, 0, 1]]
            )

    def _gaussian(self, axis: int, place: float) -> tuple[slice, NDArray[np.float64]]:
        """Return the points that a hill reaches and its value and slope (points, 2) there."""
        width, points = self.variables.widths[axis], self._axes[axis]
        ends = np.searchsorted(points, (place - REACH * width, place + REACH * width))
        reached = slice(*ends.tolist())
        away = (points[reached] - place) / width
        values = np.exp(-0.5 * away**2)
        return reached, np.stack([values, -away * values * self._spacing[axis] / width], axis=1)
