"""Figures: conditions side by side on the same captions (as the paper's figure 8), and training curves."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image, ImageDraw, ImageFont

from eval.errors import InputError
from eval.samples.folder import SampleFolder
from eval.samples.grid import FONT_SIZE, GAP, LINE_HEIGHT, to_pil, wrap

CELL = 112


def comparison(folders: Mapping[str, SampleFolder], captions: int = 10, sample: int = 0) -> Image.Image:
    """One row for each caption, one column for each condition: the same caption by all of them.

    Args:
        folders: heading of each column -> its samples.
        captions: how many of the captions that all folders share are shown; the first ones are.
        sample: which sample of a caption.

    Raises:
        InputError: no caption is in all folders.
    """
    found = [_by_caption(folder, sample) for folder in folders.values()]
    shared = [caption for caption in found[0] if all(caption in other for other in found)][:captions]
    if not shared:
        raise InputError(f"{', '.join(str(f.path) for f in folders.values())} have no caption in common")
    font = ImageFont.load_default(FONT_SIZE)
    width = len(folders) * (CELL + GAP) + GAP
    heads = [wrap(name, CELL, font.getlength) for name in folders]
    texts = [wrap(caption, width - 2 * GAP, font.getlength) for caption in shared]
    top = max(map(len, heads)) * LINE_HEIGHT + 2 * GAP
    height = top + sum(len(text) * LINE_HEIGHT + CELL + 3 * GAP for text in texts)
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    for column, lines in enumerate(heads):
        draw.multiline_text((GAP + column * (CELL + GAP), GAP), "\n".join(lines), fill="black", font=font)
    for caption, lines in zip(shared, texts, strict=True):
        for k, line in enumerate(lines):
            draw.text((GAP, top + k * LINE_HEIGHT), line, fill="black", font=font)
        top += len(lines) * LINE_HEIGHT + GAP
        for column, (folder, place) in enumerate(zip(folders.values(), found, strict=True)):
            picture = to_pil(folder.images(place[caption], place[caption] + 1)[0])
            cell = picture.resize((CELL, CELL), Image.Resampling.BICUBIC)
            page.paste(cell, (GAP + column * (CELL + GAP), top))
        top += CELL + 2 * GAP
    return page


def _by_caption(folder: SampleFolder, sample: int) -> dict[str, int]:
    """Caption -> position of its sample; of captions with the same words, the first."""
    place: dict[str, int] = {}
    for k, record in enumerate(folder.records):
        if record["sample_index"] == sample:
            place.setdefault(record["caption"], k)
    return place
