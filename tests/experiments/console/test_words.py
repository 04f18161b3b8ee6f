"""Numbers, texts, abbreviations and terminals of the command line."""

import os
import subprocess
import sys

import pytest

from experiments.cli import COMMANDS, GROUPS, main
from experiments.console.arguments import check_text
from experiments.console.parser import Parser, readable, with_nulls
from modules.errors import InputError

SAMPLE = ["sample", "a", "--out", "o"]


def refused(words, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.fixture(autouse=True)
def empty(monkeypatch, tmp_path):
    monkeypatch.delenv("UNCLIP_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400", "NaN"])
@pytest.mark.parametrize(
    "words",
    [
        [*SAMPLE, "--decoder-guidance"],
        [*SAMPLE, "--prior-guidance"],
        ["variations", "--out", "o", "--guidance"],
        ["variations", "--out", "o", "--eta"],
        ["text-diff", "--out", "o", "--theta"],
        ["guidance-grid", "--out", "o", "--scales"],
        ["plan", "a.yaml", "--memory"],
    ],
)
def test_numbers_are_finite(words, value, capsys):
    *words, flag = words
    assert f"argument {flag}: must be a finite number, got '{value}'" in refused([*words, f"{flag}={value}"], capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*SAMPLE, "--seed", "9" * 30], "argument --seed: must be below 2^63"),
        ([*SAMPLE, "--size", "0"], "argument --size: must be 1 or more"),
        (["variations", "--out", "o", "-n", "0"], "argument -n: must be 1 or more"),
        (["typographic", "--out", "o", "--variations", "-1"], "argument --variations: must be 1 or more"),
        (["data", "check", "x", "--image-size", "0"], "argument --image-size: must be 1 or more"),
        (["data", "check", "x", "--image-size", "x"], "invalid positive value: 'x'"),
    ],
)
def test_whole_numbers_are_in_range(words, said, capsys):
    assert said in refused(words, capsys)


def test_a_caption_in_utf_8_that_the_locale_takes_for_another_encoding(monkeypatch):
    # As under LC_ALL=C without UTF-8 mode: every byte of the u with dots is a lone surrogate.
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    with pytest.raises(InputError, match=r"negative: '.udcc3.udcbc' is UTF-8, but .* ascii: set PYTHONUTF8=1"):
        check_text("\udcc3\udcbc", "negative")
    with pytest.raises(InputError, match="is not UTF-8; write it in UTF-8"):
        check_text("caf\udce9", "negative")


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "caf\udce9 circle", "--out", "o"],
        ["inpaint", "--out", "o", "--caption", "\udce9"],
        ["interpolate", "--out", "o", "--captions", "a", "b\udce9"],
        ["text-diff", "--out", "o", "--target", "\udce9"],
        ["conditioning-grid", "a", "\udce9", "--out", "o"],
    ],
)
def test_captions_are_utf_8_before_any_work(words, capsys):
    assert r"\udce9" in (said := refused(words, capsys))
    assert "is not UTF-8" in said


def test_options_are_not_abbreviated(capsys):
    assert "unrecognized arguments: --decoder-guid" in refused([*SAMPLE, "--decoder-guid=2"], capsys)
    assert "unrecognized arguments: --lim" in refused(["data", "check", "x", "--lim=2"], capsys)
    parser = Parser(prog="unclip fit")
    parser.add_argument("--trainer.max_steps", type=int)
    with pytest.raises(InputError, match=r"--trainer\.max_step.*did you mean 'trainer\.max_steps'"):
        parser.parse_args(["--trainer.max_step=3"])


def test_the_help_has_the_groups_of_the_folders():
    folders = {
        group: {module.partition(".")[0] for module, _ in commands.values()} for group, commands in GROUPS.items()
    }
    assert folders == {group: {group} for group in GROUPS}
    assert len(COMMANDS) == sum(map(len, GROUPS.values()))


def run(words, encoding="utf-8", **options):
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, timeout=60, **options)


def test_an_ascii_terminal_shows_what_it_can():
    code = "from experiments.console.errors import show_any_text; show_any_text(); print('out\\u2193\\xfc')"
    done = run(["-c", code], "ascii")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"out??\n", b"")


@pytest.mark.parametrize("flags", [[], ["-u"]])
@pytest.mark.parametrize("words", [["help"], ["--version"], ["sample", "--help"]])
def test_a_reader_that_has_left_ends_the_help_quietly(flags, words):
    end, start = os.pipe()
    os.close(end)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, *flags, "-m", "experiments.cli", *words],
        env=environment,
        stdout=start,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    os.close(start)
    assert done.stderr == b""
    assert done.returncode in (0, 141)


NO_UNION = """Parser key "trainer.logger":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'lightning.pytorch.loggers.logger.Logger'>, <class 'bool'>, <class 'NoneType'>]
  Errors:
    - {}
    - Expected a <class 'collections.abc.Iterable'>
    - Expected a <class 'bool'>
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: Nonsense"""


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (
            "Expected a path but Nonsense either not accessible or invalid\n"
            "    - Expected a dot import path string: Nonsense",
            "trainer.logger: no class Nonsense; name it by its path, as in package.module.Class",
        ),
        (
            "Problem with given class_path 'lightning.pytorch.loggers.CSVLogger':\n        save_dir is required",
            "trainer.logger (lightning.pytorch.loggers.CSVLogger): save_dir is required",
        ),
        (
            "Expected a <class 'int'>",
            "trainer.logger: Expected a <class 'int'> Expected a <class 'collections.abc.Iterable'>",
        ),
    ],
)
def test_of_many_types_the_one_that_was_meant_is_told(told, line):
    assert readable(NO_UNION.format(told)).startswith(line)


NESTED = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'lightning.pytorch.core.module.LightningModule'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'modules.upsampler.Upsampler':
        Parser key "objective.huber_scale":
          Does not validate against any of the Union subtypes
          Subtypes: [<class 'float'>, <class 'NoneType'>]
          Errors:
            - Expected a <class 'float'>
            - Expected a <class 'NoneType'>
          Given value type: <class 'str'>
          Given value: abc
    - Expected a <class 'NoneType'>
  Given value type: <class 'jsonargparse._util.NestedArg'>
  Given value: NestedArg(key='init_args.objective.huber_scale', val='abc')"""


def test_of_a_nested_setting_the_type_and_the_value_are_told():
    told = "model (modules.upsampler.Upsampler): objective.huber_scale: Expected a <class 'float'>, found abc"
    assert readable(NESTED) == told


@pytest.mark.parametrize("null", ["null", "~"])
def test_a_null_below_a_record_is_a_config_and_others_stay(null):
    option = "--model.init_args.objective.huber_scale"
    config = "--config={model: {init_args: {objective: {huber_scale: null}}}}"
    assert with_nulls([f"{option}={null}"]) == [config]
    assert with_nulls(["--a", option, null, "--b"]) == ["--a", config, "--b"]
    callback = "--trainer.callbacks.init_args.every"  # Of the last entry of a list, which a config would replace.
    assert with_nulls([f"{callback}.steps={null}"]) == [f"{callback}={{steps: null}}"]
    stay = [f"--model.init_args.network.init_args.embedding_dim={null}", f"--trainer.logger={null}", null, "--x=3"]
    stay += ["--model.init_args.network.class_path=null", "--model.init_args.network.dict_kwargs.a=null"]
    stay += ["--model.init_args.objective.gamma=3", "--model.init_args.embedding", null]
    assert with_nulls(stay) == stay


def test_null_on_the_command_line_takes_a_nested_setting_away():
    """Through LightningCLI's own parser, as `unclip fit` has it; other settings of the record stay."""
    from experiments.training.lightning_cli import CLI

    words, record = ["--config", "experiments/quickstart/upsampler.yaml"], "--model.init_args.objective"
    for more, gamma in (
        ([], 5),
        ([f"{record}.huber_scale=null"], 5),
        ([f"{record}.gamma=7", f"{record}.huber_scale", "~"], 7),
    ):
        objective = CLI("fit", [*words, *more]).dump()["model"]["init_args"]["objective"]
        assert objective["huber_scale"] == (None if more else 0.1)
        assert (objective["weighting"], objective["parameterization"]) == ("min_snr_plus_one", "x0")
        assert objective["gamma"] == gamma
