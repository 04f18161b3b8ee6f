"""The tools that kill, soak and compare: what they are built from."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.trials.compare import differing, digests
from benchmarks.trials.faults_suite import differing_results, numbers
from benchmarks.trials.forked import PRELOAD
from benchmarks.trials.orphans import in_folder, in_session, wait_until_gone
from benchmarks.trials.resume import Result
from benchmarks.trials.small import dumped
from benchmarks.trials.small_training import shorten
from benchmarks.trials.soak import grown, look, sixths
from benchmarks.trials.workspace import Workspace, made_by, table, write_block


def test_differences_are_found():
    a = {"x": [torch.zeros(2), (1, 2.0)], "y": {"z": float("nan"), "n": torch.tensor([float("nan"), 1])}}
    assert differing(a, {"x": [torch.zeros(2), (1, 2.0)], "y": dict(a["y"])}) == []
    other = {"x": [torch.tensor([0, 1e-30]), (1, 3.0)], "y": {"z": 0.0, "n": torch.tensor([float("nan"), 2])}}
    assert differing(a, other) == [".x[0]", ".x[1][1]: 2.0 3.0", ".y.z: nan 0.0", ".y.n"]
    assert differing({"a": 1, "b": 2}, {"a": 1}) == [": ['a', 'b'] ['a']"]
    assert differing([1], [1, 2]) == [": 1 2"]
    assert differing(torch.zeros(2), torch.zeros(2, dtype=torch.float64)) == [""]
    assert differing(1, 1.0) == [": int float"]


def test_files_are_told_apart(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.png").write_bytes(b"1")
    (tmp_path / "b.txt").write_bytes(b"1")
    assert list(digests(tmp_path, "*.png")) == ["deep/a.png"]
    assert len(set(digests(tmp_path).values())) == 1


def test_what_tells_of_the_run_is_no_number():
    content = {"rows": [{"n": 1, "seconds": 2}], "seconds": {"clip": 3}, "commit": "x"}
    assert numbers(content) == {"rows": [{"n": 1}]}


def test_two_runs_of_a_suite_are_compared(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for run, seconds in ((first, "0:00:10"), (second, "0:01:07")):
        (run / "clip").mkdir(parents=True)
        (run / "results.json").write_text(f'{{"fid": 1.5, "seconds": {{"clip": "{seconds}"}}}}')
        (run / "tables.md").write_text(f"| clip | {seconds} |\n| fid | 1.50 |\n")
        (run / "clip" / "model.safetensors").write_bytes(b"weights")
    assert differing_results(first, second) == []
    (second / "results.json").write_text('{"fid": 1.6}')
    (second / "tables.md").write_text("| clip | 0:00:10 |\n| fid | 1.60 |\n")
    (second / "clip" / "model.safetensors").write_bytes(b"others")
    (second / "grid.png").write_bytes(b"picture")
    assert differing_results(first, second) == ["results.json", "tables.md", "clip/model.safetensors", "grid.png"]


def test_a_table_goes_into_its_place(tmp_path):
    document = tmp_path / "a.md"
    document.write_text("before\n<!-- x -->\nold\n<!-- /x -->\nafter\n")
    write_block(document, "x", table(["a", "b"], [["1|2", "3\n4"]]))
    assert document.read_text() == (
        "before\n<!-- x -->\n| a | b |\n| --- | --- |\n| 1\\|2 | 3 4 |\n<!-- /x -->\nafter\n"
    )
    with pytest.raises(ValueError, match="no block <!-- y -->"):
        write_block(document, "y", "")


def test_a_table_says_how_it_was_made():
    text = made_by("benchmarks.trials.faults", "--suite")
    assert text.startswith(f"Made by `python -m benchmarks.trials.faults --suite` (Python 3.{sys.version_info.minor}.")
    assert re.search(r", torch 2\.\d+\.\d+", text) and text.endswith(" cores).")


def test_lines_are_short_and_of_no_day():
    assert shorten("held by process 7 on x since 2026-11-21 21:29:48+00:00; wait") == "held by process 7 on x; wait"
    assert shorten("stopped; `--ckpt_path last` goes on") == "stopped; '--ckpt_path last' goes on"
    assert shorten("x" * 300) == "x" * 227 + "..."


def test_kills_are_counted():
    row = Result("clip", 200, [-1, 17, 3], []).row()
    assert row == ["clip", "200", "3 (1 before training began)", "3, 17", "identical"]
    assert Result("clip", 200, [], [".a", ".b"]).row()[-1] == "DIFFERS: .a, .b"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_is_looked_at(tmp_path):
    before = look(os.getpid())
    files = [(tmp_path / str(k)).open("w") for k in range(5)]
    after = look(os.getpid())
    assert after["files"] == before["files"] + 5 and after["memory"] > 10
    for file in files:
        file.close()


# Starts a helper in another folder, says that it is there, and waits for it.
PARENT = """
import os, subprocess, sys
helper = subprocess.Popen(["sleep", "60"], cwd=os.environ["THERE"])
print(helper.pid, flush=True)
helper.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_outlives_its_parent_is_found_and_ended(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    for folder in (there / "deep", here):
        folder.mkdir(parents=True)
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        cwd=here,
        env={**os.environ, "THERE": str(there / "deep")},
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    helper = int(process.stdout.readline())
    assert sorted(in_session(process.pid)) == sorted([process.pid, helper])
    assert (in_folder(here), in_folder(there)) == ([process.pid], [helper])
    process.kill()
    process.wait()
    process.stdout.close()
    assert in_session(process.pid) == [helper]
    with pytest.raises(RuntimeError, match=rf"outlived their parent by 0 s: {helper} \(sleep 60 \)"):
        wait_until_gone(partial(in_session, process.pid), seconds=0.2)
    assert wait_until_gone(partial(in_folder, tmp_path), seconds=5) < 5


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes")
def test_loader_processes_end_with_a_command_that_is_killed(tiny, embeddings, tmp_path):
    """They look for their parent; those that a fork server had started for it would have another one, and stay."""
    path, network, arguments, own = tiny.STAGES["linear_prior"]
    optimizer = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}}
    network = {"class_path": network, "init_args": arguments}
    kill = {"class_path": "benchmarks.trials.injected.Signal", "init_args": {"at": 1, "number": int(signal.SIGKILL)}}
    loader = {"folder": str(embeddings), "batch_size": 8, "num_workers": 2}
    config = {
        "trainer": {"max_steps": 5, "default_root_dir": "run", "logger": False, "callbacks": [kill]},
        "model": {"class_path": path, "init_args": {"network": network, "optimizer": optimizer, **own}},
        "data": {"class_path": "datamodules.embeddings.EmbeddingsDataModule", "init_args": loader},
    }
    (tmp_path / "stage.yaml").write_text(dumped(config))
    process = Workspace(tmp_path).start("fit", "--config", "stage.yaml")
    seen: set[int] = set()
    while process.poll() is None:
        seen.update(in_session(process.pid))
    assert process.wait() == -signal.SIGKILL, (tmp_path / "out.txt").read_text()
    assert len(seen) >= 3
    assert wait_until_gone(partial(in_session, process.pid)) < 30


TOOL = """
import os, sys, time
from pathlib import Path
from benchmarks.trials import forked
folder = Path(sys.argv[1])
(folder / "wait.py").write_text("import time; time.sleep(300)")
forked.PRELOAD[:] = ["benchmarks.trials.forked"]
process = forked.Forked([], folder, dict(os.environ), folder / "log.txt", program=folder / "wait.py")
print(process.pid, flush=True)
time.sleep(300)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes")
def test_a_tool_that_is_killed_takes_its_commands_with_it(tmp_path):
    words = [sys.executable, "-c", TOOL, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as tool:
        try:
            command = int(tool.stdout.readline())
            deadline = time.monotonic() + 120  # It is told before it has its own session.
            while in_session(command) != [command] and time.monotonic() < deadline:
                time.sleep(0.05)
            assert in_session(command) == [command]
        finally:
            tool.kill()
    wait_until_gone(partial(in_session, command), seconds=120)


def test_what_processes_are_forked_from_has_imported_all_of_it():
    """The server passes over a name that is not there, and each process would import it anew."""
    assert [name for name in PRELOAD if importlib.util.find_spec(name) is None] == []


def test_growth_is_measured_between_the_second_and_the_last_sixth():
    steps = [float(k) for k in range(601)]
    early, late = sixths({"step": steps, "memory": [100 + step for step in steps]}, "memory")
    assert (early, late) == (100 + 149.5, 100 + 550)
    assert sixths({"step": steps, "memory": [7.0] * 601}, "memory") == (7, 7)


def test_what_grows_is_named():
    steps = [float(k) for k in range(600)]
    flat, rising = [100.0] * 600, [100 + 0.02 * step for step in steps]
    assert grown({"step": steps, "memory": flat, "files": flat, "processes": flat}) == []
    assert grown({"step": steps, "memory": rising, "files": flat, "processes": flat}) == ["memory"]
    leaking = [20 + step // 100 for step in steps]
    assert grown({"step": steps, "memory": flat, "files": leaking, "processes": leaking}) == []
    leaking = [20 + step // 50 for step in steps]
    assert grown({"step": steps, "memory": flat, "files": leaking, "processes": flat}) == ["files"]


def test_the_documents_blocks_are_there():
    text = Path("docs/reliability.md").read_text()
    for name in ("resume", "faults", "soak"):
        assert f"<!-- {name} -->" in text and f"<!-- /{name} -->" in text
