"""Stages forked from one process that has imported what they need: real processes, without their slow start.

A stage of a suite spends seconds of a core on importing torch and Lightning, often more than on its work. If several
stages are to run, the runner starts a fork server (`experiments.suites.fork_server`), and the stages are forked from
it. They are stopped, killed and waited for like programs of their own. They die with the server, and the server dies
with the runner.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.suites.fork_server import PACKET
from experiments.suites.processes import StageProcess, die_with_parent, take_lock
from modules.untrusted.writing import open_to_append

PROGRAM = """import sys
descriptor, imports, *sys.path[:] = sys.argv[1:]
from experiments.cli import COMMANDS, main
from experiments.suites.fork_server import serve
sys.exit(main(serve(int(descriptor), imports.split(","), COMMANDS)))"""
CLOSE_SECONDS = 5.0


class ForkServer:
    """The process that stages are forked from.

    Args:
        env: its environment; what libraries read when they are imported (OMP_NUM_THREADS) has to be that of the stages.
        imports: names of commands and of modules that the stages will need.
    """

    def __init__(self, env: dict[str, str], imports: Sequence[str]) -> None:
        self.env = env
        self.ready = False
        self.waiting: list[ForkedStage] = []
        """Those that no number has come for."""
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        words = [sys.executable, "-c", PROGRAM, str(theirs.fileno()), ",".join(imports), *sys.path]
        with theirs:
            self.process = subprocess.Popen(
                words,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=(theirs.fileno(),),
                preexec_fn=die_with_parent(),
            )

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self.process.poll() is None

    def ask(self, request: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send a request; nothing happens if the server has ended, which its answers show."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(self.channel, [json.dumps(request).encode()], list(descriptors))

    def receive(self, wait: bool) -> dict[str, Any] | None:
        """The next answer; None if there is none yet or, with `wait`, if the server has ended.

        The number of a process goes to the stage that has waited longest.
        """
        if not wait and not select.select([self.channel], [], [], 0)[0]:
            return None
        try:
            packet = self.channel.recv(PACKET)
        except ConnectionResetError:
            packet = b""
        if not packet:
            self.process.wait()
            return None
        self.ready = True
        answer: dict[str, Any] = json.loads(packet)
        if "pid" in answer:
            self.waiting.pop(0).pid = answer["pid"]
        return answer

    def kill(self) -> None:
        """SIGKILL, to it and by the kernel's hand to all that it has forked."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Let it end."""
        self.channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(CLOSE_SECONDS)
            return
        self.kill()


class ForkedStage:
    """A running stage, with what `experiments.suites.processes.StageProcess` has.

    It is sent to the server at once, and starts when that has imported what it is to import. If the server does not get
    that far, it is started as a program of its own.
    """

    def __init__(self, server: ForkServer, words: list[str], env: dict[str, str], log: Path, lock: Path) -> None:
        self.server = server
        self.pid: int | None = None
        self.plain: StageProcess | None = None
        self._code: int | None = None
        self._program = (words, env, log, lock)
        self._stopped = False
        changed = {name: value for name, value in env.items() if server.env.get(name) != value}
        request = {"words": words, "set": changed, "unset": [name for name in server.env if name not in env]}
        descriptor = take_lock(lock, words)
        try:
            with open_to_append(log) as file:
                server.waiting.append(self)
                server.ask(request, (file.fileno(), descriptor))
        finally:
            os.close(descriptor)

    @property
    def code(self) -> int | None:
        """Exit code, or None while it runs."""
        if self.plain is not None:
            return self.plain.code
        if self._code is None:
            self._code = self._ask()
        return self._code

    def _ask(self) -> int | None:
        while self.pid is None and self.server.receive(wait=False) is not None:
            pass
        if self.pid is not None:
            self.server.ask({"poll": self.pid})
            while (answer := self.server.receive(wait=True)) is not None:
                if "code" in answer:
                    code: int | None = answer["code"]
                    return code
        elif self.server.alive:
            return None
        elif not self.server.ready and not self._stopped:
            self.plain = StageProcess(*self._program)
            return None
        return -signal.SIGKILL  # The kernel has ended it with its server.

    def send(self, number: int) -> None:
        """Send a signal: SIGINT to the process itself, whose helpers it ends as it likes; others to all of them."""
        if self.plain is not None:
            self.plain.send(number)
            return
        self._stopped = True
        while self.pid is None and self.server.receive(wait=self.server.ready) is not None:
            pass
        if self.pid is None:
            self.server.kill()  # It is at its imports, and nothing has been started.
        elif self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number) if number == signal.SIGINT else os.killpg(self.pid, number)
