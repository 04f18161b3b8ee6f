"""Draws the pictures of docs/results/drawings.md from the shipped weights: `python docs/drawings_picture.py`."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from eval.figures.panels import panel, stacked
from eval.samples.folder import SampleFolder
from eval.samples.grid import to_pil
from modules.models.licences import attribution_of_run
from modules.pipeline import UnCLIP

HERE = Path(__file__).parent
STYLES = ("Noto", "Fluent Flat", "Twitter", "OpenMoji")
THINGS = ("red heart", "grinning face", "full moon", "strawberry", "lion", "rocket")
BETWEEN = ("red heart in the Noto style", "full moon in the Noto style")
CHANGED = (("grinning face", "Twitter", "OpenMoji"), ("red heart", "OpenMoji", "Twitter"))
THETAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
CELL, SMALL = 96, 72
PAGE = 100
QUALITY = 80


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="shipped:drawings", help="run folder (default: %(default)s)")
    parser.add_argument("--judged", type=Path, help="run of the suite, for the pages of its samples (default: none)")
    parser.add_argument("--out", type=Path, default=HERE, help="folder (default: that of this file)")
    options = parser.parse_args()
    system = UnCLIP.from_run(options.run)
    print(attribution_of_run(system.run))
    save(stacked([by_style(system), between(system), changed(system)]), options.out / "drawings.webp")
    if options.judged is not None:
        results = options.out / "results"
        save(page(SampleFolder.open(options.judged / "samples" / "diffusion_prior")), results / "drawings.webp")
        save(page(SampleFolder.open(options.judged / "seen" / "diffusion_prior")), results / "drawings_shown.webp")
        save(held_by_z_i(options.judged / "seen"), results / "drawings_z_i.webp")


def save(picture: Image.Image, path: Path) -> None:
    """As a WebP: small, and soft edges stay soft, which a palette would harden."""
    picture.convert("RGB").save(path, quality=QUALITY, method=6)
    print(path)


def caption(thing: str, style: str) -> str:
    """As the drawings' data set makes it."""
    return f"{thing} in the {style} style"


def by_style(system: UnCLIP) -> Image.Image:
    """A row for each style, a column for each thing; the same noise in a column."""
    rows = [list(system.text_to_image([caption(thing, style) for thing in THINGS])) for style in STYLES]
    return panel(rows, THINGS, STYLES, CELL)


def between(system: UnCLIP) -> Image.Image:
    """The way from one drawing to another: z_i and noise are interpolated."""
    ends = system.text_to_image(BETWEEN)
    return panel([list(system.interpolate(list(ends), len(THINGS)))], [""] * len(THINGS), ["from one to another"], CELL)


def changed(system: UnCLIP) -> Image.Image:
    """Drawings whose z_i is turned from one style's caption towards another's."""
    rows, names = [], []
    for thing, old, new in CHANGED:
        base, target = caption(thing, old), caption(thing, new)
        rows.append(list(system.text_diff(system.text_to_image(base)[0], target, base, theta=THETAS)))
        names.append(f"from {old} to {new}, by words")
    return panel(rows, [f"theta {theta}" for theta in THETAS], names, CELL)


def page(samples: SampleFolder) -> Image.Image:
    """The first hundred samples, each below its caption."""
    pictures = [to_pil(image) for image in samples.images(0, PAGE)]
    parts = [slice(k, min(k + 10, len(pictures))) for k in range(0, len(pictures), 10)]
    return stacked([panel([pictures[part]], samples.captions[part], None, SMALL) for part in parts])


def held_by_z_i(folder: Path) -> Image.Image:
    """The first ten drawings that training shows, what is drawn from their z_i, and from their captions alone."""
    rows = [SampleFolder.open(folder / name) for name in ("real", "image_embedding", "diffusion_prior")]
    pictures = [[to_pil(image) for image in samples.images(0, 10)] for samples in rows]
    return panel(pictures, rows[0].captions[:10], ("drawing", "from its z_i", "from the caption"), CELL)


if __name__ == "__main__":
    main()
