"""The argument parser of `unclip`'s own commands.

Each room has an `options.py` with the parsers of its commands, which imports nothing heavy. `unclip COMMAND` parses its
words with one of them, and only then imports the command's own file and calls its `run(options)`: so `--help` and a
misspelt option are answered at once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from modules.errors import InputError

Parsers = Mapping[str, Callable[[], argparse.ArgumentParser]]
"""The commands of a room, and for each the function that makes its parser."""

SPLITS = ("train", "val", "test")


RUN = "run folder, or shipped:NAME (default: the newest trained run in runs/, else shipped:shapes)"
"""Help of --run for commands that draw."""


class CommandParser(argparse.ArgumentParser):
    """argparse's, but what is wrong with the words is one line, instead of all of the usage before it."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError: which option, what is wrong with it, where the options are listed."""
        raise InputError(f"{self.prog.removeprefix('unclip ')}: {message}; `{self.prog} --help` lists the options")


def parsed(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """The options that `words` give, and the words themselves as `words`.

    Raises:
        InputError: an option is unknown or has a wrong value.
        SystemExit: --help was asked for, and has been printed.
    """
    options = parser.parse_args(words)
    options.words = list(words)
    return options


def positive(text: str) -> int:
    """A whole number above 0."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return int(text)


def setting(word: str) -> tuple[str, str]:
    """STAGE.SETTING and the text of its value, from a word STAGE.SETTING=VALUE of --set.

    Raises:
        InputError: the word has another form.
    """
    key, equals, value = word.partition("=")
    if not equals or not value or not all(key.partition(".")):
        raise InputError(f"--set {word}: write STAGE.SETTING=VALUE, as in decoder.steps=8")
    return key, value
