"""The trainer's keys: what makes no sense, or cannot be had here, is told in one sentence."""

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning.fabric.plugins.environments import (
    LSFEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from cgfe.errors import InputError

LAUNCHERS = (LSFEnvironment, MPIEnvironment, SLURMEnvironment, TorchElasticEnvironment)
"""What starts a process on each machine and lets them know of each other."""

PRECISIONS = ("32-true", "32", "64-true", "64", "bf16-mixed", "bf16", "16-mixed", "16")
"""Forces and their gradients come out of networks in these."""


def check_trainer(trainer: Any, fitting: bool) -> None:
    """Check the keys that Lightning takes without a word, or fails at much later.

    Parameters
    ----------
    trainer : namespace
        The trainer's keys.
    fitting : bool
        Whether something is to be trained.

    Raises
    ------
    InputError
        Naming the key, what was found and what was expected.
    """
    if trainer.precision is not None and str(trainer.precision) not in PRECISIONS:
        _refuse("precision", trainer.precision, "one of 32-true, 64-true, bf16-mixed, 16-mixed")
    devices = _whole(trainer.devices)
    most = max(2, os.cpu_count() or 1)
    if trainer.devices is None or (devices is not None and (devices == 0 or devices < -1)):
        _refuse("devices", trainer.devices, "1 or more, -1 for all, or auto")
    if devices is not None and trainer.accelerator == "cpu" and devices > most:
        _refuse("devices", trainer.devices, f"at most {most} processes on this machine")
    clip = trainer.gradient_clip_val
    if clip is not None and not 0 <= clip < math.inf:
        _refuse("gradient_clip_val", clip, "0 or more, or null")
    _check_machines(trainer.num_nodes, trainer.plugins)
    if not fitting:
        return
    for key, least in (("max_epochs", 1), ("max_steps", 1)):
        value = getattr(trainer, key)
        if value is not None and value != -1 and value < least:
            _refuse(key, value, f"at least {least}, or -1 for no limit")
    if trainer.limit_train_batches == 0:
        _refuse("limit_train_batches", 0, "some to train on")
    for key in ("check_val_every_n_epoch", "accumulate_grad_batches", "val_check_interval"):
        value = getattr(trainer, key)
        if isinstance(value, int | float) and not value > 0:
            _refuse(key, value, "a positive value")


def _check_machines(number: int, plugins: Any) -> None:
    """Say which other machines are waited for, or refuse where none can know of this one."""
    if number < 1:
        _refuse("num_nodes", number, "1 or more")
    if number == 1 or plugins or any(launcher.detect() for launcher in LAUNCHERS):
        return
    address = os.environ.get("MASTER_ADDR")
    if address is None:
        _refuse("num_nodes", number, "1 where neither SLURM, torchrun or another launcher starts "
                "the processes nor MASTER_ADDR names the first machine")  # fmt: skip
    rank_zero_info(
        f"trainer.num_nodes is {number}: nothing begins until {number} machines have started the "
        f"same command with MASTER_ADDR={address}, MASTER_PORT and their own NODE_RANK (here "
        f"{os.environ.get('NODE_RANK', 0)})."
    )


def begin_wandb(loggers: Iterable[Logger]) -> None:
    """Begin the runs of W&B's loggers; what W&B says against it becomes InputError."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            try:
                logger.experiment  # noqa: B018 (made when it is asked for)
            except wandb.Error as error:
                words = " ".join(str(error).split())
                raise InputError(
                    f"W&B: {words.rstrip('.')}; without an account WANDB_MODE=offline keeps the "
                    "run here, and --trainer.logger=false leaves W&B out."
                ) from None


def check_numbers(name: str, settings: Any) -> None:
    """Refuse numbers that are infinite or none in the settings of an optimizer or scheduler."""
    arguments = settings.get("init_args") if settings else None
    for key, value in vars(arguments).items() if arguments else ():
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{name}.{key} is {value}, expected a finite number.")


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn what Lightning says of its own keys into InputError."""
    try:
        yield
    except InputError:
        raise
    except (MisconfigurationException, ValueError, ImportError) as error:
        words = " ".join(str(error).split())
        raise InputError(f"{words.rstrip('.!')}.") from None


def _whole(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _refuse(key: str, value: Any, expected: str) -> None:
    raise InputError(f"trainer.{key} is {value}, expected {expected}.")
