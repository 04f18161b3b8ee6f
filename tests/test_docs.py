"""The examples in docs/ are programs that run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[1] / "docs"


def test_the_example_of_manipulations_runs(stored_run, tmp_path, monkeypatch):
    from datamodules.rendered.scenes import make_pair, render
    from modules.images.tensors import to_pil

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
    counts = {
        "drawn": 3,
        "again": 1,
        "near": 3,
        "far": 3,
        "free": 3,
        "row": 5,
        "rows": 10,
        "blend": 5,
        "edited": 2,
        "filled": 2,
    }
    for name, count in counts.items():
        assert [image.size for image in names[name]] == [(32, 32)] * count, name
    assert (tmp_path / "circle.png").is_file()
    near, far = ((names[name].tensor - names["again"].tensor).abs().mean() for name in ("near", "far"))
    assert near < far


DOCUMENTS = sorted([*DOCS.glob("*.md"), *(DOCS.parent / name for name in ("README.md", "benchmarks/README.md"))])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(DOCS.parent).as_posix())
def test_commands_that_a_document_names_exist(document):
    from experiments.cli import COMMANDS

    text = document.read_text()
    named = set(re.findall(r"`unclip ([a-z][a-z0-9-]*)", text))
    assert named <= set(COMMANDS)
    tools = re.findall(r"python -m benchmarks\.([\w.]+)([^`\n#]*)", text)
    for tool, words in tools:
        place = DOCS.parent / "benchmarks" / tool.replace(".", "/")
        source = (place / "__main__.py" if place.is_dir() else place.with_suffix(".py")).read_text()
        assert all(f'"{flag}"' in source for flag in re.findall(r"--[a-z][a-z0-9-]*", words)), (tool, words)
    assert named or tools


def test_the_documents_are_those_that_are_there():
    names = {path.name for path in DOCUMENTS}
    assert {"reliability.md", "scaling.md", "training.md", "data.md", "protocols.md", "manipulations.md"} <= names
