"""Runs the commands of a checkout, in processes forked from one that has imported the libraries (`warm.py`)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

WARM = Path(__file__).with_name("warm.py")


class Server:
    """A process that has imported the libraries, and forks one for each command.

    Args:
        checkout: of the code.
        environment: further variables.
        threads: of each command.

    Raises:
        SystemExit: the code is imported from elsewhere.
    """

    def __init__(self, checkout: Path, environment: dict[str, str], threads: int) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith("UNCLIP_")} | environment
        env |= {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', os.defpath)}"}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        pipes["start_new_session"] = True  # So that `stop` reaches a command that is running, too.
        self.process = subprocess.Popen([sys.executable, str(WARM)], env=env, cwd="/", **pipes)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.questions, self.answers = self.process.stdin, self.process.stdout
        place = Path(self.answers.readline().strip())
        if place.resolve() != (checkout / "experiments").resolve():
            sys.exit(f"the code of {checkout} is imported from {place}")

    def run(self, words: list[str], cwd: Path, log: Path) -> int:
        """Run `python -m experiments.cli WORDS`; returns its exit code.

        Raises:
            RuntimeError: the process has ended.
        """
        task = {"words": words, "cwd": str(cwd), "log": str(log)}
        self.questions.write(json.dumps(task) + "\n")
        self.questions.flush()
        answer = self.answers.readline()
        if not answer:
            raise RuntimeError(f"the process that runs commands has ended: see {log}")
        return int(answer)

    def stop(self) -> None:
        """End it, with the command that it is running."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait()
