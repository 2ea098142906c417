"""The one exception that means "the user's input is wrong"."""

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Input that cgfe cannot use.

    Its message is one sentence that names the file or option, what was found and what was
    expected. The command line prints it without a traceback and exits with code 2.
    """


@contextmanager
def keys_of(section: str) -> Iterator[None]:
    """Put a section, `free_energy.final` say, before the key that an InputError begins with."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{section}.{error}") from None


LARGEST_SEED = 2**32 - 1
"""What numpy, and so Lightning, takes."""


def require(good: bool, name: str, value: object, expected: str) -> None:
    """Raise InputError that names an option, unless its value is good."""
    if not good:
        raise InputError(f"{name} is {value}, expected {expected}.")


def check_seed(name: str, seed: int | None) -> None:
    """Raise InputError unless a seed, if there is one, is what random generators take."""
    good = seed is None or 0 <= seed <= LARGEST_SEED
    require(good, name, seed, f"at least 0 and at most {LARGEST_SEED}")
