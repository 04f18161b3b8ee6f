"""The argument parser of `unclip`'s own commands.

Each folder of commands has an `options.py` with their parsers, which imports nothing heavy. `unclip COMMAND` parses its
words with one of them, and only then imports the command's own file and calls its `run(options)`: so `--help` and a
misspelt option are answered at once.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from experiments.console.examples import FEW, SECTIONS, examples_text, section_of
from modules.errors import InputError

Parsers = Mapping[str, Callable[[], argparse.ArgumentParser]]
"""The commands of a folder, and for each the function that makes its parser."""

SPLITS = ("train", "val", "test")


TEXTS = ("caption", "captions", "negative", "target", "base", "text")
"""Options whose words are given to a text encoder, where they are no file."""
RUN = "run folder, or shipped:NAME (default: the newest trained run in runs/, else shipped:shapes)"
"""Help of --run for commands that draw."""


def add_precision(parser: argparse.ArgumentParser) -> None:
    """--precision, for commands that draw."""
    parser.add_argument(
        "--precision",
        choices=("32", "bf16"),
        default="32",
        help="bf16 holds the weights in half of the memory (default 32)",
    )


def add_placement(parser: argparse.ArgumentParser) -> None:
    """--precision and --offload, for commands that draw one stage after another."""
    add_precision(parser)
    parser.add_argument(
        "--offload", action="store_true", help="load each stage when it is needed, and hold one stage at a time"
    )


class CommandParser(argparse.ArgumentParser):
    """argparse's parser, with one line for an error instead of the whole usage.

    Options may not be abbreviated, because an option that is added later would change the meaning. Numbers are
    finite.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})
        self.register("type", float, finite)
        self.register("type", int, whole)
        self.register("type", Path, place)

    def format_help(self) -> str:
        """argparse's page, with many options in groups, and with examples at the end."""
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        for title, actions in self._sections().items():
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        formatter.add_text(self.epilog)
        examples = examples_text(self.prog)
        return formatter.format_help() + (f"\n{examples}\n" if examples else "")

    def _sections(self) -> dict[str, list[argparse.Action]]:
        """Title -> the arguments under it, in the order of the page."""
        named = [action for action in self._actions if action.option_strings]
        placed = [action for action in self._actions if not action.option_strings]
        found: dict[str, list[argparse.Action]] = {"arguments": placed}
        found |= {title: [] for title in ("options", *SECTIONS)}
        for action in named:
            title = "options" if len(named) <= FEW else section_of(action.option_strings[-1])
            found[title].append(action)
        return {title: actions for title, actions in found.items() if actions}

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
    check_limits(options)
    for name in TEXTS:
        check_text(getattr(options, name, None), name)
    options.words = list(words)
    return options


LIMITS = {"n": 10**6, "devices": 2**12, "size": 2**12, "image_size": 2**12}
"""Options whose numbers memory is taken for before anything else can be said of them, and the most that they may be."""


def check_limits(options: argparse.Namespace) -> None:
    """Raise InputError if a number is beyond what any machine has, or --out is empty."""
    for name, most in LIMITS.items():
        value = getattr(options, name, None)
        if isinstance(value, int) and value > most:
            raise InputError(f"--{name.replace('_', '-')} is {value:,}: the most is {most:,}")
    if getattr(options, "out", None) == "":
        raise InputError("--out is empty: name a file or a folder")


def place(text: str) -> Path:
    """A path, if there is one."""
    if not text:
        raise argparse.ArgumentTypeError("is empty: name a file or a folder")
    return Path(text)


def check_text(value: object, name: str) -> None:
    """Raise InputError if words of the command line are not UTF-8, which Python hands on as lone surrogates."""
    for text in value if isinstance(value, list) else [value]:
        if not isinstance(text, str):
            continue
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            shown = text.encode("utf-8", "backslashreplace").decode()
            if _is_utf8(text):
                raise InputError(
                    f"{name}: '{shown}' is UTF-8, but Python takes this terminal's text for "
                    f"{sys.getfilesystemencoding()}: set PYTHONUTF8=1, or a locale with UTF-8"
                ) from None
            raise InputError(f"{name}: '{shown}' is not UTF-8; write it in UTF-8") from None


def _is_utf8(text: str) -> bool:
    """Whether a word that Python could not decode is UTF-8 all the same: the locale says another encoding."""
    try:
        os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return False
    return True


def finite(text: str) -> float:
    """A number; not nan, and not infinite."""
    number = float(text)
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"must be a finite number, got {text!r}")
    return number


def whole(text: str) -> int:
    """A whole number of 64 bits."""
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise argparse.ArgumentTypeError(f"must be below 2^63, got {text[:20]}...")
    return number


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
