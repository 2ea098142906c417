"""Which terms a loss has: `Losses`, and `LossConfig` for the two of arXiv 2509.14600."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from cgfe.errors import InputError
from cgfe.training.losses.chains import ChainConfig
from cgfe.training.losses.contrastive import ContrastiveEstimation
from cgfe.training.losses.energy import EnergyMatching
from cgfe.training.losses.force import ForceMatching
from cgfe.training.losses.gauge import GaugeKind
from cgfe.training.losses.implied_fes import ImpliedFES
from cgfe.training.losses.mean_energy import MeanEnergyMatching
from cgfe.training.losses.mean_force import MeanForceMatching
from cgfe.training.losses.projected_mean_force import ProjectedMeanForce
from cgfe.training.losses.relative_entropy import RelativeEntropy
from cgfe.training.losses.self_consistent import SelfConsistentEnergy
from cgfe.training.losses.term import LossTerm
from cgfe.training.losses.weighted import check


@dataclass
class Losses:
    """The terms of the loss, `model.losses`; any of them, each with its weight.

    Parameters
    ----------
    force : ForceMatching, optional
        Forces: {weight: 1.0, weighted: false}.
    energy : EnergyMatching, optional
        Energies of single frames: {weight: 1.0, gauge: fixed, weighted: false}.
    mean_energy : MeanEnergyMatching, optional
        Mean energies of TIC bins: {weight: 1.0, gauge: fixed, weighted: false}.
    self_consistent : SelfConsistentEnergy, optional
        The model's own energies, corrected at each simulation by what its free energy lacks:
        {weight: 1.0, weighted: false, damping: 1.0, cutoff_kt: 4.0, smoothing: 1.0}.
    mean_force : MeanForceMatching, optional
        Forces averaged at fixed beads, of `data.mean_forces`: {weight: 1.0, weighted: false,
        batch_size: 64}.
    relative_entropy : RelativeEntropy, optional
        The model's mean energies of frames and of its own chains: {weight: 1.0, weighted: false}.
    contrastive : ContrastiveEstimation, optional
        Frames told from samples of the prior alone or of another model: {weight: 1.0, weighted:
        false, batch_size: 128, model: null, simulation: {}}.
    projected_mean_force : ProjectedMeanForce, optional
        Forces along the TICs, averaged over frames near one another: {weight: 1.0, weighted:
        false, tics: 2, groups: 8}.
    implied_fes : ImpliedFES, optional
        The surface of the model's own chains: {weight: 1.0, weighted: false, memory: 20, smoothing:
        1.0}.
    chains : ChainConfig
        Of the terms that use some: {number: 128, steps: 40, every: 4, refreshed: 0.0, effective:
        0.5, time_step_ps: 0.016, friction_per_ps: 0.2}.
    own : dict of LossTerm
        Terms of your own, by class path; each is logged under its key.
    begin : dict of int
        Epoch from which on a term counts, by its key, where that is not 0, the first:
        {relative_entropy: 6}. Before, it is neither evaluated nor logged, and its chains rest: they
        begin at what a validation has simulated right before, so of a term that uses chains the
        epoch is a multiple of `free_energy.every_n_epochs`.

    Examples
    --------
    ::

        model:
          losses:
            force: {weight: 0.9}
            mean_energy: {weight: 0.1, gauge: learned}

    On the command line, and in a sweep: `--model.losses.force.weight=0.9`.
    """

    force: ForceMatching | None = None
    energy: EnergyMatching | None = None
    mean_energy: MeanEnergyMatching | None = None
    self_consistent: SelfConsistentEnergy | None = None
    mean_force: MeanForceMatching | None = None
    relative_entropy: RelativeEntropy | None = None
    contrastive: ContrastiveEstimation | None = None
    projected_mean_force: ProjectedMeanForce | None = None
    implied_fes: ImpliedFES | None = None
    chains: ChainConfig = ChainConfig()  # noqa: RUF009 (frozen)
    own: dict[str, LossTerm] = field(default_factory=dict)
    begin: dict[str, int] = field(default_factory=dict)

    def terms(self) -> list[LossTerm]:
        """Return the terms that are there, each with the name of its option.

        Raises
        ------
        InputError
            If the key of an own term cannot be the name of a metric, or an epoch is no epoch of a
            term that is there.
        """
        others = ("own", "chains", "begin")
        known = {name: term for name, term in vars(self).items() if name not in others}
        for name, term in self.own.items():
            if not name.isidentifier() or name == "loss":
                raise InputError(
                    f"model.losses.own has {name!r}, expected letters, digits and _, and not loss."
                )
            term.log_name = name
        every = {**known, **{f"own.{key}": x for key, x in self.own.items()}}
        there = {name: term for name, term in every.items() if term is not None}
        for name, epoch in self.begin.items():
            if name not in there or epoch < 0:
                given = ", ".join(there) or "the terms, of which there is none"
                raise InputError(
                    f"model.losses.begin has {name}: {epoch}, expected an epoch from 0 on of one "
                    f"of {given}."
                )
        for name, term in there.items():
            term.option, term.begin = f"model.losses.{name}.weight", self.begin.get(name, 0)
        return list(there.values())

    def check(self) -> None:
        """Check weights and names; raise InputError naming the option."""
        self.check_chains()
        check(self.terms())

    def check_chains(self) -> None:
        """Check the settings of chains; raise InputError if a value or all of them do nothing."""
        self.chains.check()
        if self.chains != ChainConfig() and not any(term.uses_chains for term in self.terms()):
            raise InputError(
                "model.losses.chains is given, but no term that uses chains; expected beside it "
                "model.losses.relative_entropy, model.losses.implied_fes or one of your own."
            )


@dataclass(frozen=True)
class LossConfig:
    """w_F · MSE(force) + w_E · MSE(energy), as in arXiv 2509.14600, by few keys: `model.loss`.

    The weights are tied, which a sweep over one of them needs. Whatever `energy_target` is, the
    energy term is logged as `energy_mse`.

    Parameters
    ----------
    energy_weight : float
        w_E, per (kcal/mol)².
    force_weight : float, optional
        w_F, per (kcal/mol/Å)². By default 1 - w_E, the convex form of arXiv 2509.14600.
    energy_target : "delta" or "total"
        delta: the network's energy of each frame against its label minus the prior's energy
        (`EnergyMatching`). total: the mean energies of TIC bins (`MeanEnergyMatching`).
    gauge : "fixed", "centred" or "learned"
        What is done about the arbitrary constant of the reference energies. fixed: nothing.
        centred: each system's mean residual in the batch is removed. learned: one offset per
        system is trained.
    weighted : bool
        Frames count by their weight in all means.
    """

    energy_weight: float = 0.0
    force_weight: float | None = None
    energy_target: Literal["delta", "total"] = "delta"
    gauge: GaugeKind = "fixed"
    weighted: bool = False
    chains: ClassVar[ChainConfig] = ChainConfig()  # that no term uses

    def check(self) -> None:
        """Check every value.

        Raises
        ------
        InputError
            Naming the option, what was found and what was expected.
        """
        if self.energy_target not in TARGETS:
            expected = " or ".join(TARGETS)
            raise InputError(f"energy_target is {self.energy_target!r}, expected {expected}.")
        if not self.energy_weight >= 0:
            raise InputError(f"energy_weight is {self.energy_weight}, expected 0 or more.")
        if self.force_weight is None and self.energy_weight > 1:
            raise InputError(
                f"energy_weight is {self.energy_weight}, expected at most 1 while force_weight "
                "is not given and taken as 1 - energy_weight."
            )
        check(self.terms())

    def terms(self) -> list[LossTerm]:
        """Return the force and the energy term."""
        force_weight = 1 - self.energy_weight if self.force_weight is None else self.force_weight
        force = ForceMatching(force_weight, self.weighted)
        energy = TARGETS[self.energy_target](self.energy_weight, self.gauge, self.weighted)
        force.option, energy.option = "force_weight", "energy_weight"
        energy.log_name = EnergyMatching.log_name
        return [force, energy]


TARGETS: dict[str, type[EnergyMatching] | type[MeanEnergyMatching]] = {
    "delta": EnergyMatching,
    "total": MeanEnergyMatching,
}
