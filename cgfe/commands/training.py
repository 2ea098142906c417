"""`cgfe fit|validate|test|predict`: Lightning's command line with run directories."""

import logging
import os
import signal
import warnings
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from jsonargparse import set_parsing_settings
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from cgfe.commands.config_files import check_config_files, interpolated, sections_of
from cgfe.commands.fit_checks import (
    check_begins,
    check_files,
    check_monitor,
    check_simulations,
)
from cgfe.commands.lightning_parser import OneSentenceParser, plainly
from cgfe.commands.run_words import option, refuse_finished, with_run_config
from cgfe.commands.trainer_keys import begin_wandb, check_numbers, check_trainer, one_sentence
from cgfe.errors import InputError, check_seed
from cgfe.files import long_names_told, make_folder
from cgfe.training.callbacks.best_checkpoint import BestCheckpoint
from cgfe.training.callbacks.free_energy_validation import FreeEnergyValidation
from cgfe.training.callbacks.last_checkpoint import LastCheckpoint
from cgfe.training.callbacks.mean_force_validation import MeanForceValidation
from cgfe.training.callbacks.prediction_writer import PredictionWriter
from cgfe.training.callbacks.progress_bar import progress_bar
from cgfe.training.callbacks.run_config import RunConfig
from cgfe.training.callbacks.save_references import SaveReferences
from cgfe.training.checkpoints import Checkpoints, read_checkpoint
from cgfe.training.datamodule import CGFramesDataModule
from cgfe.training.logger import RunLogger
from cgfe.training.module import CGForceField
from cgfe.training.processes import another_ended, end_with_parent
from cgfe.training.runs import RUN_DIR_VARIABLE, first_process, new_run_dir, run_of
from cgfe.training.without_frames import go_without


def run(words: Sequence[str]) -> None:
    """Run one of Lightning's subcommands."""
    set_parsing_settings(
        omegaconf_absolute_to_relative_paths=True,
        # The words beside each key cost time to be read from the sources.
        docstring_parse_attribute_docstrings=bool({"-h", "--help"} & set(words)),
    )
    warnings.filterwarnings("ignore", ".*args parameter is intended to run from within.*")
    warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint need.*")
    warnings.filterwarnings("ignore", ".*Couldn't infer the batch indices.*")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", ".*will set .*num_workers.*")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_without_tips)
    if not first_process():
        end_with_parent()
    try:
        with long_names_told():
            _run(words)
    except RuntimeError as error:
        if not another_ended(error):
            raise
        raise InputError(
            "another process of this training has ended, its own words are above; go on with "
            "cgfe fit --ckpt_path last."
        ) from None
    except InputError:
        # The folder was made to see whether it can be written; an empty one is of no use.
        with suppress(OSError, KeyError):
            os.rmdir(os.environ[RUN_DIR_VARIABLE])
        raise


def _run(words: Sequence[str]) -> None:
    TrainingCLI.asked_for = words[0]
    # Of the words: jsonargparse forgets the files where one of them refers to another key.
    first = option(list(words), "--config") or option(list(words), "-c")
    TrainingCLI.name = Path(first).stem if first else "run"
    TrainingCLI(
        CGForceField,
        CGFramesDataModule,
        save_config_callback=RunConfig,
        save_config_kwargs={"save_to_log_dir": False},
        # Validation needs forces, which inference mode cannot give.
        trainer_defaults={
            "inference_mode": False,
            "num_sanity_val_steps": 0,
            "logger": False,
            "log_every_n_steps": 10,
        },
        seed_everything_default=0,
        parser_class=OneSentenceParser,
        parser_kwargs={"parser_mode": "omegaconf+", "prog": "cgfe"},
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        args=with_run_config(list(words)),
    )


class TrainingCLI(LightningCLI):
    """LightningCLI with `--run_dir`, `free_energy` and `checkpoint` keys."""

    asked_for = "fit"
    name = "run"
    """What a run's directory is called, before the time."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the subcommand that is asked for: each other one's parser takes half a second."""
        asked_for = TrainingCLI.asked_for
        return {asked_for: LightningCLI.subcommands()[asked_for]}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; what is wrong is said without jsonargparse's types."""
        check_config_files(args, sections_of(self._parser(self.asked_for)))
        try:
            with interpolated(args):
                super().parse_arguments(parser, args)
        except InputError as error:
            raise InputError(plainly(str(error))) from None

    def _parse_ckpt_path(self) -> None:
        """Nothing: Lightning would read the checkpoint for hyperparameters, which cgfe's lack."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what cgfe has beside Lightning's own options."""
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Directory of this run; by default runs/<config's name>-<time>.",
        )
        parser.add_lightning_class_args(FreeEnergyValidation, "free_energy")
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.mode": "min",
                "checkpoint.filename": "best-{epoch:04d}",
                "checkpoint.auto_insert_metric_name": False,
            }
        )

    def before_instantiate_classes(self) -> None:
        """Place the run: directory, checkpoints, loggers."""
        config = self.config[self.subcommand]
        checkpoint = config.get("ckpt_path")
        check_trainer(config.trainer, self.subcommand == "fit")
        for name in ("optimizer", "scheduler"):
            check_numbers(f"model.{name}", config.model[name])
        # Read before anything is made or computed, and handed on.
        self.checkpoint = read_checkpoint(checkpoint) if checkpoint else None
        if self.checkpoint is not None and self.subcommand == "fit":
            refuse_finished(self.checkpoint, checkpoint, config.trainer)
        self.run_dir = self._run_dir(config, checkpoint)
        make_folder(self.run_dir)
        os.environ[RUN_DIR_VARIABLE] = str(self.run_dir)
        config.trainer.default_root_dir = str(self.run_dir)
        trained = self.run_dir if self.subcommand == "fit" else Path(checkpoint).parent.parent
        config.checkpoint.dirpath = str(trained / "checkpoints")
        config.weights_only = True  # a checkpoint must not run code
        if self.subcommand == "validate":
            config.verbose = False  # cgfe prints a table of its own
        # One seed for all that is random, unless a part has its own.
        seed = int(config.seed_everything)
        if config.data.order_seed is None:
            config.data.order_seed = seed
        for simulation in (config.free_energy.simulation, config.free_energy.final):
            if simulation is not None and simulation.seed is None:
                simulation.seed = seed
        simulated = config.free_energy.every_n_epochs > 0
        monitor = config.checkpoint.monitor
        # Configs of runs, too, name the one that is the default where models are simulated.
        if monitor is None or (monitor == "free_energy/js" and not simulated):
            config.checkpoint.monitor = "free_energy/js" if simulated else "validation/loss"
        if config.checkpoint.monitor.startswith("train/"):
            # Of an epoch's mean nothing is known before the epoch's end.
            config.checkpoint.save_on_train_epoch_end = True

    def _run_dir(self, config: Any, checkpoint: str | None) -> Path:
        given = Path(config.run_dir) if config.run_dir else None
        if self.subcommand != "fit":
            if not checkpoint:
                raise InputError(f"cgfe {self.subcommand} needs --ckpt_path.")
            return given or (run_of(checkpoint) or Path("runs")) / str(self.subcommand)
        if checkpoint:
            return given or run_of(checkpoint) or new_run_dir(self.name)
        requeued = given and list(given.glob("hpc_ckpt_*"))
        if given and (given / "checkpoints").is_dir() and not requeued and first_process():
            raise InputError(
                f"{given} already holds a run; go on with it by --ckpt_path last, "
                "or choose another --run_dir."
            )
        return given or _unused(new_run_dir(self.name))

    def _set_seed(self) -> None:
        seed = self._get(self.config, "seed_everything")
        check_seed("seed_everything", None if isinstance(seed, bool) else seed)
        super()._set_seed()

    def instantiate_classes(self) -> None:
        """Make model, data and trainer; what Lightning says of its keys becomes a sentence."""
        with one_sentence():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """Add the run's own logger and callbacks to the configured ones."""
        if SLURMEnvironment.detect() and not self.config[self.subcommand].trainer.plugins:
            # SLURM sends SIGTERM at preemption and at the time limit.
            kwargs["plugins"] = [SLURMEnvironment(requeue_signal=signal.SIGTERM)]
        trainer: Any = super().instantiate_trainer(**kwargs)
        path = str(self.config[self.subcommand].ckpt_path)
        simulated = self.config[self.subcommand].free_energy.every_n_epochs > 0
        if self.subcommand == "validate" or (self.subcommand == "test" and simulated):
            for note in go_without(self.datamodule, self.checkpoint or {}, path):
                rank_zero_info(note)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = Checkpoints(path, self.checkpoint)
        self.checkpoint = None
        if self.subcommand != "predict":
            trainer.callbacks.append(MeanForceValidation())
        if trainer.fast_dev_run:
            return trainer
        if self.subcommand == "fit":
            trainer.loggers = [RunLogger(self.run_dir), *trainer.loggers]
            trainer.callbacks += [
                LastCheckpoint(self.run_dir),
                LearningRateMonitor("epoch"),
                SaveReferences(),
            ]
        if self.subcommand == "predict":
            trainer.callbacks.append(PredictionWriter())
        return trainer

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Any:
        # Lightning takes rich's bar where rich is installed; tqdm's goes well with the
        # simulations' bar and with log files.
        if config.get("enable_progress_bar") is not False:
            callbacks = [*callbacks, progress_bar()]
        return super()._instantiate_trainer(config, callbacks)

    def before_fit(self) -> None:
        """Check files, optimizer and the checkpoints' metric before anything is computed."""
        trainer: Any = self.trainer
        model, data = self.model, self.datamodule
        assert isinstance(model, CGForceField)
        check_files(model, data)
        model.check_optimizer()
        if not trainer.fast_dev_run:  # that has one epoch
            check_simulations(model, trainer.callbacks, trainer.max_epochs)
            check_begins(model, trainer.callbacks, trainer.max_epochs)
        if not self.config[self.subcommand].trainer.callbacks:  # they may log anything
            check_monitor(model, data, trainer.callbacks)
        begin_wandb(trainer.loggers)

    def before_test(self) -> None:
        """Begin the run of W&B, if there is one, before anything is computed."""
        begin_wandb(self.trainer.loggers)

    def before_validate(self) -> None:
        """Begin the run of W&B, if there is one, before anything is computed."""
        begin_wandb(self.trainer.loggers)

    def after_fit(self) -> None:
        """Write the report and name it."""
        trainer: Any = self.trainer
        if trainer.is_global_zero and not trainer.fast_dev_run:
            from cgfe.report.run import write_report

            print(f"report: {write_report(self.run_dir)}")

    def after_test(self) -> None:
        """Remove the folder if nothing was written: only simulations write."""
        with suppress(OSError):
            self.run_dir.rmdir()

    def after_validate(self) -> None:
        """Print the metrics as a table."""
        trainer: Any = self.trainer
        if not trainer.is_global_zero:
            return
        from cgfe.report.run import metric_table

        for callback in trainer.callbacks:
            if isinstance(callback, FreeEnergyValidation):
                for result in callback.results:
                    print(metric_table(result))
        for name, value in trainer.callback_metrics.items():
            if name.startswith("validation/"):
                print(f"{name} {float(value):.6g}")
        print(f"results: {self.run_dir}")


def _unused(run_dir: Path) -> Path:
    """Return a directory that no finished run of the same job has taken."""
    taken = (run_dir / "checkpoints").is_dir() and not list(run_dir.glob("hpc_ckpt_*"))
    if taken and first_process():
        return run_dir.with_name(f"{run_dir.name}-{datetime.now():%Y%m%d-%H%M%S}")
    return run_dir


def _without_tips(record: logging.LogRecord) -> bool:
    return "💡" not in record.getMessage()
