"""What is wrong with the words of a command is one line, for every command."""

import pytest

from experiments.cli import COMMANDS, main
from experiments.console.arguments import CommandParser
from experiments.console.configs import LIGHTNING
from modules.errors import InputError

OWN = [name for name in COMMANDS if name not in LIGHTNING]


@pytest.mark.parametrize("command", OWN)
def test_an_option_that_there_is_not(command, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("UNCLIP_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)
    assert main([command, "--no-such-option=1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"unclip: {command}"), error
    assert error.count("\n") == 1
    wanted = "name the YAML" if command == "plan" else "--help` lists the options"  # plan asks for its YAML first
    assert wanted in error


def test_the_line_names_the_command_and_the_option():
    parser = CommandParser(prog="unclip draw")
    parser.add_argument("-n", type=int)
    with pytest.raises(InputError) as error:
        parser.parse_args(["-n", "many"])
    line = "draw: argument -n: invalid int value: 'many'; `unclip draw --help` lists the options"
    assert str(error.value) == line


def test_parsers_of_subcommands_do_the_same():
    parser = CommandParser(prog="unclip data")
    parser.add_subparsers().add_parser("export").add_argument("--out", required=True)
    with pytest.raises(InputError, match=r"^data export: .*--out; `unclip data export --help` lists the options$"):
        parser.parse_args(["export"])
