"""LightningCLI's parser, whose messages name the nearest argument."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, Namespace
from lightning.pytorch.cli import LightningArgumentParser

from experiments.console.configs import config_text, overlaid
from experiments.console.import_wall import raise_wall, trust
from experiments.console.shipped import located, located_words
from modules.errors import InputError
from modules.untrusted.reading import MAX_CONFIG, parse_yaml, read_bytes

raise_wall()


def _as_value(dumper: yaml.SafeDumper, member: Enum) -> yaml.Node:
    node: yaml.Node = dumper.represent_data(member.value)
    return node


yaml.SafeDumper.add_multi_representer(Enum, _as_value)  # Some of Lightning's classes have members as defaults: Timer.


class ConfigFile(ActionConfigFile):
    """`--config`, which tells the parser what came before it on the command line."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        parser.earlier = cfg
        try:
            super().__call__(parser, cfg, values, option_string)
        finally:
            parser.earlier = None


def with_rest_of_dicts(content: dict[str, Any], earlier: Namespace) -> dict[str, Any]:
    """A config's content, with the rest of each dict that it sets a part of.

    jsonargparse merges a config's settings with those before it, but replaces an argument that is a dict
    (`text_cfg: {context_length: 20}`) as a whole.

    Args:
        content: as it was read.
        earlier: what was set before, as jsonargparse has it: dicts as such, classes and records as namespaces.
    """
    result = dict(content)
    for key, value in content.items():
        before = earlier.get(key)
        if isinstance(value, dict) and isinstance(before, Namespace):
            result[key] = with_rest_of_dicts(value, before)
        elif isinstance(value, dict) and isinstance(before, dict):
            result[key] = overlaid(before, value)
    return result


class Parser(LightningArgumentParser):
    """LightningCLI's parser, whose errors are one line that names the setting."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.earlier: Namespace | None = None
        super().__init__(*args, **{"parser_mode": "omegaconf+", "allow_abbrev": False, **kwargs})

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """As LightningCLI's, but `--config` is a `ConfigFile`."""
        if kwargs.get("action") is ActionConfigFile:
            kwargs["action"] = ConfigFile
        return super().add_argument(*args, **kwargs)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *others: Any, **options: Any
    ) -> Any:
        """As LightningCLI's; a YAML below `experiments/` that is not in the working folder is the one that ships."""
        words = with_nulls(located_words(sys.argv[1:] if args is None else args))
        for word in words:
            trust(_value_of(word))
        return super().parse_args(words, *others, **options)

    def parse_path(self, path: Any, *others: Any, **options: Any) -> Any:
        """As LightningCLI's; a config is joined with the one that it extends, and moved class paths become today's."""
        text = config_text(Path(path))
        trust(parse_yaml(text, str(path)))
        if text == located(Path(path)).read_text(encoding="utf-8"):
            return super().parse_path(path, *others, **options)
        return self.parse_string(text, str(path), *others, **options)

    def parse_string(self, content: str, path: Any = "", *others: Any, **options: Any) -> Any:
        """As LightningCLI's, for the text of a config, which `parse_path` reads with it, too.

        Where it sets a part of a dict that an earlier config or option has set, the rest of the dict stays.
        """
        if self.earlier is not None:
            own = parse_yaml(content, str(path) or "--config")
            whole = with_rest_of_dicts(own, self.earlier) if isinstance(own, dict) else own
            content = content if whole == own else str(yaml.safe_dump(whole, sort_keys=False))
        return super().parse_string(content, path, *others, **options)

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Raise InputError instead of printing pages of usage. Inner parsers still report to the outer one."""
        if not self.exit_on_error:
            return super().error(message, ex)
        raise InputError(f"{readable(message)}{self._nearest_option(message)}") from None

    def _nearest_option(self, message: str) -> str:
        unknown = re.search(r"(?:[Uu]nrecognized arguments: --|Option ')([\w.]+)", message)
        options = [action.dest for action in self._actions]
        close = difflib.get_close_matches(unknown[1], options, n=1) if unknown else []
        return f"; did you mean {close[0]!r}?" if close else ""


def with_nulls(words: Sequence[str]) -> list[str]:
    """The words; a null below a record or dict of a class is written as a config.

    That is, `--config={model: {init_args: {objective: {huber_scale: null}}}}`. jsonargparse (4.53) takes the null of
    `--model.init_args.objective.huber_scale=null` for the text "None". Of the Trainer, where the option may be of the
    last entry of a list, it is `--trainer.callbacks.init_args.RECORD={NAME: null}`.
    """
    found: list[str] = []
    for word in words:
        option, _, value = word.partition("=")
        if value in ("null", "~") and BELOW_RECORD.fullmatch(option):
            word = _as_config(option)
        elif word in ("null", "~") and found and BELOW_RECORD.fullmatch(found[-1]):
            word = _as_config(found.pop())
        found.append(word)
    return found


def _as_config(option: str) -> str:
    first, *names = option.removeprefix("--").split(".")
    if first == "trainer":
        return f"--{'.'.join([first, *names[:-1]])}={{{names[-1]}: null}}"
    return "--config=" + "".join(f"{{{name}: " for name in (first, *names)) + "null" + "}" * (len(names) + 1)


BELOW_RECORD = re.compile(r"--(?:\w+\.)*init_args\.(?:\w+\.)*(?!init_args\.|dict_kwargs\.)\w+\.(?!class_path$)\w+")
"""An option of a record or dict that is an argument of a class: not of the class itself (`init_args.NAME`)."""


def _value_of(word: str) -> Any:
    """What a word of the command line says: the value behind its =, or in the file of settings that it names."""
    text = word.partition("=")[2] or word
    try:
        if Path(text).suffix in (".yaml", ".yml") and Path(text).is_file():
            text = read_bytes(text, MAX_CONFIG).decode("utf-8")
        return parse_yaml(text, "the value")
    except (OSError, ValueError, yaml.YAMLError):  # The command that reads it reports the fault.
        return None


NO_CLASS = r"Expected a path but (\S+) either not accessible or invalid:? (?:- )?Expected a dot import path string: \1"
"""What jsonargparse says of a class that it does not find."""


def readable(message: str) -> str:
    """jsonargparse's tree of complaints in one line: which setting, and what is wrong with it."""
    noise = r"Does not validate against any|Subtypes: |Errors:$|- Expected a <class 'NoneType'>|Given value( type)?: "
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    lines = [line for line in lines if line and not re.match(noise, line.removeprefix("- ")) and "NoneType" not in line]
    told = [line for line in lines if not re.fullmatch(r"(- )?Expected a <class '[\w.]+'>", line)]
    given = ""
    if len(told) > 1 and not told[-1].endswith(":"):
        lines = told
    elif value := re.search(r"Given value: (?!Namespace|NestedArg)(.*)", message):
        given = f", found {value[1][:80]}"  # The first one is of the innermost setting.
    text = " ".join(re.sub(r"^Parser key \"([^\"]+)\":", r"\1:", line) for line in lines)
    short = re.sub(r":? Problem with given class_path '([^']+)':", r" (\1):", text)
    short = re.sub(NO_CLASS, r"no class \1; name it by its path, as in package.module.Class", short)
    short = re.sub(r"Type .+? expects a function or a callable class: |\.? Got value: Namespace\(.*", "", short)
    return short.rstrip(".") + given + nearest_argument(text)


def nearest_argument(text: str) -> str:
    """'; did you mean ...?' for a misspelt argument of a class that the text names."""
    found = re.findall(r"class_path '([\w.]+)'", text), re.findall(r"Option '(\w+)' is not accepted", text)
    if not all(found):
        return ""
    module, _, name = found[0][-1].rpartition(".")
    target = getattr(sys.modules.get(module), name, None)  # What the message names may be a stranger's: not imported.
    names = inspect.signature(target).parameters if target else {}
    close = difflib.get_close_matches(found[1][-1], names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
