"""The report and the table say what the saved files hold, and nothing else."""

import base64
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from cgfe.errors import InputError
from cgfe.report.run import metric_table, read_metrics, write_report
from cgfe.report.run_verdict import verdict
from cgfe.report.structure import plot_contacts, plot_distributions
from cgfe.report.trapping import plot_bond_scans
from cgfe.simulation.results import FreeEnergyResult
from tests.report.browser import WIDTHS, check_layout

METRICS = {
    "js": 0.2113,
    "kl_reference_model": 0.51234,
    "mse_kt2": 1.9,
    "w1_tic1": 0.31,
    "w1_tic2": 0.12,
    "delta_f_kt": -1.13,
    "coverage": 0.97,
    "outside": 0.01,
    "blown_up": 3 / 128,
    "split_half_js": 0.03,
}
EDGES = (np.linspace(-2, 2, 11), np.linspace(-2, 2, 11))
FLOORED = ("js", "w1_tic1", "w1_tic2", "delta_f_kt")
SETTLED = {
    "reached": "yes",
    "js_change": 0.0123,
    "js_change_low": -0.01,
    "js_change_high": 0.0346,
    "correlation_times": 12.0,
    "longer": 1.0,
}
TRAPPING = {
    "began": [60, 40],
    "stayed": [45, 0],
    "share": 0.45,
    "foldings": 71,
    "unfoldings": 19,
    "memory": [0.25, 0.1, 0.4],
    "deepest": {"model": 0.21, "reference": 0.03, "reference_there": 0.001},
    "bonds": {
        "scans": 63,
        "monotone": 0.75,
        "largest_fall": 12.5,
        "stretch": [0.0, 1.0, 2.0],
        "median": [0.0, 100.0, 400.0],
        "worst": [0.0, 30.0, 17.5],
    },
}
CSV = (
    "epoch,step,train/loss,validation/loss,free_energy/js,lr-Adam\n"
    "0,9,,5.0,0.6,\n"
    "0,9,7.0,,,\n"
    "1,19,6.0,,,\n"
    "1,19,4.0,3.0,0.4,1e-3\n"
)


def make_result(system: str = "chignolin") -> FreeEnergyResult:
    centres = (EDGES[0][:-1] + EDGES[0][1:]) / 2
    density = np.exp(-np.add.outer(centres**2, centres**2))
    density /= density.sum()
    chain = np.arange(30, dtype=np.float32).reshape(1, 10, 3) % 7
    return FreeEnergyResult(
        system=system,
        metrics=dict(METRICS),
        floor={key: METRICS[key] / 5 for key in FLOORED},
        floor_high={key: METRICS[key] / 4 for key in FLOORED},
        intervals={key: (0.9 * value, 1.1 * value) for key, value in METRICS.items()},
        equilibrium=SETTLED,
        prior={key: value * 3 for key, value in METRICS.items()},
        simulation={"replicas": 128, "steps": 10000, "time_step_ps": 0.004, "device": "cpu"},
        edges=EDGES,
        reference=density,
        model=density[::-1],
        prior_density=density.T,
        residue_names=("TYR",) * 10,
        structure_tics=np.zeros((1, 2)),
        reference_structures=chain,
        model_structures=chain + 1,
    )


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run-1"
    make_result().save(folder)
    (folder / "metrics.csv").write_text(CSV)
    (folder / "config.yaml").write_text("seed: 1  # <script>alert('&')</script>\n")
    return folder


class Page(HTMLParser):
    """Collects the table's exact values, all tags with attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.values: dict[str, list[float | None]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.metric = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if "data-metric" in attributes:
            self.metric = str(attributes["data-metric"])
            self.values[self.metric] = []
        if tag == "data":
            self.values[self.metric].append(float(str(attributes["value"])))
        if attributes.get("class") == "none":
            self.values[self.metric].append(None)

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, name: str) -> int:
        return sum(tag == name for tag, _ in self.tags)


def read_page(run_dir: Path) -> Page:
    path = write_report(run_dir)
    assert path == run_dir / "report.html"
    return Page(path.read_text(encoding="utf-8"))


def test_page_holds_the_saved_numbers_and_needs_nothing_from_elsewhere(run_dir: Path) -> None:
    page = read_page(run_dir)
    saved = json.loads((run_dir / "free_energy.json").read_text())
    assert list(page.values) == list(METRICS)
    for key, values in page.values.items():
        assert values == [saved[key], saved["prior"][key], saved["floor"].get(key)]
    html = (run_dir / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|@import|url\(|file:", html)
    assert page.count("link") == page.count("script") == page.count("iframe") == 0
    sources = [attrs[key] for tag, attrs in page.tags for key in ("src", "srcset") if key in attrs]
    assert len(sources) == 8  # surfaces, profiles, structures, curves; light and dark
    for source in sources:
        kind, data = str(source).split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
    assert len(set(sources)) == 8
    assert not list(run_dir.glob(".*"))
    said = verdict(make_result())
    assert all(sentence in page.text for sentence in (said.headline, *said.details))
    assert "length of a replica ps40" in page.text


def test_what_held_the_replicas_is_told_where_it_is_known(run_dir: Path) -> None:
    assert "never left" not in read_page(run_dir).text  # as of an older result
    replace(make_result(), trapping=TRAPPING).save(run_dir)
    page = read_page(run_dir)
    for words in (
        "never left their start’s state45 of 100 replicas (45 %)",
        "of those that began folded45 of 60 replicas (75 %)",
        "of those that began unfolded0 of 40 replicas (0 %)",
        "foldings71",
        "memory of the start0.25 (95 %: 0.1 to 0.4)",
        "deepest bin of the model21 %",
        "the reference there0.1 %",
        "stretched bonds that rise all the way75 %",
        "largest fall kcal/mol12.5",
    ):
        assert words in page.text, words
    assert page.count("img") == 5
    alone = {"deepest": TRAPPING["deepest"]}  # no native structure, all bonds in a ring
    replace(make_result(), trapping=alone).save(run_dir)
    page = read_page(run_dir)
    assert "deepest bin of the model21 %" in page.text
    assert "foldings" not in page.text
    assert page.count("img") == 4


def structured() -> FreeEnergyResult:
    """A result with structures, without a native one, and a contact that the model has lost."""
    edges = np.tile(np.linspace(0, 10, 11), (5, 1))
    reference, model = np.full((5, 10), 0.1), np.tile(np.arange(10) / 45, (5, 1))
    for array in (edges, reference, model):
        array[4] = np.nan
    contacts = np.full((10, 10), np.nan)
    contacts[0, 9] = contacts[9, 0] = 0.75
    return replace(
        make_result(),
        structure_edges=edges,
        structure_reference=reference,
        structure_model=model,
        contacts_reference=contacts,
        contacts_model=contacts - 0.5,
    )


def test_metrics_that_are_no_table_are_told(run_dir: Path) -> None:
    (run_dir / "metrics.csv").write_bytes(b"epoch,step\n\xff\xfe,1\n")
    with pytest.raises(InputError, match=r"metrics\.csv: not a readable table"):
        write_report(run_dir)


def test_structures_are_drawn_where_they_are_known(run_dir: Path) -> None:
    assert read_page(run_dir).count("img") == 4
    structured().save(run_dir)
    page = read_page(run_dir)
    assert page.count("img") == 6
    assert "three or more bonds apart are within 8 Å" in page.text


@pytest.mark.parametrize("width", WIDTHS)
def test_page_fits_a_browser(width: int, run_dir: Path) -> None:
    """With everything that a run's page can have."""
    replace(structured(), trapping=TRAPPING).save(run_dir)
    check_layout(write_report(run_dir), width, images=7)


def test_distributions_and_contacts_are_drawn_as_they_are() -> None:
    panels = [axes for axes in plot_distributions([("model", structured())]).axes if axes.axison]
    assert len(panels) == 4  # no RMSD
    for axes in panels:
        steps = {patch.get_label(): patch.get_data().values for patch in axes.patches}
        np.testing.assert_allclose(steps["model"], np.arange(10) / 45)
        np.testing.assert_allclose(steps["reference"], 0.1)
    images = [
        axes.images[0].get_array()
        for axes in plot_contacts([("model", structured())]).axes
        if axes.images
    ]
    reference, model, difference = images[:3]
    assert (reference[0, 9], model[0, 9], difference[0, 9]) == (0.75, 0.25, -0.5)
    assert difference.mask.sum() == 98


def test_bond_scans_are_drawn_as_they_are() -> None:
    (axes,) = plot_bond_scans(TRAPPING["bonds"]).axes
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    np.testing.assert_allclose(lines["median"], [0, 100, 400])
    np.testing.assert_allclose(lines["falls most"], [0, 30, 17.5])


def test_verdict_in_words() -> None:
    said = verdict(make_result())
    assert said.headline == (
        "JS 0.211 (95 %: 0.19 to 0.232) from the validation frames: a perfect model would score "
        "0.0423, at most 0.0528, and the prior alone scores 0.634."
    )
    words = " ".join(said.details)
    assert said.tone == "fair"
    assert "1.13 kT more stable" in words
    assert "at equilibrium as far as this figure goes" in words
    assert "JS changes by +0.0123 (95 %: -0.01 to +0.0346)" in words
    assert "a better one could still be told apart" in words
    assert "3 of 128 replicas blew up" in words


@pytest.mark.parametrize(
    ("changed", "tone", "words"),
    [
        ({"js": 0.70}, "bad", "no better than the prior"),
        ({"delta_f_kt": 0.5}, "fair", "0.5 kT less stable"),
        ({"blown_up": 0.0}, "fair", "No replica blew up"),
        ({"js": math.nan}, "bad", "3 of 128 replicas"),
    ],
)
def test_verdict_follows_the_figures(changed: dict[str, float], tone: str, words: str) -> None:
    said = verdict(replace(make_result(), metrics=METRICS | changed))
    assert said.tone == tone
    assert words in " ".join(said.details)


@pytest.mark.parametrize(
    ("low", "tone", "words"),
    [
        (0.0424, "fair", "a better one could still be told apart"),
        (0.0422, "good", "as good as can be told"),
        (-math.inf, "good", "cannot be told from so few trajectories"),
    ],
)
def test_as_good_as_can_be_told_only_if_the_interval_reaches_the_floor(
    low: float, tone: str, words: str
) -> None:
    said = verdict(replace(make_result(), intervals={"js": (low, 0.3)}))
    assert words in said.details[0]
    assert said.tone == tone or not math.isfinite(low)


@pytest.mark.parametrize(("kelvin", "told"), [(310.0, False), (640.0, True), (270.0, True)])
def test_a_model_that_heats_itself_up_says_so(kelvin: float, told: bool) -> None:
    result = make_result()
    metrics = METRICS | {"heating": kelvin / 300 - 1}
    simulation = result.simulation | {"kinetic_temperature_kelvin": kelvin}
    said = verdict(replace(result, metrics=metrics, simulation=simulation))
    assert (f"ran at {kelvin:.0f} K in place of 300 K" in said.details[0]) is told
    assert (said.tone == "bad") is told


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"reached": "no", "longer": 4.0}, "not at equilibrium, nor any figure of it"),
        ({"reached": "no", "longer": 4.0}, "about 40,000 steps (0.16 ns) a replica or more"),
        ({"reached": "unknown", "longer": 2.0}, "cannot be told"),
        ({"reached": "unknown", "longer": 2.0}, "about 20,000 steps"),
    ],
)
def test_a_figure_out_of_equilibrium_says_so(changed: dict[str, object], words: str) -> None:
    said = verdict(replace(make_result(), equilibrium=SETTLED | changed))
    assert words in said.details[2]
    assert "is not known" in verdict(replace(make_result(), equilibrium={})).details[2]


def test_older_results_have_no_floor(run_dir: Path) -> None:
    """They compared halves of the training frames with each other."""
    path = run_dir / "free_energy.json"
    saved = json.loads(path.read_text())
    for key in ("floor_high", "intervals", "compared_with", "equilibrium"):
        del saved[key]
    path.write_text(json.dumps(saved))
    old = FreeEnergyResult.load(run_dir)
    assert old.floor == {}
    assert old.compared_with == "train"
    assert "which the fit has seen" in verdict(old).headline


def test_without_native_structure_prior_and_structures(run_dir: Path) -> None:
    bare = replace(
        make_result(),
        metrics=METRICS | {"delta_f_kt": math.nan},
        prior={},
        prior_density=None,
        structure_tics=np.zeros((0, 2)),
    )
    bare.save(run_dir)
    page = read_page(run_dir)
    assert page.values["delta_f_kt"] == [None, METRICS["delta_f_kt"] / 5]
    assert "prior alone" not in page.text
    assert "stable" not in page.text
    assert page.count("figure") == 3
    assert "nan" not in page.text.lower()


def test_several_systems_get_a_section_each_with_their_text_escaped(run_dir: Path) -> None:
    other = make_result("<b>&ww")
    replace(other, metrics=METRICS | {"js": 0.0987}).save(run_dir, "-ww")
    (run_dir / "prior_fit-ww.png").write_bytes(b"\x89PNG saved")
    page = read_page(run_dir)
    assert page.count("figure") == 3 + 4 + 1
    assert page.text.index("chignolin") < page.text.index("<b>&ww")
    assert "JS 0.211" in page.text
    assert "JS 0.0987" in page.text
    assert "<script>alert('&')</script>" in page.text
    assert page.count("b") == page.count("script") == 0


def test_unfinished_run_has_curves_and_says_so(run_dir: Path, tmp_path: Path) -> None:
    (run_dir / "free_energy.json").unlink()
    path = write_report(run_dir, tmp_path / "new" / "page.html")
    page = Page(path.read_text(encoding="utf-8"))
    assert "no free-energy result yet" in page.text
    assert "up to epoch 1" in page.text
    assert (page.count("figure"), page.count("table"), page.count("details")) == (1, 0, 1)
    assert not (run_dir / "report.html").exists()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (None, "no such folder"),
        ({}, "not the folder of a run"),
        ({"config.yaml": "a: 1\n"}, "no result yet"),
        ({"config.yaml": "a: 1\n", "metrics.csv": "epoch,step\n"}, "no result yet"),
        ({"free_energy.json": '{"js": 0.1'}, "no readable free-energy result"),
    ],
)
def test_what_is_no_run_is_named(tmp_path: Path, files: dict[str, str] | None, words: str) -> None:
    folder = tmp_path / "run"
    if files is not None:
        folder.mkdir()
    for name, text in (files or {}).items():
        (folder / name).write_text(text)
    with pytest.raises(InputError, match=words) as raised:
        write_report(folder)
    assert str(folder) in str(raised.value)
    assert not (folder / "report.html").exists()


def test_the_last_row_of_a_step_counts(run_dir: Path) -> None:
    assert read_metrics(run_dir / "metrics.csv") == [
        {"epoch": 0, "step": 9, "train/loss": 7, "validation/loss": 5, "free_energy/js": 0.6},
        {"epoch": 1, "step": 19, "train/loss": 4, "validation/loss": 3, "free_energy/js": 0.4,
         "lr-Adam": 1e-3},
    ]  # fmt: skip


def test_table_for_the_terminal() -> None:
    metrics = METRICS | {"delta_f_kt": math.nan, "further": 12345.0}
    lines = metric_table(replace(make_result(), metrics=metrics)).splitlines()
    assert "chignolin" in lines[0]
    assert lines[1].split() == ["model", "95", "%", "prior", "alone", "floor", "better"]
    assert len(lines) == 3 + len(metrics)
    assert lines[3].split()[-7:] == ["0.211", *["0.19", "to", "0.232", "0.634", "0.0423", "lower"]]
    assert "–" in next(line for line in lines if "F(folded)" in line)
    assert "12,345" in lines[-1]
    ends = {
        line.index(cell) + len(cell) for line, cell in ((lines[1], "model"), (lines[3], "0.211"))
    }
    assert len(ends) == 1  # columns are aligned
    without = metric_table(replace(make_result(), prior={})).splitlines()
    assert without[3].split()[-2:] == ["0.0423", "lower"]
