"""Scripts of a suite: they run it, and one stage alone can be run beside others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.cli import main

SUITE = """
run: runs/x
stages:
  - {name: a, run: "python work.py a {run}", outputs: [a/out]}
  - {name: b-2, run: "python work.py b-2 {run}", needs: [a], outputs: [b-2/out]}
  - {name: c, run: "python work.py c {run}", needs: [a], outputs: [c/out]}
  - {name: d, run: "python work.py d {run}", needs: [b-2, c], outputs: [d/out]}
"""
WORK = """
import os, pathlib, sys, time
name, run = sys.argv[1:]
with open("journal.txt", "a") as journal:
    journal.write(f"{name}\\n")
if name == os.environ.get("STOP"):
    sys.exit(75)
(pathlib.Path(run) / name / "out").write_text(name)
time.sleep(float(os.environ.get("SECONDS", 0)))
"""
SBATCH = """#!{python}
# Notes its options and the job's script; its jobs are numbered from 11.
import json, pathlib, sys
jobs = sorted(pathlib.Path("jobs").glob("*.json"))
number = 11 + len(jobs)
pathlib.Path(f"jobs/{{number}}.json").write_text(json.dumps(sys.argv[1:]))
pathlib.Path(f"jobs/{{number}}.sh").write_text(sys.stdin.read())
print(number)
"""


@pytest.fixture
def folder(toy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A suite, and programs `unclip`, `sbatch`, `srun` and `scontrol` on the PATH."""
    (toy / "suite.yaml").write_text(SUITE)
    (toy / "work.py").write_text(WORK)
    (toy / "jobs").mkdir()
    programs = {
        "unclip": f'#!/bin/sh\nexec {sys.executable} -m experiments.cli "$@"\n',
        "sbatch": SBATCH.format(python=sys.executable),
        "srun": '#!/bin/sh\nexec "$@"\n',
        "scontrol": '#!/bin/sh\necho "$@" >> requeued\n',
    }
    for name, text in programs.items():
        path = toy / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{toy / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return toy


def emit(capsys: pytest.CaptureFixture[str], form: str, *words: str) -> str:
    capsys.readouterr()
    assert main(["reproduce", "suite.yaml", "--emit", form, *words]) == 0
    return capsys.readouterr().out


def bash(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=60)


def journal() -> list[str]:
    path = Path("journal.txt")
    lines = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def test_the_shell_script_runs_the_suite(folder, capsys):
    text = emit(capsys, "shell")
    assert "# d (needs b-2, c): python work.py d runs/x" in text
    assert not Path("runs").exists()
    assert bash(text).returncode == 0
    assert journal() == ["a", "b-2", "c", "d"]
    # It has kept records: neither it nor the runner has anything to do.
    assert bash(text).returncode == 0
    assert main(["reproduce", "suite.yaml"]) == 0
    assert journal() == []


def test_the_shell_script_stops_at_a_failure_and_goes_on_from_there(folder, capsys, monkeypatch):
    text = emit(capsys, "shell", "--run", "runs/y", "--only", "c")
    monkeypatch.setenv("STOP", "c")
    assert bash(text).returncode == 75
    assert journal() == ["a", "c"]
    monkeypatch.delenv("STOP")
    assert bash(text).returncode == 0
    assert journal() == ["c"]
    assert Path("runs/y/c/out").exists() and not Path("runs/x").exists()


def test_slurm_jobs_wait_for_what_they_need(folder, capsys, monkeypatch):
    monkeypatch.setenv("UNCLIP_SBATCH", "--partition=long --time=60")
    monkeypatch.setenv("UNCLIP_SBATCH_b_2", "--gres=gpu:8")
    done = bash(emit(capsys, "slurm"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "submitted: a=11 b-2=12 c=13 d=14\n"
    options = {k: json.loads(Path(f"jobs/{k}.json").read_text()) for k in range(11, 15)}
    assert not any(word.startswith("--dependency") for word in options[11])
    assert "--dependency=afterok:11" in options[12] and "--dependency=afterok:11" in options[13]
    assert "--dependency=afterok:12:13" in options[14] and "--kill-on-invalid-dep=yes" in options[14]
    for words in options.values():
        assert {"--parsable", "--requeue", "--signal=USR1@120", "--partition=long", "--time=60"} <= set(words)
    assert [k for k, words in options.items() if "--gres=gpu:8" in words] == [12]
    assert "--job-name=b-2" in options[12] and "--output=runs/x/.slurm/%x-%j.log" in options[12]

    # The jobs, in an order in which SLURM might start them.
    for number in (11, 13, 12, 14):
        assert bash(Path(f"jobs/{number}.sh").read_text()).returncode == 0
    assert journal() == ["a", "c", "b-2", "d"]
    assert not Path("requeued").exists()


def test_a_slurm_job_that_is_preempted_asks_to_be_queued_again(folder, capsys, monkeypatch):
    assert bash(emit(capsys, "slurm", "--only", "a")).returncode == 0
    monkeypatch.setenv("STOP", "a")
    monkeypatch.setenv("SLURM_JOB_ID", "11")
    assert bash(Path("jobs/11.sh").read_text()).returncode == 75
    assert Path("requeued").read_text() == "requeue 11\n"


def test_one_stage_wants_what_it_needs(folder, capsys):
    assert main(["reproduce", "suite.yaml", "--stage", "d"]) == 2
    error = capsys.readouterr().err
    assert error == "unclip: stage 'd' needs 'a', which is not up to date (it never ran)\n"
    assert main(["reproduce", "suite.yaml", "--stage", "q"]) == 2
    assert main(["reproduce", "suite.yaml", "--stage", "a", "--seeds", "2"]) == 2


def test_single_stages_run_beside_each_other_but_not_beside_a_runner(folder, unclip, monkeypatch, capsys):
    assert main(["reproduce", "suite.yaml", "--stage", "a"]) == 0
    monkeypatch.setenv("SECONDS", "3")
    first = unclip("reproduce", "suite.yaml", "--stage", "b-2")
    while not Path("runs/x/b-2/out").exists():
        assert first.poll() is None
        time.sleep(0.05)
    monkeypatch.setenv("SECONDS", "0")
    assert main(["reproduce", "suite.yaml", "--stage", "c"]) == 0
    assert first.poll() is None
    capsys.readouterr()
    assert main(["reproduce", "suite.yaml"]) == 2
    assert capsys.readouterr().err.startswith(f"unclip: run folder 'runs/x' is in use by process {first.pid} on ")
    assert main(["reproduce", "suite.yaml", "--stage", "b-2", "--wait"]) == 0
    assert first.wait() == 0
    assert journal() == ["a", "b-2", "c"]
