"""Checkpoint files: read once, without running code, and checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from cgfe.errors import InputError
from cgfe.files import replacing
from cgfe.reference.reference import Reference

CHECKPOINT_KEY = "cgfe"
CHECKPOINT_VERSION = 1


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file without running any code that it may hold.

    Raises
    ------
    InputError
        If the file is missing or unreadable.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such checkpoint.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        # What torch.load raises of damaged bytes has no end: UnpicklingError, KeyError, ...
        raise InputError(f"{path}: not a readable checkpoint; it may be truncated.") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a cgfe checkpoint.")
    return content


def content_of(checkpoint: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return what cgfe has put into a checkpoint.

    Raises
    ------
    InputError
        If it is none of this version.
    """
    content = checkpoint.get(CHECKPOINT_KEY)
    if not isinstance(content, dict) or content.get("version") != CHECKPOINT_VERSION:
        raise InputError(f"{name} is no cgfe checkpoint of version {CHECKPOINT_VERSION}.")
    return content


def references_of(content: Mapping[str, Any]) -> list[Reference]:
    """Return the references in a checkpoint's content."""
    return [
        Reference.from_arrays({key: value.numpy() for key, value in arrays.items()})
        for arrays in content["references"]
    ]


def state_of_loss(checkpoint: dict[str, Any]) -> set[str]:
    """Return the names of what a checkpoint holds of the loss.

    The offsets of a learned gauge were the loss's own before they were a term's; here they get
    their present name.
    """
    state: dict[str, Any] = checkpoint.get("state_dict", {})
    if "loss.offsets" in state:
        state["loss.terms.energy_mse.gauge.offsets"] = state.pop("loss.offsets")
    return {name for name in state if name.startswith("loss.")}


class Checkpoints(TorchCheckpointIO):
    """Lightning's reading and writing of checkpoints: each read once, each written whole.

    Parameters
    ----------
    path : str, optional
    content : dict, optional
        Of a checkpoint that was read to check it before anything else was done. Handed out once,
        since Lightning changes it.
    """

    def __init__(self, path: str = "", content: dict[str, Any] | None = None) -> None:
        self._read = {} if content is None else {path: content}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint beside `path`, then rename it: a kill leaves the one before whole.

        Raises
        ------
        InputError
            If it cannot be written, to a full disk for example.
        """
        try:
            with replacing(path) as temporary:
                torch.save(checkpoint, temporary)
        except (OSError, RuntimeError) as error:
            raise InputError(f"{path}: the checkpoint cannot be written ({error}).") from None

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Return the checkpoint, from the file if it was not read before."""
        return self._read.pop(str(path), None) or read_checkpoint(path)
