"""Lightning's parser, with errors of one sentence."""

import re
from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from cgfe.errors import InputError


class OneSentenceParser(LightningArgumentParser):
    """Parser that raises InputError where jsonargparse would print its usage and exit."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise InputError with the part of the message that says what is wrong."""
        lines = [line.strip() for line in _without_union(message).splitlines() if line.strip()]
        raise InputError(f"{' '.join(lines)} (see --help)") from None


_UNION = re.compile(
    r'Parser key "(?P<key>[\w.]+)":(?:\s+- Expected a path but .*?)?'
    r"\s+(?:- )?Does not validate against any of the Union subtypes\n"
    r".*?Errors:\n\s+- (?P<error>[^\n]+)\n\s+- Expected (?:a )?<class 'NoneType'>\n"
    r".*Given value: (?P<value>.*)",
    re.DOTALL,
)
"""What jsonargparse says of a value that may be null, and is neither that nor right."""


def _without_union(message: str) -> str:
    """Say what is wrong with a value that may be null, by its whole key, and not that it is not."""
    found = _UNION.fullmatch(message)
    if found is None or "import path" in found["error"]:  # of classes plainly knows more
        return message
    key, error = found["key"], found["error"].removesuffix(" (see --help)")
    if within := re.fullmatch(r'Parser key "([\w.]+)": (.+)', error):
        return f'Parser key "{key}.{within[1]}": {within[2]}'
    if unknown := re.fullmatch(r"Option '([\w.]+)' is not accepted", error):
        return f"Option '{key}.{unknown[1]}' is not accepted"
    return f'Parser key "{key}": {error}. Got value: {found["value"]}'


_KEY = r'Parser key "(?P<key>[\w.]+)": '
_NO_PATH = re.compile(r"(?:- )?Expected a path but .*? either not accessible or invalid - ")
_TWO_CLASSES = re.compile(
    rf"{_KEY}.*Multiple subclasses with name (?P<name>\w+)\. "
    r"Give the full class path to avoid ambiguity: (?P<paths>[\w., ]+)\. .*"
)
_NO_FILE = re.compile(rf"{_KEY}Unable to load config '(?P<value>.*?)' - .*")
_UNION_OF = re.compile(
    rf"{_KEY}Does not validate against any of the Union subtypes Subtypes: \[(?P<kinds>.*?)\] "
    r"Errors: .* Given value:(?P<value>.*) \(see --help\)"
)
_EXPECTED = re.compile(
    rf"{_KEY}Expected (?:an? )?(?P<kinds>.+?)\. Got value:(?P<value>.*?) \(see --help\)"
)
_MISSING = re.compile(rf"{_KEY}the following arguments are required: (?P<names>[\w, ]+)\. .*")
_NO_CLASS = re.compile(
    rf"{_KEY}(?:argument of type|unhashable type|Type typing\.Callable|Unexpected import path|"
    r"Expected an? (?:dot )?import path).*"
)
_WITHIN = re.compile(rf"{_KEY}(?P<what>Parser key \"|Option ')(?P<within>[\w.]+)(?P<rest>.*)")
_WORDS = {
    "<class 'int'>": "a whole number",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "text",
    "<class 'list'>": "a list",
    "list[str]": "a list of texts",
    "<class 'dict'>": "keys with their values",
    "<class 'NoneType'>": "null",
}
LONGEST_WORD = 60


def plainly(message: str) -> str:
    """Say which value a key has and what was expected, in place of Python's types.

    To be called once for all: parsers are nested, and each reads what the inner one says.
    """
    message = re.sub(rf"\w{{{LONGEST_WORD},}}", lambda word: f"{word[0][:40]}...", message)
    message = re.sub(r"( \(see --help\))+$", r"\1", _NO_PATH.sub("", message))
    while within := _WITHIN.fullmatch(message):
        message = f"{within['what']}{within['key']}.{within['within']}{within['rest']}"
    if found := _TWO_CLASSES.fullmatch(message):
        expected = found["paths"].replace(", ", " or ")
        return (
            f"{found['key']} is {found['name']!r}, which two classes are called; "
            f"expected {expected}."
        )
    if found := _NO_FILE.fullmatch(message):
        value, expected = found["value"], "keys with their values, or a file with these"
    elif found := _MISSING.fullmatch(message):
        return f"{found['key']} needs {found['names']} among its init_args (see --help)"
    elif found := _NO_CLASS.fullmatch(message):
        return f"{found['key']} names no class; expected a class_path with init_args (see --help)"
    elif found := _UNION_OF.fullmatch(message) or _EXPECTED.fullmatch(message):
        value, expected = found["value"], _kinds(found["kinds"])
    else:
        return message
    return f"{found['key']} is {value.strip()!r}, expected {expected} (see --help)"


def _kinds(listed: str) -> str:
    """Say which kinds of values a list of Python's types stands for."""
    words = [_kind(name) for name in re.split(r", (?![^\[]*\])", listed)]
    return ", or ".join(dict.fromkeys(words))


def _kind(name: str) -> str:
    if literal := re.fullmatch(r"typing\.Literal\[(.+)\]", name):
        return f"one of {literal[1]}"
    other = "keys with their values" if name.endswith("Config'>") else "a class_path with init_args"
    return _WORDS.get(name, other)
