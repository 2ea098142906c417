"""Every command and Python block of README and docs runs, in small."""

import os
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import pytest
from blocks import ROOT, blocks, pages, run
from scipy.signal import lfilter

from cgfe.all_atom.batched import BatchedSystem
from cgfe.units import thermal_energy

pytestmark = pytest.mark.skipif(not BatchedSystem.available(), reason="needs a C++ compiler")


class Reader:
    """Reads pages from the first on and does what they say, in one folder.

    A page goes on with the files of those before it, so asking for one runs those first.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rest = pages()
        self.done: set[str] = set()

    def read(self, page: Path) -> None:
        """Run all blocks up to the end of `page`."""
        while page in self.rest:
            names: dict[str, Any] = {}
            for block in blocks(self.rest.pop(0)):
                try:
                    run(block, names, self.done)
                except (Exception, SystemExit) as error:
                    error.add_note(block.place)
                    raise


@pytest.fixture(scope="module")
def reader(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    folder = tmp_path_factory.mktemp("reader")
    for name in ("cgfe", "configs", "sampling", "sweeps"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "tiny.h5").symlink_to(tiny_file)
    made_trajectories(folder)
    return Reader(folder)


def made_trajectories(folder: Path) -> None:
    """Write run.pdb and two trajectories of all its atoms, run-0.xtc and _forces.npy and so on."""
    hairpin = mdtraj.load(ROOT / "cgfe" / "data" / "hairpin.pdb")
    hairpin.save(folder / "run.pdb")
    random = np.random.default_rng(0)
    for number in range(2):
        shape = (700, hairpin.n_atoms, 3)
        # Vibrations that are forgotten within some ten frames.
        moved = lfilter([0.01], [1, -0.9], random.normal(size=shape), axis=0)
        xyz = hairpin.xyz + moved.astype(np.float32)
        times = 1.0 * np.arange(shape[0])
        mdtraj.Trajectory(xyz, hairpin.topology, time=times).save(folder / f"run-{number}.xtc")
        # Each atom on a spring at 300 K: the import tells the forces' unit by their thermal size.
        spring = thermal_energy(300) / (100 * 0.01**2 / (1 - 0.9**2))
        forces = (-spring * 10 * moved).astype(np.float32)
        np.save(folder / f"run-{number}_forces.npy", forces)


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_page(page: Path, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    # Drawing ten of each of the prior's terms takes longer than such a fit.
    monkeypatch.setattr("cgfe.report.prior_plots.MAX_COORDINATES", 1)
    monkeypatch.setattr("cgfe.reference.convergence.BOOTSTRAPS", 10)
    monkeypatch.chdir(reader.folder)
    monkeypatch.syspath_prepend(reader.folder)
    before = dict(os.environ)
    try:
        reader.read(page)
    finally:
        os.environ.clear()
        os.environ.update(before)
