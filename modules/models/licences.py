"""What others ask of weights and pictures: the licence of a release, and whom training data want to be named."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from modules.errors import InputError
from modules.models.exports import export_folder, is_export
from modules.shipped import stage_place
from modules.untrusted.reading import open_regular, parse_yaml, printable, read_yaml

KEY = "licence"
"""Of an export's config.yaml."""

ATTRIBUTION = "attribution"
"""Of an export's config.yaml: whom the licences of the training data ask to be named."""

BETWEEN = "; "
"""What parts the names of an attribution."""

CARD = "README.md"
MAX_CARD, MAX_TEXT = 400_000, 2_000
UNREADABLE = (InputError, OSError, UnicodeDecodeError, yaml.YAMLError)


@dataclass(frozen=True)
class Licence:
    """A licence of weights.

    Attributes:
        name: in short, as model hubs write it.
        text: what it asks, in a sentence or two.
        of: the weights that it is the licence of.
    """

    name: str
    text: str
    of: str

    @property
    def free(self) -> bool:
        """Whether it is this package's own, which asks for nothing that the package does not ask already."""
        return self.name.lower() == "mit"


def licence_of_both(found: Iterable[Licence | None]) -> Licence | None:
    """The licence of weights that come from several: that of the one that is not free, or what all of them ask."""
    licences = list(dict.fromkeys(licence for licence in found if licence is not None))
    bound = [licence for licence in licences if not licence.free]
    if len(bound) < 2:
        return next(iter(bound or licences), None)
    names = {licence.name for licence in bound}
    said = " ".join(f"{licence.of} ({licence.name}): {licence.text}" for licence in bound)
    return Licence(names.pop() if len(names) == 1 else "other", said, " and ".join(licence.of for licence in bound))


def licence_of(export: Path) -> Licence | None:
    """What an export's config.yaml says, or its card; None where neither says a licence."""
    try:
        config = read_yaml(export / "config.yaml")
    except UNREADABLE:
        config = None
    said = config.get(KEY) if isinstance(config, dict) else None
    return _made(said) if isinstance(said, dict) else _of_card(export / CARD)


def licence_behind(init_from: str) -> Licence | None:
    """The licence of the weights that a training starts from: a stage's folder, a file, or a checkpoint."""
    return licence_of(_export_behind(init_from))


def attribution_behind(init_from: str) -> str | None:
    """Whom the weights that a training starts from ask to name; see `licence_behind`."""
    return attribution_of(_export_behind(init_from))


def _export_behind(init_from: str) -> Path:
    place = stage_place(init_from)
    if place.suffix == ".ckpt":
        return export_folder(place.parent.parent)
    return place.parent if place.is_file() else export_folder(place)


def attribution_of(export: Path) -> str | None:
    """Whom an export's config.yaml asks to name, with licences, as training wrote it; None where it says nothing."""
    try:
        config = read_yaml(export / "config.yaml")
    except UNREADABLE:
        return None
    said = config.get(ATTRIBUTION) if isinstance(config, dict) else None
    return printable(said[:MAX_TEXT])[:MAX_TEXT] if isinstance(said, str) and said else None


def attribution_of_run(run: Path) -> str | None:
    """Whom to name beside pictures that a run's stages draw; None where none of them was trained on data that ask it.

    Args:
        run: a run folder, or what `unclip export` made of it.
    """
    stages = sorted(path for path in run.iterdir() if path.is_dir() and is_export(path)) if run.is_dir() else []
    return joined(attribution_of(export_folder(stage)) for stage in stages)


def joined(attributions: Iterable[object]) -> str | None:
    """Attributions as one, each name once; None if there is none. What does not fit into `MAX_TEXT` is left out."""
    names = dict.fromkeys(name for said in attributions if said for name in str(said).split(BETWEEN) if name)
    text = ""
    for name in names:
        longer = f"{text}{BETWEEN}{name}" if text else name
        text = longer if len(longer) <= MAX_TEXT else text
    return text or None


def _of_card(path: Path) -> Licence | None:
    try:
        text = card_text(path)
        found = re.match(r"---\n(.*?\n)---\n", text, re.DOTALL)
        front = parse_yaml(found[1], str(path)) if found else None
    except UNREADABLE:
        return None
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    section = re.search(r"^## Licence\n(.+?)(?=^#|\Z)", text, re.DOTALL | re.MULTILINE)
    if not isinstance(front, dict) or title is None or section is None:
        return None
    return _made({"name": front.get("license"), "text": " ".join(section[1].split()), "of": title[1]})


def card_text(path: Path) -> str:
    """The text of a card, of which so much is read as any card has.

    Raises:
        InputError, OSError: it is no file, or there is none.
    """
    with open_regular(path) as file:
        return file.read(MAX_CARD).decode("utf-8", "replace").replace("\r\n", "\n")


def _made(said: dict[str, object]) -> Licence | None:
    parts = [said.get(key) for key in ("name", "text", "of")]
    texts = [printable(part[:MAX_TEXT]) for part in parts if isinstance(part, str)]
    return Licence(*texts) if len(texts) == len(parts) else None
