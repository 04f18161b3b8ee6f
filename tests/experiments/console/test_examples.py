"""Help pages: every command has examples that its parser takes, and long lists of options stand in groups."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from experiments.cli import COMMANDS, main
from experiments.console.arguments import parsed
from experiments.console.configs import LIGHTNING
from experiments.console.examples import EXAMPLES, SECTIONS, examples_text, section_of
from experiments.console.lightning_help import DATA, STAGES

DATA_COMMANDS = {"data export", "data check", "data download-emoji"}


def test_every_command_has_an_example():
    assert set(EXAMPLES) == (set(COMMANDS) - {"data"}) | DATA_COMMANDS


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_an_example_is_what_the_parser_takes(line):
    program, command, *words = shlex.split(line)
    assert program == "unclip"
    if command in LIGHTNING:
        assert "--config" in words
        return
    room = COMMANDS[command][0].partition(".")[0]
    parser = importlib.import_module(f"experiments.{room}.options").PARSERS[command]()
    assert parsed(parser, words).words == words


def help_of(words, capsys):
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    return capsys.readouterr().out


def test_long_lists_of_options_stand_in_groups(capsys):
    page = help_of(["sample"], capsys)
    page = page[page.index("\narguments:") :]
    places = [
        page.index(f"\n{title}:") for title in ("arguments", "options", "files and folders", "sampling", "machine")
    ]
    assert places == sorted(places)
    assert (
        page.index("\nsampling:") < page.index("--decoder-steps") < page.index("\nmachine:") < page.index("--devices")
    )
    assert page.rstrip().endswith(EXAMPLES["sample"][-1])
    short = help_of(["rank"], capsys)
    assert "\nmachine:" not in short and "\noptions:" in short and EXAMPLES["rank"][0] in short
    assert EXAMPLES["data check"][0] in help_of(["data", "check"], capsys)


def test_all_options_are_on_the_page(capsys):
    """Grouping loses none."""
    for command in ("sample", "evaluate", "embed"):
        room = COMMANDS[command][0].partition(".")[0]
        parser = importlib.import_module(f"experiments.{room}.options").PARSERS[command]()
        page = help_of([command], capsys)
        shown = page[page.index("\noptions:") :]
        assert all(f"  {action.option_strings[0]}" in shown for action in parser._actions if action.option_strings)


def test_no_option_stands_in_two_groups():
    options = [option for group in SECTIONS.values() for option in group]
    assert len(options) == len(set(options))
    assert section_of("--device") == "machine" and section_of("--nothing") == "options"
    assert examples_text("unclip nothing") == ""


def test_the_help_of_fit_names_stages_and_data(capsys):
    assert main(["fit", "--help"]) == 0
    page = capsys.readouterr().out
    for name in (*STAGES, *DATA):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute) and name in page
    assert EXAMPLES["fit"][0] in page
    assert all(option in page for option in ("--init_from", "--strict", "--overwrite", "--checkpoint."))


def test_the_help_of_fit_names_every_class_that_a_yaml_trains():
    """The `class_path` directly below `model:` and `data:`; those of networks and optimisers stand deeper."""
    named = set()
    for path in (Path(__file__).parents[3] / "experiments").rglob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        named |= set(re.findall(r"^(?:model|data):\n  class_path: ([\w.]+)", text, re.MULTILINE))
    assert len(named) > 10 and named <= {*STAGES, *DATA}
