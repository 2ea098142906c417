"""Where the walkers of a run ended, in one small file: what another machine needs to go on.

A run's own chunks hold all atoms and are large. What is kept of a run that goes on elsewhere are
its packed frames (`cgfe pack`) and its ends (`cgfe pack --ends`); the run that goes on is another
one (`continues` in its config, and another seed), which keeps a copy of them, and the packed frames
of both are then joined.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgfe.all_atom.bias import BiasVariables, bias_folder, table_path
from cgfe.all_atom.chunks import chunk_files, read_chunk, read_end
from cgfe.all_atom.config import SamplerConfig
from cgfe.errors import InputError
from cgfe.files import replacing
from cgfe.hdf5 import open_hdf5, writing_hdf5

KEPT_FILE = "continued.h5"
"""The ends that a run began from, copied into its folder."""
SEED = "seed"
STARTS = "starts"
"""Where each walker of the first run started: walkers that started alike are dealt alike."""
BIAS, BIAS_VALUES = "bias", "values"
PHYSICS = (
    "sequence",
    "caps",
    "pdb",
    "solvent",
    "hydrogen_mass",
    "walkers",
    "ladder",
    "metadynamics",
)
"""What a run that goes on must share."""


def save_ends(config: SamplerConfig, path: Path) -> None:
    """Write the ends of all walkers of the run in `config.output`.

    Raises
    ------
    InputError
        If a walker has no finished chunk, or walkers have different numbers of them.
    """
    folder = Path(config.output)
    files = [chunk_files(folder, walker) for walker in range(config.walkers)]
    if len({len(own) for own in files}) != 1 or not files[0]:
        raise InputError(f"{folder}: walkers are not equally far; let the run go on to its end.")
    ends = [read_end(own[-1]) for own in files]
    with writing_hdf5(path) as file:
        for name in ends[0]:
            file[name] = np.array([end[name] for end in ends])
        if config.metadynamics is not None:
            bias = {**BiasVariables.kept(bias_folder(folder)).to_arrays()}
            bias |= read_chunk(table_path(folder, len(files[0]) - 1), BIAS_VALUES)
            for name, values in bias.items():
                file[f"{BIAS}/{name}"] = values
        file.attrs[SEED] = [config.seed, *_seeds_before(config)]
        file.attrs[STARTS] = starts_of(config)
        for key in PHYSICS:
            file.attrs[key] = str(getattr(config, key))


def keep_ends(config: SamplerConfig) -> None:
    """Copy the ends that a run begins from into its folder, if they are not there yet."""
    path = ends_path(config)
    kept = Path(config.output) / KEPT_FILE
    if path != kept:
        with replacing(kept) as temporary:
            shutil.copyfile(path, temporary)


def ends_path(config: SamplerConfig) -> Path:
    """Return the file of ends that a run begins from: its own copy once that is there."""
    assert config.continues is not None
    kept = Path(config.output) / KEPT_FILE
    return kept if kept.exists() else Path(config.continues)


def load_ends(config: SamplerConfig) -> dict[str, NDArray[Any]]:
    """Return the `end_...` arrays (W, ...) of the run that `config.continues` names.

    Raises
    ------
    InputError
        If the file is none of ends, or of another system, or its run had the same seed.
    """
    path = ends_path(config)
    with open_hdf5(path) as file:
        if SEED not in file.attrs:
            raise InputError(f"{path}: no file of ends; make one by cgfe pack --ends.")
        for key in PHYSICS:
            if str(file.attrs.get(key)) != str(getattr(config, key)):
                raise InputError(
                    f"{path} is of {key} {file.attrs.get(key)}, the config has "
                    f"{getattr(config, key)}."
                )
        if config.seed in file.attrs[SEED]:
            raise InputError(
                f"seed is {config.seed}, which {path} has used already; choose another."
            )
        return {name: file[name][()] for name in file if name != BIAS}


def load_bias(config: SamplerConfig) -> tuple[BiasVariables, NDArray[np.float64]]:
    """Return the variables and the table (`BiasTable.values`) of the run that is continued."""
    with open_hdf5(ends_path(config)) as file:
        arrays = {name: values[()] for name, values in file[BIAS].items()}
    return BiasVariables.from_arrays(arrays), arrays[BIAS_VALUES]


def starts_of(config: SamplerConfig) -> list[str]:
    """Return where each walker started, in the first of the runs that continue each other."""
    if config.continues is None:
        return [config.start_of(walker) for walker in range(config.walkers)]
    with open_hdf5(ends_path(config)) as file:
        return [str(start) for start in file.attrs[STARTS]]


def _seeds_before(config: SamplerConfig) -> list[int]:
    if config.continues is None:
        return []
    with open_hdf5(ends_path(config)) as file:
        return [int(seed) for seed in file.attrs[SEED]]
