"""Config files of Lightning's commands: what the parser passes, or fails at without a sentence."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from omegaconf.errors import OmegaConfBaseException

from cgfe.commands.run_words import option
from cgfe.errors import InputError
from cgfe.experiment.config_files import config_files


def sections_of(parser: argparse.ArgumentParser) -> list[str]:
    """Return the keys that hold keys; a text in their place is the name of a file with these."""
    # KEY.help is no key, and stands below classes too.
    options = [x.dest for x in parser._actions if not x.dest.endswith(".help")]
    return sorted({x.rpartition(".")[0] for x in options} & {*options})


def check_config_files(words: list[str], sections: list[str]) -> None:
    """Check that the config files among the words are text, and their sections hold keys.

    What is no YAML, or is not there, the parser tells.

    Parameters
    ----------
    words : list of str
        The command line.
    sections : list of str
        The keys that hold keys.

    Raises
    ------
    InputError
        Naming the file, what was found and what was expected.
    """
    for path in config_files(words):
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
        for section in sections:
            _check_section(path, config, section)


@contextmanager
def interpolated(words: list[str]) -> Iterator[None]:
    """Say in one sentence which `${...}` leads nowhere, and where among the words it stands."""
    try:
        yield
    except OmegaConfBaseException as error:
        key = str(error.full_key or "").partition(".")[2]  # after the subcommand
        raise InputError(
            f"{_written(words, key)}, expected ${{...}} with the name of another key."
        ) from None


def _written(words: list[str], key: str) -> str:
    """Return `FILE: KEY is VALUE` of the word, or else the file, that gives a key its value."""
    given = option(words, f"--{key}")
    if given is not None:
        return f"--{key} is {given!r}"
    for path in reversed([*config_files(words)]):
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value is not None:
            return f"{path}: {key} is {value!r}"
    return f"{key or 'config'} refers to what is no key"


def _check_section(path: Path, config: Any, section: str) -> None:
    value = config
    for name in section.split("."):
        if not isinstance(value, dict) or name not in value:
            return
        value = value[name]
    if not isinstance(value, dict | str):
        found = "empty" if value is None else repr(value)
        raise InputError(f"{path}: {section} is {found}, expected keys with their values.")
