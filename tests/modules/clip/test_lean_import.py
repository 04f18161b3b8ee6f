"""open_clip without transformers and torch.compile's package is the same open_clip, and both come when asked for."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modules.clip.frozen import FrozenCLIP

ROOT = Path(__file__).parents[3]
CAPTIONS = ["a red circle"]

PROGRAM = """
import importlib.util, json, sys
import torch
from modules.clip.frozen import FrozenCLIP
from modules.clip.lean_import import import_open_clip, with_transformers

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
    tower = open_clip.model.HFTextEncoder
    with_transformers()
    assert tower is open_clip.hf_model.HFTextEncoder
    from transformers import BertConfig
    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    text = tower("bert", 4, config=config, pooler_type="mean_pooler", proj_type="linear", pretrained=False)
    found["text"] = list(text(torch.tensor([[1, 2, 3]])).shape)
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
    assert found["text"] == [1, 4]
