"""Simulating and judging a checkpoint whose frames, or mean forces, are gone."""

from pathlib import Path
from typing import Any

from cgfe.training.checkpoint_checks import checked_references, reading
from cgfe.training.checkpoints import content_of
from cgfe.training.datamodule import CGFramesDataModule
from cgfe.training.mean_forces import read_mean_forces


def go_without(data: CGFramesDataModule, checkpoint: dict[str, Any], name: str) -> list[str]:
    """Let the data module do with what a checkpoint holds, where a file of its own is gone.

    Each process then gets one empty batch in place of the frames, so that a validation or a test
    simulates the model but measures no losses.

    Parameters
    ----------
    data : CGFramesDataModule
        Not yet set up.
    checkpoint : dict
    name : str
        What errors call the checkpoint.

    Returns
    -------
    list of str
        A sentence for each thing that is left out.

    Raises
    ------
    InputError
        If the checkpoint is damaged, or none of cgfe.
    """
    notes = []
    kept = [path for path in data.mean_force_paths if Path(path).is_file()]
    if lost := [str(path) for path in data.mean_force_paths if path not in kept]:
        notes.append(f"{', '.join(lost)}: no such file, so mean forces are not compared with.")
    data.mean_force_paths = kept
    if gone := [str(path) for path in data.paths if not path.is_file()]:
        content = content_of(checkpoint, name)
        with reading(name):
            data.names, data.references = content["names"], checked_references(content)
        beads = [reference.system.residue_names for reference in data.references]
        data.mean_forces = read_mean_forces(kept, beads)
        notes.append(
            f"{', '.join(gone)}: no such file, so the losses of frames are left out; the "
            "checkpoint holds what simulations are judged by."
        )
    return notes
