"""What is checked of a checkpoint that may be damaged, before a model is made of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from cgfe.errors import InputError
from cgfe.model.schnet import CGSchNet, CGSchNetConfig
from cgfe.reference.reference import Reference
from cgfe.training.checkpoints import references_of


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
