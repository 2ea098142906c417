"""LossTerm: what a term of the loss is given, and what it tells."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch_geometric.data import Batch

from cgfe.data.frames import CGFrames
from cgfe.errors import InputError
from cgfe.kernels.fast_potential import FastPotential
from cgfe.model.potential import Potential
from cgfe.model.schnet import CGSchNet
from cgfe.reference.ensembles import Part
from cgfe.reference.reference import Reference
from cgfe.simulation.evaluation import Judgement
from cgfe.simulation.langevin import SimulationConfig, SimulationResult
from cgfe.training.losses.chains import Chains

Simulate = Callable[[Potential, int, SimulationConfig, str], SimulationResult]
"""Simulates a potential of a system, by all processes together, under a name for the progress"""


@dataclass(frozen=True)
class Setting:
    """What a loss is trained within; known before the first batch."""

    network: CGSchNet
    references: Sequence[Reference]
    """By system"""
    energy_and_forces: Callable[[Batch], tuple[Tensor, Tensor]]
    """The network's energies (G,) and forces (A, 3) of further frames of one system, in the way
    those of a batch are had: in training they can be differentiated in its parameters"""
    mean_forces: Sequence[CGFrames | None] = ()
    """By system; empty where there is no data module"""
    seed: int = 0
    """Of what a term draws"""
    fits: bool = False
    """Whether a fit is about to begin, so that what training needs must be there"""
    potential: Callable[[int], Potential | FastPotential] | None = None
    """The model of a system as it is now, for simulation; None where nothing simulates"""
    chains: Chains | None = None
    """For terms that use them"""


@dataclass(frozen=True)
class Turn:
    """Which of all batches is at hand: what a term draws for it depends on this and the seed."""

    part: Part = "train"
    number: int = 0
    """Counted over epochs and processes in training, else over a validation's or test's batches"""
    epoch: int | None = None
    """Of a fit, or that a checkpoint is of; None where neither is known"""

    def has_begun(self, begin: int) -> bool:
        """Return whether what counts from an epoch on counts now."""
        return self.epoch is None or self.epoch >= begin


FIRST = Turn()


@dataclass(frozen=True)
class Prediction:
    """What the network says of a batch, without the prior's share."""

    energy: Tensor
    """(G,), kcal/mol"""
    forces: Tensor
    """(A, 3), kcal/mol/Å"""
    turn: Turn = FIRST


class LossTerm(nn.Module, ABC):
    """One term of the loss: a scalar that compares a prediction with the reference.

    A module, so that parameters are trained with the network's, and parameters and buffers are kept
    in checkpoints. Those that depend on the systems are made in `prepare`.

    Parameters
    ----------
    weight : float
        Factor in the sum. At 0 the term is still logged, and costs nothing in the gradient.
    weighted : bool
        Frames count by their weight.

    Attributes
    ----------
    log_name : str
        What the term is logged under, behind `train/`, `validation/`, `test/`.
    fields : tuple of str
        What it reads of a batch, beside `batch`, `system`, `prior_energy`, `prior_forces`.
    logged_at_zero : bool
        Whether it is logged at weight 0 too, as all are that need nothing made for them.
    option : str
        The key that sets its weight, for errors.
    begin : int
        Epoch of a fit from which on it counts.
    needs_simulations : bool
        Whether it learns from those of validations, and is nothing without them.
    uses_chains : bool
        Whether it needs the `chains` of its setting.
    matches_density : bool
        Whether it takes the frames for an equilibrium sample, so that they must count by their
        weights where these differ.

    Examples
    --------
    A term of your own, in `my_terms.py`::

        class Smallness(LossTerm):
            def forward(self, prediction, batch):
                return prediction.energy.square().mean()

    ::

        model:
          losses:
            force: {weight: 1.0}
            own:
              smallness: {class_path: my_terms.Smallness, init_args: {weight: 0.01}}
    """

    log_name = ""
    fields: tuple[str, ...] = ()
    option = "weight"
    begin = 0
    needs_simulations = False
    logged_at_zero = True
    uses_chains = False
    matches_density = False

    def __init__(self, weight: float = 1.0, weighted: bool = False) -> None:
        super().__init__()
        self.weight = weight
        self.weighted = weighted

    def prepare(self, num_systems: int) -> None:
        """Make what depends on the number of values of the batch field `system`; called once."""

    def check_settings(self) -> None:
        """Raise InputError if a setting of its own makes no sense; the weight is checked by all."""

    def key(self, name: str) -> str:
        """Return the key of a setting, which stands beside the weight's."""
        return f"{self.option.removesuffix('weight')}{name}"

    def attach(self, setting: Setting) -> None:
        """Take what it needs of the network, the references and the data; called once."""

    def before_fit(self, simulate: Simulate) -> None:
        """Make what training needs and the checkpoint of a resumed fit does not hold."""

    def after_simulation(self, system: int, network: CGSchNet, judgement: Judgement) -> None:
        """See what a simulation of the model as it is now has shown; at validations of a fit."""

    def after_move(self) -> None:
        """See where the chains are now; each time they have moved."""

    def check(self, names: Sequence[str], references: Sequence[Reference]) -> None:
        """Raise InputError if the references of the systems do not hold what the term needs."""

    def figures(self) -> dict[str, Tensor]:
        """Return what the last `forward` told beside its value, to be logged by these names."""
        return {}

    @abstractmethod
    def forward(self, prediction: Prediction, batch: Batch) -> Tensor | None:
        """Return the term, unweighted; None where there is nothing to compare with.

        Parameters
        ----------
        prediction : Prediction
        batch : Batch
            With `batch` (A,), the frame of each bead; `system` (G,); `prior_energy` (G,), kcal/mol;
            `prior_forces` (A, 3), kcal/mol/Å; `weight` (G,) if frames are weighted; and `fields`.

        Returns
        -------
        Tensor () or None
        """

    def frame_weights(self, batch: Batch, like: Tensor) -> Tensor:
        """Return the weights (G,) that frames count by, of the type of energies (G,).

        Raises
        ------
        InputError
            If frames are to be weighted and the batch has no weights.
        """
        if not self.weighted:
            return like.new_ones(like.shape)
        if "weight" not in batch:
            raise InputError("weighted is true, but the data have no frame weights.")
        return batch.weight.to(like.dtype)

    def extra_repr(self) -> str:
        """Describe the settings, for `print` and `cgfe info`."""
        late = f", begin={self.begin}" if self.begin else ""
        return f"weight={self.weight:g}, weighted={self.weighted}{late}"
