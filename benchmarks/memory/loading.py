"""Memory that loading a trained stage takes, as a multiple of its file of weights.

    python -m benchmarks.memory.loading [--width 1024] [--depth 24]

Writes the export of a diffusion prior of that size into a temporary folder and loads it in a process of its own, with
all weights touched once. `peak` is the largest resident set of the process minus that of before the load. With
`--clip WIDTH` a second line is a CLIP's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import nn

MODEL, NETWORK = (
    "modules.diffusion_prior.DiffusionPrior",
    "modules.networks.priors.diffusion_prior.DiffusionPriorNetwork",
)


def write_export(folder: Path, width: int, depth: int) -> Path:
    """The export of a diffusion prior with fresh weights."""
    from modules.networks.priors.diffusion_prior import DiffusionPriorNetwork

    arguments: dict[str, Any] = {
        "embedding_dim": 64,
        "vocab_size": 64,
        "context_length": 16,
        "width": width,
        "depth": depth,
        "heads": 2,
    }
    folder.mkdir(parents=True)
    save_file(DiffusionPriorNetwork(**arguments).state_dict(), folder / "model.safetensors")
    network = {"class_path": NETWORK, "init_args": arguments}
    (folder / "config.yaml").write_text(yaml.safe_dump({"class_path": MODEL, "init_args": {"network": network}}))
    return folder / "model.safetensors"


def write_clip(folder: Path, width: int) -> Path:
    """A CLIP of our own, of three layers each, with fresh weights."""
    from modules.clip import CLIPTrainer
    from modules.clip.word_tokenizer import WordTokenizer

    vision = {"layers": 3, "width": width, "head_width": 64, "image_size": 32, "patch_size": 8}
    text = {"context_length": 16, "vocab_size": 64, "width": width, "heads": width // 64, "layers": 3}
    made = CLIPTrainer(256, vision, text)
    made.tokenize = WordTokenizer(["a"], 64, 16)
    folder.mkdir(parents=True)
    made.export(folder)
    return folder / "export" / "open_clip_model.safetensors"


def resident(name: str) -> int:
    """A line of /proc/self/status in bytes: VmRSS, or VmHWM, the largest so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def peak_of(load: object, *folders: Path) -> int:
    """Bytes by which loading the last folder raises the largest resident set; the others are loaded before.

    Args:
        load: gives an nn.Module for a folder.
    """
    assert callable(load)
    kept = [load(folder) for folder in folders[:-1]]
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again
    before = resident("VmRSS")
    module: nn.Module = load(folders[-1])
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.sum()
    del kept
    return resident("VmHWM") - before


def load_stage(folder: Path) -> nn.Module:
    """A stage's network."""
    from modules.models.exports import load_model

    return load_model(folder).model.network


def load_clip(folder: Path) -> nn.Module:
    """A frozen CLIP."""
    from modules.clip import FrozenCLIP

    return FrozenCLIP(str(folder / "export"))


def main() -> None:
    """Print one line of JSON a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--depth", type=int, default=24)
    parser.add_argument("--clip", type=int, help="also load a CLIP of this width")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        kind, small, large = options.measure
        print(peak_of(load_clip if kind == "clip" else load_stage, Path(small), Path(large)))
        return
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        write_export(root / "stage-small", 16, 1)
        files = {"stage": write_export(root / "stage", options.width, options.depth)}
        if options.clip:
            write_clip(root / "clip-small", 64)
            files["clip"] = write_clip(root / "clip", options.clip)
        for kind, file in files.items():
            words = ["--measure", kind, str(root / f"{kind}-small"), str(root / kind)]
            command = [sys.executable, "-m", "benchmarks.memory.loading", *words]
            peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
            size = file.stat().st_size
            row = {
                "model": kind,
                "file": size,
                "peak": peak,
                "ratio": round(peak / size, 3),
                "torch": torch.__version__,
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
