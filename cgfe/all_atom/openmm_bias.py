"""The shared bias of walkers that OpenMM samples, each in a process of its own."""

from pathlib import Path

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import app, unit

from cgfe.all_atom.bias import BiasVariables, Metadynamics, bias_offset
from cgfe.files import make_folder
from cgfe.units import KCAL_PER_KJ


class SharedBias:
    """The bias of one walker; hills of all walkers meet in a folder.

    Unlike the batched kernel's, OpenMM's bias is zero beyond its table.

    Parameters
    ----------
    settings : Metadynamics
    variables : BiasVariables
    system : openmm.System
        Gets the bias force added.
    temperature : float
        K.
    hills_per_sync : int
        Hills between exchanges with the other walkers.
    folder : Path
        Where the walkers' tables meet.
    """

    def __init__(
        self,
        settings: Metadynamics,
        variables: BiasVariables,
        system: openmm.System,
        temperature: float,
        hills_per_sync: int,
        folder: Path,
    ) -> None:
        before = {force.getForceGroup() for force in system.getForces()}
        self.temperature = temperature
        self.settings = settings
        self._scale = variables.file_scale
        self._hills, self._hills_per_sync = 0, hills_per_sync
        self._meta = app.Metadynamics(
            system,
            [
                app.BiasVariable(force, low, high, width, gridWidth=points)
                for force, low, high, width, points in zip(
                    _forces(variables, system),
                    variables.lowest,
                    variables.highest,
                    variables.widths,
                    variables.points,
                    strict=True,
                )
            ],
            temperature * unit.kelvin,
            settings.bias_factor,
            settings.hill_height_kj * unit.kilojoule_per_mole,
            frequency=1,  # unused: its own `step` would add a frame's hill before it is recorded
            saveFrequency=1,
            biasDir=str(make_folder(folder)),
        )
        self._group = ({force.getForceGroup() for force in system.getForces()} - before).pop()

    def add_hill(self, context: openmm.Context) -> None:
        """Add the hill of the present positions; now and then exchange hills with the others."""
        place = self._meta._force.getCollectiveVariableValues(context)
        energy = self.energy_kcal(context) / KCAL_PER_KJ * unit.kilojoule_per_mole
        spread = unit.MOLAR_GAS_CONSTANT_R * self._meta._deltaT
        self._meta._addGaussian(place, self._meta.height * np.exp(-energy / spread), context)
        self._hills += 1
        if self._hills % self._hills_per_sync == 0:
            self._meta._syncWithDisk()

    def apply(self, context: openmm.Context) -> None:
        """Bring the context's table up to date: it was made anew, or others' hills came in."""
        meta = self._meta
        meta._table.setFunctionParameters(*meta._widths, meta._totalBias.flatten(), *meta._limits)
        meta._force.updateParametersInContext(context)

    def energy_kcal(self, context: openmm.Context) -> float:
        """Return the bias energy of the present positions."""
        state = context.getState(energy=True, groups={self._group})
        return float(state.getPotentialEnergy()._value * KCAL_PER_KJ)

    def variables(self, context: openmm.Context) -> NDArray[np.float64]:
        """Return the collective variables, shape (2,): lengths in Å, or TICs."""
        return np.array(self._meta._force.getCollectiveVariableValues(context)) * self._scale

    def offset_kcal(self) -> float:
        """Return c(t) of the bias of all walkers, as far as this one knows it."""
        return bias_offset(
            self._meta._totalBias * KCAL_PER_KJ, self.temperature, self.settings.bias_factor
        )


def _forces(variables: BiasVariables, system: openmm.System) -> list[openmm.Force]:
    """Return forces whose energies are the variables."""
    atoms = variables.atoms.tolist()
    forces: list[openmm.Force] = []
    for column in range(2):
        if column == 0 and len(variables.reference):
            target = np.zeros((system.getNumParticles(), 3))
            target[atoms] = variables.reference
            forces.append(openmm.RMSDForce(target, atoms))
            continue
        force = openmm.CustomBondForce("weight*r")
        force.addPerBondParameter("weight")
        for (first, second), weight in zip(variables.pairs, variables.weights, strict=True):
            force.addBond(atoms[first], atoms[second], [weight[column]])
        forces.append(force)
    return forces
