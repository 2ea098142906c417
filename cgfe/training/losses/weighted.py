"""WeightedLoss: the weighted sum of the terms, each always reported unweighted."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch

from cgfe.errors import InputError, require
from cgfe.model.schnet import CGSchNet
from cgfe.reference.reference import Reference
from cgfe.simulation.evaluation import Judgement
from cgfe.training.losses.chains import ChainConfig, Chains
from cgfe.training.losses.term import FIRST, LossTerm, Prediction, Setting, Simulate, Turn


class LossSettings(Protocol):
    """A config that makes terms: `LossConfig` or `Losses`."""

    @property
    def chains(self) -> ChainConfig:
        """The chains of terms that use some."""

    def check(self) -> None:
        """Raise InputError if the settings make no sense."""

    def terms(self) -> list[LossTerm]:
        """Return the terms."""


class WeightedLoss(nn.Module):
    """Σ w_i · term_i.

    Parameters
    ----------
    config : LossConfig or Losses
    num_systems : int
        Number of values that the batch field `system` can take.

    Raises
    ------
    InputError
        If the configuration makes no sense.
    """

    def __init__(self, config: LossSettings, num_systems: int = 1) -> None:
        super().__init__()
        config.check()
        terms = config.terms()
        for term in terms:
            term.prepare(num_systems)
        self.terms = nn.ModuleDict({term.log_name: term for term in terms})
        self.chains: Chains | None = None
        self._chain_config = config.chains

    def check(self, names: Sequence[str], references: Sequence[Reference]) -> None:
        """Raise InputError if a term with a positive weight cannot be had from the references."""
        for term in self._terms():
            if term.weight > 0:
                term.check(names, references)

    def attach(self, setting: Setting) -> None:
        """Give every term what it is trained within, and chains to those that use them."""
        if any(term.uses_chains for term in self._terms()):
            assert setting.potential is not None
            self.chains = Chains(
                self._chain_config,
                setting.references,
                setting.potential,
                setting.energy_and_forces,
                setting.seed,
            )
            setting = replace(setting, chains=self.chains)
        for term in self._terms():
            term.attach(setting)

    def before_fit(self, simulate: Simulate) -> None:
        """Let every term make what training needs."""
        for term in self._terms():
            term.before_fit(simulate)

    def after_simulation(self, system: int, network: CGSchNet, judgement: Judgement) -> None:
        """Show chains and every term what a simulation of the model has shown."""
        if self.chains is not None:
            self.chains.after_simulation(system, judgement)
        for term in self._terms():
            term.after_simulation(system, network, judgement)

    def describe(self) -> dict[str, str]:
        """Return the settings of each term by its log name, and of chains."""
        found = {term.log_name: term.extra_repr() for term in self._terms()}
        return found if self.chains is None else found | {"chains": self.chains.extra_repr()}

    def forward(
        self, network_energy: Tensor, network_forces: Tensor, batch: Batch, turn: Turn = FIRST
    ) -> dict[str, Tensor]:
        """Compare the network with the reference of a batch.

        Parameters
        ----------
        network_energy : Tensor (G,)
            kcal/mol, without the prior.
        network_forces : Tensor (A, 3)
            kcal/mol/Å, without the prior.
        batch : Batch
            See `LossTerm.forward`.
        turn : Turn
            Which batch it is.

        Returns
        -------
        dict of scalars
            `loss`, and each term under its log name: unweighted, detached, and there also at weight
            0, unless there is no reference for it or it has not begun; what terms tell beside
            their value; and `chains_blown_up` and `chains_effective`, if there are chains.

        Raises
        ------
        InputError
            If a term with a positive weight, or the weighting, lacks its fields.
        """
        terms = [term for term in self._terms() if turn.has_begun(term.begin)]
        chains = self.chains if any(term.uses_chains for term in terms) else None
        if chains is not None and turn.part == "train" and chains.advance(turn.number):
            for term in self._terms():
                term.after_move()
        prediction = Prediction(network_energy, network_forces, turn)
        found: dict[str, Tensor] = {}
        parts = []
        for term in terms:
            if not _has_fields(term, batch):
                continue
            # A term of weight 0 is left out, not multiplied: its gradient costs time.
            with torch.set_grad_enabled(torch.is_grad_enabled() and term.weight > 0):
                value: Tensor | None = term(prediction, batch)
            if value is None:
                continue
            if term.weight > 0:
                parts.append(term.weight * value)
            found |= {term.log_name: value.detach()} | term.figures()
        if chains is not None:
            found["chains_blown_up"] = chains.lost.clone()
            found["chains_effective"] = chains.counting.clone()
        # Distributed training wants every parameter to take part in a loss.
        waiting = [x for x in self._terms() if x not in terms and x.weight > 0]
        unused = [0 * p.sum() for term in waiting for p in term.parameters() if p.requires_grad]
        parts += unused if parts else []
        # Without any part a loss is not known, which is no 0 that a best checkpoint may have.
        return ({"loss": torch.stack(parts).sum()} if parts else {}) | found

    def _terms(self) -> list[LossTerm]:
        return [term for term in self.terms.values() if isinstance(term, LossTerm)]


def check(terms: Sequence[LossTerm]) -> None:
    """Check weights and names of the terms of a loss.

    Raises
    ------
    InputError
        Naming the option, what was found and what was expected.
    """
    taken: dict[str, str] = {}
    for term in terms:
        require(0 <= term.weight < math.inf, term.option, term.weight, "0 or more, and finite")
        term.check_settings()
        if term.log_name in taken:
            raise InputError(
                f"{taken[term.log_name]} and {term.option} are of terms that are both logged as "
                f"{term.log_name}, expected another key for the second."
            )
        taken[term.log_name] = term.option
    if not any(term.weight > 0 for term in terms):
        verb = "is" if len(terms) == 1 else "are"
        raise InputError(f"{' and '.join(taken.values())} {verb} 0, expected one above 0.")
    if all(term.weight == 0 or term.begin > 0 for term in terms):
        raise InputError(
            "model.losses.begin leaves no term with a weight above 0 for the first epoch."
        )


def _has_fields(term: LossTerm, batch: Batch) -> bool:
    missing = [field for field in term.fields if field not in batch]
    if missing and term.weight > 0:
        raise InputError(
            f"{term.option} is {term.weight}, but the data have no {' and no '.join(missing)}; "
            "expected them in every frame, or a weight of 0."
        )
    return not missing
