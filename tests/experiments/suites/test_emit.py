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
while pathlib.Path(f"hold_{name}").exists():
    time.sleep(0.02)
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

SRUN = """#!/usr/bin/env bash
# As many tasks as its option says, and otherwise as the job has; its code is the highest of theirs.
if [[ -n ${SLURM_NTASKS_PER_NODE:-} ]]; then echo "srun: warning: can't honor --ntasks-per-node" >&2; fi
tasks=${SLURM_NTASKS:-1}
while [[ $1 == --* ]]; do
  echo "$1" >> srun_options
  if [[ $1 == --ntasks=* ]]; then tasks=${1#*=}; fi
  shift
done
for ((k = 0; k < tasks; k++)); do
  SLURM_NTASKS=$tasks SLURM_PROCID=$k SLURM_LOCALID=$k SLURM_NODEID=0 SLURM_JOB_NAME=x "$@" &
  echo "task $k" >> srun_tasks
done
code=0
for job in $(jobs -p); do
  wait "$job"
  left=$?
  if ((left > code)); then code=$left; fi
done
exit $code
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
        "srun": SRUN,
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
    return subprocess.run(["bash", "-c", text], capture_output=True, text=True, timeout=120)


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


def test_a_job_of_many_tasks_has_one_stage_runner_with_all_that_the_node_gives(folder, capsys, monkeypatch):
    assert bash(emit(capsys, "slurm", "--only", "a")).returncode == 0
    for name, value in {"NTASKS": 8, "NTASKS_PER_NODE": 8, "NPROCS": 8, "CPUS_ON_NODE": 64, "JOB_NUM_NODES": 1}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    done = bash(Path("jobs/11.sh").read_text())
    assert (done.returncode, done.stderr) == (0, "")
    assert Path("srun_tasks").read_text() == "task 0\n"
    assert Path("srun_options").read_text().split() == ["--nodes=1", "--ntasks=1", "--cpus-per-task=64"]
    assert journal() == ["a"]
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    done = bash(Path("jobs/11.sh").read_text())
    assert done.returncode == 2
    assert done.stderr == "unclip: stage a runs on one node, and this job has 2: see docs/scaling.md\n"


WORLD = """
import pathlib, sys
from lightning.pytorch import Trainer
from experiments.console.quiet import quiet

quiet()
trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_progress_bar=False)
environment = trainer.strategy.cluster_environment
text = f"{trainer.world_size} {environment.creates_processes_externally}"
(pathlib.Path(sys.argv[1]) / "a" / "out").write_text(text)
"""


def test_lightning_starts_the_processes_of_a_stage_of_several_devices_in_a_job(folder, capsys):
    """As a task of SLURM's it would take the one task for all there is, and train on one device."""
    Path("world.py").write_text(WORLD)
    Path("suite.yaml").write_text(SUITE.replace("work.py a", "world.py"))
    assert bash(emit(capsys, "slurm", "--stage", "a")).returncode == 0
    done = bash(Path("jobs/11.sh").read_text())
    log = Path("runs/x/a/log.txt").read_text()
    assert done.returncode == 0, log
    assert Path("runs/x/a/out").read_text() == "2 False"
    assert "srun" not in log


@pytest.mark.parametrize("form", ["shell", "slurm"])
def test_a_path_is_what_it_says_whatever_a_shell_would_make_of_it(folder, capsys, form, monkeypatch):
    monkeypatch.setenv("WHERE", "elsewhere")
    name = 'runs/$WHERE `touch made` $(touch made) \\\'s \\$WHERE "x"'
    done = bash(emit(capsys, form, "--run", name, "--stage", "a"))
    assert done.returncode == 0, done.stderr
    if form == "slurm":
        assert f"--output={name}/.slurm/%x-%j.log" in json.loads(Path("jobs/11.json").read_text())
        done = bash(Path("jobs/11.sh").read_text())
        assert done.returncode == 0, done.stderr
    assert (Path(name) / "a" / "out").exists()
    assert [path.name for path in Path("runs").iterdir()] == [Path(name).name]
    assert not Path("made").exists()


def test_one_stage_is_emitted_alone(folder, capsys):
    text = emit(capsys, "slurm", "--stage", "b-2")
    assert bash(text).stdout == "submitted: b-2=11\n"
    assert not any(word.startswith("--dependency") for word in json.loads(Path("jobs/11.json").read_text()))
    assert bash(Path("jobs/11.sh").read_text()).returncode == 2  # It needs a.
    lines = [line for line in emit(capsys, "shell", "--stage", "a").splitlines() if not line.startswith("#")]
    assert [line for line in lines if "--stage" in line] == ["unclip reproduce suite.yaml --stage a --wait"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--emit", "slurm", "--stage", "q"], "no stage 'q'"),
        (["--stage", ""], "no stage ''"),
        (["--emit", "slurm", "--again", "a"], "--emit runs nothing"),
        (["--emit", "shell", "--dry-run"], "--emit runs nothing"),
        (["--emit", "shell", "--devices", "0,1"], "--emit runs nothing"),
        (["--stage", "a", "--only", "b-2"], "choose one of them"),
    ],
)
def test_what_would_be_left_out_is_refused(folder, capsys, words, message):
    assert main(["reproduce", "suite.yaml", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert journal() == []


def test_stages_of_one_name_to_a_shell_are_refused(folder, capsys):
    Path("suite.yaml").write_text(SUITE + '  - {name: b_2, run: "python work.py b_2 {run}"}\n')
    assert main(["reproduce", "suite.yaml", "--emit", "slurm"]) == 2
    assert "stages 'b-2' and 'b_2' are one name to a shell" in capsys.readouterr().err


def test_one_stage_of_a_dry_run_is_not_run(folder, capsys):
    assert main(["reproduce", "suite.yaml", "--stage", "a", "--dry-run"]) == 0
    assert "would run: it never ran" in capsys.readouterr().out
    assert journal() == []


def test_one_stage_wants_what_it_needs(folder, capsys):
    assert main(["reproduce", "suite.yaml", "--stage", "d"]) == 2
    error = capsys.readouterr().err
    assert error == "unclip: stage 'd' needs 'a', which is not up to date (it never ran)\n"
    assert main(["reproduce", "suite.yaml", "--stage", "q"]) == 2
    assert main(["reproduce", "suite.yaml", "--stage", "a", "--seeds", "2"]) == 2


def test_single_stages_run_beside_each_other_but_not_beside_a_runner(folder, unclip, when_waiting, capsys):
    assert main(["reproduce", "suite.yaml", "--stage", "a"]) == 0
    Path("hold_b-2").touch()
    first = unclip("reproduce", "suite.yaml", "--stage", "b-2")
    while not Path("runs/x/b-2/out").exists():
        assert first.poll() is None
        time.sleep(0.05)
    assert main(["reproduce", "suite.yaml", "--stage", "c"]) == 0
    assert first.poll() is None
    capsys.readouterr()
    assert main(["reproduce", "suite.yaml"]) == 2
    assert capsys.readouterr().err.startswith(f"unclip: run folder 'runs/x' is in use by process {first.pid} on ")
    when_waiting(Path("hold_b-2").unlink)
    assert main(["reproduce", "suite.yaml", "--stage", "b-2", "--wait"]) == 0
    assert capsys.readouterr().err.startswith("waiting for ")
    assert first.wait() == 0
    assert journal() == ["a", "b-2", "c"]
