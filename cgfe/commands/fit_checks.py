"""What is checked of a fit before anything is computed."""

import math
from typing import Any

from cgfe.data.file_format import require_alike, require_forces
from cgfe.errors import InputError
from cgfe.training.arrays import beads_of
from cgfe.training.callbacks.best_checkpoint import BestCheckpoint
from cgfe.training.callbacks.free_energy_validation import FreeEnergyValidation
from cgfe.training.callbacks.mean_force_validation import MeanForceValidation
from cgfe.training.datamodule import CGFramesDataModule
from cgfe.training.module import CGForceField


def check_files(model: CGForceField, data: CGFramesDataModule) -> None:
    """Check that the frames files hold what the loss needs, and beads that the network knows.

    Raises
    ------
    InputError
        Naming the file, what was found and what was expected.
    """
    for term in model.loss_config.terms():
        if term.weight > 0 and "forces" in term.fields:
            require_forces(data.paths, f"{term.option} is {term.weight:g}")
        if term.weight > 0 and term.matches_density and not term.weighted:
            why = "false, where the term takes them for a sample of equilibrium; expected true"
            require_alike(data.paths, f"{term.key('weighted')} is {why}")
    for name, path in zip(data.names, data.paths, strict=True):
        model.check_bead_types(name, beads_of(path)[1])


def check_simulations(model: CGForceField, callbacks: list[Any], epochs: int | None) -> None:
    """Check that a term that learns from simulations sees one before the fit ends.

    Raises
    ------
    InputError
        Naming the term and the interval of the simulations.
    """
    intervals = [x.every_n_epochs for x in callbacks if isinstance(x, FreeEnergyValidation)]
    limit = math.inf if epochs is None or epochs < 0 else epochs
    if any(0 < every < limit for every in intervals):
        return
    for term in model.loss_config.terms():
        if term.weight > 0 and term.needs_simulations:
            raise InputError(
                f"{term.option} is {term.weight:g}, a term that learns from simulations alone, but "
                f"free_energy.every_n_epochs is {intervals[0] if intervals else 0}; expected at "
                "least 1 and less than trainer.max_epochs."
            )


def check_begins(model: CGForceField, callbacks: list[Any], epochs: int | None) -> None:
    """Check that a term that begins later begins, and with chains of the model as it then is.

    Raises
    ------
    InputError
        Naming the term, and what does not fit.
    """
    intervals = [x.every_n_epochs for x in callbacks if isinstance(x, FreeEnergyValidation)]
    for term in (x for x in model.loss_config.terms() if x.begin > 0):
        told = f"model.losses.begin has {term.key('').split('.')[-2]}: {term.begin}"
        if epochs is not None and 0 <= epochs <= term.begin:
            raise InputError(f"{told}, but trainer.max_epochs is {epochs}; expected less.")
        timely = any(every > 0 and term.begin % every == 0 for every in intervals)
        if term.uses_chains and not timely:
            raise InputError(
                f"{told}, but free_energy.every_n_epochs is {intervals[0] if intervals else 0}; "
                "expected a multiple of it, since its chains begin at what a validation right "
                "before has simulated."
            )


def check_monitor(model: CGForceField, data: CGFramesDataModule, callbacks: list[Any]) -> None:
    """Check that what the best checkpoint is chosen by is logged by any of a trainer's callbacks.

    Raises
    ------
    InputError
        If it is not, or changes its meaning on the way.
    """
    names = {"epoch", "step"} | {
        f"{stage}/{name}" for stage in ("train", "validation") for name in model.logged_terms
    }
    for callback in callbacks:
        if isinstance(callback, FreeEnergyValidation):
            names |= callback.names(data.names)
        if isinstance(callback, MeanForceValidation):
            names |= callback.names(data)
    counting = [term for term in model.loss_config.terms() if term.weight > 0]
    begun = max((term.begin for term in counting), default=0)
    moving = [term.log_name for term in counting if term.needs_simulations]
    for callback in callbacks:
        if isinstance(callback, BestCheckpoint):
            callback.check(names)
            stage, _, name = str(callback.monitor).partition("/")
            of_loss = stage in ("train", "validation") and name in ("loss", *moving)
            if of_loss and moving:
                raise InputError(
                    f"checkpoint.monitor is {callback.monitor}, but each simulation changes what "
                    f"{' and '.join(moving)} is measured against; expected another metric."
                )
            if of_loss and begun:
                raise InputError(
                    f"checkpoint.monitor is {callback.monitor}, which is another sum once a term "
                    f"begins (model.losses.begin, epoch {begun}); expected another metric."
                )
