"""The config files that the runs of a sweep read: they stay as they were, or runs differ unseen."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from cgfe.errors import InputError
from cgfe.files import replacing

KEPT = "configs.json"
"""What the files said when the sweep began, by their paths."""


def config_files(words: Sequence[str]) -> Iterator[Path]:
    """Yield the config files that the words of a command line name, in their order."""
    options = ["--config"]
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "fit":  # an interpreter has a -c of another kind
            options.append("-c")
        for name in options:
            if word == name:
                yield Path(following)
            elif word.startswith(f"{name}="):
                yield Path(word.removeprefix(f"{name}="))


def keep_configs(folder: Path, paths: Iterable[Path], grown: bool = False) -> None:
    """Keep what the config files of a sweep say in its folder; of one that was begun, compare.

    Comments and the order of keys may change; of a sweep that has grown there may be more files.

    Raises
    ------
    InputError
        If a file cannot be read, or says something else than when the sweep began.
    """
    paths, kept = list(paths), folder / KEPT
    if kept.exists():
        check_configs(kept, paths, grown)
    found = _contents(paths)
    if not kept.exists() or found != _read(kept):
        with replacing(kept) as temporary:
            temporary.write_text(json.dumps(found, indent=1), encoding="utf-8")


def check_configs(kept: Path, paths: Iterable[Path], grown: bool = False) -> None:
    """Compare what the config files of a sweep say with what was kept of it.

    Raises
    ------
    InputError
        As `keep_configs` does, or if what was kept is no such file.
    """
    found, before = _contents(paths), _read(kept)
    for name in sorted(before.keys() if grown else found.keys() | before.keys()):
        if found.get(name) != before.get(name):
            raise InputError(
                f"{name} is not what it was when the sweep in {kept.parent} began ({kept}); put it "
                "back, or begin anew in another folder."
            )


def _contents(paths: Iterable[Path]) -> dict[str, Any]:
    return {str(path): _content(path) for path in paths}


def _read(kept: Path) -> dict[str, Any]:
    try:
        content = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{kept}: cannot be read ({error}).") from None
    if not isinstance(content, dict):
        raise InputError(f"{kept}: does not hold what config files said.")
    return content


def _content(path: Path) -> Any:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = str(error).replace("\n", " ")
        raise InputError(
            f"{path}, which the sweep's runs read, cannot be read ({reason})."
        ) from None
    return json.loads(json.dumps(content, default=str))  # as it comes back from the file
