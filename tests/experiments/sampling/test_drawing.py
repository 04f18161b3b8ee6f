"""Sampling as a predict run: killed, gone on with and spread over processes, it makes the same pictures to the bit."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch

from benchmarks.trials.forked import Forked
from eval.samples.folder import SampleFolder
from eval.samples.shards import Shards
from experiments.cli import main
from experiments.suites.suite import Stage
from modules.pipeline import UnCLIP

ROOT = Path(__file__).parents[3]
CAPTIONS = ["a small red circle", "a large blue square", "a green triangle above a red square", "a blue circle"]
QUICK = ["--decoder-steps", "1", "--no-upsample", "--condition", "text_embedding", "-n", "3", "--batch-size", "2"]
PICTURES = 12

# As `unclip`, but rank 1 is killed after as many of its batches as CRASH says. Lightning starts the script once more.
SCRIPT = """
import os, signal, sys
from experiments.cli import main
from experiments.sampling import distributed

write = distributed.WriteShards.on_predict_batch_end

def crash(self, trainer, module, outputs, batch, batch_idx, *rest):
    write(self, trainer, module, outputs, batch, batch_idx, *rest)
    if trainer.global_rank == 1 and batch_idx + 1 == int(os.environ.get("CRASH", 0)):
        os.kill(os.getpid(), signal.SIGKILL)

distributed.WriteShards.on_predict_batch_end = crash
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def words(stored_run, tmp_path, monkeypatch):
    """The command's words, without --out."""
    monkeypatch.delenv("UNCLIP_PROGRESS", raising=False)
    monkeypatch.delenv("UNCLIP_DEBUG", raising=False)
    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # As in the processes: sums over other numbers of threads may round otherwise.
    yield ["sample", "--run", str(stored_run), "--captions", str(tmp_path / "captions.txt"), *QUICK]
    torch.set_num_threads(threads)


@pytest.fixture
def whole(words, tmp_path):
    """What a run that nothing happens to makes."""
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    return contents(tmp_path / "whole")


@pytest.fixture
def drawn(monkeypatch):
    """Counts the pictures that are drawn; `drawn["then"]` is called before the third batch."""
    found = {"n": 0, "then": lambda: None}
    generate = UnCLIP.generate

    def counting(self, captions, *rest):
        if found["n"] == 4:
            found["then"]()
        found["n"] += len(captions)
        return generate(self, captions, *rest)

    monkeypatch.setattr(UnCLIP, "generate", counting)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """All files; the manifest without the commit, which may change while tests run."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    return found | {"manifest.jsonl": re.sub(rb'"commit": [^,]*, ', b"", found["manifest.jsonl"])}


def stop(drawn, words, out, number=signal.SIGTERM) -> None:
    """A run that is stopped before its third batch of two."""
    drawn |= {"n": 0, "then": lambda: os.kill(os.getpid(), number)}
    if number == signal.SIGTERM:
        with pytest.raises(SystemExit, match="75"):
            main([*words, "--out", str(out)])
    else:
        assert main([*words, "--out", str(out)]) == 130
    assert drawn["n"] == 4 and set(Shards(out).lines()) == {0, 1, 2, 3}
    drawn |= {"n": 0, "then": lambda: None}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_same_command_goes_on(words, whole, drawn, tmp_path, capsys, number):
    before = signal.getsignal(signal.SIGTERM)
    stop(drawn, words, tmp_path / "a", number)
    assert "4 of 12 pictures are finished; the same command with --resume goes on" in capsys.readouterr().err
    assert not (tmp_path / "a").exists() and signal.getsignal(signal.SIGTERM) == before
    inode = (tmp_path / ".a.sampling" / "00003.png").stat().st_ino
    assert main([*words, "--out", str(tmp_path / "a")]) == 0
    assert "going on, 4 of 12 pictures are there" in capsys.readouterr().out
    assert drawn["n"] == PICTURES - 4
    assert (tmp_path / "a" / "00003.png").stat().st_ino == inode
    assert contents(tmp_path / "a") == whole
    assert not (tmp_path / ".a.sampling").exists()


def test_overwrite_starts_afresh_and_resume_goes_on(words, whole, drawn, tmp_path):
    out = tmp_path / "a"
    assert main([*words, "--out", str(out), "--seed", "9"]) == 0
    old = contents(out)
    for more, expected in ((["--resume"], PICTURES - 4), ([], PICTURES)):
        stop(drawn, [*words, "--overwrite"], out)
        assert contents(out) == old
        assert main([*words, "--overwrite", *more, "--out", str(out)]) == 0
        assert drawn["n"] == expected and contents(out) == whole
        old = whole


def test_a_suite_goes_on_with_an_interrupted_sample_stage(words, whole, drawn, tmp_path):
    stage = Stage("s", f"unclip {' '.join(words)} --out {tmp_path / 'a'} --overwrite")
    stop(drawn, stage.words(tmp_path)[1:-3], tmp_path / "a")
    assert main([*stage.words(tmp_path), *stage.resume_words()][1:]) == 0
    assert drawn["n"] == PICTURES - 4 and contents(tmp_path / "a") == whole


def test_other_settings_are_refused(words, drawn, tmp_path, capsys, tiny, stored_run):
    stop(drawn, words, tmp_path / "a")
    other = {
        "seed": ["--seed", "1"],
        "guidance": ["--decoder-guidance", "3"],
        "pictures": ["-n", "4"],
        "captions": ["--captions", str(tmp_path / "others.txt")],
        "condition": ["--condition", "caption_only"],
    }
    (tmp_path / "others.txt").write_text("\n".join(reversed(CAPTIONS)))
    for name, more in other.items():
        assert main([*words, *more, "--out", str(tmp_path / "a")]) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert "a was left unfinished, with 4 pictures, by a command with another" in line and name in line, name
    assert drawn["n"] == 0 and len(Shards(tmp_path / "a").lines()) == 4


def test_a_batch_size_of_another_run_draws_what_is_missing_only(words, whole, drawn, tmp_path):
    stop(drawn, words, tmp_path / "a")
    assert main([*words, "--batch-size", "5", "--out", str(tmp_path / "a")]) == 0
    assert drawn["n"] == PICTURES - 4
    assert {f"{k:05d}.png": whole[f"{k:05d}.png"] for k in range(4)}.items() <= contents(tmp_path / "a").items()
    assert len(SampleFolder.open(tmp_path / "a")) == PICTURES


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--devices", "0"], "--devices must be 1 or more, got 0"),
        (["--strategy", "magic"], "--devices 1 --strategy magic: "),
    ],
)
def test_devices_that_cannot_be(words, tmp_path, capsys, more, message):
    assert main([*words, *more, "--out", str(tmp_path / "a")]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error and not list(tmp_path.glob("*a*.sampling"))


@pytest.mark.timeout(1200)  # On a machine that has other things to do.
def test_two_processes_one_of_which_dies(words, whole, tmp_path, monkeypatch):
    """Nothing that either has finished is lost, and two processes go on to what one process makes, to the bit."""
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "a"

    def run(*more: str, crash: int) -> Forked:
        """Its second process is one that Lightning starts."""
        given, said = [*words, "--devices", "2", *more, "--out", str(out)], tmp_path / f"said{crash}.txt"
        env, errors = {**os.environ, "CRASH": str(crash)}, tmp_path / f"errors{crash}.txt"
        process = Forked(given, tmp_path, env, said, errors, tmp_path / "script.py")
        process.wait(580)
        return process

    assert run(crash=1).returncode != 0
    assert not out.exists()
    lines = Shards(out).lines()
    assert {2, 3} <= set(lines) and len(lines) < PICTURES  # the second batch was rank 1's first
    shards = {path.name[:7]: path.read_text() for path in (tmp_path / ".a.sampling").glob("shard-*.jsonl")}
    assert [json.loads(line)["file"] for line in shards["shard-1"].splitlines()] == ["00002.png", "00003.png"]
    inodes = {k: (tmp_path / ".a.sampling" / f"{k:05d}.png").stat().st_ino for k in lines}
    done = run("--resume", crash=0)
    said, errors = done.communicate()
    assert done.returncode == 0, errors
    assert f"going on, {len(lines)} of 12 pictures" in said
    assert said.count("12 pictures of 4 captions") == 1  # said once, not by every process
    assert contents(out) == whole
    assert {k: (out / f"{k:05d}.png").stat().st_ino for k in lines} == inodes
