"""Figures: conditions side by side on the same captions (as the paper's figure 8), and training curves."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from eval.errors import InputError
from eval.grid import FONT_SIZE, GAP, LINE_HEIGHT, to_pil, wrap
from eval.samples import SampleFolder

CELL = 112
CURVES = {"loss": ("loss",), "score": ("accuracy", "retrieval", "cosine")}
"""The panels of a stage's curves -> words in the names of the scalars that they show."""


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


Curve = tuple[list[int], list[float]]


def read_curves(folder: Path) -> dict[str, Curve]:
    """All scalars in TensorBoard event files right in `folder`: name -> (steps, values); {} if there are none."""
    if not any(folder.glob("events.out.tfevents.*")):
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 1000})
    events.Reload()
    curves = {}
    for tag in events.Tags()["scalars"]:
        points = sorted({event.step: event.value for event in events.Scalars(tag)}.items())
        curves[tag] = ([step for step, _ in points], [value for _, value in points])
    return curves


def plot_curves(title: str, curves: Mapping[str, Curve]) -> bytes | None:
    """A PNG of a stage's losses and, if it has some, its scores; None if there is nothing to plot."""
    from matplotlib.figure import Figure

    panels = {kind: _of_kind(curves, words) for kind, words in CURVES.items()}
    panels = {kind: chosen for kind, chosen in panels.items() if chosen}
    if not panels:
        return None
    figure = Figure(figsize=(4.2, 2.6 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axis, (kind, chosen) in zip(axes, panels.items(), strict=True):
        for name, (steps, values) in chosen.items():
            axis.plot(steps, values, label=name, linewidth=1.2, marker="." if len(steps) < 3 else None)
        if kind == "loss" and all(value > 0 for _, values in chosen.values() for value in values):
            axis.set_yscale("log")
        axis.set_ylabel(kind)
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    axes[0].set_title(title, fontsize=10)
    axes[-1].set_xlabel("step")
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120)
    return out.getvalue()


def _of_kind(curves: Mapping[str, Curve], words: Sequence[str]) -> dict[str, Curve]:
    return {name: curve for name, curve in curves.items() if any(word in name for word in words)}
