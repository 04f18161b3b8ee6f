"""Memory of a picture data set's pairs: in the process that lists them, and in a loader process that looks at all.

    python -m benchmarks.memory.pairs [--pairs 1000000] [--caption 60]

The pairs are those of shards of 10,000, whose indices are made up here. Bytes are private memory (of smaps): what a
process has for itself, and does not share.
"""

from __future__ import annotations

import argparse
import gc
import re
from pathlib import Path
from typing import Any

import torch.multiprocessing as multiprocessing

from datamodules.pictures.sources import Pairs
from datamodules.webdataset import WebDatasetDataModule

SHARD = 10_000


class MadeUpShards(WebDatasetDataModule):
    """Shards whose indices are made up when they are asked for.

    Args:
        pairs: of all shards together.
        caption: characters of a caption.
    """

    def __init__(self, pairs: int, caption: int) -> None:
        names = "::".join(f"/none/{k:05d}.tar" for k in range(pairs // SHARD))
        super().__init__(names, cache_dir=None)
        self.caption = caption

    def _indexed(self, url: str) -> tuple[str, Any]:
        shard = Path(url).stem
        words = ("a small red circle beside a large blue square " * 10)[: self.caption - 6]
        pairs = [[f"{shard}{k:04d}", k * 40_000, 35_000, [["ground_truth", f"{words}{k:06d}"]]] for k in range(SHARD)]
        return url, {"pairs": pairs, "faults": [], "unused": {}, "whole": True}


def private() -> int:
    """Bytes of this process that it does not share."""
    gc.collect()
    text = Path("/proc/self/smaps_rollup").read_text(encoding="ascii")
    return 1024 * sum(int(found) for found in re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.MULTILINE))


def look(pairs: Pairs, answers: Any) -> None:
    """In a loader process: name and caption of every pair."""
    before = private()
    letters = sum(len(pairs.reader.name(k)) + len(pairs.captions.first(k)) for k in range(len(pairs)))
    answers.put((private() - before, letters))


def in_worker(pairs: Pairs, how: str) -> int:
    """Private bytes that a loader process, forked or spawned, adds by looking at all pairs."""
    context: Any = multiprocessing.get_context(how)
    answers = context.Queue()
    process = context.Process(target=look, args=(pairs, answers))
    process.start()
    grown, _ = answers.get()
    process.join()
    return int(grown)


def main() -> None:
    """Print bytes a pair."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory.pairs", description=__doc__)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--caption", type=int, default=60, help="characters of a caption")
    options = parser.parse_args()
    data = MadeUpShards(options.pairs, options.caption)
    MadeUpShards(SHARD, options.caption).pairs(
        "train"
    )  # What one shard's index takes for a moment is no pair's memory.
    before = private()
    pairs = data.pairs("train")
    grown = (private() - before) / options.pairs
    print(f"{options.pairs:,} pairs, captions of {options.caption} bytes")
    print(f"listed: {grown:.1f} bytes a pair, {grown - options.caption:.1f} beside the caption")
    for how in ("fork", "spawn"):
        print(f"loader process, {how}: {in_worker(pairs, how) / options.pairs:.1f} bytes a pair more")


if __name__ == "__main__":
    main()
