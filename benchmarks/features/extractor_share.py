"""`python -m benchmarks.features.extractor_share`: how much of an extractor's own speed `unclip evaluate` reaches.

Two folders of 256 px are drawn into a scratch folder: samples, and as many real images. A CLIP with an image tower of
random weights sees all of them twice, in turns: as tensors that are in memory, and by the whole command, which loads
the CLIP, reads, checks and decodes the files, keeps the features, and computes every metric that a CLIP gives, with
1,000 draws. The share is the ratio of the two times. It is told by the clock and by the processor's time: on one core
that other programs use as well, only the latter compares.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.timings.evaluation import CONDITION, DIGITS, make_folder
from eval.files import write_file
from eval.judges.features import CLIPExtractor, load_clip
from eval.judges.judges import BATCH
from eval.samples.folder import SampleFolder
from experiments.cli import main as unclip
from modules.clip.word_tokenizer import WordTokenizer
from modules.models.exports import write_weights

TEXT: dict[str, Any] = {"context_length": 16, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
TOWERS: dict[str, tuple[int, dict[str, Any]]] = {
    "tiny": (512, {"image_size": 224, "layers": 2, "width": 192, "patch_size": 32}),
    "ViT-B-32": (512, {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32}),
    "ViT-L-14": (768, {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14}),
}
"""Name -> width of the embedding, and the image tower; the text tower is small."""


class Seconds(NamedTuple):
    """How long something took, by the clock and of the processor."""

    clock: float
    processor: float


class Turn(NamedTuple):
    """The extractor alone, and the whole command."""

    alone: Seconds
    whole: Seconds

    @property
    def shares(self) -> tuple[float, float]:
        """By the clock and by the processor's time."""
        return self.alone.clock / self.whole.clock, self.alone.processor / self.whole.processor


def write_clip(tower: str, folder: Path) -> None:
    """A CLIP of random weights with the image tower of that name, as a folder of open_clip's."""
    import open_clip

    torch.manual_seed(0)
    width, visual = TOWERS[tower]
    config = {"embed_dim": width, "vision_cfg": visual, "text_cfg": TEXT}
    folder.mkdir()
    write_weights(open_clip.CLIP(**config).state_dict(), folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "size": 224, "interpolation": "bicubic"}
    content = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    WordTokenizer(list(DIGITS), TEXT["vocab_size"], TEXT["context_length"]).save(folder)


def timed(work: Callable[[], object]) -> Seconds:
    """How long a call takes, with all its threads."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.perf_counter() - clock, time.process_time() - processor)


def see(clip: CLIPExtractor, folders: list[SampleFolder]) -> Seconds:
    """Shows all pictures to the extractor; decoding is not counted."""
    total = Seconds(0.0, 0.0)
    for folder in folders:
        for start in range(0, len(folder), BATCH):
            images = folder.images(start, start + BATCH)
            took = timed(lambda images=images: clip(images))  # type: ignore[misc]
            total = Seconds(total.clock + took.clock, total.processor + took.processor)
    return total


def evaluate(folder: Path, device: str) -> None:
    """The whole command, with no features kept from before."""
    words = ["evaluate", str(folder / CONDITION), "--reference", str(folder / "reference")]
    with contextlib.redirect_stdout(io.StringIO()):
        code = unclip([*words, "--clip", str(folder / "clip"), "--cache", "", "--device", device])
    if code:
        raise RuntimeError(f"unclip evaluate failed with {code}")


def measure(tower: str, count: int, device: str, pairs: int, scratch: Path) -> list[Turn]:
    """`pairs` turns, of `count` samples and as many real images."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        write_clip(tower, folder / "clip")
        folders = [
            make_folder(folder / CONDITION, count, 256, "diffusion_prior", seed=1),
            make_folder(folder / "reference", count, 256, "real", seed=2),
        ]
        clip = load_clip(str(folder / "clip"), device=device)
        clip(folders[0].images(0, 8))  # the first call makes kernels and buffers
        return [Turn(see(clip, folders), timed(lambda: evaluate(folder, device))) for _ in range(pairs)]


def main(argv: list[str] | None = None) -> None:
    """Measures one tower and prints a line for each turn."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.features.extractor_share", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--tower", choices=list(TOWERS), default="ViT-B-32")
    parser.add_argument("--count", type=int, default=2000, help="samples, and as many real images (default 2000)")
    parser.add_argument("--pairs", type=int, default=1, help="turns (default 1)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path, default=Path("runs/bench_extractor_share.json"))
    options = parser.parse_args(argv)
    turns = measure(options.tower, options.count, options.device, options.pairs, options.scratch)
    found = [{"alone": turn.alone._asdict(), "whole": turn.whole._asdict()} for turn in turns]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"tower": options.tower, "count": options.count, "turns": found}
    write_file(options.out, json.dumps(content, indent=1) + "\n")
    for turn in turns:
        print(line(options.tower, options.count, options.device, turn))


def line(tower: str, count: int, device: str, turn: Turn) -> str:
    """'ViT-B-32 on cpu, 2 x 2,000 pictures: alone 9.1/s, evaluation 8.2/s, 90% (processor time: 91%)'."""
    clock, processor = turn.shares
    return (
        f"{tower} on {device}, 2 x {count:,} pictures: alone {2 * count / turn.alone.clock:.1f}/s, evaluation"
        f" {2 * count / turn.whole.clock:.1f}/s, {clock:.0%} (processor time: {turn.alone.processor:.1f} s of"
        f" {turn.whole.processor:.1f} s, {processor:.0%})"
    )


if __name__ == "__main__":
    main()
