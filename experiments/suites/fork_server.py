"""The process that stages are forked from: it imports what `unclip` needs once, where each stage would for itself.

`experiments.suites.forking` starts it and talks to it through a socket. Nothing but imports happens here, so no thread
runs and no CUDA device is touched before a fork. A forked process returns from `serve` and becomes `unclip WORDS`. It
has what a program of its own would have: session, environment, log, signals, exit code, and what Python does at exit.

Two requests are answered:
- `{"words", "set", "unset"}`, with two file descriptors (log and lock), by `{"pid"}`: a process has been forked;
- `{"poll": pid}` by `{"code"}`: its exit code, or null while it runs.

A process that has ended is reaped at a poll and not before. So its number stands for no other process until the runner
knows that it has ended, and no signal goes astray. The server leaves when the socket is closed.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import importlib.util
import json
import os
import signal
import socket
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from experiments.suites.processes import PR_SET_PDEATHSIG, command_line, script

READY = b"{}"
PACKET = 1 << 18
PR_SET_NAME = 15


def serve(descriptor: int, imports: Iterable[str], commands: Mapping[str, tuple[str, str]]) -> list[str]:
    """Import, then fork on request; returns the words of a command, in the process that is to run it.

    Args:
        descriptor: of the socket that the requests come by.
        imports: names of commands and of modules; the stage that needs one that cannot be imported will complain.
        commands: the module of each command, below `experiments`, and its line of help.
    """
    for name in imports:
        with contextlib.suppress(Exception):
            importlib.import_module(f"experiments.{commands[name][0]}" if name in commands else name)
    gc.collect()
    gc.freeze()  # A collection in a forked process would write to, and so copy, every page of what was imported.
    channel = socket.socket(fileno=descriptor)
    channel.send(READY)
    while True:
        packet, descriptors, *_ = socket.recv_fds(channel, PACKET, 2)
        if not packet:
            os._exit(0)
        request = json.loads(packet)
        if "poll" in request:
            channel.send(json.dumps({"code": exit_code(request["poll"])}).encode())
            continue
        log, lock = descriptors
        pid = forked()
        if pid is None:
            channel.close()
            become(request, log, lock)
            return list(request["words"][1:])
        os.close(log)
        os.close(lock)
        channel.send(json.dumps({"pid": pid}).encode())


def exit_code(pid: int) -> int | None:
    """The exit code of a forked process, negative for a signal; None while it runs."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def forked() -> int | None:
    """Fork. Returns the number of the new process, when it has a session of its own, and None in it."""
    server = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(readable)
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != server:  # The server died in between.
            os._exit(1)
        os.setsid()
        os.close(writable)
        return None
    os.close(writable)
    os.read(readable, 1)  # Its end: a signal to the group would not have reached the process before.
    os.close(readable)
    return pid


def become(request: Mapping[str, Any], log: int, lock: int) -> None:
    """In a forked process: the environment, the output and the name of the stage; `lock` stays open."""
    for name in request["unset"]:
        os.environ.pop(name, None)
    os.environ.update(request["set"])
    for standard in (1, 2):
        os.dup2(log, standard)
    os.close(log)
    os.set_inheritable(lock, True)
    words = request["words"]
    if poisoned():
        program = command_line(words)
        os.execvpe(program[0], program, os.environ)
    ctypes.CDLL(None).prctl(PR_SET_NAME, " ".join(words[:2]).encode()[:15])
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()  # All forked processes would draw the same; Python's own sees to itself.
    own = script()
    sys.argv = [own or "unclip", *words[1:]]
    if own is None:  # What Lightning starts again for a further device is `python -m experiments.cli`.
        sys.modules["__main__"].__spec__ = importlib.util.find_spec("experiments.cli")


def poisoned() -> bool:
    """Whether an import has touched a CUDA device, which no forked process can use then."""
    torch = sys.modules.get("torch")
    return bool(torch and torch.cuda._is_in_bad_fork())
