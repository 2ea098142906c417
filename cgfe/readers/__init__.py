"""Readers of other programs' data, one module per format, and detection of the format.

Each module has `recognises(path)` and `open_source(paths, options)`; cgfe.readers.convert maps
what it yields to a frames file.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType

from cgfe.data.file_format import is_frames_file
from cgfe.errors import InputError
from cgfe.hdf5 import open_hdf5
from cgfe.readers.source import ReaderOptions, Source

FORMATS = {
    "fu-berlin": "fu_berlin",
    "majewski": "majewski",
    "mlcg": "mlcg_h5",
    "openmm": "openmm_h5",
    "npz": "npz",
    "mdtraj": "mdtraj_files",
}
"""Name -> module, in the order in which they are tried."""


def open_source(
    paths: list[Path], options: ReaderOptions, format_name: str | None = None
) -> tuple[str, Source]:
    """Open files of a format, found out by their content and names if not given.

    Returns
    -------
    str, Source

    Raises
    ------
    InputError
        If a path is missing, the format is not found, or the format's reader refuses them.
    """
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder.")
    name = format_name or detect(paths[0])
    source = _module(name).open_source(paths, options)
    options.check_all_used(name)
    return name, source


def detect(path: Path) -> str:
    """Return the name of the format of a file or folder.

    Raises
    ------
    InputError
        If no format recognises it.
    """
    for name in FORMATS:
        if _module(name).recognises(path):
            return name
    if path.is_file() and path.suffix in (".h5", ".hdf5"):
        with open_hdf5(path) as file:
            if is_frames_file(file):
                raise InputError(f"{path}: is a frames file already; use it as it is.")
    raise InputError(f"{path}: format not recognised; expected one of {', '.join(FORMATS)}.")


def _module(name: str) -> ModuleType:
    if name not in FORMATS:
        raise InputError(f"--format {name}: unknown; expected one of {', '.join(FORMATS)}.")
    return import_module(f"cgfe.readers.{FORMATS[name]}")
