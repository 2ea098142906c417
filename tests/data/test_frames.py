"""CGFrames: what is written comes back, and what is wrong is refused in one sentence."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from cgfe.data.beads import bead_types_of
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
    assert embedded.nanoseconds >= 20
    assert embedded.temperature_kelvin == 300
    assert embedded.forces is not None
    assert embedded.force_mapping == "optimal"
    assert "OpenMM" in embedded.source


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


@pytest.mark.parametrize(
    ("damage", "message"),
    [
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
