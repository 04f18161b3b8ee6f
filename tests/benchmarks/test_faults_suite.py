"""Interruptions of a suite, tried on a runner that stands in for the real one: which stages were cut off."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import faults_suite
from benchmarks.faults_suite import RUN, SUITE, durations, interrupted
from benchmarks.workspace import Workspace

STAGES = ("long", "over", "finishing", "resumed")
RUNNER = """
import contextlib, fcntl, signal, sys, time
from pathlib import Path

def done():
    (folder / "stage.json").write_text('{"seconds": 1.5}')
    (folder / "started.json").unlink()

for name in sys.argv[2:]:
    folder, lock = Path(sys.argv[1], name), Path(sys.argv[1], ".locks", name)
    if (folder / "stage.json").exists():
        continue
    folder.mkdir(parents=True, exist_ok=True)
    lock.parent.mkdir(exist_ok=True)
    again = (folder / "started.json").exists()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(done()) if name == "finishing" else sys.exit(75))
    with lock.open("w") if name != "over" else contextlib.nullcontext() as file:
        if file:  # The process of "over" has ended, and the runner has not seen it yet.
            fcntl.flock(file, fcntl.LOCK_EX)
        (folder / "started.json").write_text("{}")
        time.sleep(0 if again else SECONDS)
    done()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_only_stages_that_were_at_work_and_not_done_count_as_interrupted(tmp_path, monkeypatch):
    def write(folder: Path) -> None:
        (folder / SUITE).parent.mkdir(parents=True)
        (folder / SUITE).write_text("stages:\n" + "".join(f"- name: {name}\n" for name in STAGES))

    def start(self: Workspace, *words: str, seconds: int = 60, **options: object) -> subprocess.Popen[bytes]:
        runner = f"SECONDS = {seconds}\n{RUNNER}"
        return subprocess.Popen([sys.executable, "-c", runner, str(RUN), *STAGES], cwd=self.folder)

    # No SIGKILL, which "finishing" could not answer: which signal it gets depends on the moments of those before.
    monkeypatch.setattr(faults_suite, "SIGNALS", (signal.SIGINT, signal.SIGTERM))
    monkeypatch.setattr(faults_suite, "write_quickstart", write)
    monkeypatch.setattr(Workspace, "start", start)
    monkeypatch.setattr(Workspace, "must", lambda self, *words: start(self, seconds=0).wait())
    seconds = dict.fromkeys(STAGES, 0.5)
    came, never, run = interrupted(tmp_path / "suite", seconds, random.Random(0))
    assert [name.split()[0] for name in came] == ["long", "resumed"]
    assert [name.split()[1] for name in came] == ["SIGINT", "SIGTERM"]
    assert sorted(never) == ["finishing", "over"], "in an order that the moments of the signals decide"
    assert durations(run) == dict.fromkeys(STAGES, 1.5)
