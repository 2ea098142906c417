"""CGFrames: what is written comes back, and what is wrong is refused in one sentence."""

import dataclasses
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest

from cgfe.commands.info import describe_frames
from cgfe.data.beads import bead_types_of
from cgfe.data.embedded import EMBEDDED, EMBEDDED_MEAN_FORCES
from cgfe.data.frames import CGFrames
from cgfe.errors import InputError


def test_frames_survive_the_file(tiny: CGFrames, tmp_path: Path) -> None:
    tiny.save(tmp_path / "frames.h5")
    back = CGFrames.load(tmp_path / "frames.h5")
    for field in dataclasses.fields(CGFrames):
        if field.name != "name":
            np.testing.assert_array_equal(getattr(back, field.name), getattr(tiny, field.name))
    assert not list(tmp_path.glob(".*")), "a temporary file was left"


def test_embedded_set_has_both_basins_and_provenance(embedded: CGFrames) -> None:
    from cgfe.analysis.metrics import FOLDED_RMSD
    from cgfe.geometry import rmsd

    assert embedded.native_positions is not None
    distance = rmsd(embedded.positions, embedded.native_positions)
    assert (distance <= FOLDED_RMSD).mean() > 0.05
    assert (distance > 2 * FOLDED_RMSD).mean() > 0.05
    assert embedded.nanoseconds >= 4000
    assert embedded.temperature_kelvin == 300
    assert embedded.forces is not None
    assert embedded.force_mapping == "optimal"
    assert "ff14SB, OBC2" in embedded.force_field
    assert "cgfe pack --runs" in embedded.source
    assert "LangevinMiddle" in embedded.source


def test_the_embedded_helix_folds_and_unfolds() -> None:
    from cgfe.analysis.metrics import FOLDED_RMSD
    from cgfe.geometry import rmsd

    helix = CGFrames.load(EMBEDDED["helix"])
    assert "".join(name[0] for name in helix.residue_names) == "AAGAAAAGAAAAGAA"  # ALA and GLN
    assert helix.native_positions is not None
    distance = rmsd(helix.positions, helix.native_positions)
    assert 0.1 < (distance <= FOLDED_RMSD).mean() < 0.9
    parts = [helix.validation_trajectories, helix.test_trajectories]
    assert [len(part) for part in parts] == [8, 8]
    for part in parts:  # each with both states
        own = distance[np.isin(helix.trajectory_index, part)] <= FOLDED_RMSD
        assert 0.1 < own.mean() < 0.9
    assert helix.nanoseconds >= 3500
    assert helix.forces is not None
    assert "cgfe pack --runs" in helix.source


def test_embedded_mean_forces_are_of_the_same_walkers(embedded: CGFrames) -> None:
    """Close to frames of their walkers, and less noisy than instantaneous forces by far."""
    means = CGFrames.load(EMBEDDED_MEAN_FORCES["chignolin"])
    assert means.residue_names == embedded.residue_names
    for part in ("validation_trajectories", "test_trajectories"):
        np.testing.assert_array_equal(getattr(means, part), getattr(embedded, part))
    parts = [means.validation_trajectories, means.test_trajectories]
    counts = [int(np.isin(means.trajectory_index, part).sum()) for part in parts]
    assert counts == [2000, 2000]
    assert len(means) == 24_000
    assert means.forces is not None
    assert embedded.forces is not None
    assert means.force_standard_errors is not None
    error = np.sqrt((means.force_standard_errors.astype(float) ** 2).mean())
    noise = np.sqrt((embedded.forces.astype(float) ** 2).mean() - means.forces.var())
    assert 0 < error < noise / 10


def test_trajectory_slices_cut_at_each_change(tiny: CGFrames) -> None:
    pieces = tiny.trajectory_slices()
    assert sum(s.stop - s.start for s in pieces) == len(tiny)
    for piece in pieces:
        assert len(set(tiny.trajectory_index[piece])) == 1


def test_bead_types_are_alphabetical_and_zero_for_others() -> None:
    assert bead_types_of(("ALA", "VAL", "XYZ", "GLY")).tolist() == [1, 20, 0, 8]


def with_nan(file: h5py.File) -> None:
    file["positions"][3, 2, 1] = np.nan


def with_other_beads(file: h5py.File) -> None:
    forces = file["forces"][()][:, :-1]
    del file["forces"]
    file["forces"] = forces


def with_unit(file: h5py.File) -> None:
    file.attrs["length_unit"] = "nanometer"


def with_falling_index(file: h5py.File) -> None:
    file["trajectory_index"][-1] = -1


def with_negative_weight(file: h5py.File) -> None:
    file["weights"][0] = -1.0


def without_masses(file: h5py.File) -> None:
    del file["masses"]


def with_other_version(file: h5py.File) -> None:
    file.attrs["format_version"] = 99


def with_attribute(key: str, value: object) -> Callable[[h5py.File], None]:
    def damage(file: h5py.File) -> None:
        file.attrs[key] = value

    return damage


def with_array(key: str, value: object) -> Callable[[h5py.File], None]:
    def damage(file: h5py.File) -> None:
        del file[key]
        if value is None:
            file.create_group(key)
        else:
            file[key] = value

    return damage


def with_first(key: str, value: float) -> Callable[[h5py.File], None]:
    def damage(file: h5py.File) -> None:
        values = file[key][()]
        values.flat[0] = value
        del file[key]
        file[key] = values

    return damage


def without_forward_index(file: h5py.File) -> None:
    file["trajectory_index"][:] = -1


def without_beads(file: h5py.File) -> None:
    frames = len(file["positions"])
    for key, shape in {"positions": (frames, 0, 3), "masses": (0,), "bead_types": (0,)}.items():
        del file[key]
        file.create_dataset(key, shape, dtype="i8" if key == "bead_types" else "f8")
    del file["forces"], file["native_positions"]
    file.attrs["residue_names"] = "[]"


LIST = "expected a JSON list of three-letter codes"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (with_attribute("residue_names", "TYR TYR"), f"residue_names is 'TYR TYR', {LIST}"),
        (with_attribute("residue_names", "null"), LIST),
        (with_attribute("residue_names", json.dumps(list(range(10)))), LIST),
        (with_attribute("residue_names", 7), LIST),
        (with_attribute("temperature_kelvin", "warm"), "is 'warm', expected one number"),
        (with_attribute("temperature_kelvin", np.inf), "is inf, expected a positive value"),
        (with_attribute("temperature_kelvin", [300, 310]), "expected one number"),
        (with_array("positions", None), "positions is a group, expected an array of numbers"),
        (with_array("positions", "none"), "positions are no numbers, expected real numbers"),
        (with_array("positions", 5.0), r"positions have shape \(\), expected \(frames, beads, 3\)"),
        (with_array("positions", h5py.Empty("f4")), "positions is empty"),
        (with_array("positions", np.ones((5, 10, 3), complex)), "positions are complex numbers"),
        (without_forward_index, "trajectory_index is -1, expected 0 or more"),
        (with_array("bead_types", np.full(10, 1.5)), "bead_types are numbers with a fraction"),
        (with_first("bead_types", 10**6), "bead types reach 1000000, expected 9999 at most"),
        (with_first("bonds", -1), "bonds name beads -1 to 9, expected two different ones each"),
        (with_first("bonds", 1), "expected two different ones each"),
        (with_first("positions", 1e20), "positions reach 1e.20, expected 1e.09 at most"),
        (with_first("native_positions", np.nan), "native_positions are not finite"),
        (
            without_beads,
            r"shape \(\d+, 0, 3\), expected \(frames, beads, 3\), one",
        ),
        (with_nan, r"positions are not finite \(first at index 3\)"),
        (with_other_beads, r"forces have shape \(\d+, 9, 3\), but positions have shape"),
        (with_unit, "length_unit is 'nanometer', expected 'angstrom'"),
        (with_falling_index, "trajectory_index falls"),
        (with_negative_weight, "weights are negative"),
        (without_masses, "missing entry"),
        (with_other_version, "version 99, expected cgfe-frames version 1"),
    ],
)
def test_wrong_content_is_named(
    damage: Callable[[h5py.File], None], message: str, tiny: CGFrames, tmp_path: Path
) -> None:
    path = tmp_path / "frames.h5"
    tiny.save(path)
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(InputError, match=message) as raised:
        CGFrames.load(path)
    assert str(path) in str(raised.value)
    with suppress(InputError):  # what is only wrong in the values is not looked at
        list(describe_frames(path))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_file_is_named(share: float, tiny: CGFrames, tmp_path: Path) -> None:
    path = tmp_path / "frames.h5"
    tiny.save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="truncated"):
        CGFrames.load(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        CGFrames.load(tmp_path / "none.h5")
