"""`unclip`: what it answers before anything heavy is imported, and how it says what is wrong."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from eval.errors import InputError as EvalInputError
from experiments import cli
from experiments.console import errors
from experiments.console.configs import config_files
from modules.errors import InputError


def test_help_imports_nothing_heavy_and_names_every_command():
    code = (
        "import sys; from experiments.cli import main; code = main(['--help']); "
        "heavy = {'torch', 'lightning', 'numpy', 'yaml', 'jsonargparse'} & set(sys.modules); "
        "assert not heavy, heavy; sys.exit(code)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    listed = [line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")]
    assert listed == list(cli.COMMANDS)


def test_the_runner_and_progress_need_no_torch():
    code = (
        "import sys, experiments.suites.reproduce; sys.exit(bool({'torch', 'lightning', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_no_command_shows_the_help_and_fails(capsys):
    assert cli.main([]) == 2
    assert "usage: unclip COMMAND" in capsys.readouterr().out


def test_unknown_command_is_named_with_suggestions(capsys):
    assert cli.main(["sampel"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("unclip: unknown command 'sampel'; did you mean 'sample'?")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        (None, ["--config", "absent.yaml"], "'absent.yaml' does not exist; the suite's YAMLs are in experiments/"),
        ("a: 1", ["--config", "giveN.yaml"], "'giveN.yaml' does not exist; did you mean 'given.yaml'?"),
        ("a: [1", ["--config=given.yaml"], "'given.yaml' is not valid YAML: while parsing a flow sequence"),
        ("", ["-c", "given.yaml"], "'given.yaml' holds no settings"),
        ("- 1", ["--config", "given.yaml"], "'given.yaml' holds no settings"),
        (b"a: \xff", ["--config", "given.yaml"], "'given.yaml' cannot be read: not UTF-8 text"),
        (None, ["--config", "."], "'.' is a folder"),
    ],
)
def test_a_config_that_cannot_be_used_is_named_before_torch_is_imported(
    tmp_path, monkeypatch, capsys, content, words, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.importlib, "import_module", lambda name: pytest.fail(f"{name} was imported"))
    if content is not None:
        (tmp_path / "given.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert cli.main(["fit", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("unclip: config ")
    assert message in error
    assert error.count("\n") == 1


def failing(error: BaseException):
    def run() -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("caption file 'a.txt'\nis empty"), "caption file 'a.txt' is empty"),
        (EvalInputError("folder 'x' has no manifest"), "folder 'x' has no manifest"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/a"),
            "disk full while writing 'runs/a': free some space",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "disk full while writing: free some space"),
        (OSError(errno.EDQUOT, "Quota exceeded", "runs/a"), "disk full while writing 'runs/a'"),
        (PermissionError(errno.EACCES, "Permission denied", "runs/a"), "no permission for 'runs/a': Permission denied"),
        (OSError(errno.EROFS, "Read-only file system", "/mnt/a"), "no permission for '/mnt/a': Read-only file system"),
        (FileNotFoundError(errno.ENOENT, "No such file", "b.ckpt"), "no such file or folder: 'b.ckpt'"),
        (FileNotFoundError("b.ckpt is not there"), "no such file or folder: b.ckpt is not there"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "c/d"), "Not a directory: 'c/d'"),
    ],
)
def test_what_a_person_can_put_right_is_one_line(capsys, monkeypatch, error, line):
    monkeypatch.delenv("UNCLIP_DEBUG", raising=False)
    assert errors.guarded(failing(error)) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"unclip: {line}")
    assert printed.count("\n") == 1


def test_errors_in_the_code_keep_their_traceback():
    with pytest.raises(ValueError, match="negative"):
        errors.guarded(failing(ValueError("negative")))


def test_an_error_that_is_its_own_cause_comes_to_an_end():
    """torch raises the error of a killed loader from itself."""
    error = ValueError("a")
    first, second = OSError(errno.EIO, "b"), RuntimeError("c")
    first.__cause__, second.__cause__, error.__cause__ = second, second, error
    assert list(errors.causes(first)) == [first, second] and errors.input_error_line(first) == "[Errno 5] b"
    assert errors.input_error_line(error) is None


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("UNCLIP_DEBUG", "1")
    with pytest.raises(InputError):
        errors.guarded(failing(InputError("x")))


def test_interrupt_is_one_line_and_130(capsys):
    assert errors.guarded(failing(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err.startswith("unclip: interrupted")


def test_a_reader_that_leaves_is_no_error():
    work = "lambda: [print('y' * 99) for _ in range(99999)] and 0"
    code = f"import sys; from experiments.console.errors import guarded; sys.exit(guarded({work}))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


def test_only_training_reads_several_configs(capsys):
    one, two = "experiments/shapes/data.yaml", "experiments/quickstart/data.yaml"
    assert cli.main(["probe", "--config", one, f"--config={two}", "--embeddings", "nowhere"]) == 2
    assert f"probe reads one --config, not {one} and {two}: let one extend" in capsys.readouterr().err


def test_dash_c_is_a_config_only_for_lightning():
    assert config_files(["fit", "-c", "a.yaml", "--config=b.yaml", "-c=d.yaml"]) == ["a.yaml", "b.yaml", "d.yaml"]
    assert config_files(["sample", "-c", "a circle", "--config", "b.yaml"]) == ["b.yaml"]
