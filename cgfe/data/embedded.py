"""The frames files that come with the package, by name."""

from importlib.resources import files
from pathlib import Path

_FOLDER = Path(str(files("cgfe.data")))
EMBEDDED = {name: _FOLDER / f"{name}.h5" for name in ("chignolin",)}
"""Name as in `data.frames`, and where the file lies."""
EMBEDDED_MEAN_FORCES: dict[str, Path] = {}
"""Name of a set, and where its mean forces lie."""
