"""The SLURM template: its syntax, the options that auto-requeue needs, and the command that it comes to."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from lightning.pytorch.plugins.environments import SLURMEnvironment

SCRIPT = Path("experiments/slurm/fit.sbatch").resolve()
CONFIG = Path("experiments/quickstart/linear_prior.yaml").resolve()


def options() -> dict[str, str]:
    """The script's #SBATCH lines."""
    lines = re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", SCRIPT.read_text(), flags=re.MULTILINE)
    assert len(lines) == SCRIPT.read_text().count("\n#SBATCH ")
    return dict(lines)


def test_bash_reads_it():
    assert subprocess.run(["bash", "-n", SCRIPT], capture_output=True).returncode == 0


def test_sbatch_reads_its_options_before_the_first_command():
    """sbatch stops at the first line that is neither a comment nor empty."""
    lines = SCRIPT.read_text().splitlines()
    first = next(k for k, line in enumerate(lines) if line and not line.startswith("#"))
    assert first > max(k for k, line in enumerate(lines) if line.startswith("#SBATCH"))


def test_the_signal_is_the_one_that_lightning_requeues_at():
    """To the tasks (no B:), early enough, with a job that may be requeued and a log that is not overwritten."""
    there = options()
    name, seconds = there["signal"].split("@")
    assert signal.Signals[name] == SLURMEnvironment().requeue_signal
    assert int(seconds) >= 60
    assert {"requeue", "nodes", "ntasks-per-node", "gpus-per-node", "time"} <= there.keys()
    assert there["ntasks-per-node"] == there["gpus-per-node"]
    assert there["open-mode"] == "append"


def run(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """The script as SLURM starts it; `srun` prints its words, one a line."""
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\necho "$SRUN_CPUS_PER_TASK" >&2\n')
    srun.chmod(0o755)
    job = {"SLURM_JOB_NUM_NODES": "4", "SLURM_NTASKS_PER_NODE": "8", "SLURM_CPUS_PER_TASK": "6"}
    environment = {**os.environ, **job, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    return subprocess.run(["bash", SCRIPT, *words], capture_output=True, text=True, env=environment, cwd=tmp_path)


def test_the_command_is_one_that_unclip_understands(tmp_path, capsys):
    done = run(tmp_path, str(CONFIG), "--trainer.max_steps=5")
    assert done.returncode == 0
    words = done.stdout.splitlines()
    assert words[:3] == ["--kill-on-bad-exit=1", "unclip", "fit"]
    assert words[-1] == "--trainer.max_steps=5"
    assert done.stderr == "6\n"  # CPUs a task, for srun
    from experiments.training.config import read  # the command line's own parser

    read_back = read(words[3:])
    assert (int(read_back["trainer"]["num_nodes"]), int(read_back["trainer"]["devices"])) == (4, 8)
    assert read_back["trainer"]["max_steps"] == 5
    assert words[words.index("--ckpt_path") + 1] == "last"


@pytest.mark.parametrize("words", [[], ["no_such.yaml"]])
def test_without_a_yaml_it_says_how_to_call_it(tmp_path, words):
    done = run(tmp_path, *words)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: sbatch")


def test_the_documented_strategy_is_one(tmp_path):
    """The FSDP2 example in the header, word for word."""
    header = SCRIPT.read_text()
    flags = re.findall(r"--trainer\.strategy\S+", header)
    from experiments.training.config import read

    strategy = read([f"--config={CONFIG}", *flags])["trainer"]["strategy"]
    assert strategy["class_path"].endswith("ModelParallelStrategy")
    chosen = {key: strategy["init_args"][key] for key in ("data_parallel_size", "tensor_parallel_size")}
    assert chosen == {"data_parallel_size": 64, "tensor_parallel_size": 1}
    assert strategy["init_args"]["save_distributed_checkpoint"] is False
