"""Bad input: one sentence, exit code 2, no traceback, nothing half-written."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import lightning  # noqa: F401 (its log handlers keep the stderr of the first import)
import numpy as np
import pytest
import torch

from cgfe.cli import main
from cgfe.data.frames import CGFrames
from cgfe.errors import InputError
from cgfe.model.schnet import CGSchNetConfig
from cgfe.reference import convergence
from cgfe.reference.config import ReferenceConfig
from cgfe.reference.reference import Reference
from cgfe.training.datamodule import CGFramesDataModule
from cgfe.training.module import CGForceField

CONFIG = str(Path(__file__).parents[2] / "configs" / "chignolin.yaml")
REFERENCE = str(Path(__file__).parents[2] / "configs" / "reference" / "chignolin.yaml")
WANDB = str(Path(__file__).parents[2] / "configs" / "wandb.yaml")
REFERS = "expected ${...} with the name of another key."


@pytest.fixture
def refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Run the command line in an empty folder; return its one sentence."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["cgfe"])

    def run(*words: str) -> str:
        before = set(tmp_path.rglob("*"))
        code = main(words)
        printed = capsys.readouterr()
        assert code == 2, printed
        lines = [line for line in printed.err.splitlines() if line.startswith("cgfe: error: ")]
        assert len(lines) == 1, printed.err
        assert "Traceback" not in printed.err + printed.out
        written = {p.relative_to(tmp_path) for p in set(tmp_path.rglob("*")) - before}
        # Of a refused fit the cache and the empty folder of all runs may stay.
        assert not [p for p in written if p.parts[0] != "cache" and p != Path("runs")], written
        return lines[0]

    return run


def fit(frames: Path | str, *words: str) -> list[str]:
    cache = ["--data.cache_dir", "cache", "--data.block_ps", "50"]
    quick = ["--data.reference.tica_lag_ps", "5", "--free_energy.every_n_epochs", "0"]
    return ["fit", "--config", CONFIG, "--data.frames", str(frames), *cache, *quick, *words]


def test_missing_frames_file(refused: Callable[..., str]) -> None:
    assert "none.h5: no such file" in refused(*fit("none.h5"))


def test_truncated_frames_file(
    refused: Callable[..., str], tiny_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "cut.h5").write_bytes(tiny_file.read_bytes()[:5000])
    assert "cut.h5" in refused(*fit("cut.h5"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"data: 5\n", "own.yaml: data is 5, expected keys"),
        (b"trainer: [1]\n", "own.yaml: trainer is [1], expected keys"),
        (b"free_energy:\n", "own.yaml: free_energy is empty, expected keys"),
        (b"model: {network: 5}\n", "own.yaml: model.network is 5, expected keys"),
        (b"data: {block_ps: 5} # \xff\n", "own.yaml: byte 22 is 0xff, expected a text in UTF-8"),
        (b"data: {frames: -1}\n", "data.frames is '-1', expected text, or a list of texts"),
        (b"free_energy: {final: null}\ndata: {frames: none.h5}\n", "none.h5: no such file"),
        (b"data: {frames: null}\n", "data.frames names no file"),
        (b"trainer: {devices: null}\n", "trainer.devices is None, expected 1 or more"),
        (b"data: {block_ps: '${no.key}'}\n", f"data.block_ps is '${{no.key}}', {REFERS}"),
        (b"data: {block_ps: '${broken'}\n", f"own.yaml: data.block_ps is '${{broken', {REFERS}"),
        (b"data: {block_ps: '${no:1}'}\n", f"own.yaml: data.block_ps is '${{no:1}}', {REFERS}"),
        (b"data: {frames: '${}'}\n", f"own.yaml: data.frames is '${{}}', {REFERS}"),
        (b"data: {frames: ['${a b}']}\n", f"data.frames[0] refers to what is no key, {REFERS}"),
    ],
)
def test_config_files(
    content: bytes, sentence: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "own.yaml").write_bytes(content)
    assert sentence in refused("fit", "--config", CONFIG, "--config", "own.yaml")


def test_what_refers_to_no_key_on_the_command_line(refused: Callable[..., str]) -> None:
    sentence = refused(*fit("none.h5", "--data.gap_ps=${broken"))
    assert f"--data.gap_ps is '${{broken', {REFERS}" in sentence


def damaged(tiny_file: Path, path: Path, change: Callable[[h5py.File], None]) -> Path:
    path.write_bytes(tiny_file.read_bytes())
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def test_nan_in_positions(refused: Callable[..., str], tiny_file: Path, tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        file["positions"][7] = np.nan

    path = damaged(tiny_file, tmp_path / "nan.h5", change)
    assert "positions are not finite (first at index 7)" in refused(*fit(path))


def test_forces_of_another_bead_count(
    refused: Callable[..., str], tiny_file: Path, tmp_path: Path
) -> None:
    def change(file: h5py.File) -> None:
        forces = file["forces"][()][:, :9]
        del file["forces"]
        file["forces"] = forces

    sentence = refused(*fit(damaged(tiny_file, tmp_path / "beads.h5", change)))
    assert "9, 3)" in sentence
    assert "10, 3)" in sentence


def test_wrong_unit(refused: Callable[..., str], tiny_file: Path, tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        file.attrs["energy_unit"] = "kJ/mol"

    path = damaged(tiny_file, tmp_path / "unit.h5", change)
    assert "energy_unit is 'kJ/mol', expected 'kcal/mol'" in refused(*fit(path))


def test_trajectories_shorter_than_the_lag(refused: Callable[..., str], tiny_file: Path) -> None:
    sentence = refused(*fit(tiny_file, "--data.reference.tica_lag_ps", "5000"))
    assert "lag" in sentence
    assert "5000" in sentence


def test_unknown_letter(refused: Callable[..., str]) -> None:
    sentence = refused("reference", "--config", REFERENCE, "sequence=YYB", "output=out")
    assert "unknown letter 'B'" in sentence


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["engine=batched", "solvent=explicit"], "the kernel has no explicit solvent"),
        (["temperatures_kelvin=[300,310,305]"], "expected positive values in ascending order"),
        (["temperatures_kelvin=[300,310]", "walkers=1"], "walkers is 1; replica exchange"),
        (["temperatures_kelvin=[300,310]", "engine=openmm"], "needs engine batched"),
        (["walkers=1000000000"], "GiB of memory; expected at most"),
        (["walkers=1000000000", "engine=openmm"], "GiB of memory; expected at most"),
        (["chunk_frames=1000000000", "engine=openmm"], "GiB of memory; expected at most"),
    ],
)
def test_what_the_sampler_cannot_do(
    settings: list[str], sentence: str, refused: Callable[..., str]
) -> None:
    assert sentence in refused("reference", "--config", REFERENCE, "output=out", *settings)


def test_folder_of_another_engine(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.yaml").write_text("sequence: YYDPETGTWY\n")
    sentence = refused("reference", "--config", REFERENCE, "output=out", "engine=batched")
    assert "out holds a run of engine openmm, but engine is batched" in sentence


@pytest.mark.parametrize("key", ["energy_weight", "force_weight"])
def test_negative_weight(key: str, refused: Callable[..., str], tiny_file: Path) -> None:
    assert f"{key} is -0.5" in refused(*fit(tiny_file, f"--model.loss.{key}=-0.5"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model.losses.force.weight=1"], "model.loss is given, and of model.losses"),
        (
            ["--model.loss=null", "--model.losses.force.weight=-0.5"],
            "model.losses.force.weight is -0.5, expected 0 or more",
        ),
        (["--model.loss=null", "--model.losses.forces.weight=1"], "forces"),
        (["--model.loss=null", "--model.losses.force.weight=0"], "weight is 0, expected one above"),
    ],
)
def test_losses_that_make_no_sense(
    words: list[str], sentence: str, refused: Callable[..., str], tiny_file: Path
) -> None:
    assert sentence in refused(*fit(tiny_file, *words))


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        (
            "--model.loss.gauge=free",
            "model.loss.gauge is 'free', expected one of 'fixed', 'centred', 'learned'",
        ),
        ("--model.loss.energy_wight=1", "Option 'model.loss.energy_wight' is not accepted"),
        ("--model.losses.force.weight=a", "model.losses.force.weight is 'a', expected a number"),
        ("--trainer.max_epochs=a", "trainer.max_epochs is 'a', expected a whole number"),
        ("--seed_everything=1e30", "is '1e30', expected true or false, or a whole number"),
        ("--model=", "model is '', expected keys with their values, or a file with these"),
        (f"--free_energy={'a' * 300}", f"free_energy is '{'a' * 40}...', expected keys with"),
        (
            "--free_energy.final=0",
            "free_energy.final is '0', expected keys with their values",
        ),
        ("--model.scheduler=StepLR", "model.scheduler needs step_size among its init_args"),
        ("--model.optimizer=5", "model.optimizer names no class; expected a class_path with init_"),
        (
            "--model.optimizer={class_path: torch.optim.Adam, init_args: {lr: a}}",
            "model.optimizer.lr is 'a', expected a number",
        ),
        (
            "--model.scheduler={class_path: StepLR, init_args: {step_size: a}}",
            "model.scheduler.step_size is 'a', expected a whole number",
        ),
        (
            "--model.optimizer={class_path: torch.optim.Adam, init_args: {rate: 1}}",
            "Option 'model.optimizer.rate' is not accepted",
        ),
        (
            "--model.scheduler=ReduceLROnPlateau",
            "model.scheduler is 'ReduceLROnPlateau', which two classes are called; expected "
            "torch.optim.lr_scheduler.ReduceLROnPlateau or lightning.pytorch.cli.ReduceLROnPlateau",
        ),
        (
            "--model.scheduler={class_path: ReduceLROnPlateau}",
            "torch.optim.lr_scheduler.ReduceLROnPlateau or lightning.pytorch.cli.ReduceLROnPlateau",
        ),
    ],
)
def test_what_is_wrong_with_a_key_is_said_without_the_parsers_words(
    word: str, sentence: str, refused: Callable[..., str], tiny_file: Path
) -> None:
    found = refused(*fit(tiny_file, word))
    assert sentence in found
    assert "Union" not in found
    assert "Parser key" not in found
    assert "<class" not in found


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("seed_everything=-1", "seed_everything is -1, expected at least 0 and at most"),
        ("seed_everything=99999999999", "seed_everything is 99999999999, expected at least 0"),
        ("data.split_seed=-1", "data.split_seed is -1"),
        ("data.order_seed=-1", "data.order_seed is -1"),
        ("data.reference.seed=-1", "reference.seed is -1"),
        ("free_energy.simulation.seed=99999999999", "seed is 99999999999"),
        ("data.block_ps=.inf", "data.block_ps is inf"),
        ("data.gap_ps=.inf", "data.gap_ps is inf"),
        ("data.reference.tica_lag_ps=.nan", "reference.tica_lag_ps is nan"),
        ("data.reference.tica_lag_ps=.inf", "reference.tica_lag_ps is inf"),
        ("free_energy.simulation.time_step_ps=.inf", "time_step_ps is inf"),
        ("free_energy.simulation.friction_per_ps=.inf", "friction_per_ps is inf"),
        ("free_energy.simulation.replicas=1000000000", "simulation.replicas is 1000000000"),
        ("free_energy.final.steps=70", "free_energy.final.steps is 70, expected a positive"),
        ("data.reference.bins=100000", "reference.bins is 100000, expected at least 2 and at most"),
        ("data.reference.target_bins=100000", "reference.target_bins is 100000"),
        ("model.network.hidden_channels=100000000", "GiB to train; expected at most the machine's"),
        ("model.network.num_layers=1000000", "num_layers is 1000000, expected at most 100"),
        ("free_energy.every_n_epochs=-1", "free_energy.every_n_epochs is -1, expected 0 or more"),
        ("data.test_share=0", "data.test_share is 0.0, expected a share between 0 and 1"),
        ("model.loss.force_weight=.inf", "force_weight is inf"),
        ("checkpoint.save_top_k=-5", "Invalid value for save_top_k=-5"),
        ("trainer.max_epochs=0", "trainer.max_epochs is 0, expected at least 1"),
        ("trainer.max_steps=0", "trainer.max_steps is 0"),
        ("trainer.max_time=soon", "`Timer(duration='soon')` is not a valid duration"),
        ("trainer.precision=16-true", "trainer.precision is 16-true, expected one of 32-true"),
        ("trainer.accelerator=quantum", "invalid accelerator name: `accelerator='quantum'`"),
        ("trainer.strategy=nonsense", "invalid strategy name: `strategy='nonsense'`"),
        ("trainer.num_nodes=0", "trainer.num_nodes is 0, expected 1 or more"),
        ("trainer.num_nodes=2", "trainer.num_nodes is 2, expected 1 where neither SLURM, torchrun"),
        ("trainer.devices=0", "trainer.devices is 0, expected 1 or more"),
        ("trainer.limit_train_batches=0", "trainer.limit_train_batches is 0"),
        ("trainer.limit_train_batches=-1", "invalid value -1"),
        ("trainer.val_check_interval=0", "trainer.val_check_interval is 0"),
        ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches is 0"),
        ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val is -1"),
        ("model.optimizer.init_args.lr=.nan", "model.optimizer.lr is nan"),
        ("model.optimizer.init_args.lr=-1", "model.optimizer cannot be made: Invalid learning"),
    ],
)
def test_values_that_make_no_sense(
    word: str, sentence: str, refused: Callable[..., str], tiny_file: Path
) -> None:
    assert sentence in refused(*fit(tiny_file, f"--{word}", "--trainer.logger=false"))


def test_other_machines_that_are_waited_for_are_named(
    tiny_file: Path,
    refused: Callable[..., str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "first.machine")
    with caplog.at_level("INFO", "lightning.pytorch"):
        # What is refused later tells that the number of machines was not.
        refused(*fit(tiny_file, "--trainer.num_nodes=3", "--model.optimizer.init_args.lr=.nan"))
    told = [x for x in caplog.messages if x.startswith("trainer.num_nodes is 3")]
    assert len(told) == 1
    assert "3 machines have started the same command with MASTER_ADDR=first.machine" in told[0]


LONG = "a" * 300


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "--config", LONG],
        ["fit", "--config", CONFIG, f"--data.frames={LONG}.h5"],
        ["fit", "--config", CONFIG, f"--run_dir={LONG}"],
        ["fit", "--config", CONFIG, f"--data.mean_forces={LONG}"],
        ["fit", f"--ckpt_path={LONG}"],
        ["validate", "--config", CONFIG, f"--ckpt_path={LONG}"],
        ["simulate", f"--ckpt_path={LONG}", "--output=out.dcd"],
        ["simulate", "--ckpt_path=x.ckpt", f"--output={LONG}.dcd"],
        ["info", LONG],
        ["report", LONG],
        ["pack", "--runs", LONG, "--output=out.h5"],
        ["reference", "--config", REFERENCE, f"output={LONG}"],
        ["reference-report", "chignolin", f"--output={LONG}.html"],
        ["import", LONG, "--output=out.h5"],
        ["sweep", LONG],
    ],
    ids=lambda words: " ".join(words).replace(LONG, "LONG").replace(str(Path(CONFIG).parent), ""),
)
def test_names_that_are_too_long_are_told_before_any_work(
    words: list[str], refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, work in ((Reference, "fit"), (convergence, "analyse")):
        monkeypatch.setattr(place, work, lambda *_: pytest.fail("the work was begun"))
    sentence = refused(*words)
    told = ("name too long", "expected names of 255", "255 at most", "expected 200 at most")
    assert any(x in sentence for x in told)


def test_frames_after_whose_name_no_file_can_be_called(
    refused: Callable[..., str], tiny_file: Path, tmp_path: Path
) -> None:
    name = "a" * 201
    (tmp_path / f"{name}.h5").write_bytes(tiny_file.read_bytes())
    assert f"{name[:40]}... has 201 bytes, expected 200 at most" in refused(*fit(f"{name}.h5"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_where_there_is_none(refused: Callable[..., str], tiny_file: Path) -> None:
    assert "No supported gpu backend found" in refused(*fit(tiny_file, "--trainer.accelerator=gpu"))


def test_bead_types_that_the_network_does_not_know(tiny_file: Path, tmp_path: Path) -> None:
    data = CGFramesDataModule(
        str(tiny_file),
        block_ps=50,
        reference=ReferenceConfig(tica_lag_ps=5),
        cache_dir=str(tmp_path),
    )
    data.setup()
    field = CGForceField(CGSchNetConfig(max_bead_types=3))
    with pytest.raises(InputError, match="max_bead_types is 3, but tiny has bead type 19"):
        field.set_references(data.references, data.names)


def test_bead_types_are_compared_with_the_networks_first(
    refused: Callable[..., str], tiny_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CGFrames, "load", lambda *_: pytest.fail("frames were read before"))
    sentence = refused(*fit(tiny_file, "--model.network.max_bead_types=3"))
    assert "max_bead_types is 3, but tiny has bead type 19; expected at least 20" in sentence


@pytest.mark.parametrize("fault", ["other beads", "truncated"])
def test_mean_forces_are_checked_before_references_are_fitted(
    fault: str,
    refused: Callable[..., str],
    first_beads: Callable[[int], CGFrames],
    tiny_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Reference, "fit", lambda *_: pytest.fail("the reference was fitted before"))
    other = first_beads(9)
    names = np.unique(other.trajectory_index)
    dataclasses.replace(
        other, force_standard_errors=other.forces, validation_trajectories=names[:2]
    ).save(tmp_path / "means.h5")
    if fault == "truncated":
        os.truncate(tmp_path / "means.h5", 5000)
    sentence = refused(*fit(tiny_file, "--data.mean_forces=means.h5"))
    assert "means.h5" in sentence
    assert ("TYR-TYR" if fault == "other beads" else "may be truncated") in sentence


def test_frames_without_forces_are_refused_first(
    refused: Callable[..., str], tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(file: h5py.File) -> None:
        del file["forces"]

    monkeypatch.setattr(CGFrames, "load", lambda *_: pytest.fail("frames were read before"))
    path = damaged(tiny_file, tmp_path / "bare.h5", change)
    sentence = refused(*fit(path))
    assert "bare.h5: the frames have no forces, but force_weight is 1" in sentence


@pytest.mark.parametrize("term", ["relative_entropy", "implied_fes", "contrastive"])
def test_terms_that_match_a_density_count_frames_by_their_weights(
    term: str,
    refused: Callable[..., str],
    tiny_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def change(file: h5py.File) -> None:
        file["weights"][...] = np.linspace(0.5, 1.5, len(file["positions"]))

    monkeypatch.setattr(CGFrames, "load", lambda *_: pytest.fail("frames were read before"))
    path = damaged(tiny_file, tmp_path / "biased.h5", change)
    losses = f"--model.losses={{force: {{weight: 1.0}}, {term}: {{weight: 0.1}}}}"
    sentence = refused(*fit(path, "--model.loss=null", losses))
    assert "biased.h5: its frames do not count alike, but" in sentence
    assert f"{term}.weighted is false" in sentence


def test_pack_of_the_run_of_a_fit(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text(Path(CONFIG).read_text())
    sentence = refused("pack", "--runs", "run", "--output", "frames.h5")
    assert "run: the run of a fit, expected one of cgfe reference" in sentence


def test_wandb_without_an_account_is_told_before_any_work(
    refused: Callable[..., str],
    tiny_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    sentence = refused(*fit(tiny_file, "--config", WANDB, "--trainer.accelerator", "cpu"))
    assert "W&B: No API key configured" in sentence
    assert "WANDB_MODE=offline" in sentence


def test_unknown_config_key(refused: Callable[..., str], tiny_file: Path, tmp_path: Path) -> None:
    assert "widht" in refused(*fit(tiny_file, "--model.network.widht=3"))
    (tmp_path / "typo.yaml").write_text("sequence: GYG\nwalkres: 3\n")
    assert "walkres" in refused("reference", "--config", "typo.yaml")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- sequence\n- GYG\n", "a list, expected the keys of a sampler's config"),
        ("5\n", "Invalid loaded object type: int"),
        ("sequence: [\n", "while parsing"),
        ("model:\n  width: 3\n", "'model'"),
        ("walkers: many\n", "'many'"),
    ],
)
def test_config_of_another_program(
    text: str, sentence: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(text)
    for words in (
        ("reference", "--config", "run/config.yaml", "output=out"),
        ("reference", "--config", REFERENCE, "output=run"),
        ("pack", "--runs", "run", "--output", "frames.h5"),
    ):
        found = refused(*words)
        assert "run/config.yaml" in found
        assert sentence in found


@pytest.mark.parametrize("engine", ["batched", "openmm"])
def test_bias_on_beads_outside_the_chain(refused: Callable[..., str], engine: str) -> None:
    pairs = "metadynamics={strand_pairs: [[1, 11]]}"
    sentence = refused(
        *("reference", "--config", REFERENCE, "output=out", "starts=[extended]"),
        *(f"engine={engine}", pairs),
    )
    assert "strand_pairs has [1, 11]; expected two different residue numbers from 1" in sentence


@pytest.mark.skipif(
    os.name != "posix" or not Path("/proc/self").exists(), reason="needs a folder nobody can write"
)
def test_unwritable_output_folder(refused: Callable[..., str], tiny_file: Path) -> None:
    # /proc is unwritable for root too, whom file permissions would not stop.
    words = fit(tiny_file, "--run_dir", "/proc/cgfe-run")
    assert "/proc/cgfe-run: cannot write" in refused(*words)
    sentence = refused("pack", "--runs", "x", "--output", "/proc/nowhere/frames.h5")
    assert "cannot write" in sentence


def test_unknown_command_and_missing_checkpoint(refused: Callable[..., str]) -> None:
    assert "'train' is no command" in refused("train")
    assert "needs --ckpt_path" in refused("validate", "--config", CONFIG)
    assert "no such checkpoint" in refused("validate", "--ckpt_path", "none.ckpt")
    assert "no last.ckpt" in refused("fit", "--config", CONFIG, "--ckpt_path", "last")
    words = ["--ckpt_path", "none.ckpt", "--output", "t.xtc"]
    assert "no such checkpoint" in refused("simulate", *words)
    assert "expected a name that ends with" in refused("simulate", "--ckpt_path=x", "--output=y.q")


def test_truncated_checkpoint(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "bad.ckpt").write_bytes(b"PK\x03\x04 not a checkpoint")
    sentence = refused("simulate", "--ckpt_path", "bad.ckpt", "--output", "t.xtc")
    assert "not a readable checkpoint" in sentence


@pytest.mark.slow
def test_checkpoint_of_another_bead_set(
    first_beads: Callable[[int], CGFrames], tiny_file: Path, tmp_path: Path
) -> None:
    first_beads(9).save(tmp_path / "other.h5")
    small = ["--model.network.hidden_channels=8", "--model.network.num_filters=8"]
    small += ["--trainer.max_epochs=1", "--trainer.enable_progress_bar=false"]

    def cgfe(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cgfe", *words],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=200,
        )

    done = cgfe(*fit(tiny_file, "--run_dir", "run", *small))
    assert done.returncode == 0, done.stderr
    checkpoint = ["--ckpt_path", "run/checkpoints/last.ckpt"]
    wrong = cgfe("validate", *fit("other.h5", *small)[1:], *checkpoint)
    assert wrong.returncode == 2, wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert "belongs to 10 beads" in wrong.stderr
    assert "hold 9 beads" in wrong.stderr
    resized = cgfe("validate", *checkpoint, "--model.network.hidden_channels=6")
    assert resized.returncode == 2
    assert "hidden_channels is 8 in the checkpoint and 6 here" in resized.stderr


def test_a_reader_that_has_enough_is_no_error(tiny_file: Path) -> None:
    """As in `cgfe info FILE | head -1`: nothing on stderr, and the shell's code for it."""
    done = subprocess.Popen(
        [sys.executable, "-m", "cgfe", "info", str(tiny_file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert done.stdout is not None
    assert done.stderr is not None
    done.stdout.close()
    told = done.stderr.read()
    assert (done.wait(60), told) == (141, b"")
