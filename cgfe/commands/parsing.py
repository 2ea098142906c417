"""What the small commands share: an argparse parser whose errors are one sentence."""

import argparse
from typing import NoReturn

from cgfe.errors import InputError


class Parser(argparse.ArgumentParser):
    """Parser that raises InputError where argparse would print its usage and exit."""

    def __init__(self, command: str, description: str, epilog: str = "") -> None:
        super().__init__(
            prog=f"cgfe {command}",
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raise InputError with the command's name."""
        raise InputError(f"{self.prog}: {message}; see {self.prog} --help.")
