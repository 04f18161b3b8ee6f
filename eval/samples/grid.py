"""One picture that shows many samples with their captions readable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

FONT_SIZE = 14
LINE_HEIGHT = 18
GAP = 4
CELL = 112  # pixels; smaller images are enlarged to it so that a 32 px sample can be judged by eye
LONGEST = 2000  # characters of a caption that are shown
ROW = 8  # samples side by side before a caption's row is continued below


def to_pil(image: Tensor) -> Image.Image:
    """Turns a uint8 (3, H, W) tensor into an RGB picture."""
    return Image.fromarray(np.ascontiguousarray(image.cpu().numpy().transpose(1, 2, 0)))


def wrap(text: str, width: float, measure: Callable[[str], float]) -> list[str]:
    """Breaks `text` at spaces into lines of at most `width`; a longer word is cut, so that all of it stays inside.

    A text of more than `LONGEST` characters is cut off there; captions are shorter.
    """
    lines = [""]
    for word in (text if len(text) <= LONGEST else f"{text[:LONGEST]}…").split():
        while measure(word) > width and len(word) > 1:
            most = 1
            while most < len(word) - 1 and measure(word[:most]) <= 2 * width:
                most *= 2
            most = min(most, len(word) - 1)
            head = next(n for n in range(most, 0, -1) if n == 1 or measure(word[:n]) <= width)
            lines, word = [*lines, word[:head]] if lines[-1] else [*lines[:-1], word[:head]], word[head:]
        joined = f"{lines[-1]} {word}".strip()
        if measure(joined) <= width or not lines[-1]:
            lines[-1] = joined
        else:
            lines.append(word)
    return lines


def _fit(image: Image.Image, cell: int) -> Image.Image:
    scale = cell / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def _block(images: Sequence[Image.Image], caption: str, columns: int, cell: int) -> Image.Image:
    """One caption, printed above its samples."""
    width = columns * (cell + GAP) - GAP
    font = ImageFont.load_default(FONT_SIZE)
    lines = wrap(caption, width, font.getlength)
    top = len(lines) * LINE_HEIGHT + GAP
    rows = -(-len(images) // columns)
    block = Image.new("RGB", (width, top + rows * (cell + GAP)), "white")
    draw = ImageDraw.Draw(block)
    for k, line in enumerate(lines):
        draw.text((0, k * LINE_HEIGHT), line, fill="black", font=font)
    for k, image in enumerate(images):
        fitted = _fit(image, cell)
        block.paste(fitted, (k % columns * (cell + GAP), top + k // columns * (cell + GAP)))
    return block


def caption_grid(
    images: Sequence[Image.Image], captions: Sequence[str], groups: Sequence[int], max_captions: int = 32
) -> Image.Image:
    """Lays out samples, one row for each caption, with the caption printed above its row.

    Args:
        images: N pictures.
        captions: their N captions.
        groups: N numbers; neighbours with the same number belong to one caption and share a row of up to 8.
        max_captions: how many captions are shown; the first ones are.

    Returns:
        An RGB picture; captions with few samples stand in several columns, so that it stays about square.
    """
    order = sorted(range(len(images)), key=lambda i: groups[i])
    rows = [list(members) for _, members in groupby(order, key=lambda i: groups[i])][:max_captions]
    longest = max(len(row) for row in rows)
    columns = min(longest, ROW)
    cell = CELL if longest > 1 else 2 * CELL  # a single small cell would leave its caption a word a line
    blocks = [_block([images[i] for i in row], captions[row[0]], columns, cell) for row in rows]
    across = max(1, min(len(blocks), 8 * CELL // blocks[0].width))
    return _stack(blocks, across)


def _stack(blocks: list[Image.Image], across: int) -> Image.Image:
    lines = [blocks[k : k + across] for k in range(0, len(blocks), across)]
    width = across * (blocks[0].width + 4 * GAP)
    height = sum(max(block.height for block in line) + 3 * GAP for line in lines)
    page = Image.new("RGB", (width + 4 * GAP, height + 3 * GAP), "white")
    y = 3 * GAP
    for line in lines:
        for k, block in enumerate(line):
            page.paste(block, (4 * GAP + k * (block.width + 4 * GAP), y))
        y += max(block.height for block in line) + 3 * GAP
    return page
