"""Config files of Lightning's commands: what the parser passes, or fails at without a sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from omegaconf.errors import OmegaConfBaseException

from cgfe.errors import InputError

SECTIONS = (
    *("trainer", "model", "model.network", "model.losses", "data", "data.reference"),
    *("free_energy", "free_energy.simulation", "checkpoint"),
)
"""Keys that hold keys; a text in their place is the name of a file with these."""


def check_config_files(words: list[str]) -> None:
    """Check that the config files among the words are text, and their sections hold keys.

    What is no YAML, or is not there, the parser tells.

    Raises
    ------
    InputError
        Naming the file, what was found and what was expected.
    """
    for path in _config_files(words):
        if not path.is_file():
            continue
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise InputError(
                f"{path}: byte {error.start} is 0x{byte:02x}, expected a text in UTF-8."
            ) from None
        except (yaml.YAMLError, ValueError, OSError):
            continue
        for section in SECTIONS:
            _check_section(path, config, section)


@contextmanager
def interpolated() -> Iterator[None]:
    """Say in one sentence which `${...}` leads nowhere."""
    try:
        yield
    except OmegaConfBaseException as error:
        key = str(error.full_key or "").partition(".")[2]  # after the subcommand
        what = str(error.msg or error).splitlines()[0]
        raise InputError(
            f"{key or 'config'}: {what}; expected ${{...}} with the name of another key."
        ) from None


def _config_files(words: list[str]) -> Iterator[Path]:
    for word, following in zip(words, [*words[1:], ""], strict=True):
        for name in ("--config", "-c"):
            if word == name:
                yield Path(following)
            elif word.startswith(f"{name}="):
                yield Path(word.removeprefix(f"{name}="))


def _check_section(path: Path, config: Any, section: str) -> None:
    value = config
    for name in section.split("."):
        if not isinstance(value, dict) or name not in value:
            return
        value = value[name]
    if not isinstance(value, dict | str):
        found = "empty" if value is None else repr(value)
        raise InputError(f"{path}: {section} is {found}, expected keys with their values.")
