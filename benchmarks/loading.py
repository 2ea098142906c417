"""How long a training step waits for its batch, with the set in memory and streamed from disk.

    python -m benchmarks.loading write /tmp/loading/frames.h5 --frames 2000000
    python -m benchmarks.loading measure /tmp/loading/frames.h5             # in memory
    python -m benchmarks.loading measure /tmp/loading/frames.h5 --memory-gb 0.1

The set is the embedded one again and again, with noise so that no two frames are equal. What the
page cache holds of the set is dropped before, so that frames come from the disk.
"""

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.training import force_field, module_step
from cgfe.data.embedded import EMBEDDED
from cgfe.data.frames import CGFrames
from cgfe.data.writer import writing_frames
from cgfe.model.schnet import CGSchNetConfig
from cgfe.training.datamodule import CGFramesDataModule


def write(path: Path, count: int) -> None:
    """Write a synthetic set."""
    frames = CGFrames.load(str(EMBEDDED["chignolin"]))
    random = np.random.default_rng(0)
    last = int(frames.trajectory_index[-1]) + 1
    with writing_frames(path) as writer:
        for copy in range(-(-count // len(frames))):
            noise = random.normal(scale=0.05, size=frames.positions.shape).astype(np.float32)
            chunk = replace(
                frames,
                positions=frames.positions + noise,
                trajectory_index=frames.trajectory_index + copy * last,
                biased_trajectories=np.zeros(0, dtype=np.int32),
                weights=None,
                bias_log_weights=None,
            )
            writer.append(chunk, frames.weights)


def drop_cached_pages(folder: Path) -> None:
    """Ask the system to forget what it holds of a folder's files."""
    os.sync()
    for path in folder.rglob("*.npy"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(options: argparse.Namespace) -> None:
    """Print what share of the training steps is spent waiting for batches."""
    cache = options.path.parent / "cache"
    data = CGFramesDataModule(
        str(options.path),
        batch_size=options.batch_size,
        cache_dir=str(cache),
        memory_gb=options.memory_gb,
    )
    start = time.perf_counter()
    data.prepare_data()
    data.setup()
    print(f"streams {data.streams()}; set-up {time.perf_counter() - start:.1f} s")
    drop_cached_pages(cache)
    step = None
    if options.layers:
        sizes = {"hidden_channels": options.hidden, "num_filters": options.hidden}
        network = CGSchNetConfig(**sizes, num_layers=options.layers)
        step = module_step(force_field(data, network))
    before, waits, steps = _read_bytes(), [], []
    start = time.perf_counter()
    for number, batch in enumerate(data.train_dataloader(), 1):
        waits.append(time.perf_counter() - start)
        if step is not None:
            step(batch)
        steps.append(time.perf_counter() - start)
        if number == options.batches:
            break
        start = time.perf_counter()
    read = (_read_bytes() - before) / 2**20
    rest, whole = np.array(waits[1:]) * 1000, np.array(steps[1:]) * 1000
    print(
        f"first batch {waits[0]:.2f} s; {len(rest)} more: {rest.mean():.2f} of {whole.mean():.1f} "
        f"ms each (median {np.median(rest):.2f} of {np.median(whole):.1f}, "
        f"longest {rest.max():.1f}); {read:.0f} MB read from disk"
    )


def _read_bytes() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("action", choices=("write", "measure"))
    parser.add_argument("path", type=Path)
    parser.add_argument("--frames", type=int, default=2_000_000)
    parser.add_argument("--memory-gb", type=float)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--batches", type=int, default=700, help="default: those of two windows")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4, help="0: no training, batches alone")
    options = parser.parse_args()
    if options.action == "write":
        write(options.path, options.frames)
    else:
        measure(options)


if __name__ == "__main__":
    main()
