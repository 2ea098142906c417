"""Each format: a tiny file of its exact layout is written, imported and compared with what
numpy says it should be; then everything that can be wrong with it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import mdtraj
import numpy as np
import pytest
import torch
from mdtraj.formats import TRRTrajectoryFile

from cgfe.all_atom.system import HAIRPIN, alpha_carbons, implicit_solvent_system, peptide_from_pdb
from cgfe.cli import main
from cgfe.data.beads import bead_types_of
from cgfe.data.force_mapping import CarbonAlphaMapping
from cgfe.data.frames import CGFrames
from cgfe.data.splits import Split
from cgfe.data.writer import writing_frames
from cgfe.errors import InputError
from cgfe.readers import FORMATS, detect
from cgfe.readers import source as sources
from cgfe.readers.chunks import beads_of, whole_chains
from cgfe.readers.residues import TABLES, residues_of_embedding

KJ_PER_MOL_NM = 41.84  # in one kcal/mol/Å
RESIDUES = ("TYR", "TYR", "ASP", "PRO", "GLU", "THR", "GLY", "THR", "TRP", "TYR")
MAJEWSKI = [4, 4, 5, 8, 6, 13, 2, 13, 7, 4]
ONE_LETTER = [20, 20, 3, 13, 4, 17, 6, 17, 19, 20]
NEEDED = ("--temperature", "350", "--frame-interval", "100")


class AllAtom:
    """Frames of the hairpin with hydrogens: positions in Å and forces in kcal/mol/Å."""

    def __init__(self, frames: int = 30, seed: int = 0) -> None:
        self.start = mdtraj.load(str(HAIRPIN))
        self.topology = self.start.topology
        rng = np.random.default_rng(seed)
        atoms = self.topology.n_atoms
        noise = rng.normal(scale=0.05, size=(frames, atoms, 3))
        self.positions = (self.start.xyz * 10 + noise).astype(np.float32)
        self.forces = rng.normal(scale=20, size=(frames, atoms, 3)).astype(np.float32)
        self.times = np.arange(frames) * 2.0

    def mapping(self, kind: str, frames: int | None = None) -> CarbonAlphaMapping:
        """The map by OpenMM's own list of constraints, not by the reader's."""
        peptide = peptide_from_pdb(HAIRPIN)
        system = implicit_solvent_system(peptide.topology)
        pairs = [
            tuple(system.getConstraintParameters(i)[:2]) for i in range(system.getNumConstraints())
        ]
        beads = alpha_carbons(peptide.topology)
        forces = self.forces[:frames]
        return CarbonAlphaMapping.fit(kind, beads, self.topology.n_atoms, pairs, forces)  # type: ignore[arg-type]

    def trajectory(self, frames: slice = slice(None)) -> mdtraj.Trajectory:
        return mdtraj.Trajectory(self.positions[frames] / 10, self.topology, self.times[frames])


class Beads:
    """Cα frames of the hairpin."""

    def __init__(self, frames: int = 25, seed: int = 1) -> None:
        all_atom = AllAtom(frames, seed)
        carbons = [atom.index for atom in all_atom.topology.atoms if atom.name == "CA"]
        self.positions = all_atom.positions[:, carbons]
        self.forces = all_atom.forces[:, carbons]
        self.deltas = self.forces - 1


# --- one writer per format -----------------------------------------------------------------


def write_fu_berlin(folder: Path, data: AllAtom, pieces: int = 3) -> Path:
    for name in ("coords_nowater", "forces_nowater", "chignolin_50ns_0"):
        (folder / name).mkdir(parents=True)
    for tag, rows in enumerate(np.array_split(np.arange(len(data.positions)), pieces)):
        np.save(folder / "coords_nowater" / f"chig_coor_{tag}.npy", data.positions[rows])
        np.save(folder / "forces_nowater" / f"chig_force_{tag}.npy", data.forces[rows])
    water = mdtraj.Topology()
    chain = water.add_chain()
    for _ in range(2):
        residue = water.add_residue("HOH", chain)
        for name, element in (("O", "oxygen"), ("H1", "hydrogen"), ("H2", "hydrogen")):
            water.add_atom(name, getattr(mdtraj.element, element), residue)
    structure = data.topology.join(water)
    positions = np.concatenate([data.start.xyz[0], np.full((6, 3), 3.0)])
    mdtraj.Trajectory(positions[None], structure).save_pdb(
        str(folder / "chignolin_50ns_0" / "structure.pdb")
    )
    return folder


def write_majewski(folder: Path, data: Beads) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "chignolin_ca_coords.npy", data.positions)
    np.save(folder / "chignolin_ca_forces.npy", data.forces)
    np.save(folder / "chignolin_ca_deltaforces.npy", data.deltas)
    np.save(folder / "chignolin_ca_embeddings.npy", np.array(MAJEWSKI))
    return folder / "chignolin_ca_coords.npy"


def write_openmm(root: Path, data: AllAtom, name: str = "1uao") -> Path:
    """The layout of ExtendedH5MDReporter of BioMedAI-UCSC/openmm_generate."""
    path = root / name / "result" / f"output_{name}.h5"
    path.parent.mkdir(parents=True)
    chains = [
        {
            "index": chain.index,
            "residues": [
                {
                    "index": residue.index,
                    "name": residue.name,
                    "resSeq": residue.resSeq,
                    "segmentID": "",
                    "atoms": [
                        {"index": a.index, "name": a.name, "element": a.element.symbol}
                        for a in residue.atoms
                    ],
                }
                for residue in chain.residues
            ],
        }
        for chain in data.topology.chains
    ]
    bonds = [[a.index, b.index] for a, b in data.topology.bonds]
    text = json.dumps({"chains": chains, "bonds": bonds}).encode("ascii")
    count = len(data.positions)
    arrays = {
        "coordinates": (data.positions / 10, "nanometers"),
        "forces": (data.forces * KJ_PER_MOL_NM, "kilojoules/mole/nanometer"),
        "cell_lengths": (np.full((count, 3), 4.0), "nanometer"),
        "cell_angles": (np.full((count, 3), 90.0), "degrees"),
        "time": (data.times + 2.0, "picoseconds"),
        "potentialEnergy": (np.arange(count) * 4.184, "kilojoules/mole"),
        "kineticEnergy": (np.arange(count) * 1.0, "kilojoules/mole"),
    }
    with h5py.File(path, "w") as file:
        for key, value in {"conventions": b"Pande", "conventionVersion": b"1.1"}.items():
            file.attrs.create(key, value, dtype=h5py.string_dtype("ascii", len(value)))
        file.create_dataset(
            "topology", data=[text], dtype=h5py.string_dtype("ascii", len(text)), compression="gzip"
        )
        for key, (values, units) in arrays.items():
            chunks = (10, *values.shape[1:])
            maximum = (10_000, *values.shape[1:])
            file.create_dataset(
                key, data=values.astype("f4"), chunks=chunks, maxshape=maximum, compression="gzip"
            )
            file[key].attrs.create(
                "units", units.encode(), dtype=h5py.string_dtype("ascii", len(units))
            )
    return path


def write_mlcg(path: Path, data: Beads, forces: str = "cg_forces") -> Path:
    with h5py.File(path, "w") as file:
        for name, frames in (("opep_0000", len(data.positions)), ("opep_0001", 5)):
            group = file.create_group(f"OPEP/{name}")
            group.create_dataset("cg_coords", data=data.positions[:frames])
            group.create_dataset(forces, data=data.forces[:frames])
            group.attrs["cg_embeds"] = np.array(ONE_LETTER)
            group.attrs["N_frames"] = frames
            group.attrs["cg_masses"] = np.full(10, 12.0)
    return path


def write_npz(path: Path, data: Beads, **changes: object) -> Path:
    count = len(data.positions)
    arrays = {
        "positions": data.positions,
        "forces": data.forces,
        "residue_names": np.array(RESIDUES),
        "trajectory_index": np.repeat([0, 4], [count // 3, count - count // 3]),
        "weights": np.linspace(0, 3, count),
        "temperature": np.array(310.0),
        "frame_interval_ps": np.array(5.0),
        **changes,
    }
    np.savez_compressed(path, **{k: v for k, v in arrays.items() if v is not None})  # type: ignore[arg-type]
    return path


def write_xtc(folder: Path, data: AllAtom, frames: slice = slice(None), name: str = "run") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    data.trajectory(frames).save(str(folder / f"{name}.xtc"))
    data.start.save_pdb(str(folder / "top.pdb"))
    np.save(folder / f"{name}_forces.npy", data.forces[frames])
    return folder / f"{name}.xtc"


def imported(tmp_path: Path, *words: object, megabytes: float = 0.25) -> CGFrames:
    """What `cgfe import` makes of the source; by default eight frames of 166 atoms at a time, so
    that the tests' 30 take several chunks."""
    output = tmp_path / "imported" / "frames.h5"
    arguments = [str(word) for word in words]
    buffer = ["--buffer-mb", str(megabytes)]
    assert main(["import", *arguments, "--output", str(output), "--quiet", *buffer]) == 0
    return CGFrames.load(output)


def same(found: np.ndarray | None, expected: np.ndarray, tolerance: float = 1e-3) -> None:
    assert found is not None
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=1e-5)


# --- formats -------------------------------------------------------------------------------


def test_fu_berlin(tmp_path: Path) -> None:
    data = AllAtom()
    folder = write_fu_berlin(tmp_path / "chig", data)
    assert detect(folder) == "fu-berlin"
    frames = imported(tmp_path, folder, *NEEDED, "--force-map", "constraint_aware")
    mapping = data.mapping("constraint_aware")
    same(frames.positions, mapping.map_positions(data.positions))
    same(frames.forces, mapping.map_forces(data.forces))
    assert frames.residue_names == RESIDUES
    assert np.bincount(frames.trajectory_index).tolist() == [10, 10, 10]
    assert (frames.temperature_kelvin, frames.frame_interval_ps) == (350, 100)
    assert frames.force_mapping == "constraint_aware"


def test_fu_berlin_many_tags_are_in_their_order(tmp_path: Path) -> None:
    data = AllAtom(24)
    frames = imported(tmp_path, write_fu_berlin(tmp_path / "c", data, 12), *NEEDED)
    same(frames.positions, data.mapping("slice").map_positions(data.positions))


def test_temperature_of_the_simulation_input(tmp_path: Path) -> None:
    folder = write_fu_berlin(tmp_path / "chig", AllAtom(6))
    (folder / "chignolin_50ns_0" / "input").write_text("timestep 4\nthermostattemp 350\n")
    frames = imported(tmp_path, folder, "--frame-interval", 100)
    assert frames.temperature_kelvin == 350


def test_majewski(tmp_path: Path) -> None:
    data = Beads()
    path = write_majewski(tmp_path / "m", data)
    assert detect(path) == detect(path.parent) == "majewski"
    frames = imported(tmp_path, path, *NEEDED)
    same(frames.positions, data.positions, 0)
    same(frames.forces, data.forces, 0)
    assert frames.residue_names == RESIDUES
    assert frames.bead_types.tolist() == bead_types_of(RESIDUES).tolist()


def test_delta_forces_never_pass_for_forces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Beads()
    path = write_majewski(tmp_path / "m", data)
    (path.parent / "chignolin_ca_forces.npy").unlink()
    frames = imported(tmp_path, path, *NEEDED)
    assert frames.forces is None
    assert frames.force_mapping == "none"
    assert "a prior that is not ours" in capsys.readouterr().out
    with h5py.File(tmp_path / "imported" / "frames.h5") as file:
        same(file["delta_forces"][()], data.deltas, 0)


def test_openmm(tmp_path: Path) -> None:
    data = AllAtom()
    path = write_openmm(tmp_path / "data", data)
    assert detect(path) == detect(tmp_path / "data") == "openmm"
    frames = imported(tmp_path, path, "--temperature", 300, "--force-map", "constraint_aware")
    mapping = data.mapping("constraint_aware")
    same(frames.positions, mapping.map_positions(data.positions))
    same(frames.forces, mapping.map_forces(data.forces))
    same(frames.all_atom_energies, np.arange(30.0))
    assert frames.frame_interval_ps == 2
    assert frames.bonds.tolist() == [[i, i + 1] for i in range(9)]


def test_openmm_temperature_of_the_integrator(tmp_path: Path) -> None:
    path = write_openmm(tmp_path / "data", AllAtom(6))
    folder = path.parent.parent / "simulation"
    folder.mkdir()
    (folder / "integrator.xml").write_text(
        '<?xml version="1.0" ?>\n<Integrator constraintTolerance="1e-06" friction="1" '
        'randomSeed="0" stepSize=".002" temperature="315" type="LangevinMiddleIntegrator" />\n'
    )
    assert imported(tmp_path, path).temperature_kelvin == 315


def test_the_openmm_sample_is_a_trajectory_for_mdtraj(tmp_path: Path) -> None:
    data = AllAtom(6)
    loaded = mdtraj.load(str(write_openmm(tmp_path / "data", data)))
    same(loaded.xyz, data.positions / 10)


def test_mlcg(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = Beads()
    path = write_mlcg(tmp_path / "set.h5", data)
    assert detect(path) == "mlcg"
    frames = imported(tmp_path, path, *NEEDED, "--molecule", "opep_0000")
    same(frames.positions, data.positions, 0)
    same(frames.forces, data.forces, 0)
    assert frames.residue_names == RESIDUES
    assert frames.masses.tolist() == [12.0] * 10
    assert main(["import", str(path), *NEEDED, "--output", str(tmp_path / "x.h5")]) == 2
    assert "holds 2 molecules (OPEP/opep_0000, OPEP/opep_0001)" in capsys.readouterr().err


def test_npz(tmp_path: Path) -> None:
    data = Beads()
    path = write_npz(tmp_path / "set.npz", data)
    assert detect(path) == "npz"
    frames = imported(tmp_path, path)
    same(frames.positions, data.positions, 0)
    same(frames.forces, data.forces, 0)
    same(frames.weights, np.linspace(0, 2, 25), 1e-12)
    assert frames.residue_names == RESIDUES
    assert (frames.temperature_kelvin, frames.frame_interval_ps) == (310, 5)
    assert np.unique(frames.trajectory_index, return_counts=True)[1].tolist() == [8, 17]


@pytest.mark.parametrize(("table", "numbers"), [("majewski", MAJEWSKI), ("one_letter", ONE_LETTER)])
def test_both_embeddings_give_the_same_bead_types(
    table: str, numbers: list[int], tmp_path: Path
) -> None:
    path = write_npz(
        tmp_path / "set.npz", Beads(5), residue_names=None, embeds=np.array(numbers),
        trajectory_index=None, weights=None,
    )  # fmt: skip
    frames = imported(tmp_path, path, "--embedding", table)
    assert frames.bead_types.tolist() == bead_types_of(RESIDUES).tolist()


def test_tables_hold_every_residue_and_are_in_their_order() -> None:
    for table in TABLES.values():
        assert set(bead_types_of(tuple(table.values()))) == set(range(1, 21))
    letters = mdtraj.core.residue_names._AMINO_ACID_CODES
    assert [letters[name] for name in TABLES["one_letter"].values()] == sorted(
        "ACDEFGHIKLMNPQRSTVWY"
    )
    with pytest.raises(InputError, match="bead type 18 is not in the table majewski"):
        residues_of_embedding(np.array([1, 18]), "majewski", "x.npy", 2)
    with pytest.raises(InputError, match=r"have shape \(3,\), expected \(2,\)"):
        residues_of_embedding(np.array([1, 2, 3]), "majewski", "x.npy", 2)


# --- trajectories through mdtraj -----------------------------------------------------------


def test_xtc_with_forces_beside_it(tmp_path: Path) -> None:
    data = AllAtom(200)
    paths = [
        write_xtc(tmp_path / "x", data, rows, f"run{i}")
        for i, rows in enumerate((slice(0, 100), slice(100, 200)))
    ]
    assert detect(paths[0]) == "mdtraj"
    top = tmp_path / "x" / "top.pdb"
    words = ("--topology", top, "--temperature", 300, "--force-unit", "kcal/mol/angstrom")
    frames = imported(tmp_path, *paths, *words, megabytes=1)
    same(frames.positions, data.mapping("slice").map_positions(data.positions), 0.011)
    assert np.bincount(frames.trajectory_index).tolist() == [100, 100]
    assert frames.frame_interval_ps == 2
    assert frames.force_mapping == "optimal"
    # The map is fitted to the first frames of both, half of those that the buffer has room for.
    each = int(2**20 / (3 * 12 * 166)) // 2
    data.forces, forces = data.forces[[*range(each), *range(100, 100 + each)]], data.forces
    same(frames.forces, data.mapping("optimal").map_forces(forces), 0.02)


def test_too_few_frames_for_an_optimal_map_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_openmm(tmp_path / "data", AllAtom(12))
    assert imported(tmp_path, path, "--temperature", 300).force_mapping == "constraint_aware"
    assert "needs 93 frames to be fitted to, found 12" in capsys.readouterr().out
    words = ["import", str(path), "--temperature", "300", "--force-map", "optimal"]
    assert main([*words, "--output", str(tmp_path / "x.h5"), "--quiet"]) == 2


def test_trr_with_its_own_forces(tmp_path: Path) -> None:
    data = AllAtom()
    path = tmp_path / "run.trr"
    count = len(data.positions)
    with TRRTrajectoryFile(str(path), "w") as file:
        box = np.tile(np.eye(3, dtype="f4") * 4, (count, 1, 1))
        numbers = np.arange(count)
        file._write(
            data.positions / 10, data.times.astype("f4"), numbers.astype("i4"), box,
            np.zeros(count, "f4"), None, (data.forces * KJ_PER_MOL_NM).astype("f4"),
        )  # fmt: skip
    frames = imported(
        tmp_path, path, "--topology", HAIRPIN, "--temperature", 300, "--force-map", "slice"
    )
    mapping = data.mapping("slice")
    same(frames.positions, mapping.map_positions(data.positions))
    same(frames.forces, mapping.map_forces(data.forces))


@pytest.mark.parametrize("suffix", [".h5", ".npy"])
def test_dcd_takes_forces_of_either_unit_and_needs_an_interval(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = AllAtom()
    data.trajectory().save(str(tmp_path / "run.dcd"))
    forces = tmp_path / f"f{suffix}"
    if suffix == ".h5":
        with h5py.File(forces, "w") as file:
            file["forces"] = data.forces * KJ_PER_MOL_NM
            file["forces"].attrs["units"] = "kilojoules/mole/nanometer"
        extra: tuple[str, ...] = ()
    else:
        np.save(forces, data.forces * KJ_PER_MOL_NM)
        extra = ("--force-unit", "kJ/mol/nm")
    words = [tmp_path / "run.dcd", "--topology", HAIRPIN, "--forces", forces, *extra]
    words += ["--temperature", 300, "--force-map", "slice"]
    frames = imported(tmp_path, *words, "--frame-interval", 10)
    same(frames.forces, data.mapping("slice").map_forces(data.forces))
    assert main(["import", *map(str, words), "--output", str(tmp_path / "y.h5"), "--quiet"]) == 2
    assert "does not tell its frame interval; give --frame-interval" in capsys.readouterr().err


def test_carbon_alpha_trajectory_without_forces(tmp_path: Path) -> None:
    data = AllAtom(12)
    carbons = data.trajectory().atom_slice(data.topology.select("name CA"))
    carbons.save(str(tmp_path / "ca.xtc"))
    carbons[0].save_pdb(str(tmp_path / "ca.pdb"))
    words = ["--topology", tmp_path / "ca.pdb", "--temperature", 300, "--stride", 5]
    frames = imported(tmp_path, tmp_path / "ca.xtc", *words)
    same(frames.positions, carbons.xyz[::5] * 10, 0.011)
    assert frames.forces is None
    assert frames.frame_interval_ps == 10


def test_stride_runs_on_across_chunks(tmp_path: Path) -> None:
    data = AllAtom(30)
    frames = imported(tmp_path, write_openmm(tmp_path, data), "--temperature", 300, "--stride", 7)
    expected = data.mapping("slice").map_positions(data.positions)[::7]
    same(frames.positions, expected)
    assert frames.frame_interval_ps == 14


def test_hydrogens_of_unknown_names_find_their_atoms(tmp_path: Path) -> None:
    """CHARMM's terminal hydrogens have no bond in mdtraj's table."""
    data = AllAtom()
    for atom in data.topology.atoms:
        atom.name = {"H": "HN", "H2": "HT2", "H3": "HT3", "HA": "HX"}.get(atom.name, atom.name)
    data.start.save_pdb(str(tmp_path / "charmm.pdb"), bfactors=None)
    text = (tmp_path / "charmm.pdb").read_text().splitlines()
    kept = [line for line in text if not line.startswith("CONECT")]
    (tmp_path / "charmm.pdb").write_text("\n".join(kept) + "\n")
    path = write_xtc(tmp_path / "x", data)
    words = ["--topology", tmp_path / "charmm.pdb", "--temperature", 300]
    words += ["--force-unit", "kcal/mol/angstrom"]
    frames = imported(tmp_path, path, *words, "--force-map", "constraint_aware")
    same(frames.forces, data.mapping("constraint_aware").map_forces(data.forces))


@pytest.mark.parametrize("vector", [[0.0, 0.0, 0.0], [20.0, 0.0, 0.0], [np.nan, 0.0, 20.0]])
def test_a_box_without_a_volume_is_told(vector: list[float]) -> None:
    beads = sources.Beads(residue_names=("GLY", "TYR"), bonds=np.array([[0, 1]]))
    source = sources.Source(name="run.xtc", beads=beads, trajectories=[], frame_count=None)
    box = np.array([np.eye(3) * 20, [[20, 0, 0], [0, 20, 0], vector]], dtype=np.float32)
    chunk = sources.Chunk(positions=np.zeros((2, 2, 3), np.float32), box=box)
    with pytest.raises(InputError, match="trajectory 3: a periodic box has the vectors"):
        beads_of(chunk, source, None, 3)


def test_chains_broken_at_the_box_are_made_whole() -> None:
    rng = np.random.default_rng(3)
    steps = rng.normal(size=(4, 20, 3))
    chain = np.cumsum(3.8 * steps / np.linalg.norm(steps, axis=-1, keepdims=True), axis=1)
    box = np.tile([[15.0, 0, 0], [4.0, 14.0, 0], [-3.0, 5.0, 13.0]], (4, 1, 1))
    inside = np.einsum("fni,fij->fnj", chain, np.linalg.inv(box)) % 1
    wrapped = np.einsum("fni,fij->fnj", inside, box)
    bonds = np.stack([np.arange(19), np.arange(1, 20)], axis=1)
    whole = whole_chains(wrapped, bonds, box)
    assert np.abs(np.diff(wrapped, axis=1)).max() > 8
    same(np.diff(whole, axis=1), np.diff(chain, axis=1), 1e-9)


# --- what is wrong is named ----------------------------------------------------------------


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one sentence of an import that fails; nothing may be left behind."""

    def run(*words: object) -> str:
        output = tmp_path / "out" / "frames.h5"
        capsys.readouterr()
        code = main(
            ["import", *map(str, words), "--output", str(output), "--quiet", "--buffer-mb", "0.25"]
        )
        error = capsys.readouterr().err
        assert code == 2
        assert error.count("\n") == 1
        assert not output.parent.exists() or not list(output.parent.iterdir())
        return error

    return run


def test_temperature_is_never_guessed(refused: Callable[..., str], tmp_path: Path) -> None:
    path = write_openmm(tmp_path / "data", AllAtom(6))
    assert "does not tell its temperature; give --temperature" in refused(path)
    npz = write_npz(tmp_path / "a.npz", Beads())
    assert "has temperature_kelvin 310, but --temperature says 300" in refused(
        npz, "--temperature", 300
    )


def test_shapes_that_disagree(refused: Callable[..., str], tmp_path: Path) -> None:
    path = write_majewski(tmp_path / "m", Beads())
    np.save(path.parent / "chignolin_ca_forces.npy", Beads(24).forces)
    error = refused(path, *NEEDED)
    assert "(24, 10, 3)" in error
    assert "(25, 10, 3)" in error

    folder = write_fu_berlin(tmp_path / "chig", AllAtom(9))
    np.save(folder / "coords_nowater" / "chig_coor_0.npy", np.zeros((3, 160, 3), "f4"))
    error = refused(folder, *NEEDED)
    assert "(3, 160, 3)" in error
    assert "172 atoms (166 without solvent)" in error

    openmm = write_openmm(tmp_path / "data", AllAtom(6))
    with h5py.File(openmm, "r+") as file:
        del file["forces"]
        file["forces"] = np.zeros((6, 160, 3))
    error = refused(openmm, "--temperature", 300)
    assert "(6, 160, 3)" in error
    assert "(6, 166, 3)" in error

    mlcg = write_mlcg(tmp_path / "set.h5", Beads())
    with h5py.File(mlcg, "r+") as file:
        file["OPEP/opep_0000"].attrs["N_frames"] = 26
    error = refused(mlcg, *NEEDED, "--molecule", "opep_0000")
    assert "N_frames is 26, but cg_coords has shape (25, 10, 3)" in error

    npz = write_npz(tmp_path / "a.npz", Beads(), weights=np.ones(9))
    assert "weights: shape is (9,), but positions has (25,)" in refused(npz)

    xtc = write_xtc(tmp_path / "x", AllAtom())
    np.save(tmp_path / "x" / "run_forces.npy", AllAtom(28).forces)
    error = refused(xtc, "--topology", HAIRPIN, "--temperature", 300)
    assert "run_forces.npy" in error
    assert "166, 3)" in error


def test_lengths_in_another_unit(refused: Callable[..., str], tmp_path: Path) -> None:
    data = Beads()
    data.positions = data.positions / 10
    assert "neighbouring Cα are 0.38" in refused(write_majewski(tmp_path / "m", data), *NEEDED)


def test_not_finite_values_deep_in_the_file(refused: Callable[..., str], tmp_path: Path) -> None:
    data = AllAtom()
    data.positions[25, 4] = np.nan
    error = refused(write_fu_berlin(tmp_path / "chig", data), *NEEDED)
    assert "trajectory 2, frames from 0: positions are not finite" in error


def test_missing_frames(refused: Callable[..., str], tmp_path: Path) -> None:
    data = AllAtom()
    data.times[20:] += 2
    error = refused(write_openmm(tmp_path / "data", data), "--temperature", 300)
    assert "after 4 ps" in error
    assert "expected 2 ps" in error


def test_pickles_are_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    path = write_majewski(tmp_path / "m", Beads())
    mark = tmp_path / "ran"
    code = Dangerous(mark)
    np.save(path, np.array([code, code], dtype=object), allow_pickle=True)
    assert "not a readable array of numbers" in refused(path, *NEEDED)
    npz = write_npz(tmp_path / "a.npz", Beads(), forces=np.array([code], dtype=object))
    assert "holds pickled objects" in refused(npz)
    npz = write_npz(tmp_path / "b.npz", Beads(), residue_names=np.array([code], dtype=object))
    assert "residue_names holds pickled objects" in refused(npz)
    assert not mark.exists()


class Dangerous:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (os.mkdir, (str(self.mark),))


@pytest.mark.parametrize("kind", ["npy", "npz", "h5", "xtc"])
def test_truncated_files(kind: str, refused: Callable[..., str], tmp_path: Path) -> None:
    words: list[object] = [*NEEDED]
    if kind == "npy":
        path = write_majewski(tmp_path / "m", Beads())
    elif kind == "npz":
        path, words = write_npz(tmp_path / "a.npz", Beads()), []
    elif kind == "h5":
        path, words = write_openmm(tmp_path / "data", AllAtom()), ["--temperature", 300]
    else:
        path = write_xtc(tmp_path / "x", AllAtom())
        words = ["--topology", HAIRPIN, "--temperature", 300]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert path.name in refused(
        path, *words, "--format", {"h5": "openmm"}.get(kind, detect_of[kind])
    )


detect_of = {"npy": "majewski", "npz": "npz", "h5": "openmm", "xtc": "mdtraj"}


def test_options_that_mean_nothing(refused: Callable[..., str], tmp_path: Path) -> None:
    npz = write_npz(tmp_path / "a.npz", Beads())
    assert "--molecule means nothing to format npz" in refused(npz, "--molecule", "x")
    assert "--force-map is for all-atom sources" in refused(npz, "--force-map", "slice")
    error = refused(npz, "--format", "pdbx")
    assert all(name in error for name in FORMATS)
    (tmp_path / "notes.txt").write_text("nothing")
    assert "format not recognised" in refused(tmp_path / "notes.txt")
    assert "no such file" in refused(tmp_path / "none.xtc")


def test_one_source_with_its_own_forces(refused: Callable[..., str], tmp_path: Path) -> None:
    beads = Beads()
    sources = {
        "fu-berlin": write_fu_berlin(tmp_path / "fu", AllAtom(6)),
        "mlcg": write_mlcg(tmp_path / "mlcg.h5", beads),
        "npz": write_npz(tmp_path / "a.npz", beads),
    }
    for name, path in sources.items():
        assert f"format {name} takes one" in refused(path, path, "--format", name)
        error = refused(path, "--format", name, "--forces", path)
        assert "--forces: this format has its own forces; only `none` is allowed." in error
    openmm = write_openmm(tmp_path / "openmm", AllAtom(6))
    assert "has its own forces" in refused(openmm, "--forces", tmp_path / "a.npz")


def test_frames_files_are_not_imported_again(refused: Callable[..., str], tiny_file: Path) -> None:
    assert "is a frames file already" in refused(tiny_file)


# --- writing and memory --------------------------------------------------------------------


def test_written_in_chunks_equals_written_at_once(tiny: CGFrames, tmp_path: Path) -> None:
    from dataclasses import replace

    with writing_frames(tmp_path / "chunks.h5") as writer:
        for start in range(0, len(tiny), 170):
            rows = slice(start, start + 170)
            part = replace(
                tiny,
                positions=tiny.positions[rows],
                forces=tiny.forces[rows] if tiny.forces is not None else None,
                all_atom_energies=tiny.all_atom_energies[rows]
                if tiny.all_atom_energies is not None
                else None,
                trajectory_index=tiny.trajectory_index[rows],
                weights=None,
            )
            weights = None if tiny.weights is None else tiny.weights[rows]
            writer.append(part, weights)
    assert writer.trajectories == len(tiny.trajectory_slices())
    found = CGFrames.load(tmp_path / "chunks.h5")
    for key in ("positions", "forces", "all_atom_energies", "trajectory_index", "bonds"):
        np.testing.assert_array_equal(getattr(found, key), getattr(tiny, key))
    if tiny.weights is not None:
        same(found.weights, tiny.weights / tiny.weights.mean(), 1e-9)
    assert found.source == tiny.source


MEASURE = """
import sys
from cgfe.cli import main
def peak():
    main(["import", sys.argv.pop(1), "--output", "out.h5", "--quiet", "--buffer-mb", "4",
          "--temperature", "350", "--frame-interval", "100"])
    # Not ru_maxrss: a child process starts with its parent's.
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
small = peak()
print("GROWTH", peak() - small)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux' /proc")
@pytest.mark.parametrize("kind", ["majewski", "npz", "mlcg", "openmm"])
def test_memory_does_not_grow_with_the_file(kind: str, tmp_path: Path) -> None:
    """A source of 30 MB and more through a buffer of 4 MB, after a small one has made the process
    load all that it needs: what its peak memory grows by is the buffer's doing, not the file's."""
    paths = []
    for name, times in (("small", 1), ("large", 40)):
        if kind == "openmm":
            data = AllAtom(400 if times > 1 else 40)
            data.positions = np.tile(data.positions, (20 if times > 1 else 1, 1, 1))
            data.forces = np.tile(data.forces, (20 if times > 1 else 1, 1, 1))
            data.times = np.arange(len(data.positions)) * 100.0
            paths.append(write_openmm(tmp_path / name, data))
            continue
        beads = Beads(200)
        for key in ("positions", "forces", "deltas"):
            setattr(beads, key, np.tile(getattr(beads, key), (20 * times, 1, 1)))
        if kind == "majewski":
            paths.append(write_majewski(tmp_path / name, beads))
        elif kind == "npz":
            extra = {"temperature": None, "frame_interval_ps": None, "weights": None}
            index = {"trajectory_index": None}
            paths.append(write_npz(tmp_path / f"{name}.npz", beads, **extra, **index))
        else:
            paths.append(write_mlcg(tmp_path / f"{name}.h5", beads))
            with h5py.File(paths[-1], "r+") as file:
                del file["OPEP/opep_0001"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, paths)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert "GROWTH" in done.stdout, done.stdout + done.stderr
    growth = float(done.stdout.split()[-1])
    # Positions and forces of the large source alone, in memory at once, are 38 MB (30 for openmm).
    assert growth < 16, growth


# --- info ----------------------------------------------------------------------------------


def info(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["info", str(path)]) == 0
    return capsys.readouterr().out


def test_info_of_a_frames_file(
    tiny: CGFrames, tiny_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = info(tiny_file, capsys)
    assert "TYR-TYR-ASP-PRO-GLU-THR-GLY-THR-TRP-TYR" in printed
    assert f"{len(tiny)}, one each {tiny.frame_interval_ps:g} ps" in printed
    assert f"{tiny.temperature_kelvin:g} K" in printed
    assert tiny.forces is not None
    assert f"RMS {np.sqrt((tiny.forces.astype(float) ** 2).mean()):.1f} " in printed


def test_info_of_a_checkpoint_and_a_run(
    tiny: CGFrames, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cgfe.model.schnet import CGSchNetConfig
    from cgfe.reference.config import ReferenceConfig
    from cgfe.reference.reference import Reference
    from cgfe.training.module import CGForceField

    config = ReferenceConfig(tica_lag_ps=5, bins=12, starts=16)
    reference = Reference.fit(tiny, Split(tiny.trajectory_slices(), [], []), config)
    model = CGForceField(CGSchNetConfig(hidden_channels=8, num_filters=8, num_layers=1))
    model.set_references([reference], ["chignolin"])
    checkpoint: dict[str, object] = {
        "state_dict": model.state_dict(), "epoch": 6, "global_step": 77
    }  # fmt: skip
    model.on_save_checkpoint(checkpoint)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    torch.save(checkpoint, path)
    printed = info(path, capsys)
    assert "7 epochs, 77 steps" in printed
    assert "hidden_channels 8" in printed
    assert f"lag {reference.projection.tica.lag_ps:g} ps" in printed

    (tmp_path / "run" / "config.yaml").write_text("data: {}\n")
    (tmp_path / "run" / "metrics.csv").write_text("epoch,step,train/loss\n0,5,2.5\n1,9,1.25\n")
    (tmp_path / "run" / "free_energy.json").write_text('{"system": "chignolin", "js": 0.125}')
    printed = info(tmp_path / "run", capsys)
    assert "train/loss 1.25" in printed
    assert "js 0.125" in printed
    assert "last.ckpt" in printed
    assert "7 epochs" in printed


def test_info_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    npz = write_npz(tmp_path / "a.npz", Beads(3))
    for path in (tmp_path, tmp_path / "none.h5", npz):
        assert main(["info", str(path)]) == 2
    openmm = write_openmm(tmp_path / "data", AllAtom(3))
    assert main(["info", str(openmm)]) == 2
    assert "not a frames file" in capsys.readouterr().err
