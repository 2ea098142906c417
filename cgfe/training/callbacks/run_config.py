"""RunConfig: what a run was started with, in its own directory."""

import re
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import SaveConfigCallback

LENGTH = "model.scheduler.init_args.T_max"


class RunConfig(SaveConfigCallback):
    """Write config.yaml into the run's own directory, and give the loggers the nested config."""

    def save_config(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Save once, before training starts."""
        if stage != "fit":
            return
        path = Path(trainer.default_root_dir) / "config.yaml"
        config = self.config.clone()
        # What belongs to this run alone must not follow its config into another.
        for key in ("ckpt_path", "run_dir", "trainer.default_root_dir", "checkpoint.dirpath"):
            config[key] = None
        seeds = ["data.order_seed", "free_energy.simulation.seed"]
        if config["free_energy.final"] is not None:
            seeds.append("free_energy.final.seed")
        for key in seeds:
            if config[key] == config["seed_everything"]:
                config[key] = None
        self.parser.save(config, str(path), skip_none=False, overwrite=True)
        epochs = config["trainer.max_epochs"]
        if epochs is not None and config.get(LENGTH) == epochs:
            # The schedule's end follows the number of epochs, in a run of more of them too. As
            # text, since jsonargparse resolves what refers to another key.
            line = re.compile(rf"^( +{LENGTH.rpartition('.')[2]}:) {epochs}$", re.MULTILINE)
            path.write_text(line.sub(r"\1 ${trainer.max_epochs}", path.read_text()))
        for logger in trainer.loggers:
            logger.log_hyperparams(_plain(self.config))


def _plain(config: Any) -> dict[str, Any]:
    content = config.clone().as_dict()
    for key in ("config", "subcommand"):
        content.pop(key, None)
    return content
