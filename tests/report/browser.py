"""A page as headless Chromium lays it out; tests are skipped where there is no Chromium."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

WIDTHS = [1200, 500]
"""Of a desktop's window, and of a phone's (Chromium's narrowest)."""
SCRIPT = (
    "<script>addEventListener('load', () => { document.title = [innerWidth, "
    "document.documentElement.scrollWidth, ...[...document.images].map(i => i.naturalWidth)]"
    ".join(' ') })</script>"
)


def check_layout(page: Path, width: int, images: int) -> None:
    """Check that nothing but tables and figures scrolls aside, and that every image is drawn."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium")
    copy = page.with_name("measured.html")
    html = page.read_text(encoding="utf-8")
    copy.write_text(html.replace("</body>", SCRIPT + "</body>"), encoding="utf-8")
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--window-size={width},900", f"--user-data-dir={page.parent / 'profile'}", "--dump-dom",
         str(copy)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    title = re.search(r"<title>([\d ]+)</title>", done.stdout)
    assert title is not None, done.stderr
    inner, scrolled, *widths = map(int, title[1].split())
    assert inner == width
    assert scrolled <= inner
    assert len(widths) == images
    assert min(widths) > 100  # 0 of an image that cannot be drawn
