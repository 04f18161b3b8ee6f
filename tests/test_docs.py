"""The examples in docs/ are programs that run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[1] / "docs"


def test_the_example_of_manipulations_runs(stored_run, tmp_path, monkeypatch):
    from datamodules.scenes import make_pair, render
    from modules.images import to_pil

    shutil.copytree(stored_run, tmp_path / "runs" / "quickstart")
    real = tmp_path / "runs" / "quickstart" / "samples" / "real"
    real.mkdir(parents=True)
    for k in range(2):
        pixels = torch.from_numpy(render(make_pair("test", k).scene, 32)).permute(2, 0, 1)
        to_pil(pixels.float() / 127.5 - 1).save(real / f"{k:05d}.png")
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", (DOCS / "manipulations.md").read_text(), re.DOTALL))
    names: dict = {}
    exec(compile(code, "docs/manipulations.md", "exec"), names)
    counts = {"drawn": 3, "again": 1, "near": 3, "far": 3, "free": 3, "row": 5, "blend": 5, "edited": 2, "filled": 2}
    for name, count in counts.items():
        assert [image.size for image in names[name]] == [(32, 32)] * count, name
    assert (tmp_path / "circle.png").is_file()
    near, far = ((names[name].tensor - names["again"].tensor).abs().mean() for name in ("near", "far"))
    assert near < far


@pytest.mark.parametrize("document", ["manipulations.md", "protocols.md", "training.md"])
def test_commands_that_a_document_names_exist(document):
    from experiments.cli import COMMANDS

    named = set(re.findall(r"`unclip ([a-z-]+)", (DOCS / document).read_text()))
    assert named
    assert named <= set(COMMANDS)
