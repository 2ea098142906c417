"""Self-contained HTML pages: nothing on them is loaded from elsewhere."""

import base64
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from cgfe.files import replacing
from cgfe.report.plots import DARK

NO_VALUE = "–"


def write_page(path: Path, template: str, **values: Any) -> None:
    """Write a page of `cgfe/report/templates` with its values filled in, complete or not at all."""
    pages = Environment(
        loader=PackageLoader("cgfe.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = pages.get_template(template).render(**values)
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def figure(draw: Callable[[], Figure], caption: str) -> dict[str, str]:
    """Draw a figure twice, for light and dark pages, as data URIs."""
    sources = {}
    styles: dict[str, Any] = {"light": {}, "dark": DARK}
    for mode, style in styles.items():
        with mpl.rc_context(style), io.BytesIO() as buffer:
            draw().savefig(buffer, format="png", dpi=140)
            sources[mode] = data_uri(buffer.getvalue())
    return {"caption": caption, **sources}


def data_uri(png: bytes) -> str:
    """Return an image as text that a page can hold."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def short(value: float) -> str:
    """Return three significant digits, or a dash for no value."""
    if not math.isfinite(value):
        return NO_VALUE
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
