"""The frames files that come with the package, by name."""

from importlib.resources import files
from pathlib import Path

_FOLDER = Path(str(files("cgfe.data")))
EMBEDDED = {name: _FOLDER / f"{name}.h5" for name in ("chignolin", "helix")}
"""Name as in `data.frames`, and where the file lies."""
EMBEDDED_MEAN_FORCES = {name: _FOLDER / f"{name}_mean_forces.h5" for name in ("chignolin",)}
"""Name of a set, and where the mean forces of its walkers lie."""
