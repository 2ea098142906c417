"""Well-tempered metadynamics on Cα positions, one bias shared by several walkers.

The bias depends on the beads alone, so the mapped *unbiased* forces at biased frames are still
right for force matching (arXiv 2510.11148), and only the frames' weights need the bias.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import openmm
from numpy.typing import NDArray
from openmm import app, unit

from cgfe.all_atom.system import HAIRPIN, alpha_carbons, peptide_from_pdb
from cgfe.errors import InputError
from cgfe.files import make_folder
from cgfe.frames import CGFrames
from cgfe.units import ANGSTROM_PER_NM, KCAL_PER_KJ, thermal_energy

Variable = tuple[openmm.Force, float, float, float]
"""Force whose energy is the variable, least and greatest value, width of a hill."""

TIC_MARGIN = 0.5
"""Share of the TICs' sampled range that the bias reaches beyond it on each side."""


@dataclass
class Metadynamics:
    """Settings of the bias (Barducci, Bussi, Parrinello 2008, 10.1103/PhysRevLett.100.020603).

    The variables are the Cα RMSD to `reference` and the mean of the distances between the
    Cα pairs `strand_pairs` (residue numbers from 1); or, with `tics`, the first two TICs.
    """

    reference: str = "folded"
    """PDB file with the folded structure, or `folded` for the embedded chignolin hairpin."""
    strand_pairs: list[list[int]] = field(default_factory=lambda: [[1, 10], [2, 9], [3, 8]])
    bias_factor: float = 8.0
    hill_height_kj: float = 1.0
    """kJ/mol, OpenMM's unit."""
    rmsd_max: float = 11.0
    rmsd_width: float = 0.4
    distance_min: float = 3.0
    distance_max: float = 36.0
    distance_width: float = 1.0
    """All lengths in Å."""
    tics: str | None = None
    """Frames file whose unbiased trajectories TICA is fitted to; the bias then acts on the slow
    coordinates on which free energies are compared (after Sultan & Pande 2017,
    10.1021/acs.jctc.7b00182)."""
    tic_width: float = 0.2
    """Width of a hill, in units of the TICs."""


class SharedBias:
    """The bias of one walker; hills of all walkers meet in a folder.

    Parameters
    ----------
    settings : Metadynamics
    system : openmm.System
        Gets the bias force added.
    temperature : float
        K.
    hill_interval, hills_per_sync : int
        Steps between hills, and hills between exchanges with the other walkers.
    folder : Path
        Where the walkers' tables meet.
    """

    def __init__(
        self,
        settings: Metadynamics,
        system: openmm.System,
        topology: app.Topology,
        temperature: float,
        hill_interval: int,
        hills_per_sync: int,
        folder: Path,
    ) -> None:
        if settings.bias_factor <= 1:
            raise InputError(f"bias_factor is {settings.bias_factor}; expected a value above 1.")
        self.bounds = (
            _shape_variables(settings, system, topology)
            if settings.tics is None
            else _tic_variables(settings, topology)
        )
        before = {force.getForceGroup() for force in system.getForces()}
        self.temperature = temperature
        self.settings = settings
        self._meta = app.Metadynamics(
            system,
            [app.BiasVariable(*bound) for bound in self.bounds],
            temperature * unit.kelvin,
            settings.bias_factor,
            settings.hill_height_kj * unit.kilojoule_per_mole,
            hill_interval,
            hill_interval * hills_per_sync,
            str(make_folder(folder)),
        )
        self._group = ({force.getForceGroup() for force in system.getForces()} - before).pop()

    def step(self, simulation: app.Simulation, steps: int) -> None:
        """Advance `simulation`, adding a hill every `hill_interval` steps."""
        self._meta.step(simulation, steps)

    def apply(self, context: openmm.Context) -> None:
        """Bring the context's table up to date after a context was made anew."""
        self._meta._force.updateParametersInContext(context)

    def energy_kcal(self, context: openmm.Context) -> float:
        """Return the bias energy of the present positions."""
        state = context.getState(energy=True, groups={self._group})
        return float(state.getPotentialEnergy()._value * KCAL_PER_KJ)

    def variables(self, context: openmm.Context) -> NDArray[np.float64]:
        """Return the collective variables, shape (2,): lengths in Å, or TICs."""
        values = np.array(self._meta._force.getCollectiveVariableValues(context))
        return values * ANGSTROM_PER_NM if self.settings.tics is None else values

    def table_kcal(self) -> NDArray[np.float64]:
        """Return the bias of all walkers on its grid (distance, RMSD), kcal/mol."""
        table: NDArray[np.float64] = self._meta._totalBias * KCAL_PER_KJ
        return table


def _shape_variables(
    settings: Metadynamics, system: openmm.System, topology: app.Topology
) -> list[Variable]:
    """Return Cα RMSD and mean strand distance, nm."""
    beads = alpha_carbons(topology)
    path = HAIRPIN if settings.reference == "folded" else settings.reference
    reference = peptide_from_pdb(path)
    reference_beads = alpha_carbons(reference.topology)
    if len(reference_beads) != len(beads):
        raise InputError(
            f"metadynamics reference {path} has {len(reference_beads)} residues; "
            f"expected {len(beads)}."
        )
    target = np.zeros((system.getNumParticles(), 3))
    target[beads] = reference.positions[reference_beads]
    rmsd = openmm.RMSDForce(target, beads)
    distance = openmm.CustomBondForce(f"r/{len(settings.strand_pairs)}")
    for first, second in settings.strand_pairs:
        distance.addBond(beads[first - 1], beads[second - 1])
    limits = (settings.distance_min, settings.distance_max, settings.distance_width)
    return [
        (rmsd, 0.0, settings.rmsd_max / ANGSTROM_PER_NM, settings.rmsd_width / ANGSTROM_PER_NM),
        (distance, *(length / ANGSTROM_PER_NM for length in limits)),
    ]


def _tic_variables(settings: Metadynamics, topology: app.Topology) -> list[Variable]:
    """Return the first two TICs: weighted sums of Cα distances."""
    from cgfe.msm import STATE_LAG_PS
    from cgfe.tica import TICAProjection

    beads = alpha_carbons(topology)
    frames = CGFrames.load(str(settings.tics))
    if frames.bead_count != len(beads):
        raise InputError(f"{settings.tics} has {frames.bead_count} beads; expected {len(beads)}.")
    pieces = frames.trajectory_slices()
    unbiased = [
        frames.positions[s]
        for s in pieces
        if frames.trajectory_index[s.start] not in frames.biased_trajectories
    ]
    tica = TICAProjection.fit(unbiased, frames.frame_interval_ps, STATE_LAG_PS)
    tics = tica.project(np.concatenate(unbiased))
    variables: list[Variable] = []
    for column, (low, high) in enumerate(zip(tics.min(axis=0), tics.max(axis=0), strict=True)):
        force = openmm.CustomBondForce("weight*r")
        force.addPerBondParameter("weight")
        weights = tica.components[:, column] * ANGSTROM_PER_NM
        for (first, second), weight in zip(tica.pairs, weights, strict=True):
            force.addBond(beads[first], beads[second], [weight])
        # The bias is a table that ends at the bounds: they must lie where no chain comes.
        mean, margin = tica.mean @ tica.components[:, column], TIC_MARGIN * (high - low)
        variables.append((force, mean + low - margin, mean + high + margin, settings.tic_width))
    return variables


def bias_offset(table: NDArray[np.float64], temperature: float, bias_factor: float) -> float:
    """Return c(t), the work that the bias has done on the whole ensemble, kcal/mol.

    c = kT ln [∫ exp(γ V / ((γ-1) kT)) / ∫ exp(V / ((γ-1) kT))] (Tiwary & Parrinello 2015,
    10.1021/jp504920s): V - c is comparable between times, so exp((V - c)/kT) weights a frame.
    """
    kt = thermal_energy(temperature)
    scaled = table / ((bias_factor - 1) * kt)
    return float(kt * (_log_sum_exp(bias_factor * scaled) - _log_sum_exp(scaled)))


def _log_sum_exp(values: NDArray[np.float64]) -> float:
    top = values.max()
    return float(top + np.log(np.exp(values - top).sum()))
