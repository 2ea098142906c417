"""What is checked of a checkpoint before a model is made of it, or a run goes on from it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from cgfe.errors import InputError
from cgfe.model.schnet import CGSchNet, CGSchNetConfig
from cgfe.reference.reference import Reference
from cgfe.training.checkpoints import content_of, references_of, state_of_loss

NETWORK = "network."
"""How the names of the network's parameters begin."""


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Say of whatever a damaged checkpoint raises that it is damaged.

    Raises
    ------
    InputError
        If an entry is missing, of another type or of another shape.
    """
    try:
        yield
    except InputError as error:
        raise error if name in str(error) else InputError(f"{name}: {error}") from None
    except KeyError as error:
        raise InputError(f"{name}: damaged checkpoint, entry {error} is missing.") from None
    except (ArithmeticError, AttributeError, LookupError, MemoryError) as error:
        raise InputError(f"{name}: damaged checkpoint ({_told(error)}).") from None
    except (AssertionError, RuntimeError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{name}: damaged checkpoint ({_told(error)}).") from None


def _told(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def check_network(settings: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Compare the sizes of a network with its weights before memory is taken for it.

    Parameters
    ----------
    settings : mapping
        Keys of CGSchNetConfig.
    state : mapping from name to Tensor
        Of the network alone.

    Raises
    ------
    InputError
        If they differ, or a weight is not finite.
    """
    config = CGSchNetConfig(**settings)
    layers = {name.split(".")[1] for name in state if name.startswith("interactions.")}
    if config.num_layers != len(layers):
        raise InputError(f"num_layers is {config.num_layers}, but it has {len(layers)} layers.")
    with torch.device("meta"):
        expected = {name: x.shape for name, x in CGSchNet(config).state_dict().items()}
    found = {name: x.shape for name, x in state.items() if isinstance(x, Tensor)}
    if found != expected:
        name = min(name for name, _ in found.items() ^ expected.items())
        raise InputError(
            f"damaged checkpoint, {name} has shape {_listed(found.get(name))}, expected "
            f"{_listed(expected.get(name))}."
        )
    for name, weights in state.items():
        if not weights.is_floating_point() or not weights.isfinite().all():
            raise InputError(f"damaged checkpoint, {name} is not of finite numbers.")


def _listed(shape: torch.Size | None) -> str:
    return "none" if shape is None else str(tuple(shape))


def model_of(
    checkpoint: Mapping[str, Any], name: str
) -> tuple[CGSchNet, list[str], list[Reference]]:
    """Return the network of a checkpoint that was read, with its systems' names and references.

    Parameters
    ----------
    checkpoint : mapping
    name : str
        What errors call it.

    Raises
    ------
    InputError
        If it is no cgfe checkpoint, or a damaged one.
    """
    content = content_of(checkpoint, name)
    with reading(name):
        state = {
            key.removeprefix(NETWORK): x
            for key, x in checkpoint["state_dict"].items()
            if key.startswith(NETWORK)
        }
        check_network(content["network"], state)
        network = CGSchNet(CGSchNetConfig(**content["network"]))
        references = checked_references(content)
        network.load_state_dict(state)
        return network, content["names"], references


def checked_references(content: Mapping[str, Any]) -> list[Reference]:
    """Return the references of a checkpoint, checked against their names and the network.

    Parameters
    ----------
    content : mapping
        What cgfe has put into the checkpoint.

    Raises
    ------
    InputError
        If names and references are not as many, or the network has no such bead types.
    """
    names, references = content["names"], references_of(content)
    bead_types = content["network"]["max_bead_types"]
    texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not texts or len(names) != len(references):
        raise InputError(f"damaged checkpoint, {len(references)} references are named {names!r}.")
    for reference in references:
        reference.check()
        largest = int(reference.system.bead_types.max())
        if largest >= bead_types:
            raise InputError(f"damaged checkpoint, bead type {largest} of {bead_types}.")
    return references


def check_same_loss(checkpoint: dict[str, Any], own: dict[str, Any]) -> None:
    """Compare what two checkpoints hold of the loss.

    Raises
    ------
    InputError
        If they hold other things.
    """
    differing = state_of_loss(checkpoint) ^ state_of_loss(own)
    if differing:
        raise InputError(
            "the checkpoint was trained with another loss, they differ in "
            f"{', '.join(sorted(differing))}; give the run's own, or, where an older cgfe wrote "
            "it, begin anew."
        )


def check_same_sizes(checkpoint: dict[str, Any], own: dict[str, Any]) -> None:
    """Compare the sizes of what two checkpoints of the same systems hold of the loss.

    Raises
    ------
    InputError
        Naming the first that differs.
    """
    for name in sorted(state_of_loss(own)):
        shapes = [_listed(x["state_dict"][name].shape) for x in (checkpoint, own)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"the checkpoint was trained with another size of the loss's {name}, {shapes[0]} "
                f"where it is {shapes[1]} here; give the run's own settings."
            )


def check_same_network(content: Mapping[str, Any], own: CGSchNetConfig) -> None:
    """Compare a checkpoint's network with one's own.

    Raises
    ------
    InputError
        Naming the settings that differ.
    """
    saved = asdict(CGSchNetConfig(**content["network"]))
    changed = [
        f"{key} is {saved[key]} in the checkpoint and {value} here"
        for key, value in asdict(own).items()
        if value != saved[key]
    ]
    if changed:
        raise InputError(f"the checkpoint holds another network: {'; '.join(changed)}.")


def check_same_frames(content: dict[str, Any], own: list[Reference]) -> None:
    """Compare a checkpoint's references with one's own.

    Raises
    ------
    InputError
        If they are of other beads, or were fitted to other frames or with other settings.
    """
    saved = references_of(content)
    types, own_types = ([r.system.bead_types.tolist() for r in refs] for refs in (saved, own))
    if types != own_types:
        raise InputError(
            f"the checkpoint belongs to {_described(saved)}, but the frames hold {_described(own)}."
        )
    if [r.fingerprint for r in saved] != [r.fingerprint for r in own]:
        raise InputError(
            "the checkpoint was trained with other frames, split or reference settings; "
            "give the run's own config.yaml."
        )


def _described(references: list[Reference]) -> str:
    names = [r.system.residue_names for r in references]
    return ", ".join(f"{len(beads)} beads ({'-'.join(beads)})" for beads in names)
