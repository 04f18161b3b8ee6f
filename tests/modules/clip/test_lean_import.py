"""open_clip without transformers and torch.compile's package is the same open_clip, and both come when asked for."""

from __future__ import annotations

import importlib.util
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
from modules.clip.lean_import import import_open_clip, stand_in_for_compiler, without_transformers

ROOT = Path(__file__).parents[3]
CAPTIONS = ["a red circle"]

PROGRAM = """
import importlib.util, json, sys
import torch
from modules.clip.frozen import FrozenCLIP
from modules.clip.lean_import import import_open_clip

clip = FrozenCLIP(sys.argv[1])
found = {"embeddings": clip.encode_text(clip.tokenize(json.loads(sys.argv[2]))).tolist()}
for name in ("transformers", "torch._dynamo", "torch._dynamo.utils"):
    assert name not in sys.modules, name

open_clip = import_open_clip()
from torchvision.ops import roi_align  # noqa: F401
found["supported"] = sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu")
from torch._dynamo.utils import is_compile_supported
assert hasattr(sys.modules["torch._dynamo"], "optimize"), "it has asked the real one"
assert found["supported"] == is_compile_supported("cpu")
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)).sum() == 4

if importlib.util.find_spec("transformers"):
    module = open_clip.hf_model
    tower, pooler = module.HFTextEncoder, module.ClsPooler
    from transformers import BertConfig
    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    own = {"pooler_type": "cls_pooler", "proj_type": "linear", "pretrained": False, "output_tokens": True}
    text = tower("bert", 4, config=config, **own)
    assert module.HFTextEncoder is tower and type(text.pooler) is pooler and module.PretrainedConfig in BertConfig.mro()
    found["text"] = [list(x.shape) for x in text(torch.tensor([[1, 2, 3]]))]
    before = open_clip.coca_model._has_transformers
    try:
        open_clip.CoCa.generate(None, torch.ones(1), seq_len=0)
    except AssertionError as error:
        found["captions"] = [before, open_clip.coca_model._has_transformers, str(error)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(clip_folder):
    words = [sys.executable, "-c", PROGRAM, str(clip_folder), json.dumps(CAPTIONS)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_embeddings_are_those_of_the_whole_package(found, clip_folder):
    clip = FrozenCLIP(str(clip_folder))
    assert torch.equal(clip.encode_text(clip.tokenize(CAPTIONS)), torch.tensor(found["embeddings"]))


def test_a_function_of_torchvision_that_asks_the_compiler_gets_its_answer(found):
    assert found["supported"] in (True, False)


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_a_text_tower_of_transformers_is_built_when_it_is_asked_for(found):
    assert found["text"] == [[1, 4], [1, 2, 8]], "a vector, and the tokens without the one that it is made of"


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_cocas_captions_are_written_as_by_the_whole_package(found):
    before, after, said = found["captions"]
    assert not before
    assert ("seq_len must be larger" in said) == after, "without generation's classes: an old or a new transformers"


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
    monkeypatch.delitem(sys.modules, "transformers", raising=False)
    for name in [name for name in sys.modules if name.startswith("torch._dynamo")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(KeyError), without_transformers(), stand_in_for_compiler():
        assert sys.modules["transformers"] is None and not hasattr(sys.modules["torch._dynamo"], "optimize")
        raise KeyError
    assert not {"transformers", "torch._dynamo", "torch._dynamo.utils"} & set(sys.modules)
