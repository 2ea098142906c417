"""The report of a sweep: values whose statistics are known, and what is missing is told."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from cgfe.cli import main
from cgfe.errors import InputError
from cgfe.experiment.results import gather
from cgfe.experiment.runs import Run, read_runs
from cgfe.experiment.saved import read_saved
from cgfe.experiment.sweep_report import write_sweep_report
from cgfe.report.structure import LABELS
from cgfe.simulation.results import FreeEnergyResult
from tests.experiment.made_results import (
    DELTA_F,
    JS,
    SEED,
    WEIGHT,
    WEIGHTS,
    read_rows,
    rising,
    write_rows,
    write_saved,
    write_sweep,
)
from tests.report.browser import WIDTHS, check_layout


class Page(HTMLParser):
    """Collects a page's exact values by table row, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: dict[str, list[float]] = {}
        self.text, self.row, self.tags = "", "", []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append(tag)
        for key in ("data-setting", "data-compared", "data-trapping", "data-further"):
            if key in attributes:
                self.row = f"{key} {attributes[key]}"
                self.rows[self.row] = []
        if tag == "data":
            self.rows[self.row].append(float(str(attributes["value"])))

    def handle_data(self, data: str) -> None:
        self.text += data


def report(folder: Path, **options: Any) -> tuple[dict[str, Any], Page]:
    """Return the numbers and the page of a sweep's report."""
    written = write_sweep_report(folder, **options)
    numbers = json.loads(written.numbers.read_text())
    assert numbers["headline"] == written.headline
    assert tuple(numbers["sentences"]) == written.sentences
    page = Page(written.page.read_text(encoding="utf-8"))
    assert all(sentence in page.text for sentence in (written.headline, *written.sentences))
    return numbers, page


def interval(values: np.ndarray) -> tuple[float, float, float]:
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return values.mean(), values.mean() - half, values.mean() + half


def test_numbers_are_those_of_the_runs(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep-made")
    numbers, page = report(folder)
    truth = np.array([[rising(weight, seed) for seed in range(8)] for weight in WEIGHTS])
    assert [s["setting"] for s in numbers["settings"]] == [*WEIGHTS]
    for found, values in zip(numbers["settings"], truth, strict=True):
        assert [*found["figures"].values()] == pytest.approx(values)
        ends = (found["mean"], found["low"], found["high"])
        assert ends == pytest.approx(interval(values))
        shown = page.rows[f"data-setting {found['setting']:g}"]
        assert shown == pytest.approx([*ends, found["spread"], *values])
    half, one = numbers["comparisons"]
    assert one["difference"]["value"] == pytest.approx(0.10175)
    for comparison, values in ((half, truth[1] - truth[0]), (one, truth[2] - truth[0])):
        d = comparison["difference"]
        assert (d["value"], d["low"], d["high"]) == pytest.approx(interval(values))
    assert one["p"] == pytest.approx(2 / 2**8)
    assert one["p_holm"] == pytest.approx(4 / 2**8)
    assert one["p_joint"] <= 0.05 < half["p_joint"]
    effect = [one["effect"][key] for key in ("value", "low", "high")]
    shown = page.rows["data-compared 1"]
    assert shown == pytest.approx(
        [*interval(truth[2] - truth[0]), one["p_joint"], one["p_holm"], 2 / 2**8, *effect,
         one["detectable"]]
    )  # fmt: skip
    assert (numbers["better"], numbers["worse"]) == ([], [1.0])
    assert numbers["headline"] == (
        "In JS, of 2 settings 1 is worse than energy weight 0, 1 cannot be told from it."
    )
    assert numbers["runs"] == {"finished": 24}
    assert numbers["floor"] is None


def test_wall_times_are_told_where_they_are_known(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep-made")
    assert "wall time" not in report(folder)[1].text
    rows = read_rows(folder)
    write_rows(folder, [row | {"seconds": 100 + n} for n, row in enumerate(rows)])
    _, page = report(folder)
    assert "wall time of a run, median112 s" in page.text
    assert "wall time of finished runs0.7 h" in page.text


def test_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep-made")
    _, page = report(folder)
    html = (folder / "sweep.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|@import|url\(|file:|href", html)
    assert not {"link", "script", "iframe", "a"} & set(page.tags)
    images = re.findall(r"data:image/png;base64,([^\"]+)", html)
    assert len(set(images)) == 4  # errors and differences, light and dark
    assert all(base64.b64decode(data).startswith(b"\x89PNG") for data in images)
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("width", WIDTHS)
def test_page_fits_a_browser(width: int, tmp_path: Path) -> None:
    """With rows of trapping, all that runs can have, and a message of one long word."""
    folder = write_sweep(tmp_path / "sweep-made", failed={(0.5, 2): "a/" + "long/" * 80})
    save_results(folder)
    report(folder)
    check_layout(folder / "sweep.html", width, images=7)


def test_failed_and_missing_runs_are_told(tmp_path: Path) -> None:
    folder = write_sweep(
        tmp_path / "sweep-made", failed={(0.5, 2): "<b>no & memory", (1.0, 0): "killed"}
    )
    rows = read_rows(folder)
    rows[5][JS] = "nan"
    rows[6]["state"] = "pruned"
    write_rows(folder, rows[:-1])
    numbers, page = report(folder)
    assert numbers["runs"] == {"finished": 20, "failed": 2, "ended early": 1, "not begun": 1}
    why = {entry["run"]: entry["why"] for entry in numbers["without_figure"]}
    assert set(why) == {"run-0005", "run-0006", "run-0010", "run-0016"}
    assert "without a finite free_energy/js" in why["run-0005"]
    assert "ended early" in why["run-0006"]
    assert "failed: <b>no & memory (model.loss.energy_weight 0.5, seed_everything 2)" in page.text
    assert "b" not in page.tags
    assert [s["missing"] for s in numbers["settings"]] == [2, 1, 2]
    told = " ".join(numbers["sentences"])
    assert "2 of energy weight 0, 1 of energy weight 0.5, 2 of energy weight 1; pairs" in told
    # The pairs are of seeds that both have: 0 lacks 5 and 6, 1 lacks 0 and 7.
    assert [c["seeds"] for c in numbers["comparisons"]] == [5, 4]


def test_a_setting_without_any_figure_is_named(tmp_path: Path) -> None:
    folder = write_sweep(
        tmp_path / "sweep-made", failed={(0.5, seed): "no memory" for seed in range(8)}
    )
    numbers, _ = report(folder)
    assert [s["setting"] for s in numbers["settings"]] == [0.0, 1.0]
    assert "No run of energy weight 0.5 has a figure." in numbers["sentences"]


def test_floor_and_the_references_own_error(tmp_path: Path) -> None:
    """Samples that all runs share widen the means, and cancel in their differences."""
    folder = write_sweep(tmp_path / "sweep-made")
    alone, _ = report(folder)
    samples = 0.02 * np.random.default_rng(0).normal(size=200)
    write_saved(folder, samples, walkers=16)
    numbers, page = report(folder)
    assert numbers["floor"] == {"mean": pytest.approx(0.03), "high": pytest.approx(0.05)}
    assert "above the floor, a perfect model's 0.03 (95 % below 0.05)" in page.text
    assert numbers["reference_trajectories"] == 16
    error = samples.std(ddof=1) * (16 / 15) ** 0.5
    for with_error, without in zip(numbers["settings"], alone["settings"], strict=True):
        assert with_error["shared"] == pytest.approx(error)
        own = without["high"] - without["mean"]
        half = np.hypot(own, stats.t.ppf(0.975, 15) * error)
        assert with_error["high"] - with_error["mean"] == pytest.approx(half)
    for first, second in zip(numbers["comparisons"], alone["comparisons"], strict=True):
        assert first["difference"] == pytest.approx(second["difference"], abs=1e-9)


def test_the_references_error_of_a_signed_figure(tmp_path: Path) -> None:
    """Told without its sign, and so are its samples, on the side of 0 where the figure is."""
    folder = write_sweep(tmp_path / "sweep-made")
    samples = 0.5 * np.random.default_rng(0).normal(size=200)  # beyond 0 and back
    write_saved(folder, samples, walkers=16)
    numbers, _ = report(folder, metric=DELTA_F)
    assert numbers["reference_trajectories"] == 16
    error = samples.std(ddof=1) * (16 / 15) ** 0.5
    for told in numbers["settings"]:
        assert told["mean"] > 0
        assert told["shared"] == pytest.approx(error)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [("js", 0.2, [0.1, 0.3]), ("delta_f_kt", -0.2, [-0.1, -0.3]), ("coverage", 0.2, [0.9, 0.7])],
)
def test_samples_are_turned_as_the_figure_is(
    key: str, value: float, expected: list[float], tmp_path: Path
) -> None:
    metric = f"final/{key}"
    (tmp_path / "free_energy.json").write_text(json.dumps({key: value}))
    np.savez(tmp_path / "free_energy.npz", **{f"{key}_resampled": np.array([0.1, 0.3])})
    saved = read_saved(Run("run", tmp_path, "complete", "", {}, {metric: value}), metric)
    assert saved is not None
    np.testing.assert_allclose(np.asarray(saved[1]), expected)


def trapping_of(weight: float, seed: int) -> dict[str, Any]:
    """All but the seeds' own is the same at 0 and 0.5; at 1 four of ten more are held."""
    held = 20 + seed + (40 if weight == 1.0 else seed % 2 if weight == 0.5 else 0)
    known: dict[str, Any] = {"deepest": {"model": 0.01 * held, "reference": 0.1}}
    if seed < 7:  # the last seed's simulations had no replica in any state
        known |= {"began": [60, 40], "stayed": [held, 0], "share": held / 100}
        known |= {"foldings": 30, "unfoldings": 20, "memory": [None, None, None]}
    return known


def test_trapped_replicas_are_told_against_the_weight(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep-made")
    write_saved(folder, None)
    numbers, page = report(folder)
    assert numbers["trapping"] == {}
    assert "trapped" not in page.text
    write_saved(folder, None, told=lambda *run: {"trapping": trapping_of(*run)})
    numbers, page = report(folder)
    assert set(numbers["trapping"]) == {"stayed", "transitions", "deepest"}
    for row, weight in zip(numbers["trapping"]["stayed"], WEIGHTS, strict=True):
        shares = np.array([trapping_of(weight, seed)["share"] for seed in range(7)])
        assert (row["mean"], row["low"], row["high"]) == pytest.approx(interval(shares))
        assert row["figures"]["7"] is None
        assert row["differs_from_baseline"] == (weight == 1.0)
        assert page.rows[f"data-trapping {weight:g}"][:3] == pytest.approx(interval(shares))
        assert page.rows[f"data-trapping {weight:g}"][3] == 0.5
    words = "comparisons together, differs in never left their start’s state: 1 (0.63)"
    assert words in page.text
    assert "stretched bonds that fall" not in page.text


def test_what_the_simulations_are_worth_is_told(tmp_path: Path) -> None:
    def told(weight: float, seed: int) -> dict[str, Any]:
        reached = "no" if (weight, seed) == (0.5, 1) else "unknown" if weight == 1 else "yes"
        times = None if weight == 1 else 6.0 + seed
        hot = 1.2 if weight == 1 and seed < 3 else -0.04
        return {"equilibrium": {"reached": reached, "correlation_times": times}, "heating": hot}

    folder = write_sweep(tmp_path / "sweep-made")
    write_saved(folder, None)
    assert not any("simulations" in sentence.lower() for sentence in report(folder)[0]["sentences"])
    write_saved(folder, None, told=told)
    numbers, page = report(folder)
    seeds = 8
    words = (
        f"{2 * seeds - 1} of {3 * seeds} simulations are at equilibrium as far as JS goes (6 to 13 "
        f"correlation times of a replica); not, or not known to be: energy weight: 1 of 0.5, "
        f"{seeds} of 1.",
        "Simulations that missed their temperature by more than 5 %: energy weight: 3 of 1; "
        "figures of these are not, or not only, of the model.",
    )
    for sentence in words:
        assert sentence in page.text
        assert sentence in numbers["sentences"]
    # Of one nothing is saved, and of another no replica stayed whole.
    (folder / "run-0000" / "free_energy.json").unlink()
    lost = folder / "run-0001" / "free_energy.json"
    lost.write_text(lost.read_text().replace('"reached"', '"unreached"'))
    assert any(
        s.startswith(f"{2 * seeds - 3} of {3 * seeds} s") for s in report(folder)[0]["sentences"]
    )
    write_saved(folder, None, told=lambda *_: told(0, 0))
    assert any(s.startswith(f"All {3 * seeds} simul") for s in report(folder)[0]["sentences"])


def test_other_figures_of_the_simulation_stand_in_a_table(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep-made")
    rows = read_rows(folder)
    for row in rows:
        weight, seed = float(row[WEIGHT]), int(row[SEED])
        row |= {
            "free_energy/js_rmsd": 0.3 - 0.1 * weight + 0.01 * seed,
            "free_energy/coverage": 0.9 + 0.01 * (seed % 2) * (weight == 0.5),
            "free_energy/blown_up": 0.0,
            "seconds": 100 + seed,
        }
    write_rows(folder, rows)
    numbers, page = report(folder)
    # What never varies is left out, and so is what the page is about.
    assert list(numbers["further"]) == ["delta_f_kt", "js_rmsd", "coverage", "seconds"]
    differs = {
        key: [row["differs_from_baseline"] for row in found]
        for key, found in numbers["further"].items()
    }
    assert differs == {
        "delta_f_kt": [False, False, True],
        "js_rmsd": [False, True, True],
        "coverage": [False, False, False],
        "seconds": [False, False, False],
    }
    assert numbers["further"]["coverage"][0]["mean"] == pytest.approx(0.1)  # missing coverage
    expected = interval(0.2 + 0.01 * np.arange(8))
    assert page.rows["data-further 1"][3:6] == pytest.approx(expected)
    assert "JS of the RMSD to the native structure, nats" in page.text


def save_results(folder: Path) -> None:
    """Give every run all that a page shows of one."""
    density = np.full((4, 4), 1 / 16)
    kinds = len(LABELS)
    for row in (row for row in read_rows(folder) if row[JS]):
        run = folder / Path(row["run"]).name
        FreeEnergyResult(
            system="x", metrics={"js": float(row[JS])}, floor={}, prior={}, simulation={},
            edges=(np.arange(5.0), np.arange(5.0)), reference=density, model=density,
            residue_names=("TYR", "GLY"), structure_edges=np.tile(np.arange(4.0), (kinds, 1)),
            structure_reference=np.ones((kinds, 3)), structure_model=np.ones((kinds, 3)),
            contacts_reference=np.ones((2, 2)), contacts_model=np.zeros((2, 2)),
            trapping=trapping_of(float(row[WEIGHT]), int(row[SEED])),
        ).save(run)  # fmt: skip
        (run / "metrics.csv").write_text("epoch,step,validation/force_mse\n0,1,70\n1,2,69\n")
        (run / "config.yaml").write_text(f"# <{run.name}>\n{'long_' * 80}: 0\n")


def test_the_middle_runs_are_shown(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep-made")
    write_saved(folder, None)
    written = write_sweep_report(folder)
    assert written.drawn.shown == []  # the numbers alone
    save_results(folder)
    with (folder / "sweep.yaml").open("a") as file:
        file.write("# <made>\n")
    written = write_sweep_report(folder)
    names = [run.name for run in written.drawn.shown]
    assert names == ["energy weight 0", "energy weight 0.5", "energy weight 1"]  # 0.5 is lowest
    middle = sorted(rising(0.0, seed) for seed in range(8))[4]
    first = written.drawn.shown[0]
    assert first.result.metrics["js"] == pytest.approx(middle)
    html = written.page.read_text(encoding="utf-8")
    # Errors, differences, surfaces, profiles, structures, contacts, training; light and dark.
    assert html.count("data:image/png") == 14
    assert "# &lt;made&gt;" in html
    (row,) = (r for r in read_rows(folder) if float(r[JS]) == first.result.metrics["js"])
    assert f"# &lt;{Path(row['run']).name}&gt;" in html
    assert f"Configuration of energy weight 0, seed {first.seed}" in html


@pytest.mark.parametrize("lacks", ["samples", "walkers", "one run's", "another figure"])
def test_samples_that_not_every_run_has_are_not_used(tmp_path: Path, lacks: str) -> None:
    folder = write_sweep(tmp_path / "sweep-made")
    samples = None if lacks == "samples" else np.linspace(-0.01, 0.01, 50)
    write_saved(folder, samples, None if lacks == "walkers" else 16)
    if lacks == "one run's":
        (folder / "run-0003" / "free_energy.npz").unlink()
    rows = read_rows(folder)
    if lacks == "another figure":  # what was judged last is not what is told
        for row in rows:
            row[JS] = float(row[JS]) + 0.01
        write_rows(folder, rows)
    numbers, _ = report(folder)
    assert numbers["reference_trajectories"] is None
    assert all(s["shared"] == 0 for s in numbers["settings"])
    assert (numbers["floor"] is None) == (lacks == "another figure")


def test_one_seed_decides_nothing_and_is_said(tmp_path: Path) -> None:
    numbers, page = report(write_sweep(tmp_path / "sweep-made", seeds=1))
    assert numbers["headline"] == "Nothing can be told in JS: no setting has more than one seed."
    assert [s["mean"] for s in numbers["settings"]] == pytest.approx([0.2, 0.201, 0.3])
    assert numbers["settings"][0]["low"] is None
    assert numbers["comparisons"] == []
    assert page.rows["data-setting 1"] == pytest.approx([0.3, 0.3])


def test_a_baseline_of_one_seed_is_said(tmp_path: Path) -> None:
    failed = {(0.0, seed): "no memory" for seed in range(1, 8)}
    numbers, _ = report(write_sweep(tmp_path / "sweep-made", failed=failed))
    assert "compared with energy weight 0 in JS: it has one seed" in numbers["headline"]
    assert numbers["comparisons"] == []
    numbers, _ = report(tmp_path / "sweep-made", baseline="0.50")
    assert numbers["worse"] == [1.0]


def test_other_metrics_are_such_that_lower_is_better(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep-made")
    rows = [row | {"final/coverage": 1 - float(row[JS])} for row in read_rows(folder)]
    write_rows(folder, rows)
    js, _ = report(folder)
    for metric, name in (
        ("free_energy/delta_f_kt", "absolute error of F(folded) − F(unfolded)"),
        ("final/coverage", "missing coverage"),
    ):
        numbers, page = report(folder, metric=metric)
        assert name in page.text
        for first, second in zip(numbers["settings"], js["settings"], strict=True):
            assert first["mean"] == pytest.approx(second["mean"])


def test_the_final_figure_is_told_where_there_is_one(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep-made")
    write_rows(folder, [row | {"final/js": 0.5} for row in read_rows(folder)])
    assert report(folder)[0]["metric"] == "final/js"
    assert report(folder, metric=JS)[0]["settings"][0]["mean"] == pytest.approx(0.235)


def test_words_as_settings(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep-made", target=["delta"])
    sweep = yaml.safe_load((folder / "sweep.yaml").read_text())
    sweep["parameters"] = {
        "target": {"values": ["delta", "total", None]}, SEED: {"values": [*range(8)]}
    }  # fmt: skip
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    rows = read_rows(folder)
    for row in rows:
        row["target"] = {"0.0": "delta", "0.5": "total", "1.0": ""}[row[WEIGHT]]
    write_rows(folder, rows)
    numbers, _ = report(folder, baseline="delta")
    assert [s["setting"] for s in numbers["settings"]] == ["delta", "null", "total"]
    assert numbers["worse"] == ["null"]
    assert numbers["trend"] is None


def write_config_sweep(folder: Path) -> Path:
    """Write a sweep over config files, of which each names another loss."""
    write_sweep(folder, config=["delta"])
    files = [f"some/{name}.yaml" for name in ("forces", "labels", "means")]
    sweep = yaml.safe_load((folder / "sweep.yaml").read_text())
    sweep["parameters"] = {"config": {"values": files}, SEED: {"values": [*range(8)]}}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep, sort_keys=False))
    rows = read_rows(folder)
    for row in rows:
        row["config"] = dict(zip(("0.0", "0.5", "1.0"), files, strict=True))[row[WEIGHT]]
        run_dir = folder / Path(row["run"]).name
        run_dir.mkdir()
        config = {SEED: int(row[SEED]), "model": {"losses": {Path(row["config"]).stem: 1.0}}}
        (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    write_rows(folder, [{k: v for k, v in row.items() if k != WEIGHT} for row in rows])
    return folder


def test_config_files_as_settings_are_told_by_their_names(tmp_path: Path) -> None:
    folder = write_config_sweep(tmp_path / "sweep-made")
    numbers, page = report(folder, baseline="labels")
    assert [s["setting"] for s in numbers["settings"]] == ["forces", "labels", "means"]
    assert "than config labels" in numbers["headline"]
    assert "data-setting means" in page.rows
    for known, said in (("means", "varies nothing beside"), ("no", "one of forces, labels, means")):
        with pytest.raises(InputError, match=said):
            report(folder, where={"config": known})
    numbers, _ = report(folder, where={SEED: 3})
    assert [s["seeds"] for s in numbers["settings"]] == [1, 1, 1]


def test_runs_of_one_config_file_differ_in_nothing_else(tmp_path: Path) -> None:
    folder = write_config_sweep(tmp_path / "sweep-made")
    path = folder / "run-0010" / "config.yaml"
    path.write_text(path.read_text() + "trainer: {max_epochs: 6}\n")
    with pytest.raises(InputError, match=r"trainer\.max_epochs is .* the sweep does not vary it"):
        read_runs(folder)


def two_parameters(folder: Path, rate: float = 0.01) -> Path:
    write_sweep(folder, lr=[0.001, rate])
    rows = read_rows(folder)
    others = [row | {"run": f"{row['run']}b", "lr": rate, JS: 0.4} for row in rows]
    write_rows(folder, rows + others)
    return folder


def test_one_of_several_parameters(tmp_path: Path) -> None:
    folder = two_parameters(tmp_path / "sweep-made")
    with pytest.raises(InputError, match=r"differ in lr too \(0\.001, 0\.01\)"):
        report(folder, parameter=WEIGHT)
    numbers, _ = report(folder, where={"lr": 0.001})
    assert numbers["parameter"] == WEIGHT
    assert numbers["worse"] == [1.0]
    numbers, _ = report(folder, parameter="lr", where={WEIGHT: 1.0})
    assert [s["setting"] for s in numbers["settings"]] == [0.001, 0.01]
    assert numbers["settings"][1]["mean"] == pytest.approx(0.4)


@pytest.mark.parametrize("parameter", [None, f"{WEIGHT}, lr"])
def test_several_parameters_are_one_table(tmp_path: Path, parameter: str | None) -> None:
    folder = two_parameters(tmp_path / "sweep-made")
    numbers, page = report(folder, parameter=parameter, baseline="0, 0.001")
    names = [f"{weight:g}, {rate}" for weight in WEIGHTS for rate in ("0.001", "0.01")]
    assert [s["setting"] for s in numbers["settings"]] == names
    expected = np.mean([rising(1.0, seed) for seed in range(8)])
    assert page.rows["data-setting 1, 0.001"][0] == pytest.approx(expected)
    assert page.rows["data-setting 1, 0.01"][0] == pytest.approx(0.4)
    assert "of 5 settings" in numbers["headline"]
    assert "than energy weight, lr 0, 0.001" in numbers["headline"]


def test_of_several_parameters_the_one_of_most_values_is_the_axis(tmp_path: Path) -> None:
    folder = two_parameters(tmp_path / "sweep-made", rate=10)  # as words, "10" is before "2"
    rows = read_rows(folder)
    write_rows(folder, rows + [row | {"run": f"{row['run']}c", "lr": 2} for row in rows[:8]])
    drawn = write_sweep_report(folder).drawn
    assert drawn.settings[:4] == ["0, 0.001", "0, 2", "0, 10", "0.5, 0.001"]
    assert drawn.axis.option == "lr"  # of as many values, the last
    assert drawn.axis.ticks == ["0.001", "2", "10"]
    assert drawn.axis.names == [f"{weight:g}" for weight in WEIGHTS]


def test_points_that_no_seed_repeats_are_no_table(tmp_path: Path) -> None:
    folder = two_parameters(tmp_path / "sweep-made")
    sweep = yaml.safe_load((folder / "sweep.yaml").read_text())
    del sweep["parameters"][SEED]
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep, sort_keys=False))
    rows = [{k: v for k, v in row.items() if k != SEED} for row in read_rows(folder)]
    write_rows(folder, [row for row in rows if int(row["run"].strip("b")[-4:]) % 8 == 0])
    with pytest.raises(InputError, match=r"varies lr, model\.loss\.energy_weight, and no two"):
        report(folder)


def write_agents_runs(folder: Path) -> Path:
    """Write what the runs of W&B's agents leave."""
    for weight in WEIGHTS:
        for seed in range(8):
            run_dir = folder / f"id{weight:g}-{seed}"
            run_dir.mkdir(parents=True)
            config = {SEED: seed, "model": {"loss": {"energy_weight": weight}}, "lr": 0.001}
            (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
            (run_dir / "metrics.csv").write_text(
                f"epoch,step,{JS}\n0,9,0.9\n1,19,{rising(weight, seed)}\n"
            )
            if (weight, seed) != (0.5, 3):
                (run_dir / "report.html").write_text("done")
    return folder


def test_runs_of_agents_are_read_by_their_configurations(tmp_path: Path) -> None:
    numbers, _ = report(write_agents_runs(tmp_path / "sweep-id"))
    assert numbers["parameter"] == WEIGHT
    assert numbers["runs"] == {"finished": 23, "unfinished": 1}
    assert [entry["run"] for entry in numbers["without_figure"]] == ["id0.5-3"]
    local = write_sweep(tmp_path / "sweep-made", failed={(0.5, 3): "killed"})
    for first, second in zip(numbers["settings"], report(local)[0]["settings"], strict=True):
        assert first.pop("figures") == pytest.approx(second.pop("figures"))
        assert first == pytest.approx(second)


def test_runs_that_differ_in_more_are_refused(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep-made")
    for number, row in enumerate(read_rows(folder)):
        run_dir = folder / Path(row["run"]).name
        run_dir.mkdir()
        config = {SEED: int(row[SEED]), "model": {"loss": {"energy_weight": float(row[WEIGHT])}}}
        (run_dir / "config.yaml").write_text(
            yaml.safe_dump(config | {"trainer": {"max_epochs": 12 if number < 20 else 6}})
        )
    with pytest.raises(InputError, match=r"run-0020.*trainer\.max_epochs is 6, but 12 in .*run-0"):
        read_runs(folder)


def test_two_runs_of_one_point_are_refused(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep-made")
    rows = read_rows(folder)
    write_rows(folder, [*rows, rows[3] | {"run": "run-0099"}])
    with pytest.raises(InputError, match="run-0003 and run-0099 are of the same"):
        gather(read_runs(folder))


def no_sweep(folder: Path) -> None:
    folder.mkdir(parents=True)


def nothing_finished(folder: Path) -> None:
    write_sweep(folder, seeds=1, failed={(w, 0): "no memory" for w in WEIGHTS})


def no_results(folder: Path) -> None:
    write_sweep(folder)
    (folder / "results.csv").unlink()


def one_seed(folder: Path) -> None:
    write_sweep(folder, seeds=1)


def only_seeds(folder: Path) -> None:
    write_sweep(folder, weights=(0.0,))


def other_table(folder: Path) -> None:
    write_sweep(folder)
    (folder / "results.csv").write_text("a,b\n1,2\n")


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda folder: None, "", "no such folder"),
        (no_sweep, "", "not the folder of a run, nor of a sweep"),
        (no_sweep, "--metric x", "--metric is for a sweep"),
        (nothing_finished, "", "no run of the sweep has finished yet (0 finished, 3 failed)"),
        (no_results, "", "no run of the sweep has finished yet (0 finished, 24 not begun)"),
        (only_seeds, "", "varies nothing beside seed_everything"),
        (other_table, "", "results.csv: no column run"),
        (write_sweep, "--metric free_energy/jss", "has the metric free_energy/jss; expected one"),
        (
            write_sweep,
            "--parameter lr",
            "--parameter is lr, which the sweep in sweep-made does not",
        ),
        (write_sweep, "--parameter seed_everything", "expected model.loss.energy_weight"),
        (write_sweep, "--baseline 0.3", "--baseline is 0.3; expected a setting of model.loss"),
        (
            one_seed,
            "--baseline 0",
            "--baseline is 0: Nothing can be told in JS: no setting has more",
        ),
        (write_sweep, "--where lr", "--where is 'lr', expected NAME=VALUE"),
        (write_sweep, "--where lr=1", "no finished run has lr 1"),
        (write_sweep, f"--where {WEIGHT}=3", "energy_weight 3; expected one of 0, 0.5, 1"),
    ],
)
def test_bad_input_is_one_sentence(
    make: Any,
    options: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("sweep-made")
    make(folder)
    assert main(["report", str(folder), *options.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cgfe: error: ")
    assert words in line
    assert not list(folder.glob("*.html"))
    assert not list(folder.glob("*.json"))


def test_the_command_prints_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_sweep(tmp_path / "sweep-made")
    assert main(["report", str(folder), "--output", str(tmp_path / "a" / "page.html")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("In JS, of 2 settings 1 is worse than energy weight 0")
    assert any(line.startswith("Energy weight 1 is worse by 0.1 nats") for line in lines)
    assert lines[-2:] == [
        f"numbers: {tmp_path / 'a' / 'page.json'}",
        f"report: {tmp_path / 'a' / 'page.html'}",
    ]
    assert (tmp_path / "a" / "page.json").is_file()
