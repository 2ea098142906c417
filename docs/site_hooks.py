"""What mkdocs does beside its own work: options from the parsers, and nothing from elsewhere.

A page's line `<!-- generated: NAME ARGUMENT -->` becomes what `GENERATED[NAME](ARGUMENT)` returns,
so that options and keys are those of the code. A site that would load a script, style, font or
picture from another server is refused.
"""

import dataclasses
import functools
import inspect
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from unittest import mock

from docstring_parser import parse_from_object

from cgfe.cli import main
from cgfe.commands import training

MARK = re.compile(r"^<!-- generated: (\w+) ?(\S*) -->$", re.MULTILINE)
LOADED = (
    re.compile(r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\bsrc=[\"']?([^\"'\s>]+)"),
    re.compile(r"<(?:link|use|image)\b(?![^>]*rel=[\"']?canonical)[^>]*?\bhref=[\"']?([^\"'\s>]+)"),
    re.compile(r"url\(\s*[\"']?([^\"')\s]+)"),
    re.compile(r"@import\s+[\"']([^\"']+)"),
)
"""What a browser loads by itself."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in what is generated."""
    return MARK.sub(lambda found: GENERATED[found[1]](found[2]), markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Take away what announces a block of code in docstrings and is none of Markdown."""
    return re.sub(r"<p>::</p>\n?", "", html).replace("::</p>", ":</p>")


def on_post_build(config: Any, **_: Any) -> None:
    """Refuse a site that loads anything from another server."""
    from mkdocs.exceptions import PluginError

    site = Path(config.site_dir)
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        found = from_elsewhere(path.read_text())
        if found:
            raise PluginError(f"{path.relative_to(site)} loads {found[0]} from elsewhere.")


def from_elsewhere(text: str) -> list[str]:
    """Return the addresses on other servers that a browser would load from HTML or CSS."""
    loaded = [name for pattern in LOADED for name in pattern.findall(text)]
    return [name for name in loaded if re.match(r"(?:\w+:)?//", name)]


def help_of(command: str) -> str:
    """Return a command's --help as a block of text."""
    printed = io.StringIO()
    width = mock.patch.dict(os.environ, COLUMNS="96")
    with width, redirect_stdout(printed), suppress(SystemExit):
        main([command, "--help"] if command else ["--help"])
    return f"```text\n{printed.getvalue().rstrip()}\n```"


def keys_of(group: str) -> str:
    """Return a table of the keys of `cgfe fit` in a group; `own` are those of no group."""
    lightning = group in ("trainer", "checkpoint", "own")
    rows = []
    for action in fit_parser()._actions:
        hint = getattr(action, "_typehint", None)
        within = action.dest.partition(".")[0] if "." in action.dest else "own"
        if hint is None or within != group or action.dest.endswith(".help"):
            continue
        text = action.help or _summary(hint)
        if lightning:  # which tells it at length, and has types of many words
            text = re.split(r"(?<=\w\.)\s|\n\n|Default", text)[0].replace("``", "`")
        rows.append((action.dest, "" if lightning else _type(hint), _value(action.default), text))
        rows += _keys_within(action.dest, hint)
    return _table(rows)


def sampler_keys(place: str) -> str:
    """Return a table of the fields of a dataclass, `module.Class` within cgfe.all_atom."""
    module, _, name = place.rpartition(".")
    settings = getattr(import_module(f"cgfe.all_atom.{module}"), name)
    told = {entry.arg_name: entry.description or "" for entry in parse_from_object(settings).params}
    fields = {field.name: field for field in dataclasses.fields(settings)}
    return _table(
        (key, _type(field.type), _value(_default(field)), told.get(key, ""))
        for key, field in fields.items()
    )


GENERATED: dict[str, Callable[[str], str]] = {
    "help": help_of,
    "keys": keys_of,
    "sampler": sampler_keys,
}


_YAML = {"null": None, "true": True, "false": False}


class _Found(Exception):
    """Carries the parsers out of LightningCLI, which would go on to train."""


class _Keys(training.TrainingCLI):
    def parse_arguments(self, parser: Any, args: Any) -> None:
        raise _Found(self._subcommand_parsers["fit"])


@functools.cache
def fit_parser() -> Any:
    """Return the parser of `cgfe fit`, with the help of every key."""
    try:
        with mock.patch.object(training, "TrainingCLI", _Keys):
            training.run(["fit", "--help"])
    except _Found as found:
        return found.args[0]
    raise AssertionError("LightningCLI parses elsewhere now")


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if callable(field.default_factory) else None


def _value(value: Any) -> str:
    if isinstance(value, dict) and "class_path" in value:
        value = value["class_path"]
    known = next((word for word, it in _YAML.items() if value is it), None)
    return f"`{value if known is None else known}`"


def _type(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(hint))
    name = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
    if "Callable" in name:
        return "class"
    name = re.sub(r"\b(?:\w+\.)+(?=\w)", "", name)
    return re.sub(r"Optional\[(.+)\]$", r"\1 or None", name).replace(" | ", " or ")


def _keys_within(key: str, hint: Any) -> list[tuple[str, str, str, str]]:
    """Return the rows of what a class of this project takes, for a key that may be null.

    The parser has one option for such a key, and finds those within it when they are given.
    """
    own = [kind for kind in get_args(hint) if getattr(kind, "__module__", "").startswith("cgfe.")]
    if type(None) not in get_args(hint) or not own:
        return []
    told = {entry.arg_name: entry.description or "" for entry in parse_from_object(own[0]).params}
    return [
        (f"{key}.{name}", _type(part.annotation), _value(part.default), told.get(name, ""))
        for name, part in inspect.signature(own[0]).parameters.items()
    ]


def _summary(hint: Any) -> str:
    """Return the first sentence about the class of this project that a key is of, if it is."""
    kinds = [kind for kind in (hint, *get_args(hint)) if isinstance(kind, type)]
    own = [kind for kind in kinds if kind.__module__.startswith("cgfe.")]
    return (inspect.getdoc(own[0]) or "").split("\n\n")[0] if own else ""


def _table(rows: Any) -> str:
    def cells(row: tuple[str, ...]) -> Iterator[str]:
        for text in (f"`{row[0]}`", *row[1:]):
            yield re.sub(r"\s+", " ", text).strip().replace("|", "\\|")

    lines = [f"| {' | '.join(cells(row))} |" for row in rows]
    return "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *lines])
