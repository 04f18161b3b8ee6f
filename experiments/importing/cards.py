"""Model cards of imported stages: what they are, whose, under which licence, and how they are loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from modules.untrusted.reading import open_regular, printable
from modules.untrusted.weights import file_hash

CARD = "README.md"


@dataclass(frozen=True)
class Release:
    """The release that was imported.

    Attributes:
        title: its name, with whose it is.
        licence: in short, as model hubs write it, and where its text is.
        page: where it comes from.
        source: what the user named.
        card: the source's own model card; "" if there is none.
    """

    title: str
    licence: tuple[str, str]
    page: str
    source: str
    card: str = ""


CREATIVEML = (
    "creativeml-openrail-m",
    "CreativeML Open RAIL-M: its use restrictions bind whoever passes the weights on",
)
RELEASES = {
    "karlo": ("Karlo v1.0 alpha, Kakao Brain", CREATIVEML, "https://github.com/kakaobrain/karlo"),
    "kandinsky-prior": (
        "Kandinsky's prior, AI Forever",
        ("apache-2.0", "Apache 2.0"),
        "https://github.com/ai-forever/Kandinsky-2",
    ),
    "eclipse": ("ECLIPSE's prior", ("other", "see the source's own card"), "https://arxiv.org/abs/2312.04655"),
    "glide": ("GLIDE (filtered), OpenAI", ("mit", "MIT"), "https://github.com/openai/glide-text2im"),
    "dvae": ("the dVAE of DALL-E 1, OpenAI", ("mit", "MIT, modified by OpenAI"), "https://github.com/openai/DALL-E"),
    "clip": ("a CLIP", ("other", "see the source's own card"), "https://github.com/mlfoundations/open_clip"),
}
"""Title, licence and page of each kind. The licence is that of the release that the name stands for."""


def release_of(kind: str, source: str, folder: Path) -> Release:
    """The release of a kind; the source's own card, if it has one, says a licence of its own."""
    title, licence, page = RELEASES[kind]
    card = folder / CARD
    text = text_of(card)[:100_000] if card.is_file() else ""
    return Release(title, _said(text) or licence, page, source, text)


def text_of(card: Path) -> str:
    """The text of a card, of which so much is read as any card has."""
    with open_regular(card) as file:
        return file.read(400_000).decode("utf-8", "replace")


def _said(card: str) -> tuple[str, str] | None:
    """The licence in a card's front matter."""
    if not card.startswith("---"):
        return None
    line = next((x for x in card.split("---")[1].splitlines() if x.startswith("license:")), None)
    name = "" if line is None else printable(line.partition(":")[2].strip()[:60])
    return (name, f"{name}, as the source's own card says") if name else None


def stage_card(release: Release, name: str, section: Mapping[str, object], weights: Path) -> str:
    """The card of one stage, as Markdown with the front matter that model hubs read."""
    front = {"license": release.licence[0], "library_name": "unclip", "tags": ["unclip", "dall-e-2", name]}
    size = weights.stat().st_size / 1e6
    body = [
        f"# {release.title}: {name}",
        "",
        f"Imported by `unclip import` from `{printable(release.source)}`; the tensors are those of the release, under "
        "this project's names.",
        "",
        f"- class: `{section['class_path']}`",
        f"- weights: `{weights.name}`, {size:.1f} MB, sha256 `{file_hash(weights)}`",
        f"- source: {release.page}",
        "",
        "## Licence",
        "",
        f"{release.licence[1]}. The licence of the release applies to these weights, and to what is trained from them.",
    ]
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n" + "\n".join(body) + "\n"


def merged(before: str, section: str) -> str:
    """A run folder's card with the section of a release: beside those of others, in the place of its own old one."""
    title = section.partition("\n")[0]
    parts = [part for part in re.split(r"^(?=# )", before, flags=re.MULTILINE) if part.strip()]
    kept = [part.rstrip() + "\n" for part in parts if part.partition("\n")[0] != title]
    return "\n".join([*kept, section])


def overview(release: Release, names: list[str]) -> str:
    """The section of the run folder's card that tells of a release."""
    lines = [f"# {release.title}", "", f"Licence: {release.licence[1]}. Source: {release.page}.", ""]
    lines += [f"- [{name}]({name}/export/{CARD})" for name in names]
    return "\n".join(lines) + "\n"
