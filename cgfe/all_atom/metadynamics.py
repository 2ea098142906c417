"""Well-tempered metadynamics in the batched engine: one bias, to which all walkers add hills.

After each frame, once it is recorded, every walker adds a hill where it is, of height
h exp(-V / ((γ-1) kT)) with V the bias there before any of the new hills (Barducci, Bussi,
Parrinello 2008, doi 10.1103/PhysRevLett.100.020603; many walkers: Raiteri et al. 2006,
doi 10.1021/jp054359r). So the walkers of a frame have all moved, and are weighted, under one bias.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgfe.all_atom.batched import BOLTZMANN_KJ, Walkers
from cgfe.all_atom.bias import BiasVariables, bias_folder, bias_offset, table_path
from cgfe.all_atom.bias_table import BiasTable
from cgfe.all_atom.chunks import read_chunk, write_chunk
from cgfe.all_atom.config import SamplerConfig
from cgfe.all_atom.ends import load_bias
from cgfe.units import KCAL_PER_KJ


class SharedHills:
    """The hook of the batched engine that builds the bias.

    The table at the end of a chunk is kept in the run's folder `bias`, complete before the first
    walker's file of that chunk is, so that the next chunk starts from the same bits whenever it is
    sampled. The last two are enough: a walker's missing file is at most one chunk behind.

    Parameters
    ----------
    config : SamplerConfig
        With `metadynamics`; its folder has the `BiasVariables`.

    Attributes
    ----------
    steps : int
        Of dynamics between two hills: those of a frame.
    table : BiasTable
    """

    def __init__(self, config: SamplerConfig) -> None:
        assert config.metadynamics is not None
        self.settings = config.metadynamics
        self.steps = config.steps_per_frame
        self._run, self._config = Path(config.output), config
        self._variables = BiasVariables.kept(bias_folder(self._run))
        self.table = BiasTable(self._variables)
        self._kelvin = config.temperature_kelvin
        self._chunk = 0

    def begin(
        self,
        chunk: int,
        numbers: Sequence[int],
        last: Mapping[str, NDArray[Any]] | None,
        walkers: Walkers,
    ) -> None:
        """Take the table that the last chunk ended with, or the run that is continued.

        Raises
        ------
        InputError
            If that table is not there.
        """
        self._chunk = chunk
        self.table = walkers.bias_table = BiasTable(self._variables)
        if chunk:
            path = table_path(self._run, chunk - 1)
            self.table.values[...] = read_chunk(path, "values")["values"]
        elif self._config.continues is not None:
            self.table.values[...] = load_bias(self._config)[1]

    def act(self, walkers: Walkers) -> None:
        """Add the hills of all walkers."""
        spread = (self.settings.bias_factor - 1) * BOLTZMANN_KJ * self._kelvin
        heights = self.settings.hill_height_kj * np.exp(-walkers.bias / spread)
        self.table.add(walkers.variables, heights)

    def frame(self, walkers: Walkers) -> dict[str, NDArray[Any]]:
        """Return `bias` (W,) and `bias_offset` (W,), kcal/mol, and `variables` (W, 2)."""
        energies, factor = self.table.energies * KCAL_PER_KJ, self.settings.bias_factor
        offset = bias_offset(energies, self._kelvin, factor)
        return {
            "bias": walkers.bias * KCAL_PER_KJ,
            "bias_offset": np.full(walkers.count, offset),
            "variables": walkers.variables * self._variables.file_scale,
        }

    def end(self) -> dict[str, NDArray[Any]]:
        """Keep the table; walkers' files get nothing more."""
        write_chunk(table_path(self._run, self._chunk), {"values": self.table.values})
        table_path(self._run, self._chunk - 2).unlink(missing_ok=True)
        return {}
