"""Hooks of mkdocs: pages that are made when the site is built, and links that lead out of docs/.

index.md, contributing.md and changelog.md are the files at the root; commands.md is made from the parsers.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COPIES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]*)(#[^)]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made."""
    from mkdocs.structure.files import File

    for name, source in COPIES.items():
        text = from_root((ROOT / source).read_text(encoding="utf-8"))
        files.append(File.generated(config, name, content=text))
    files.append(File.generated(config, "commands.md", content=commands_page()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links to files outside docs/ become their names: the site has pages, not the sources."""
    return LINK.sub(lambda found: inside(found[1], found[2], found[3], found[4] or ""), markdown)


def from_root(text: str) -> str:
    """A document of the root, as it links from docs/."""

    def moved(found: re.Match[str]) -> str:
        mark, shown, target, anchor = found[1], found[2], found[3], found[4] or ""
        back = {source: name for name, source in COPIES.items()}
        if "://" in target or not target:
            return found[0]
        new = target.removeprefix("docs/") if target.startswith("docs/") else back.get(target, f"../{target}")
        return f"{mark}[{shown}]({new}{anchor})"

    return LINK.sub(moved, text)


def inside(mark: str, shown: str, target: str, anchor: str) -> str:
    """A link, if it stays in docs/; else what it shows, with the path."""
    back = {f"../{source}": name for name, source in COPIES.items()}
    if target in back:
        return f"{mark}[{shown}]({back[target]}{anchor})"
    if target.startswith("../"):
        path = target.removeprefix("../")
        return shown if path in shown else f"{shown} (`{path}`)"
    return f"{mark}[{shown}]({target}{anchor})"


def commands_page() -> str:
    """Every command's help, by topic, as its parser prints it."""
    from experiments.cli import GROUPS
    from experiments.console.configs import LIGHTNING
    from experiments.console.lightning_help import help_page

    parts = ["# Commands\n\nWhat `unclip COMMAND --help` prints, by topic. This page is made from the parsers."]
    for group, commands in GROUPS.items():
        parts.append(f"\n## {group.replace('_', ' ')}")
        for command, (module, line) in commands.items():
            said = f"{line[0].upper()}{line[1:]}.".replace("[", "\\[")
            parts.append(f"\n### unclip {command}\n\n{said}")
            if command in LIGHTNING:
                pages = [help_page(command)]
            else:
                room = importlib.import_module(f"experiments.{module.partition('.')[0]}.options")
                pages = helps(room.PARSERS[command]())
            parts += [f"\n```text\n{page.rstrip()}\n```" for page in pages]
    return "\n".join(parts) + "\n"


def helps(parser: Any) -> list[str]:
    """The help of a parser, and of the commands within it, 100 columns wide."""
    before, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), "100"
    try:
        found = [parser.format_help()]
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                found += [page for inner in action.choices.values() for page in helps(inner)]
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return found
