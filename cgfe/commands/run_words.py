"""What a Lightning command is given, completed from the run that a checkpoint lies in."""

import os
from pathlib import Path
from typing import Any

from cgfe.errors import InputError
from cgfe.training.runs import (
    RUN_DIR_VARIABLE,
    first_process,
    is_finished,
    last_checkpoint,
    run_of,
)


def with_run_config(words: list[str]) -> list[str]:
    """Resolve `--ckpt_path last`, and take the run's own config where none is given.

    Raises
    ------
    InputError
        If there is no such checkpoint, or its run's config is not known.
    """
    checkpoint = option(words, "--ckpt_path")
    if checkpoint == "last":
        checkpoint = str(_last(words))
        words = [*_without(words, "--ckpt_path"), "--ckpt_path", checkpoint]
    if checkpoint and not option(words, "--config") and not option(words, "-c"):
        if not Path(checkpoint).is_file():
            raise InputError(f"{checkpoint}: no such checkpoint.")
        run_dir_of = run_of(checkpoint)
        if run_dir_of is None:
            raise InputError(
                f"{checkpoint} lies in no run directory, so its config.yaml must be given "
                "with --config."
            )
        words[1:1] = ["--config", str(run_dir_of / "config.yaml")]
        # The file names the run's own directory; the command decides anew.
        if not option(words, "--run_dir"):
            words += ["--run_dir=null"]
    return words


def _last(words: list[str]) -> Path:
    run_dir = option(words, "--run_dir")
    if not first_process():
        # The first has chosen: by now another run may be the newest.
        run_dir = run_dir or os.environ.get(RUN_DIR_VARIABLE)
    found = last_checkpoint(Path(run_dir) if run_dir else None)
    if not run_dir and words[0] == "fit":
        print(f"going on with {found.parent.parent}, the newest run")
    return found


def refuse_finished(checkpoint: dict[str, Any], path: str, trainer: Any) -> None:
    """Refuse to go on with a run that has done all its epochs, and whose report is written.

    Parameters
    ----------
    checkpoint : dict
    path : str
    trainer : namespace
        The trainer's keys.

    Raises
    ------
    InputError
        Nothing would be trained, and the report written anew.
    """
    run_dir = Path(path).parent.parent
    done = epochs_done(checkpoint)
    most = trainer.max_epochs
    if most is not None and 0 <= most <= done and is_finished(run_dir):
        raise InputError(
            f"{run_dir} is finished: it has trained {done} epochs, and trainer.max_epochs is "
            f"{most}; expected more, or another run (--run_dir)."
        )


def epochs_done(checkpoint: dict[str, Any]) -> int:
    """Return the number of whole epochs that a checkpoint has behind it."""
    try:
        return int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    except (KeyError, TypeError):
        return 0


def option(words: list[str], name: str) -> str | None:
    """Return the value of an option, if it is there."""
    for index, word in enumerate(words):
        if word == name and index + 1 < len(words):
            return words[index + 1]
        if word.startswith(name + "="):
            return word.removeprefix(name + "=")
    return None


def _without(words: list[str], name: str) -> list[str]:
    """Drop an option with its value."""
    kept: list[str] = []
    skip = False
    for word in words:
        if not skip and word != name and not word.startswith(name + "="):
            kept.append(word)
        skip = word == name
    return kept
