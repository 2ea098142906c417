"""cgfe: coarse-grained force fields whose free-energy surface is right, not only their forces.

The names that a notebook needs are imported when they are first asked for (PEP 562), since torch
and lightning take seconds to import and `cgfe --help` needs neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cgfe.data.frames import CGFrames
    from cgfe.simulation.evaluation import judge, simulate
    from cgfe.simulation.langevin import LangevinSimulation
    from cgfe.training.callbacks.free_energy_validation import FreeEnergyValidation
    from cgfe.training.datamodule import CGFramesDataModule
    from cgfe.training.module import CGForceField

from cgfe.version import __version__ as __version__

__all__ = [
    "CGForceField",
    "CGFrames",
    "CGFramesDataModule",
    "FreeEnergyValidation",
    "LangevinSimulation",
    "judge",
    "simulate",
]

_PLACES = {
    "CGForceField": "cgfe.training.module",
    "CGFrames": "cgfe.data.frames",
    "CGFramesDataModule": "cgfe.training.datamodule",
    "FreeEnergyValidation": "cgfe.training.callbacks.free_energy_validation",
    "LangevinSimulation": "cgfe.simulation.langevin",
    "judge": "cgfe.simulation.evaluation",
    "simulate": "cgfe.simulation.evaluation",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'cgfe' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
