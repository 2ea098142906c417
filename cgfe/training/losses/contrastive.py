"""ContrastiveEstimation: frames are told from those that another, known model has."""

from dataclasses import replace
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch_geometric.data import Batch

from cgfe.errors import InputError, keys_of, require
from cgfe.kernels.fast_potential import FastPotential, accelerated
from cgfe.model.potential import Potential
from cgfe.reference.reference import Reference
from cgfe.simulation.langevin import SimulationConfig, SimulationResult
from cgfe.training.batches import batch_of
from cgfe.training.checkpoint_checks import model_of
from cgfe.training.checkpoints import read_checkpoint
from cgfe.training.losses.draws import drawn
from cgfe.training.losses.means import weighted_mean
from cgfe.training.losses.term import LossTerm, Prediction, Setting, Simulate
from cgfe.units import thermal_energy

KEPT = 4096
"""Samples of a system that are trained on, at most; they are kept in checkpoints."""
FEW = 16
"""Samples by which the model of a checkpoint is known again."""
HELD = 1024
"""Samples that are held out for validation and test, at most."""


@final
class ContrastiveEstimation(LossTerm):
    """Cross-entropy, in nats, of telling frames of the data from samples of a known model.

    Noise-contrastive estimation (Gutmann & Hyvärinen 2010, proceedings.mlr.press/v9/gutmann10a):
    with equally many of both, the best guess at the logarithm of the odds that a configuration R is
    of the data is ln p_data(R) − ln p_0(R). The network is trained to say it as

        h(R) = β [U_0(R) − U(R)] + c,   U = U_prior + U_network,

    for samples of p_0 ∝ exp(−βU_0), by logistic regression,

        ½ ⟨ln(1 + e^−h)⟩_data + ½ ⟨ln(1 + e^h)⟩_samples,

    with a constant c of each system that is learned: in the end ln Z_0 − ln Z. U_0 is that of the
    prior alone, so that h is −βU_network + c, or that of another model.

    The samples are simulated once, at the start of a fit, and kept in checkpoints, 5,120 of each
    system at most, drawn at random. Those of every fourth trajectory or ladder, at least of
    one, are held out: at a validation or test it is they that frames are told from.

    Parameters
    ----------
    weight : float
        Per nat. At 0 there are no samples, and nothing is logged: c is not known.
    weighted : bool
        Frames of the data count by their weight.
    batch_size : int
        Samples of each step and process.
    model : str, optional
        Path of a checkpoint whose model, its own prior and network, takes the place of the prior
        alone. It must know the beads of each system, and stay as it is until the fit ends.
    simulation : SimulationConfig
        How the samples are made.

    Notes
    -----
    ln 2 = 0.693 is chance, and ln 2 less the Jensen-Shannon divergence of p_data and p_0 the least
    there can be: of a model that is right, up to what its constant is off. c begins where the
    samples are told with even odds in the mean. The estimate is consistent: with more frames and
    samples it comes to p_data where p_0 has density, if the samples are at equilibrium, which is
    assumed. Of a batch the value has no bias over the draw;
    the samples that were kept are a finite set, which a large network can learn by heart (compare
    `validation/`). It is only as sharp as data and samples overlap: frames that no sample comes
    near are told with certainty, and from then on teach nothing. Where the value is near 0, a
    model nearer to the data than the prior is called for.
    """

    log_name = "contrastive_entropy"
    matches_density = True
    logged_at_zero = False  # no samples are made, and c is not known
    counts: Tensor
    """(systems, 2), samples to train on and held out"""
    begun: Tensor
    """(), whether the constants have been set"""

    def __init__(
        self,
        weight: float = 1.0,
        weighted: bool = False,
        batch_size: int = 128,
        model: str | None = None,
        simulation: SimulationConfig = SimulationConfig(),  # noqa: B008 (never changed)
    ) -> None:
        super().__init__(weight, weighted)
        self.batch_size, self.model, self.simulation = batch_size, model, simulation
        self._others: list[Potential] | None = None
        self._fast: dict[int, Potential | FastPotential] = {}

    def prepare(self, num_systems: int) -> None:
        """Make the constants; those of a term without weight get no gradient."""
        self.constants = nn.Parameter(torch.zeros(num_systems), requires_grad=self.weight > 0)

    def check_settings(self) -> None:
        """Check batch size and simulation."""
        require(self.batch_size > 0, self.key("batch_size"), self.batch_size, "above 0")
        config = self.simulation
        with keys_of(self.key("simulation")):
            config.check()
        least = 2 * len(config.ladder)
        good, expected = config.replicas >= least, f"at least {least}, two ladders"
        require(good, self.key("simulation.replicas"), config.replicas, expected)

    def attach(self, setting: Setting) -> None:
        """Read the other model, if there is one, and make room for samples of each system.

        Raises
        ------
        InputError
            If the other model cannot be read, or does not know the beads of a system.
        """
        self._setting = setting
        # A fit that has ended can be judged without the file.
        if self.model is not None and (setting.fits or Path(self.model).is_file()):
            self._others = [self._other(reference) for reference in setting.references]
        systems = len(setting.references)
        self.register_buffer("counts", torch.zeros(systems, 2, dtype=torch.long))
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))
        for system, reference in enumerate(setting.references):
            beads = len(reference.system.bead_types)
            self.register_buffer(f"samples_{system}", torch.zeros(KEPT + HELD, beads, 3))
            self.register_buffer(f"offsets_{system}", torch.zeros(KEPT + HELD))

    def before_fit(self, simulate: Simulate) -> None:
        """Simulate the prior alone, or the other model, unless the checkpoint holds samples."""
        if self.weight == 0:
            return
        config = self.simulation
        if config.seed is None:
            config = replace(config, seed=self._setting.seed)
        for system, reference in enumerate(self._setting.references):
            if self.counts[system].all():
                self._check_same(system)
                continue
            name = "prior alone" if self.model is None else self.model
            potential = reference.potential() if not self._others else self._others[system]
            self._keep(system, simulate(potential, system, config, name))
        if self.begin == 0 and not self.begun:
            self._begin_constants()

    def forward(self, prediction: Prediction, batch: Batch) -> Tensor | None:
        """Return the cross-entropy; None without samples, or without the model they are of."""
        system, turn = int(batch.system[0]), prediction.turn
        held = int(turn.part != "train")
        count = int(self.counts[system, held])
        if not count or (self.model is not None and not self._others):
            return None
        if turn.part == "train" and not self.begun:
            self._begin_constants()  # of all systems: processes may be at batches of different ones
        rows = drawn(count, min(self.batch_size, count), turn.number, self._setting.seed)
        positions, offsets = (x[rows].to(prediction.energy) for x in self._kept(system, held))
        types = batch.bead_types[: positions.shape[1]]
        energy, _ = self._setting.energy_and_forces(batch_of(positions, types, system))
        positions = batch.pos.detach().unflatten(0, (batch.num_graphs, -1))
        of_data = prediction.energy + self._offsets(system, positions, batch.prior_energy)
        kt, constant = self._kt(system), self.constants[system]
        weights = self.frame_weights(batch, prediction.energy)
        missed = weighted_mean(softplus(of_data / kt - constant), weights)
        return (missed + softplus(constant - (energy + offsets) / kt).mean()) / 2

    def extra_repr(self) -> str:
        """Describe the settings."""
        own = f"batch_size={self.batch_size}, model={self.model}"
        simulated = f"{self.simulation.replicas} replicas of {self.simulation.steps} steps"
        return f"{super().extra_repr()}, {own}, simulation={simulated}"

    def _other(self, reference: Reference) -> Potential:
        """Return the other model's potential of the beads of a system."""
        assert self.model is not None
        network, _, references = model_of(read_checkpoint(self.model), self.model)
        types = reference.system.bead_types
        for own in references:
            if np.array_equal(own.system.bead_types, types):
                return own.potential(network.float())
        raise InputError(
            f"{self.key('model')} is {self.model}, a model of other beads; expected one of the "
            f"{len(types)} beads {'-'.join(reference.system.residue_names)}."
        )

    def _keep(self, system: int, run: SimulationResult) -> None:
        """Keep samples of a simulation, those of a quarter of the ladders held out."""
        burnt, whole = int(self.simulation.burn_in * len(run.positions)), ~run.blown_up
        positions = torch.from_numpy(run.positions[burnt:, whole])
        ladders = positions.shape[1]
        if ladders < 2:
            raise InputError(
                f"{self.key('simulation')}: of {len(whole)} trajectories {ladders} stayed whole, "
                "expected 2 at least."
            )
        # Every fourth, wherever they began.
        apart = torch.arange(ladders) % 4 == min(3, ladders - 1)
        generator = torch.Generator().manual_seed(self._setting.seed)
        for held, part in enumerate((~apart, apart)):
            found = positions[:, part].flatten(0, 1)
            samples, offsets = self._kept(system, held)
            chosen = torch.randperm(len(found), generator=generator)[: len(samples)]
            count = len(chosen)
            samples[:count] = found[chosen].to(samples)
            offsets[:count] = self._offsets(
                system, samples[:count], self._prior_energy(system, samples[:count])
            )
            self.counts[system, held] = count

    def _prior_energy(self, system: int, positions: Tensor) -> Tensor:
        potential = self._setting.references[system].potential().to(positions.device)
        prior = accelerated(potential, positions[:1].float())
        return prior.energy_and_forces(positions.float().contiguous())[0].detach().to(positions)

    @torch.no_grad()
    def _begin_constants(self) -> None:
        """Let samples be told with even odds at first: the network's own constant means nothing."""
        for system, reference in enumerate(self._setting.references):
            count = min(self.batch_size, int(self.counts[system, 0]))
            samples, offsets = (x[:count] for x in self._kept(system, 0))
            types = torch.from_numpy(reference.system.bead_types).to(samples.device)
            energy, _ = self._setting.energy_and_forces(batch_of(samples, types, system))
            self.constants[system] = (energy + offsets.to(energy)).mean() / self._kt(system)
        self.begun.fill_(True)

    def _check_same(self, system: int) -> None:
        """Refuse another model than the samples of a resumed fit are of."""
        if not self._others:
            return
        count = min(FEW, int(self.counts[system, 0]))
        samples, offsets = (x[:count] for x in self._kept(system, 0))
        now = self._offsets(system, samples, self._prior_energy(system, samples))
        if not torch.allclose(now, offsets, rtol=1e-4, atol=1e-2):
            raise InputError(
                f"{self.key('model')}: {self.model} is another model than the one whose samples "
                "the checkpoint holds; expected it as it was, or a fit that begins anew."
            )

    def _offsets(self, system: int, positions: Tensor, prior: Tensor) -> Tensor:
        """Return U_prior − U_0 (G,) of configurations (G, N, 3) whose U_prior (G,) is known."""
        if not self._others:
            return torch.zeros_like(prior)
        if system not in self._fast:
            with torch.inference_mode(False):  # of tensors made in that mode, autograd keeps none
                starts = torch.from_numpy(self._setting.references[system].starts.positions)
                self._fast[system] = accelerated(self._others[system].to(positions.device), starts)
        energy, _ = self._fast[system].energy_and_forces(positions.float().contiguous())
        return prior - energy.detach().to(prior)

    def _kept(self, system: int, held: int) -> tuple[Tensor, Tensor]:
        rows = slice(KEPT, None) if held else slice(KEPT)
        samples, offsets = (self.get_buffer(f"{x}_{system}") for x in ("samples", "offsets"))
        return samples[rows], offsets[rows]

    def _kt(self, system: int) -> float:
        return thermal_energy(self._setting.references[system].system.temperature_kelvin)
