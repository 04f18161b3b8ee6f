"""`python -m benchmarks.features.extractor_share`: how much of an extractor's own speed evaluation reaches.

Pictures of 256 px are drawn into a scratch folder. A CLIP's image tower of random weights sees them twice, in turns:
as one tensor that is in memory, and by `eval.judges.judges.look` from the files, which reads, checks, decodes and
stores. The share is the ratio of the two speeds; what evaluation adds should cost less than a fifth.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.timings.evaluation import make_folder
from eval.files import write_file
from eval.judges.features import CLIPExtractor
from eval.judges.judges import BATCH, Judges, look

TEXT: dict[str, Any] = {"context_length": 16, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
TOWERS: dict[str, dict[str, Any]] = {
    "tiny": {"image_size": 224, "layers": 2, "width": 192, "patch_size": 32},
    "ViT-B-32": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
    "ViT-L-14": {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14},
}


def make_clip(tower: str, device: torch.device) -> CLIPExtractor:
    """A CLIP of random weights with the image tower of that name."""
    import open_clip

    torch.manual_seed(0)
    model = open_clip.CLIP(64, TOWERS[tower], TEXT)
    visual: Any = model.visual
    visual.preprocess_cfg = {"size": 224, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    return CLIPExtractor(model, tower, None, device)


def measure(tower: str, count: int, device: torch.device, pairs: int, scratch: Path) -> dict[str, float]:
    """Images a second of the extractor alone and of `look`, medians of `pairs` turns, and the share of the latter."""
    clip = make_clip(tower, device)
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = make_folder(Path(name) / "pictures", count, 256, "real", seed=0)
        batches = [folder.images(start, start + BATCH) for start in range(0, count, BATCH)]
        clip(batches[0])  # the first call makes kernels and buffers
        alone, looked = [], []
        for k in range(pairs):
            start = time.perf_counter()
            for images in batches:
                clip(images)
            alone.append(count / (time.perf_counter() - start))
            start = time.perf_counter()
            look(folder, Judges(clip=clip), cache=Path(name) / f"cache-{k}")
            looked.append(count / (time.perf_counter() - start))
    shares = [b / a for a, b in zip(alone, looked, strict=True)]
    return {
        "alone_per_s": float(np.median(alone)),
        "look_per_s": float(np.median(looked)),
        "share": float(np.median(shares)),
        "lowest": min(shares),
        "highest": max(shares),
    }


def main(argv: list[str] | None = None) -> None:
    """Measures one tower and prints a line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.features.extractor_share", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--tower", choices=list(TOWERS), default="ViT-B-32")
    parser.add_argument("--count", type=int, default=1024, help="pictures (default 1024)")
    parser.add_argument("--pairs", type=int, default=3, help="turns (default 3)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path, default=Path("runs/bench_extractor_share.json"))
    options = parser.parse_args(argv)
    found = measure(options.tower, options.count, torch.device(options.device), options.pairs, options.scratch)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_file(options.out, json.dumps({"tower": options.tower, "count": options.count, **found}, indent=1) + "\n")
    print(
        f"{options.tower}, {options.count} pictures, {options.device}: alone {found['alone_per_s']:.1f}/s, evaluation"
        f" {found['look_per_s']:.1f}/s, {found['share']:.0%} ({found['lowest']:.0%} to {found['highest']:.0%})"
    )


if __name__ == "__main__":
    main()
