"""Several processes train as one, and none waits for another that has ended."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cgfe.errors import InputError
from cgfe.training.batches import FrameLoader, SystemTensors
from cgfe.training.checkpoints import read_checkpoint
from cgfe.training.datamodule import CGFramesDataModule
from tests.training.test_training import SIZES, cgfe

pytestmark = pytest.mark.slow


def numbers(frames: int) -> SystemTensors:
    """Frames that tell their number by their positions."""
    positions = torch.arange(float(frames))[:, None, None].expand(frames, 2, 3)
    zeros = torch.zeros(frames)
    return SystemTensors(
        positions=positions,
        forces=None,
        prior_forces=torch.zeros(frames, 2, 3),
        prior_energy=zeros,
        energy_label=zeros,
        weight=zeros,
        tic_bin=zeros.long(),
        bin_target=zeros,
        surface_bin=zeros.long(),
        bead_types=torch.arange(2),
        system=0,
    )


@pytest.mark.parametrize("sizes", [(200,), (2,), (700, 200), (513, 3)])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_process_validates_equally_often_and_every_frame_once(
    sizes: tuple[int, ...], processes: int
) -> None:
    systems = [numbers(size) for size in sizes]
    frames = [torch.arange(size) for size in sizes]

    def loader(rank: int) -> FrameLoader:
        return FrameLoader(systems, frames, 256, rank=rank, world_size=processes)

    if min(sizes) < processes:
        with pytest.raises(InputError, match="3 processes share 2 frames of a system"):
            loader(0)
        return
    served = [[b.pos[::2, 0] for b in loader(rank)] for rank in range(processes)]
    assert {len(parts) for parts in served} == {len(loader(0))}
    assert all(0 < len(part) <= 256 for parts in served for part in parts)
    found = torch.cat([part for parts in served for part in parts]).sort().values
    torch.testing.assert_close(found, torch.cat(frames).sort().values.float())


def test_fewer_batches_than_processes_are_refused() -> None:
    with pytest.raises(InputError, match="2 processes share 1 batches"):
        FrameLoader([numbers(9)], [torch.arange(9)], 16, shuffle=True, world_size=2)


def ran_apart(folder: Path, script: str, *words: str) -> subprocess.Popen[str]:
    # A file, since Lightning starts the other processes by the command line of the first.
    (folder / "script.py").write_text(script)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "CGFE"))}
    return subprocess.Popen(
        [sys.executable, "script.py", *words],
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


TWO = ("--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_epochs=1")


# Keeps each process's batch of the first step, and what was learned from both.
FIRST_STEP = """
import sys
import torch
from cgfe.training.module import CGForceField as Field
step = Field.training_step
def kept_step(self, batch, index):
    torch.save(batch.to_dict(), f"batch-{self.global_rank}.pt")
    if self.global_rank == 0:
        torch.save(self.state_dict(), "before.pt")
    return step(self, batch, index)
def kept_gradient(self, optimizer):
    if self.global_rank == 0:
        torch.save({k: p.grad for k, p in self.named_parameters()}, "gradients.pt")
Field.training_step, Field.on_before_optimizer_step = kept_step, kept_gradient
from cgfe.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_step_of_two_processes_is_that_of_one_on_both_batches(
    tiny_file: Path, tmp_path: Path
) -> None:
    """Gradients and weights, of the force and the energy term, by the kernels as they are."""
    (tmp_path / "tiny.yaml").write_text(SIZES.format(frames=tiny_file, cache="cache"))
    words = [*TWO, "--run_dir=two", "--trainer.limit_train_batches=1"]
    words += ["--trainer.limit_val_batches=0", "--free_energy.every_n_epochs=0"]
    words += ["--model.loss.gauge=fixed"]
    done = ran_apart(tmp_path, FIRST_STEP, "fit", "--config=tiny.yaml", *words)
    output, _ = done.communicate(timeout=200)
    assert done.returncode == 0, output
    after = read_checkpoint(tmp_path / "two" / "checkpoints" / "last.ckpt")
    loaded: dict[str, Any] = {
        name: torch.load(tmp_path / f"{name}.pt", weights_only=False)
        for name in ("batch-0", "batch-1", "before", "gradients")
    }
    expected = whole_step(tiny_file, tmp_path, loaded)
    seen = [set(map(tuple, loaded[f"batch-{k}"]["pos"].view(-1, 30).tolist())) for k in (0, 1)]
    assert not seen[0] & seen[1]
    # Sums in another order, in float32.
    for name, gradient in expected["gradients"].items():
        largest = float(gradient.abs().max())
        torch.testing.assert_close(loaded["gradients"][name], gradient, rtol=1e-4,
                                   atol=1e-5 * largest)  # fmt: skip
    for name, value in expected["weights"].items():
        # Adam's first step is the learning rate times the gradient's sign, so that a gradient
        # which is 0 but for rounding may go either way.
        same = expected["gradients"][name].abs() > 1e-4 * expected["gradients"][name].abs().max()
        torch.testing.assert_close(after["state_dict"][name][same], value[same], rtol=0, atol=1e-6)


def whole_step(tiny_file: Path, folder: Path, loaded: dict[str, Any]) -> dict[str, Any]:
    """Take the step in this process, on the frames of both batches."""
    from torch_geometric.data import Batch

    from cgfe.model.schnet import CGSchNetConfig
    from cgfe.reference.config import ReferenceConfig
    from cgfe.training.losses import LossConfig
    from cgfe.training.module import CGForceField

    field = CGForceField(
        CGSchNetConfig(hidden_channels=16, num_filters=16, num_layers=1, num_radial=8),
        LossConfig(energy_weight=0.1),
    )
    data = CGFramesDataModule(
        str(tiny_file), 64, ReferenceConfig(tica_lag_ps=5, bins=12, starts=32), 50,
        cache_dir=str(folder / "cache"),
    )  # fmt: skip
    data.setup()
    field.set_references(data.references, data.names)
    field.load_state_dict(loaded["before"])
    field.train()
    both = [loaded[f"batch-{rank}"] for rank in (0, 1)]
    fields: dict[str, Tensor | bool] = {
        key: torch.cat([batch[key] for batch in both])
        for key in both[0]
        if key not in ("one_system", "ptr", "batch")
    }
    graphs = len(fields["system"])  # type: ignore[arg-type]
    beads = len(fields["pos"]) // graphs  # type: ignore[arg-type]
    fields |= {
        "one_system": True,
        "ptr": torch.arange(0, (graphs + 1) * beads, beads),
        "batch": torch.arange(graphs).repeat_interleave(beads),
    }
    batch = Batch(**fields)
    optimizer = torch.optim.Adam(field.parameters(), lr=0.005)
    assert field.loss is not None
    field.loss(*field.energy_and_forces(batch), batch)["loss"].backward()
    gradients = {key: p.grad for key, p in field.named_parameters()}
    optimizer.step()
    return {"gradients": gradients, "weights": dict(field.named_parameters())}


# Keeps what each process has of the loss at the end.
LOSS_AT_END = """
import sys
import torch
from cgfe.training.module import CGForceField as Field
def kept(self):
    torch.save(self.loss.state_dict(), f"loss-{self.global_rank}.pt")
Field.on_train_end = kept
from cgfe.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_two_processes_fit_where_one_batch_holds_all_validation_frames(
    tiny_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").write_text(SIZES.format(frames=tiny_file, cache="cache"))
    words = [*TWO, "--run_dir=two", "--data.batch_size=512", "--free_energy.every_n_epochs=1"]
    words += ["--data.reference.bins=6", "--model.loss=null", "--model.losses.force.weight=1"]
    words += ["--model.losses.self_consistent.weight=0.5", "--trainer.max_epochs=2"]
    done = ran_apart(tmp_path, LOSS_AT_END, "fit", "--config=tiny.yaml", *words)
    printed, _ = done.communicate(timeout=200)
    assert "report: two/report.html" in printed
    # Each simulates its share, and both learn from all.
    first, second = (torch.load(tmp_path / f"loss-{rank}.pt") for rank in (0, 1))
    assert first["terms.self_consistent_mse.correction_0"].abs().sum() > 0
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    alone = cgfe(tmp_path, "validate", "--ckpt_path=two/checkpoints/last.ckpt",
                 "--trainer.devices=1", "--trainer.strategy=auto")  # fmt: skip
    both = cgfe(tmp_path, "validate", "--ckpt_path=two/checkpoints/last.ckpt")

    def force_mse(printed: str) -> float:
        (line,) = [x for x in printed.splitlines() if x.startswith("validation/force_mse ")]
        return float(line.split()[1])

    # A mean over frames, however they are dealt out.
    np.testing.assert_allclose(force_mse(alone), force_mse(both), rtol=1e-5)


# The same at the end of each epoch.
BY_EPOCH = """
def kept_by_epoch(self):
    name = f"loss-{self.current_epoch}-{self.global_rank}.pt"
    torch.save(self.loss.state_dict(), name)
Field.on_train_epoch_end = kept_by_epoch
"""


def test_terms_that_begin_later_begin_in_both_processes(tiny_file: Path, tmp_path: Path) -> None:
    """A waiting term's parameters stay as they are, and DDP misses none of them."""
    (tmp_path / "tiny.yaml").write_text(SIZES.format(frames=tiny_file, cache="cache"))
    words = [*TWO, "--run_dir=two", "--free_energy.every_n_epochs=1", "--trainer.max_epochs=2"]
    words += ["--model.loss=null", "--model.losses.force.weight=1"]
    words += ["--model.losses.contrastive.weight=1", "--model.losses.relative_entropy.weight=0.1"]
    words += ["--model.losses.contrastive.simulation.steps=200"]
    words += ["--model.losses.contrastive.simulation.replicas=8"]
    words += ["--model.losses.chains.number=16", "--model.losses.chains.effective=0.1"]
    words += [f"--model.losses.{x}.weighted=true" for x in ("contrastive", "relative_entropy")]
    words += ["--model.losses.begin={contrastive: 1, relative_entropy: 1}"]
    script = LOSS_AT_END.replace("Field.on_train_end = kept", BY_EPOCH)
    done = ran_apart(tmp_path, script, "fit", "--config=tiny.yaml", *words)
    printed, _ = done.communicate(timeout=200)
    assert "report: two/report.html" in printed, printed

    def kept(epoch: int, rank: int) -> dict[str, Tensor]:
        found: dict[str, Tensor] = torch.load(tmp_path / f"loss-{epoch}-{rank}.pt")
        return {key: value for key, value in found.items() if "contrastive" in key}

    waiting, trained = ([kept(epoch, rank) for rank in (0, 1)] for epoch in (0, 1))
    for pair in waiting, trained:  # chains are each process's own
        torch.testing.assert_close(*pair, rtol=0, atol=0)
    key = "terms.contrastive_entropy.constants"
    assert waiting[0][key].abs().max() == 0
    assert trained[0][key].abs().max() > 0
    with open(tmp_path / "two" / "metrics.csv", newline="") as file:
        logged = [row["train/contrastive_entropy"] for row in csv.DictReader(file)]
    assert len([value for value in logged if value]) == 1


# Kills one of the two processes at its fourth step.
KILLED = """
import os, signal, sys
from cgfe.training.module import CGForceField as Field
which, step = int(sys.argv.pop(1)), Field.training_step
def until(self, batch, index):
    if self.global_rank == which and index == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, index)
Field.training_step = until
from cgfe.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_process_whose_partner_was_killed_ends_in_one_sentence(
    tiny_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").write_text(SIZES.format(frames=tiny_file, cache="cache"))
    script = KILLED.replace("sys.argv.pop(1)", "1")
    done = ran_apart(tmp_path, script, "fit", "--config=tiny.yaml", "--run_dir=two", *TWO)
    output, _ = done.communicate(timeout=100)
    # Lightning's own watch may be faster, and kill.
    assert done.returncode in (2, -signal.SIGKILL)
    assert "Traceback" not in output
    if done.returncode == 2:
        assert "cgfe: error: another process of this training has ended" in output


def test_a_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    child = "from cgfe.training import processes; processes.SECONDS = 0.1; "
    child += "processes.end_with_parent(); print('up', flush=True); import time; time.sleep(60)"
    parent = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]], "
        "stdout=subprocess.PIPE); p.stdout.readline(); print(p.pid, flush=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", parent, child], capture_output=True, text=True, timeout=60
    )
    pid = int(done.stdout)
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        state = Path(f"/proc/{pid}/stat")
        if state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z":
            return  # ended, and nobody has asked how
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the child went on without its parent")
