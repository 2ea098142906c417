"""What the site is made of: generated options, links, and nothing from other servers."""

import importlib.util
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
from blocks import ROOT, pages

import cgfe
from cgfe.analysis.comparison import compare_ensembles
from cgfe.analysis.ensemble import Ensemble
from cgfe.analysis.free_energy import TICGrid
from cgfe.cli import COMMANDS
from cgfe.data.frames import _OPTIONAL, REQUIRED
from cgfe.data.writer import EXTRA

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)#\s]+)(?:#[^)\s]*)?\)")


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def filled(hooks: ModuleType) -> dict[str, str]:
    folder = ROOT / "docs" / "reference"
    return {path.stem: hooks.on_page_markdown(path.read_text()) for path in folder.glob("*.md")}


def test_every_page_is_in_the_navigation() -> None:
    assert set(pages()) >= set((ROOT / "docs").rglob("*.md"))


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    # What a page takes in is linked from where it is taken in, too.
    targets = [name for name in LINK.findall(page.read_text()) if "://" not in name]
    missing = [name for name in targets if not (page.parent / name).exists()]
    assert not missing


def test_every_command_and_its_options_are_told(hooks: ModuleType, filled: dict[str, str]) -> None:
    text = filled["commands"]
    for name in COMMANDS:
        assert re.search(rf"^## cgfe {name}$|`{name}`", text, re.MULTILINE), name
    for option in ("--force-map", "--ckpt_path", "--against", "--frame-interval", "--quiet"):
        assert option in text


def test_every_key_of_a_run_is_told_with_its_meaning(filled: dict[str, str]) -> None:
    rows = [row.split(" | ") for row in filled["configuration"].splitlines() if "| `" in row]
    names = {row[0].strip("| `") for row in rows}
    assert {"data.frames", "run_dir", "model.network.cutoff", "trainer.max_epochs"} <= names
    assert {"free_energy.simulation.steps", "checkpoint.monitor"} <= names
    assert {"model.loss.energy_weight", "model.losses.mean_energy.gauge"} <= names
    own = [row for row in rows if row[0].startswith(("| `data", "| `model", "| `free_energy"))]
    assert [row[0] for row in own if not row[-1].strip(" |")] == []


def test_every_key_of_the_sampler_is_told_with_its_meaning(filled: dict[str, str]) -> None:
    rows = [row.split(" | ") for row in filled["sampler"].splitlines() if "| `" in row]
    assert len(rows) > 40
    assert [row[0] for row in rows if not row[-1].strip(" |")] == []


def test_the_format_page_names_every_array_and_attribute(tiny_file: Path) -> None:
    told = set(re.findall(r"`(\w+)`", (ROOT / "docs/developer/frames_format.md").read_text()))
    assert {*REQUIRED, *_OPTIONAL, EXTRA} <= told
    with h5py.File(tiny_file) as file:
        assert {*file, *file.attrs} <= told


def test_the_house_has_every_room() -> None:
    text = (ROOT / "docs/developer/house.md").read_text()
    rooms = {path.parent.name for path in (ROOT / "cgfe").glob("*/__init__.py")}
    assert [room for room in rooms if f"`{room}/`" not in text] == []


def test_every_metric_is_explained() -> None:
    text = (ROOT / "docs/guide/figures.md").read_text()
    tics = np.random.default_rng(0).normal(size=(50, 2))
    sample = Ensemble.from_samples(TICGrid.from_samples(tics), tics, np.zeros(50, int))
    for name in (*compare_ensembles(sample, sample).metrics, "blown_up", "split_half_js"):
        assert text.count(f"`{name}`") >= 2, name  # its meaning, and an example


OBJECTS = re.findall(r"^::: (\S+)$", (ROOT / "docs/reference/python.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", OBJECTS)
def test_every_object_told_of_is_there(name: str) -> None:
    assert pkgutil.resolve_name(name).__doc__


def test_public_names_are_told_of() -> None:
    assert {f"cgfe.{name}" for name in cgfe.__all__} <= set(OBJECTS)


def test_what_a_browser_would_load_from_elsewhere_is_found(hooks: ModuleType) -> None:
    here = (
        '<script src="../assets/a.js"></script><img alt="x" src="data:image/png;base64,AA">'
        '<a href="https://arxiv.org/abs/2509.14600">paper</a><style>a{b:url(c.png)}</style>'
        '<link rel="canonical" href="https://example.org/">'
    )
    assert hooks.from_elsewhere(here) == []
    for text in (
        '<script async src="https://cdn.example.org/a.js">',
        '<link rel="stylesheet" href="//fonts.example.org/css">',
        "<style>@font-face{src: url('https://fonts.example.org/a.woff2')}</style>",
        '@import "https://example.org/a.css";',
        '<img src="http://example.org/badge.svg">',
    ):
        assert len(hooks.from_elsewhere(text)) == 1, text
