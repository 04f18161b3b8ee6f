"""open_clip without torch.compile's package is the same open_clip, and the package comes when it is asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from modules.clip.frozen import FrozenCLIP
from modules.clip.lean_import import import_open_clip, stand_in_for_compiler

ROOT = Path(__file__).parents[3]
CAPTIONS = ["a red circle"]

PROGRAM = """
import json, sys
import torch
from modules.clip.frozen import FrozenCLIP

clip = FrozenCLIP(sys.argv[1])
found = {"embeddings": clip.encode_text(clip.tokenize(json.loads(sys.argv[2]))).tolist()}
for name in ("torch._dynamo", "torch._dynamo.utils"):
    assert name not in sys.modules, name

from torchvision.ops import roi_align  # noqa: F401
supported = sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu")
from torch._dynamo.utils import is_compile_supported
assert hasattr(sys.modules["torch._dynamo"], "optimize"), "it has asked the real one"
assert supported == is_compile_supported("cpu")
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)).sum() == 4

print(json.dumps(found))
"""


def test_embeddings_are_those_of_the_whole_package(clip_folder):
    """And torchvision's function gets the real one's answer, and torch.compile works afterwards."""
    words = [sys.executable, "-c", PROGRAM, str(clip_folder), json.dumps(CAPTIONS)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    clip = FrozenCLIP(str(clip_folder))
    assert torch.equal(clip.encode_text(clip.tokenize(CAPTIONS)), torch.tensor(found["embeddings"]))


def test_a_thread_waits_for_another_ones_import(tmp_path, monkeypatch):
    """Half of a package is in sys.modules while it is imported."""
    (tmp_path / "open_clip").mkdir()
    (tmp_path / "open_clip" / "__init__.py").write_text("import time\ntime.sleep(0.2)\nready = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "open_clip"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "open_clip", None)  # Put back what was there, or nothing, afterwards.
    del sys.modules["open_clip"]
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(import_open_clip)
        while "open_clip" not in sys.modules:
            time.sleep(0.001)
        assert hasattr(import_open_clip(), "ready")
        assert first.result().ready


def test_nothing_stands_in_after_an_import_that_failed(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("torch._dynamo")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(KeyError), stand_in_for_compiler():
        assert not hasattr(sys.modules["torch._dynamo"], "optimize")
        raise KeyError
    assert not {"torch._dynamo", "torch._dynamo.utils"} & set(sys.modules)
