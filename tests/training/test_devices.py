"""Other devices, and a Trainer as a notebook makes it, without the command line."""

from pathlib import Path

import lightning as L
import pytest
import torch

from cgfe.kernels import training as training_kernel
from cgfe.model.schnet import CGSchNetConfig
from cgfe.reference.config import ReferenceConfig
from cgfe.report.prior_plots import plot_prior_fit
from cgfe.simulation.langevin import SimulationConfig
from cgfe.training.callbacks.free_energy_validation import FreeEnergyValidation
from cgfe.training.datamodule import CGFramesDataModule
from cgfe.training.module import CGForceField

SMALL = CGSchNetConfig(hidden_channels=8, num_filters=8, num_layers=1, num_radial=8)


@pytest.fixture
def data(tiny_file: Path, tmp_path: Path) -> CGFramesDataModule:
    """The tiny set, not yet set up."""
    reference = ReferenceConfig(tica_lag_ps=5, bins=12, starts=8)
    return CGFramesDataModule(
        str(tiny_file), 64, block_ps=50, reference=reference, cache_dir=str(tmp_path / "cache")
    )


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a compiler; on a GPU the kernels do not run either."""
    monkeypatch.setattr(training_kernel, "_library", lambda: None)


def test_a_potential_on_a_device_leaves_the_reference_where_it_is(
    data: CGFramesDataModule,
) -> None:
    data.setup()
    (reference,) = data.references
    field = CGForceField(SMALL)
    field.set_references(data.references, data.names)
    for module in (field.to("meta").potential(), reference.potential().to("meta")):
        assert {x.device.type for x in module.state_dict().values()} == {"meta"}
    assert {x.device.type for x in reference.prior.state_dict().values()} == {"cpu"}
    # What is drawn after an epoch comes from positions on the CPU.
    assert plot_prior_fit(reference.prior, data.frames[0].positions[:100], 300.0)
    assert reference.to_arrays()["prior/bonds.centre"].shape == (9,)


@pytest.mark.usefixtures("no_kernel")
def test_a_plain_trainer_fits_validates_tests_and_predicts(
    data: CGFramesDataModule, tmp_path: Path
) -> None:
    """Validation is in inference mode by Lightning's default; forces are to be had there too."""
    validation = FreeEnergyValidation(SimulationConfig(replicas=4, steps=20, save_interval=10))
    trainer = L.Trainer(
        max_epochs=1,
        limit_train_batches=2,
        limit_val_batches=2,
        callbacks=[validation],
        logger=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
        accelerator="cpu",
        enable_progress_bar=False,
    )
    field = CGForceField(SMALL)
    trainer.fit(field, data)
    within = trainer.callback_metrics["validation/loss"]
    (alone,) = trainer.validate(field, data, verbose=False)
    assert alone["validation/loss"] == pytest.approx(float(within))
    assert trainer.test(field, data, verbose=False)[0]["test/force_mse"] > 0
    predicted = trainer.predict(field, data)
    assert predicted
    assert all(torch.isfinite(batch["forces"]).all() for batch in predicted)  # type: ignore[call-overload]
