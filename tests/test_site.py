"""The docs site: its commands page says what the parsers say, its links stay inside, and it builds strictly."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site():
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "docs" / "site_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_commands_page_has_every_command_and_option(site):
    from experiments.cli import COMMANDS

    page = site.commands_page()
    assert all(f"\n### unclip {command}\n" in page for command in COMMANDS)
    for said in ("--decoder-steps", "unclip data export [", "--ckpt_path PATH", "examples:", "modules.decoder.Decoder"):
        assert said in page, said


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        ("[a](data.md#b)", "[a](data.md#b)"),
        ("![p](x.png)", "![p](x.png)"),
        ("[benchmarks](../benchmarks/README.md)", "benchmarks (`benchmarks/README.md`)"),
        ("[`modules/x.py`](../modules/x.py)", "`modules/x.py`"),
        ("[change](../CHANGELOG.md)", "[change](changelog.md)"),
    ],
)
def test_links_of_a_page_stay_inside(site, link, shown):
    assert site.on_page_markdown(link, None, None, None) == shown


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        ("[a](docs/data.md#b)", "[a](data.md#b)"),
        ("![p](docs/x.png)", "![p](x.png)"),
        ("[c](CONTRIBUTING.md)", "[c](contributing.md)"),
        ("[l](LICENSE)", "[l](../LICENSE)"),
        ("[web](https://example.org/a)", "[web](https://example.org/a)"),
    ],
)
def test_documents_of_the_root_link_from_docs(site, link, shown):
    assert site.from_root(link) == shown


@pytest.mark.timeout(600)
def test_the_site_builds_strictly(tmp_path, monkeypatch):
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path / "site")))
    pages = {path.name for path in (tmp_path / "site").glob("*.html")}
    assert {
        "index.html",
        "tutorial.html",
        "concepts.html",
        "commands.html",
        "api.html",
        "troubleshooting.html",
    } <= pages
    api = (tmp_path / "site" / "api.html").read_text()
    assert 'id="modules.pipeline.UnCLIP.text_to_image"' in api
