"""The optimizer of a training and the schedule of its learning rate."""

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from cgfe.errors import InputError


def optimizer_and_schedule(
    parameters: list[torch.nn.Parameter],
    make_optimizer: Callable[[Any], Any],
    make_scheduler: Callable[[Any], Any] | None,
) -> dict[str, Any]:
    """Return what Lightning's `configure_optimizers` is to return.

    Parameters
    ----------
    parameters : list of Parameter
    make_optimizer : callable
        Gives an optimizer of parameters.
    make_scheduler : callable, optional
        Gives a scheduler of an optimizer.

    Raises
    ------
    InputError
        If their settings make no sense.
    """
    optimizer = _made("optimizer", make_optimizer, parameters)
    if make_scheduler is None:
        return {"optimizer": optimizer}
    scheduler = _made("scheduler", make_scheduler, optimizer)
    if not isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
        return {"optimizer": optimizer, "lr_scheduler": scheduler}
    # Not strict: a free-energy error is not told at every epoch.
    monitor = getattr(scheduler, "monitor", "validation/loss")
    steps = {"scheduler": scheduler, "monitor": monitor, "strict": False}
    return {"optimizer": optimizer, "lr_scheduler": steps}


def length_of(optimizers: dict[str, Any]) -> int | None:
    """Return the epochs that a cosine schedule takes, of `optimizer_and_schedule`'s result."""
    return getattr(optimizers.get("lr_scheduler"), "T_max", None)


def end_as_told(trainer: L.Trainer, length: int) -> None:
    """See to it that a cosine schedule ends where it is told to, after `length` epochs.

    A resumed run's would end where the checkpoint's did, and the learning rate climb again in
    epochs that are added.
    """
    for config in trainer.lr_scheduler_configs:
        config.scheduler.T_max = length  # type: ignore[union-attr]
    epochs = trainer.max_epochs
    if epochs is not None and epochs > length:
        rank_zero_warn(
            f"The learning rate climbs again after epoch {length} of {epochs}: "
            "model.scheduler.init_args.T_max is smaller than trainer.max_epochs; "
            "T_max: ${trainer.max_epochs} follows it."
        )


def _made(what: str, make: Callable[[Any], Any], of: Any) -> Any:
    """Return an optimizer or scheduler; what torch says of its settings becomes a sentence."""
    try:
        return make(of)
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
        raise InputError(f"model.{what} cannot be made: {str(error).rstrip('.')}.") from None
