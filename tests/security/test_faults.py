"""What goes wrong on the way is one line: names for the terminal, folders that go, disks that fill, locks that fail."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.faults import Fault, FaultLog, FaultPolicy
from eval.files import replacing_folder
from experiments.cli import main
from experiments.console.errors import complain
from experiments.publishing import export as publishing
from experiments.storage import holding as locks
from experiments.storage.holding import holding
from experiments.training.stage_folder import RunFolder
from modules.errors import InputError
from modules.untrusted.reading import printable

ESCAPE = "\x1b]0;OWNED\x07\x9b31m\r\u202e.png"


def test_nothing_that_steers_a_terminal_reaches_it(capsys, caplog):
    log = FaultLog(FaultPolicy(max_skipped=1), "train")
    with caplog.at_level(logging.WARNING):
        log.add(Fault(f"d/{ESCAPE}", "no caption", ESCAPE))
    complain(f"cannot read {ESCAPE}")
    for text in (caplog.text.rstrip("\n"), capsys.readouterr().err.rstrip("\n")):
        assert r"\x1b]0;OWNED\x07\x9b31m\r\u202e.png" in text
        assert all(c.isprintable() for c in text.replace("\n", ""))
    assert printable("a small red circle, é 红") == "a small red circle, é 红"


def test_nor_do_names_in_data(tmp_path, capsys, monkeypatch):
    from PIL import Image

    for k in range(4):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{k}.png")
        (tmp_path / f"{k}.txt").write_text("a red circle")
    Image.new("RGB", (8, 8)).save(tmp_path / f"nocap{ESCAPE}")
    page = tmp_path / "page.html"
    main(["data", "check", str(tmp_path), "--image-size", "8", "--out", str(page)])
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err and "\x9b" not in said.out + said.err
    assert "nocap" in said.out + said.err + page.read_text()


def test_a_run_folder_that_goes_is_noticed(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.prepare({"a": 1}, start_again=True)
    run.check_still_there()
    shutil.move(tmp_path / "run", tmp_path / "moved")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match="was removed or renamed while it was trained into"):
        run.check_still_there()


def test_a_lock_that_goes_is_noticed(tmp_path):
    with (
        pytest.raises(InputError, match="run x was removed or renamed"),
        holding(tmp_path / "r" / ".lock", "run x", "wait"),
    ):
        shutil.rmtree(tmp_path / "r")
    with (
        pytest.raises(InputError, match="run x was removed or renamed"),
        holding(tmp_path / "r" / ".lock", "run x", "wait"),
    ):
        (tmp_path / "r").rename(tmp_path / "s")
    with pytest.raises(KeyError), holding(tmp_path / "s" / ".lock", "run x", "wait"):
        shutil.rmtree(tmp_path / "s")
        raise KeyError  # What went wrong first is told.


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_systems_without_locks_are_worked_on(tmp_path, monkeypatch, capsys, number):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    locks._warn_without_locks.cache_clear()
    with holding(tmp_path / ".lock", "run x", "wait"), holding(tmp_path / ".other", "run y", "wait"):
        pass
    assert capsys.readouterr().err.count("the file system has no locks") == 1


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_pictures_are_drawn_on_file_systems_without_locks(tmp_path, monkeypatch, capsys, number):
    from eval.samples import shards

    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    shards._warn_without_locks.cache_clear()
    with shards.Shards(tmp_path / "a").started({"a": 1}) as done, shards.Shards(tmp_path / "b").started({}):
        assert done == 0
    assert capsys.readouterr().err.count("the file system has no locks") == (number != errno.ENOSYS)  # filelock's way.


def exportable(sent):
    for stage in ("decoder", "glide"):
        (sent / stage / "config.yaml").write_text("model: {class_path: modules.decoder.Decoder, init_args: {}}\n")
    return sent


def test_a_full_disk_is_one_line(sent, monkeypatch, capsys):
    def full(*arguments, **more):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.safetensors")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    assert main(["export", str(exportable(sent)), "--out", "out", "--stages", "decoder"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("unclip: cannot write") and "No space left" in error and error.count("\n") == 1
    assert list(Path.cwd().iterdir()) == []


def test_two_exports_at_once_are_both_whole_or_refused(sent, monkeypatch, capsys):
    run = exportable(sent)
    whole, made = publishing.overview, []

    def meanwhile(*arguments):
        if not made:
            made.append(True)
            assert main(["export", str(run), "--out", "out", "--stages", "glide"]) == 0
        return whole(*arguments)

    monkeypatch.setattr(publishing, "overview", meanwhile)
    assert main(["export", str(run), "--out", "out", "--stages", "decoder"]) == 2
    assert "has been written by another command meanwhile" in capsys.readouterr().err
    assert sorted(path.name for path in Path("out").iterdir()) == ["README.md", "glide"]
    assert [path.name for path in Path.cwd().iterdir()] == ["out"]


def test_a_cards_command_exists(sent, tmp_path, capsys):
    assert main(["export", str(exportable(sent)), "--out", "out", "--stages", "decoder"]) == 0
    line = next(line for line in Path("out/README.md").read_text().splitlines() if "On a command line" in line)
    words = line.partition("`unclip ")[2].partition("`")[0].replace('"a small red circle"', "A").split()
    words = ["a small red circle" if word == "A" else word for word in words]
    capsys.readouterr()
    assert main([*words, "--condition", "caption_only"]) == 2  # The release has no CLIP: only that is missing.
    assert "unrecognized" not in capsys.readouterr().err


def test_a_strangers_card_is_one_line(sent, capsys):
    for text in ("data: 3\n", "trainer: [1]\nmodel: x\n", "data: {class_path: 3, init_args: 4}\n", "trainer: x\n"):
        (sent / "decoder" / "config.yaml").write_text(text)
        code = main(["export", str(sent), "--out", f"out{len(text)}", "--stages", "decoder"])
        error = capsys.readouterr().err
        assert code == 0 or (code == 2 and error.count("\n") == 1), text


def test_the_litter_of_killed_commands_goes(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from eval.files import replacing_folder\n"
        "with replacing_folder(Path(sys.argv[1])) as partial:\n"
        "    (partial / 'a').write_text('x'); os._exit(9)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run(command, env=environment, check=False).returncode == 9
    (left,) = tmp_path.iterdir()
    with replacing_folder(tmp_path / "out") as partial:
        assert not left.exists()
        own = tmp_path / partial.name.replace(partial.name[-8:], "00000000")
        own.mkdir()
        with replacing_folder(tmp_path / "out"):
            assert own.exists()  # Its process runs.
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["out", own.name])


def test_a_run_that_was_moved_is_the_same_one(tmp_path):
    def config(place):
        data = {"init_args": {"folder": f"{place}/embeddings", "batch_size": 4}}
        return {"trainer": {"default_root_dir": f"{place}/linear_prior"}, "data": data}

    run = RunFolder(tmp_path / "new" / "linear_prior")
    run.prepare(config("runs/old"), start_again=True)
    resumed = tmp_path / "new" / "linear_prior" / "checkpoints" / "last.ckpt"
    resumed.parent.mkdir()
    resumed.write_bytes(b"x")
    run.check(config(str(tmp_path / "new")), resumed, overwrite=False)
    other = config(str(tmp_path / "new"))
    other["data"]["init_args"]["folder"] = "elsewhere/embeddings"
    with pytest.raises(InputError, match="of another config"):
        run.check(other, resumed, overwrite=False)


def test_a_stages_name_does_not_steer_the_terminal(sent, capsys):
    (exportable(sent) / "decoder").rename(sent / "dec\x1b]0;OWNED\x07")
    assert main(["export", str(sent), "--out", "out"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_stages_name_is_no_code_on_its_card(sent, capsys):
    import ast

    name = 'a"); import os; os.system("touch PWNED")  #'
    (exportable(sent) / "decoder").rename(sent / name)
    (sent / "clip").rename(sent / f"clip{name}")
    assert main(["export", str(sent), "--out", 'o"ut']) == 0
    for card in (Path('o"ut', name, "README.md"), Path('o"ut', f"clip{name}", "README.md"), Path('o"ut', "README.md")):
        code = card.read_text().partition("```python\n")[2].partition("```")[0]
        calls = [node.func for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
        assert calls and "os" not in {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    assert "--run 'o\"ut' --out" in Path('o"ut', "README.md").read_text()


@pytest.mark.parametrize("theirs", [{"trainer": 3}, {"trainer": [1], "model": "x"}, {"data": None, "x": {"y": [{}]}}])
def test_a_runs_config_that_is_none_is_another_config(tmp_path, theirs):
    import yaml

    run = RunFolder(tmp_path / "run")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    resumed = tmp_path / "run" / "checkpoints" / "last.ckpt"
    resumed.write_bytes(b"x")
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(theirs))
    with pytest.raises(InputError, match="holds a run of another config"):
        run.check({"trainer": {"default_root_dir": "run", "max_steps": 1}}, resumed, overwrite=False)
