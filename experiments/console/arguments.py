"""The argument parser of `unclip`'s own commands."""

from __future__ import annotations

import argparse
from typing import NoReturn

from modules.errors import InputError


class CommandParser(argparse.ArgumentParser):
    """argparse's, but what is wrong with the words is one line, instead of all of the usage before it."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError: which option, what is wrong with it, where the options are listed."""
        raise InputError(f"{self.prog.removeprefix('unclip ')}: {message}; `{self.prog} --help` lists the options")
