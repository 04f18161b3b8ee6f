"""`python -m benchmarks.timings.evaluation`: speed and memory of `unclip evaluate` at 256 px.

Folders of solid shapes are drawn into a scratch folder, laid out as the documented protocol of MS-COCO lays them, and
measured by its command with small judges of random weights: an attribute classifier, a CLIP, and a file in the format
of the Inception weights, whose network, small, gives 2,048 features and 1,008 classes, behind clean-fid's resizing.
All metrics are computed. Features are memory maps and pairs are taken block by block, so that ten times as many images
need hardly more memory. Every count is a process of its own, whose peak the system reports.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn

from datamodules.rendered import scenes
from eval.judges.attributes import AttributeClassifier, export_classifier
from eval.samples.folder import SampleFolder, write_samples
from modules.clip.word_tokenizer import WordTokenizer
from modules.models.exports import write_weights

COUNTS = (3_000, 30_000)
SIZE = 256
CONDITION = "samples/diffusion_prior"
CLIP: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
}
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Measured:
    """One line of the result.

    Attributes:
        images: of the samples; the real images are as many.
        seconds: of the whole command.
        images_per_second: both sets of images, over all of these seconds.
        peak_mb: the largest memory that the process had resident, in 10^6 bytes; pages of memory maps count while they
            are there, though the system may drop them at any time.
        own_mb: the largest that was its own, without pages of files, as looked at ten times a second; Linux only.
    """

    images: int
    seconds: float
    images_per_second: float
    peak_mb: float
    own_mb: float | None = None


class Inception(nn.Module):
    """What clean-fid and the Inception Score use of the Inception weights' torchscript file, by a small network."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 7, 8), nn.ReLU(), nn.AvgPool2d(9), nn.Flatten(), nn.Linear(128, 2048), nn.ReLU()
        )
        self.output = nn.Linear(2048, 1008)

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        """(N, 3, 299, 299) in [0, 255] -> features (N, 2048), or logits (N, 1008)."""
        x = nn.functional.interpolate(x, (299, 299), mode="bilinear")
        features = self.layers((x - 128) / 128)
        return features if return_features else self.output(features)


def pictures(count: int, size: int, seed: int) -> Iterator[Image.Image]:
    """Solid shapes on a plain ground, of a colour and at a place of their own."""
    rng = np.random.default_rng(seed)
    for k in range(count):
        ground, colour = (tuple(int(v) for v in rng.integers(0, 256, 3)) for _ in range(2))
        picture = Image.new("RGB", (size, size), ground)
        x, y, r = (int(v) for v in rng.integers(size // 4, size // 2, 3))
        draw = ImageDraw.Draw(picture)
        (draw.ellipse if k % 2 else draw.rectangle)((x - r // 2, y - r // 2, x + r // 2, y + r // 2), fill=colour)
        yield picture


def caption(k: int) -> str:
    """A caption for each number: 30,000 different ones, as in the protocol of MS-COCO."""
    return " ".join(DIGITS[int(digit)] for digit in f"{k:05d}")


def make_folder(path: Path, count: int, size: int, condition: str, seed: int) -> SampleFolder:
    """A sample folder of `count` captions, one picture each."""
    truth = {"objects": [{"shape": "circle", "colour": "red", "size": None}]}
    unsaid = {"background": None, "relation": None, "count": 1}
    records = [
        {
            "caption": caption(k),
            "caption_index": k,
            "sample_index": 0,
            "condition": condition,
            "mentioned": truth | unsaid,
        }
        for k in range(count)
    ]
    return write_samples(path, pictures(count, size, seed), records)


def make_judges(folder: Path) -> dict[str, str]:
    """An attribute classifier, a CLIP and Inception weights, all random; the options that name them."""
    import open_clip

    torch.manual_seed(0)
    attributes = {name: list(classes) for name, classes in scenes.ATTRIBUTES.items()}
    export_classifier(AttributeClassifier(attributes, image_size=32, width=8), folder / "classifier")
    clip = folder / "clip"
    clip.mkdir()
    write_weights(open_clip.CLIP(**CLIP).state_dict(), clip / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "size": 32, "interpolation": "bicubic"}
    (clip / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP, "preprocess_cfg": preprocess}))
    WordTokenizer(list(DIGITS), 64, 16).save(clip)
    inception = folder / "inception.pt"
    torch.jit.script(Inception()).save(str(inception))
    return {"--classifier": str(folder / "classifier"), "--clip": str(clip), "--inception": str(inception)}


def command(folder: Path, judges: dict[str, str]) -> list[str]:
    """The words of `unclip evaluate` for the folders in `folder`, as `docs/protocols.md` has them."""
    named = [word for pair in judges.items() for word in pair]
    return ["evaluate", str(folder / CONDITION), "--reference", str(folder / "reference"), *named]


def measure(count: int, size: int, scratch: Path) -> Measured:
    """Evaluates `count` samples against as many real images, in a process of its own."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        make_folder(folder / CONDITION, count, size, "diffusion_prior", seed=1)
        make_folder(folder / "reference", count, size, "real", seed=2)
        words = [sys.executable, "-m", "experiments.cli", *command(folder, make_judges(folder))]
        start = time.perf_counter()
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        own, done = own_memory(process.pid), 0
        while not done:
            done, status, usage = os.wait4(process.pid, os.WNOHANG)
            own = max(own, own_memory(process.pid))
            time.sleep(0.1)
        seconds = time.perf_counter() - start
    if status:
        raise RuntimeError(f"unclip evaluate of {count} images failed with {os.waitstatus_to_exitcode(status)}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Measured(count, seconds, 2 * count / seconds, usage.ru_maxrss * unit / 1e6, own / 1e6 if own else None)


def own_memory(pid: int) -> int:
    """Bytes that a process has resident and that are no pages of files; 0 where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def main(argv: list[str] | None = None) -> None:
    """Measures each count and prints its line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.timings.evaluation", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS), help="images (default 3000 30000)")
    parser.add_argument("--size", type=int, default=SIZE, help="side of the images (default 256)")
    parser.add_argument("--scratch", type=Path, help="where to draw them (default: the system's temporary folder)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench_evaluation.json"))
    options = parser.parse_args(argv)
    found = []
    for count in options.counts:
        found.append(measure(count, options.size, options.scratch or Path(tempfile.gettempdir())))
        print(line(found[-1]), flush=True)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps([asdict(each) for each in found], indent=1))


def line(found: Measured) -> str:
    """'30,000 samples and as many real images: 312 s, 192 images/s, peak 640 MB, 410 MB without pages of files'."""
    own = f", {found.own_mb:.0f} MB without pages of files" if found.own_mb else ""
    return (
        f"{found.images:,} samples and as many real images: {found.seconds:.0f} s,"
        f" {found.images_per_second:.0f} images/s, peak {found.peak_mb:.0f} MB{own}"
    )


if __name__ == "__main__":
    main()
