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
    values : array (4, points of the second, points of the first variable)
        V, dV/ds_0, dV/ds_1, d²V/ds_0 ds_1, with variables in units of the spacing; kJ/mol.
    state : ctypes.Structure
        What the kernel reads.
    """

    def __init__(self, variables: BiasVariables) -> None:
        self.variables = variables
        self.values = np.zeros((4, *variables.points[::-1]))
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
        return np.asarray(self.values[0])

    def add(self, places: NDArray[np.float64], heights: NDArray[np.float64]) -> None:
        """Add hills, one after the other.

        Parameters
        ----------
        places : array (W, 2)
            Variables at the hills' tops.
        heights : array (W,)
            kJ/mol.
        """
        rows, second = self._gaussians(1, places[:, 1])
        columns, first = self._gaussians(0, places[:, 0])
        # V, dV/ds_0, dV/ds_1 and the mixed one are products of value or slope along each.
        second, first = heights[:, None, None] * second[:, [0, 0, 1, 1]], first[:, [0, 1, 0, 1]]
        # One by one: a matrix product's bits would depend on the threads of the library.
        for hill, (row, column) in enumerate(zip(rows, columns, strict=True)):
            self.values[:, row, column] += second[hill, :, row, None] * first[hill, :, None, column]

    def _gaussians(
        self, axis: int, places: NDArray[np.float64]
    ) -> tuple[list[slice], NDArray[np.float64]]:
        """Return the points that hills reach, and value and slope (W, 2, points) at all points."""
        low, high = self.variables.lowest[axis], self.variables.highest[axis]
        width, points = self.variables.widths[axis], self._axes[axis]
        inside = np.clip(places, low, high)
        ends = np.searchsorted(points, (inside - REACH * width, inside + REACH * width))
        away = (points - inside[:, None]) / width
        values = np.exp(-0.5 * away**2)
        slopes = -away * values * self._spacing[axis] / width
        return [slice(*pair) for pair in ends.T.tolist()], np.stack([values, slopes], axis=1)
