"""The frames files that come with the package, by name."""

from importlib.resources import files
from pathlib import Path

EMBEDDED = {name: Path(str(files("cgfe.data") / f"{name}.h5")) for name in ("chignolin",)}
"""Name as in `data.frames`, and where the file lies."""
