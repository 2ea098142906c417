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
    r'Parser key "(?P<key>[\w.]+)":\s+Does not validate against any of the Union subtypes\n'
    r".*?Errors:\n\s+- (?P<error>[^\n]+)\n\s+- Expected (?:a )?<class 'NoneType'>\n"
    r".*Given value: (?P<value>.*)",
    re.DOTALL,
)
"""What jsonargparse says of a value that may be null, and is neither that nor right."""


def _without_union(message: str) -> str:
    """Say what is wrong with a value that may be null, by its whole key, and not that it is not."""
    found = _UNION.fullmatch(message)
    if found is None:
        return message
    key, error = found["key"], found["error"].removesuffix(" (see --help)")
    if within := re.fullmatch(r'Parser key "([\w.]+)": (.+)', error):
        return f'Parser key "{key}.{within[1]}": {within[2]}'
    if unknown := re.fullmatch(r"Option '([\w.]+)' is not accepted", error):
        return f"Option '{key}.{unknown[1]}' is not accepted"
    return f'Parser key "{key}": {error}. Got value: {found["value"]}'


_TWO_CLASSES = re.compile(
    r'.*Parser key "(?P<key>[\w.]+)".*Multiple subclasses with name (?P<name>\w+)\. '
    r"Give the full class path to avoid ambiguity: (?P<paths>[\w., ]+)\. .*"
)
"""What it says of a short name that several classes have."""


_EXPECTED = re.compile(
    r'Parser key "([\w.]+)": Expected (?:an? )?(.+?)\. Got value: (.*?) \(see --help\)'
)
_WORDS = {
    "<class 'int'>": "a whole number",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "text",
}


def plainly(message: str) -> str:
    """Say which value a key has and what was expected, in place of Python's types.

    To be called once for all: parsers are nested, and each reads what the inner one says.
    """
    if two := _TWO_CLASSES.fullmatch(message):
        paths = two["paths"].replace(", ", " or ")
        return f"{two['key']} is {two['name']!r}, which two classes are called; expected {paths}."
    found = _EXPECTED.fullmatch(message)
    if found is None:
        return message
    key, kind, value = found.groups()
    if literal := re.fullmatch(r"typing\.Literal\[(.+)\]", kind):
        kind = f"one of {literal[1]}"
    return f"{key} is {value!r}, expected {_WORDS.get(kind, kind)} (see --help)"
