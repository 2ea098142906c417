"""The sweep over energy weights: the real `wandb sweep` and `wandb agent`, two tiny real runs."""

import base64
import csv
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cgfe.experiment.sweep_report import write_sweep_report
from cgfe.training import judging
from tests.commands.wandb_server import ENTITY, SWEEP_ID, OfflineRun, Point, SweepServer, grid

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SWEEP = Path("sweeps/energy_weight.yaml")
CHOSEN = [
    {"model.loss.energy_weight": 0.1, "seed_everything": 1},
    {"model.loss.energy_weight": 1.0, "seed_everything": 2},
]
TERMS = [
    f"{stage}/{term}"
    for stage in ("train", "validation")
    for term in ("loss", "force_mse", "energy_mse")
]
METRICS = [f"free_energy/{key}" for key in (*judging.METRICS, "seconds", "share_of_time")]
SECONDS = 240.0


@dataclass(frozen=True)
class Swept:
    """What the agent left: folder it ran in, server, its output."""

    folder: Path
    server: SweepServer
    output: str

    def run_dir(self, run_id: str) -> Path:
        return self.folder / "runs" / f"sweep-{SWEEP_ID}" / run_id

    def offline(self, run_id: str) -> Path:
        (found,) = (self.folder / "wandb").glob(f"offline-run-*-{run_id}")
        return found


@pytest.fixture(scope="module")
def swept(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swept]:
    """The sweep file as it stands; only sizes and data come with the points handed out."""
    folder = tmp_path_factory.mktemp("sweep")
    sizes = _sizes(folder, tiny_file)

    def choose(points: list[Point]) -> list[Point]:
        return [
            point | sizes for point in points if any(c.items() <= point.items() for c in CHOSEN)
        ]

    with SweepServer(choose, SECONDS) as server:
        yield Swept(folder, server, _by_agent(SWEEP, folder, server))


def _sizes(folder: Path, tiny_file: Path) -> Point:
    return {
        "data.frames": str(tiny_file),
        "data.cache_dir": str(folder / "cache"),
        "data.block_ps": 100.0,
        "data.reference.tica_lag_ps": 5.0,
        "model.network.hidden_channels": 8,
        "model.network.num_filters": 8,
        "model.network.num_layers": 1,
        "trainer.max_epochs": 1,
        "trainer.accelerator": "cpu",
        "free_energy.every_n_epochs": 1,
        "free_energy.simulation.replicas": 4,
        "free_energy.simulation.steps": 100,
        "free_energy.final.replicas": 4,
        "free_energy.final.steps": 200,
    }


def _by_agent(sweep: Path, folder: Path, server: SweepServer) -> str:
    """Run a sweep file by W&B's own commands; return what the agent said."""
    for name in ("configs", "sweeps"):
        shutil.copytree(ROOT / name, folder / name)
    environment = _environment(server.url, folder)
    _wandb(["sweep", str(sweep)], folder, environment)
    return _wandb(["agent", f"{ENTITY}/cgfe/{SWEEP_ID}"], folder, environment)


def _environment(url: str, folder: Path) -> dict[str, str]:
    """Nothing of the user's own W&B or SLURM job, and nothing sent beyond the loopback."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "SLURM_"))}
    kept.pop("CGFE_RUN_DIR", None)
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "WANDB_BASE_URL": url,
        "WANDB_API_KEY": "0" * 40,
        "WANDB_MODE": "offline",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_CACHE_DIR": str(folder / "wandb-home"),
        "WANDB_CONFIG_DIR": str(folder / "wandb-home"),
        "WANDB_DATA_DIR": str(folder / "wandb-home"),
    }


def _wandb(words: list[str], folder: Path, environment: dict[str, str]) -> str:
    # The server ends the agent at its own deadline; the timeout is for an agent that hangs.
    done = subprocess.run(
        [Path(sys.executable).parent / "wandb", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS + 60,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def _rows(run_dir: Path) -> list[dict[str, str]]:
    with open(run_dir / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def _logged(run_dir: Path, key: str) -> list[float]:
    return [float(row[key]) for row in _rows(run_dir) if row.get(key)]


def test_sweep_file_is_the_grid_of_the_paper() -> None:
    sweep = yaml.safe_load((ROOT / SWEEP).read_text())
    assert sweep["method"] == "grid"
    assert sweep["metric"] == {"name": "final/js", "goal": "minimize"}
    weights = sweep["parameters"]["model.loss.energy_weight"]["values"]
    assert weights == [step / 10 for step in range(11)]
    seeds = sweep["parameters"]["seed_everything"]["values"]
    assert len(set(seeds)) >= 3
    # The paper's own term, and without a force_weight anywhere, w_F is 1 - w_E.
    assert sweep["parameters"]["model.loss.energy_target"]["values"] == ["delta"]
    assert sweep["parameters"]["model.loss.gauge"]["values"] == ["fixed"]
    assert "model.loss.force_weight" not in sweep["parameters"]
    assert "configs/experiment.yaml" in sweep["command"]
    config = yaml.safe_load((ROOT / "configs/experiment.yaml").read_text())
    assert "force_weight" not in config["model"]["loss"]
    assert len(grid(sweep)) == 11 * len(seeds)


def test_server_got_the_sweep_and_handed_out_both_points(swept: Swept) -> None:
    assert swept.server.config == yaml.safe_load((ROOT / SWEEP).read_text())
    chosen = [{k: p[k] for k in CHOSEN[0]} for p in swept.server.handed_out.values()]
    assert chosen == CHOSEN, swept.output
    assert swept.server.unanswered == []


def test_each_run_has_its_own_folder_and_its_weights(swept: Swept) -> None:
    folders = sorted(p.name for p in (swept.folder / "runs" / f"sweep-{SWEEP_ID}").iterdir())
    assert folders == sorted(swept.server.handed_out), swept.output
    assert [p.name for p in (swept.folder / "runs").iterdir()] == [f"sweep-{SWEEP_ID}"]
    for run_id, point in swept.server.handed_out.items():
        assert (swept.run_dir(run_id) / "report.html").is_file(), swept.output
        config = yaml.safe_load((swept.run_dir(run_id) / "config.yaml").read_text())
        assert config["model"]["loss"]["energy_weight"] == point["model.loss.energy_weight"]
        assert config["model"]["loss"]["force_weight"] is None
        assert config["seed_everything"] == point["seed_everything"]
        assert config["data"]["frames"] == point["data.frames"]


def test_metrics_and_loss_terms_are_written(swept: Swept) -> None:
    for run_id, point in swept.server.handed_out.items():
        run_dir = swept.run_dir(run_id)
        result = json.loads((run_dir / "free_energy.json").read_text())
        assert 0 <= result["js"] <= math.log(2)
        # The longer simulation at the end is the run's result, against the test frames.
        assert _logged(run_dir, "final/js") == pytest.approx([result["js"]])
        assert (result["compared_with"], result["simulation"]["steps"]) == ("test", 200)
        for key in TERMS:
            (value,) = _logged(run_dir, key)
            assert math.isfinite(value)
        # The loss that was trained on is the convex sum with the weights of the sweep.
        weight = point["model.loss.energy_weight"]
        for stage in ("train", "validation"):
            loss, force, energy = (
                _logged(run_dir, f"{stage}/{term}")[0]
                for term in ("loss", "force_mse", "energy_mse")
            )
            assert loss == pytest.approx((1 - weight) * force + weight * energy, rel=1e-4)


def test_wandb_holds_nested_config_metrics_and_image(swept: Swept) -> None:
    for run_id, point in swept.server.handed_out.items():
        run = OfflineRun.read(swept.offline(run_id))
        assert run.sweep_id == SWEEP_ID
        assert run.config["model"]["loss"]["energy_weight"] == point["model.loss.energy_weight"]
        assert run.config["free_energy"]["simulation"]["replicas"] == 4
        assert run.config["data"]["frames"] == point["data.frames"]
        for key in [*TERMS, *METRICS, "final/js", "final/coverage"]:
            assert run.values(key) == pytest.approx(_logged(swept.run_dir(run_id), key)), key
            assert len(run.values(key)) == 1, key
        ((image,),) = run.values("free_energy/surface.filenames")
        (drawn,) = (swept.run_dir(run_id) / "figures").glob("free_energy-epoch*.png")
        assert (swept.offline(run_id) / "files" / image).read_bytes() == drawn.read_bytes()


def test_the_sweeps_folder_has_a_report(swept: Swept) -> None:
    folder = swept.folder / "runs" / f"sweep-{SWEEP_ID}"
    report = write_sweep_report(folder, swept.folder / "sweep.html", metric="free_energy/js")
    numbers = json.loads(report.numbers.read_text())
    assert numbers["parameter"] == "model.loss.energy_weight"
    assert numbers["runs"] == {"finished": 2}
    assert [s["setting"] for s in numbers["settings"]] == [0.1, 1.0]
    assert "no setting has more than one seed" in report.headline  # 0.1 has seed 1, 1.0 seed 2
    found = {key: v for s in numbers["settings"] for key, v in s["figures"].items() if v}
    for run_id, point in swept.server.handed_out.items():
        logged = _logged(swept.run_dir(run_id), "free_energy/js")
        assert [found[str(point["seed_everything"])]] == pytest.approx(logged)


def test_wandb_keeps_the_best_checkpoint_and_calls_no_other_best(swept: Swept) -> None:
    for run_id in swept.server.handed_out:
        (best,) = (swept.run_dir(run_id) / "checkpoints").glob("best-*.ckpt")
        digest = base64.b64encode(hashlib.md5(best.read_bytes()).digest()).decode()
        artifacts: list[Any] = OfflineRun.read(swept.offline(run_id)).artifacts
        called_best = [a for a in artifacts if a.type == "model" and "best" in a.aliases]
        assert [[file.digest for file in a.manifest.contents] for a in called_best] == [[digest]]


@pytest.mark.parametrize("name", ["energy_weight_free", "bayes"])
def test_the_agent_drives_the_other_files(name: str, tiny_file: Path, tmp_path: Path) -> None:
    """Of the search, which has ranges and early termination, the first run is ended early."""
    sizes, ended = _sizes(tmp_path, tiny_file), ("run0",) if name == "bayes" else ()

    def choose(points: list[Point]) -> list[Point]:
        return [points[0] | sizes, points[-1] | sizes][: 1 + len(ended)]

    with SweepServer(choose, SECONDS, ended) as server:
        output = _by_agent(Path(f"sweeps/{name}.yaml"), tmp_path, server)
    swept = Swept(tmp_path, server, output)
    given = yaml.safe_load((ROOT / f"sweeps/{name}.yaml").read_text())
    for key, settings in given.pop("parameters").items():  # W&B names the distribution of ranges
        assert server.config["parameters"][key].items() >= settings.items()
    assert server.config.items() >= given.items()
    assert len(server.handed_out) == 1 + len(ended), output
    for run_id, point in server.handed_out.items():
        report = swept.run_dir(run_id) / "report.html"
        assert report.is_file() == (run_id not in ended), output
        if run_id in ended:
            continue
        config = yaml.safe_load((swept.run_dir(run_id) / "config.yaml").read_text())
        assert config["model"]["loss"]["energy_weight"] == point["model.loss.energy_weight"]
        assert config["model"]["loss"]["force_weight"] == 1.0
        metric = server.config["metric"]["name"]
        run = OfflineRun.read(swept.offline(run_id))
        assert run.sweep_id == SWEEP_ID
        assert run.values(metric) == pytest.approx(_logged(swept.run_dir(run_id), metric))
        assert len(run.values(metric)) == 1
