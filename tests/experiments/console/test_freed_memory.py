"""malloc keeps what is freed: no page is asked for twice."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

FAULTS = """
import json, resource, sys
import numpy as np
from experiments.console.freed_memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        held = [np.ones(2**20) for _ in range(16)]  # 128 MiB, all of it freed at the next turn
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
kept = keep_freed_memory()
faults()
print(json.dumps([kept, before, faults()]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_freed_memory_is_used_again_without_asking_the_system():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, timeout=120, check=True)
    kept, before, after = json.loads(done.stdout)
    assert kept
    assert after < before / 10, "128 MiB are asked for anew at each of ten turns"


def test_other_systems_are_left_as_they_are(monkeypatch):
    """macOS has no mallopt; on Windows ctypes has no process to open."""
    import ctypes

    from experiments.console.freed_memory import keep_freed_memory

    for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()

    def fails(name: None) -> None:
        raise TypeError("bad argument type for built-in operation")

    monkeypatch.setattr(ctypes, "CDLL", fails)
    assert not keep_freed_memory()


class OldGlibc:
    """It refuses to keep blocks of more than 32 MiB."""

    def __init__(self) -> None:
        self.set: dict[int, int] = {}

    def mallopt(self, name: int, value: int) -> int:
        if name == -3 and value > 32 * 2**20:
            return 0
        self.set[name] = value
        return 1


def test_an_older_glibc_keeps_what_it_can(monkeypatch):
    import ctypes

    from experiments.console.freed_memory import keep_freed_memory

    library = OldGlibc()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    assert not keep_freed_memory() and not library.set, "the person has settings of his own"
    monkeypatch.delenv("GLIBC_TUNABLES")
    assert keep_freed_memory()
    assert library.set == {-3: 32 * 2**20, -1: 2**31 - 1}


@pytest.mark.parametrize(("command", "kept"), [("table3", True), ("demo", False)])
def test_commands_keep_freed_memory(command, kept, monkeypatch):
    """The demo gives it back: it waits for its reader most of the time."""
    from experiments import cli

    calls = []
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: calls.append(1))
    monkeypatch.setattr(cli, "run_command", lambda *_: 0)
    assert cli.main([command]) == 0
    assert bool(calls) == kept
