"""A suite's stages as a script: for a shell, one after the other, or as SLURM jobs that wait for each other.

Each line is `unclip reproduce SUITE --stage NAME`, which runs that stage alone and keeps its record. So a script that
is run again does only what is left, an interrupted stage goes on from its checkpoint, and `unclip reproduce` sees which
stages are done. The stage's own command stands above the line.
"""

from __future__ import annotations

import re
import shlex

from experiments.console.signals import EXIT_REQUEUE
from experiments.suites.suite import Stage, Suite
from modules.errors import InputError

FORMS = ("shell", "slurm")

SLURM = """
# $UNCLIP_SBATCH holds further options for sbatch (partition, account, GPUs, time), for all jobs; $UNCLIP_SBATCH_NAME
# those of the stage NAME. Two minutes before its time is over, and when it is preempted, a job saves a checkpoint and
# leaves with exit code {code}, and its script asks SLURM to queue it again.
# A job is one task on one node, with all CPUs and GPUs that the job has there: a stage whose config says devices: 8
# wants --gpus-per-node=8 --cpus-per-task=64, and starts its 8 processes itself. A stage over several nodes is
# experiments/slurm/fit.sbatch's (docs/scaling.md).
job() {{  # NAME STAGE DEPENDENCIES: prints the job's number
  local extra="UNCLIP_SBATCH_${{1#job_}}"
  # shellcheck disable=SC2086
  sbatch --parsable --job-name="$2" --output="$logs/%x-%j.log" --requeue --signal=USR1@120 ${{UNCLIP_SBATCH:-}} \\
    ${{!extra:-}} ${{3:+--dependency=afterok:$3 --kill-on-invalid-dep=yes}} <<JOB
#!/usr/bin/env bash
if [ "\\${{SLURM_JOB_NUM_NODES:-1}}" -gt 1 ]; then
  echo "unclip: stage $2 runs on one node, and this job has \\$SLURM_JOB_NUM_NODES: see docs/scaling.md" >&2
  exit 2
fi
# srun would take what sbatch was told of tasks, and start one stage runner for each.
unset \\${{!SLURM_NTASKS*}} SLURM_NPROCS
srun --nodes=1 --ntasks=1 --cpus-per-task="\\${{SLURM_CPUS_ON_NODE:-1}}" {command} --stage $2 --wait
code=\\$?
if [ "\\$code" -eq {code} ]; then scontrol requeue "\\$SLURM_JOB_ID"; fi
exit "\\$code"
JOB
}}
logs={logs}
mkdir -p "$logs"
"""


def script(suite: Suite, names: list[str], form: str) -> str:
    """The script for the stages `names`, each after those of them that it needs.

    Args:
        suite: the suite; its run folder goes into the script where it is not the suite's own.
        names: stages, in an order that respects what they need; what they need and is not among them has to be up to
            date when they run.
        form: "shell" or "slurm".

    Raises:
        InputError: two names are one to a shell.
    """
    head = [
        "#!/usr/bin/env bash",
        f"# The stages of {suite.path}, run folder {suite.run}: unclip reproduce {suite.path} --emit {form}",
        "# To be run in the folder that these paths are relative to.",
        "set -euo pipefail",
    ]
    lines = slurm(suite, names) if form == "slurm" else shell(suite, names)
    return "\n".join([*head, *lines]) + "\n"


def command(suite: Suite) -> str:
    """`unclip reproduce` for this suite and run folder."""
    words = ["unclip", "reproduce", str(suite.path)]
    return shlex.join(words if suite.run == suite.default_run else [*words, "--run", str(suite.run)])


def shell(suite: Suite, names: list[str]) -> list[str]:
    """The lines of the shell script."""
    lines = []
    for name in names:
        lines += ["", *comments(suite.stages[name], suite), f"{command(suite)} --stage {shlex.quote(name)} --wait"]
    return lines


def slurm(suite: Suite, names: list[str]) -> list[str]:
    """The lines of the script that submits one job a stage."""
    known: dict[str, str] = {}
    for name in names:
        if known.setdefault(variable(name), name) != name:
            raise InputError(f"{suite.path}: stages {known[variable(name)]!r} and {name!r} are one name to a shell")
    logs = shlex.quote(str(suite.run / ".slurm"))
    lines = [SLURM.format(code=EXIT_REQUEUE, command=in_heredoc(command(suite)), logs=logs).rstrip()]
    for name in names:
        after = ":".join(f"${variable(need)}" for need in suite.stages[name].needs if need in names)
        submit = f'{variable(name)}=$(job {variable(name)} {shlex.quote(name)} "{after}")'
        lines += ["", *comments(suite.stages[name], suite), submit]
    shown = " ".join(f"{name}=${variable(name)}" for name in names)
    return [*lines, "", f'echo "submitted: {shown}"']


def in_heredoc(text: str) -> str:
    """Text as a here-document without quotes gives it back: the shell expands there, inside of other quotes too."""
    return re.sub(r"([\\$`])", r"\\\1", text)


def comments(stage: Stage, suite: Suite) -> list[str]:
    """The comments above a stage's line: its command, and the stages that it needs."""
    needs = f" (needs {', '.join(stage.needs)})" if stage.needs else ""
    return [f"# {stage.name}{needs}: {' '.join(stage.text(suite.run).split())}"]


def variable(name: str) -> str:
    """A stage's name as a shell variable."""
    return "job_" + re.sub(r"\W", "_", name)
