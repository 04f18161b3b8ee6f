"""`python -m benchmarks.pictures.png_files FOLDER`: how long PNG files of pictures take, and how large they are.

Prints a row for Pillow's own settings, for the suite's (`eval.samples.pictures.PNG`) and for `optimize`. FOLDER holds
pictures, such as a sample folder. The settings take turns, and the least of `--repeats` times counts.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from eval.samples.folder import GRID
from eval.samples.pictures import PNG, SUFFIXES, read_picture

SETTINGS: Mapping[str, Mapping[str, Any]] = {"Pillow's own": {}, "the suite's": PNG, "optimize": {"optimize": True}}
HEAD = ("settings", "ms a picture", "bytes a picture")


def main() -> int:
    """Read, write into memory, print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with pictures")
    parser.add_argument("--pictures", type=int, default=200, help="the first ones by name (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="(default: %(default)s)")
    options = parser.parse_args()
    found = sorted(options.folder.iterdir()) if options.folder.is_dir() else []
    files = [file for file in found if file.suffix.lower() in SUFFIXES and file.name != GRID]
    if not files:
        print(f"{options.folder} has no pictures", file=sys.stderr)
        return 1
    rows = measured([read_picture(file, file) for file in files[: options.pictures]], options.repeats)
    print("| " + " | ".join(HEAD) + " |\n|" + " --- |" * len(HEAD))
    for name, (seconds, size) in rows.items():
        print(f"| {name} | {1e3 * seconds:.2f} | {size:,.0f} |")
    return 0


def measured(pictures: list[Image.Image], repeats: int) -> dict[str, tuple[float, float]]:
    """By settings, the seconds and the bytes of a picture on average."""
    found: dict[str, tuple[float, float]] = {}
    for _ in range(repeats):
        for name, settings in SETTINGS.items():
            start = time.perf_counter()
            size = sum(len(encoded(picture, settings)) for picture in pictures) / len(pictures)
            seconds = (time.perf_counter() - start) / len(pictures)
            found[name] = (min(seconds, found.get(name, (seconds, size))[0]), size)
    return found


def encoded(picture: Image.Image, settings: Mapping[str, Any]) -> bytes:
    """A picture as PNG with these settings of Pillow."""
    out = io.BytesIO()
    picture.save(out, format="PNG", **settings)
    return out.getvalue()


if __name__ == "__main__":
    raise SystemExit(main())
