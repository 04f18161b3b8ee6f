"""The examples in docs/ are programs that run, and what the documents name is there."""

from __future__ import annotations

import importlib
import re
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


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


def test_the_example_of_the_readme_runs(stored_run, tmp_path, monkeypatch):
    shutil.copytree(stored_run, tmp_path / "runs" / "quickstart")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert (tmp_path / "circle.png").is_file()
    assert names["system"].prior("diffusion_prior").candidates == 4
    assert names["system"].decoder().sampler.guidance_scale == 2.0


DOCUMENTS = sorted([*DOCS.glob("*.md"), *(DOCS.parent / name for name in ("README.md", "benchmarks/README.md"))])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(DOCS.parent).as_posix())
def test_commands_that_a_document_names_exist(document):
    from experiments.cli import COMMANDS

    text = document.read_text()
    named = set(re.findall(r"(?:`|^ {4})unclip ([a-z][a-z0-9-]*)", text, re.MULTILINE))
    assert named <= set(COMMANDS)
    tools = re.findall(r"python -m benchmarks\.([\w.]+)([^`\n#]*)", text)
    for tool, words in tools:
        place = DOCS.parent / "benchmarks" / tool.replace(".", "/")
        source = (place / "__main__.py" if place.is_dir() else place.with_suffix(".py")).read_text()
        assert all(f'"{flag}"' in source for flag in re.findall(r"--[a-z][a-z0-9-]*", words)), (tool, words)
    assert named or tools


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(DOCS.parent).as_posix())
def test_settings_that_a_document_sets_exist(document):
    from modules.models.decoder import DecoderModel
    from modules.models.priors.autoregressive_prior import ARPriorModel
    from modules.models.priors.diffusion_prior import DiffusionPriorModel
    from modules.models.upsampler import UpsamplerModel

    known = {"decoder": set(DecoderModel.overridable()), "upsampler": set(UpsamplerModel.overridable())}
    known["prior"] = {*ARPriorModel.overridable(), *DiffusionPriorModel.overridable()}
    for stage, setting in re.findall(r"--set (?!STAGE)(\w+)\.(\w+)=", document.read_text()):
        assert setting in known[stage], f"{stage}.{setting}"


def test_the_documents_are_those_that_are_there():
    names = {path.name for path in DOCUMENTS}
    assert {"architecture.md", "data.md", "manipulations.md", "protocols.md", "reliability.md", "scaling.md"} <= names
    assert {"suites.md", "training.md"} <= names


PACKAGES = "unclip|modules|datamodules|eval|experiments|benchmarks"
NAMING = [*DOCUMENTS, ROOT / "CHANGELOG.md", *sorted((ROOT / "experiments").rglob("*.yaml"))]
"""The texts whose names are looked up: documents, the changelog, and the YAMLs with their headers."""


def own_paths(text: str) -> set[str]:
    """Paths of this repository: all that begin with one of its folders. A path with a {part} of a matrix is none."""
    return set(re.findall(rf"(?<![\w./-])((?:{PACKAGES}|tests|docs)/[\w./-]*[\w/])(?![\w./-]*\{{)", text))


def own_names(text: str) -> set[str]:
    """Dotted names of this repository's packages, but for calls: in an example, `unclip` may be an object."""
    return set(re.findall(rf"(?<![\w./-])((?:{PACKAGES})(?:\.\w+)+)(?![\w(]|/|\.\w)", text))


def bare_files(text: str) -> set[str]:
    """Python files that are named in backticks without their folder."""
    return set(re.findall(r"`([\w-]+\.py)`", text))


def made_files(text: str) -> set[str]:
    """Files that a document has the reader write: "# PATH" is the first line of a block of code."""
    return set(re.findall(r"^```\w+\n# (\S+\.\w+)$", text, re.MULTILINE))


@cache
def there(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute in one (of any depth)."""
    parts = name.split(".")
    for k in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:k]))
        except ModuleNotFoundError:
            continue
        return has(found, ".".join(parts[k:]))
    return False


def has(found: object, name: str) -> bool:
    """Whether an object has an attribute a, or a.b of it; "" is itself."""
    for part in name.split(".") if name else ():
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True


@pytest.mark.parametrize("document", NAMING, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_files_and_names_that_a_document_names_are_there(document):
    text = document.read_text()
    made = made_files(text)
    modules = tuple(file.removesuffix(".py").replace("/", ".") for file in made)
    assert [path for path in sorted(own_paths(text) - made) if not (ROOT / path).exists()] == []
    assert [name for name in sorted(own_names(text)) if not (name.startswith(modules) or there(name))] == []
    folders = (ROOT / top for top in ("docs", "tests", *PACKAGES.split("|")))
    known = {path.name for path in (*ROOT.glob("*.py"), *(path for top in folders for path in top.rglob("*.py")))}
    assert sorted(bare_files(text) - known - {Path(file).name for file in made}) == []


def test_what_is_not_there_is_found():
    text = "`modules/gone.py`, `modules.gone.Thing` and modules.pipeline.UnCLIP.gone, `gone.py`; unclip.invert(a)."
    assert own_paths(text) == {"modules/gone.py"}
    assert own_names(text) == {"modules.gone.Thing", "modules.pipeline.UnCLIP.gone"}
    assert not any(map(there, own_names(text)))
    assert there("modules.pipeline.UnCLIP.generate")
    assert bare_files(text) == {"gone.py"}
    assert made_files("```python\n# modules/new.py\n```\n```python\n# below x\n```") == {"modules/new.py"}


ROW = re.compile(r"^\| [^|]+ \| ((?:`[\w/]+\.py`(?:, )?)+) \| ((?:`[\w.]+`(?:, )?)+) \|$", re.MULTILINE)


def test_the_steps_of_architecture_name_functions_of_their_files():
    rows = ROW.findall((DOCS / "architecture.md").read_text())
    assert len(rows) > 30
    for files, functions in rows:
        names = [file.removesuffix(".py").replace("/", ".") for file in re.findall(r"`([^`]+)`", files)]
        modules = [importlib.import_module(name) for name in names]
        for name in re.findall(r"`([^`]+)`", functions):
            assert any(has(module, name) for module in modules), (files, name)


LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_between_documents_lead_somewhere(document):
    found = LINK.findall(document.read_text())
    assert [link for link in found if not (document.parent / link).exists()] == []


@pytest.mark.timeout(600)
def test_the_notebook_of_the_tutorial_runs(quick_stages, tmp_path, monkeypatch, capsys):
    import json

    pytest.importorskip("resvg_py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = json.loads((DOCS / "tutorial.ipynb").read_text())
    names: dict = {}
    for k, cell in enumerate(cell for cell in notebook["cells"] if cell["cell_type"] == "code"):
        exec(compile("".join(cell["source"]), f"tutorial.ipynb, cell {k}", "exec"), names)
    assert names["pictures"]._repr_png_().startswith(b"\x89PNG")
    assert (tmp_path / "runs" / "my_suite" / "embeddings" / "embeddings.json").is_file()
    assert "clip: step 2 of 2: train/loss" in capsys.readouterr().out
