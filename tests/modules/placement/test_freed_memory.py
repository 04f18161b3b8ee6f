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
from modules.placement.freed_memory import keep_freed_memory

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
    assert before > 10_000, "ten times 128 MiB in pages of 4 kB, of which each is asked for anew"
    assert after < 100


def test_other_systems_are_left_as_they_are(monkeypatch):
    """macOS has no mallopt; on Windows ctypes has no process to open."""
    import ctypes

    from modules.placement.freed_memory import keep_freed_memory

    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()

    def fails(name: None) -> None:
        raise TypeError("bad argument type for built-in operation")

    monkeypatch.setattr(ctypes, "CDLL", fails)
    assert not keep_freed_memory()
