"""Makes a run of Karlo's full size with random weights (3.7 B parameters), and draws one picture in bounded memory.

    python -m benchmarks.trials.full_size --out /tmp/karlo-size [--small] [--steps 2] [--keep]

The stages are those of experiments/karlo/, their weights random and in bfloat16 (7.5 GB on disk), written tensor by
tensor. One picture is then drawn in a process of its own, as `unclip sample --precision bf16 --offload` does. Printed
are the largest resident set after each part of that process, and how long it took. `--small` does the same with narrow
networks.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.memory.loading import resident
from benchmarks.trials.full_size.writing import write_clip, write_stage

CONFIGS = Path(__file__).parents[3] / "experiments" / "karlo"

FULL: dict[str, dict[str, Any]] = {"diffusion_prior": {}, "decoder": {}, "upsampler": {}}
SMALL: dict[str, dict[str, Any]] = {
    "diffusion_prior": {"width": 64, "depth": 2, "heads": 2, "embedding_dim": 32, "feature_dim": 32},
    "decoder": {
        "unet.channels": 32,
        "unet.depth": 1,
        "embedding_dim": 32,
        "text_width": 64,
        "frozen_text": {"feature_dim": 32, "z_t_dim": 32, "padding_mask": True},
    },
    "upsampler": {"unet.channels": 32, "unet.depth": 1},
}
"""Changes to the networks of the YAMLs."""

CLIP = {
    "full": (
        768,
        {"image_size": 224, "layers": 24, "width": 1024, "patch_size": 14},
        {"context_length": 77, "vocab_size": 49408, "width": 768, "heads": 12, "layers": 12},
    ),
    "small": (
        32,
        {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8},
        {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    ),
}
"""D, and the towers: OpenAI's ViT-L/14, and a small one with the same tokens."""


def write_run(folder: Path, small: bool = False) -> dict[str, int]:
    """The run's stages; gives how many numbers each has."""
    dim, vision, text = CLIP["small" if small else "full"]
    counts = {"clip": write_clip(folder / "clip", vision, text, dim, seed=0)}
    for seed, (name, changes) in enumerate((SMALL if small else FULL).items(), start=1):
        counts[name] = write_stage(folder / name, CONFIGS / f"{name}.yaml", changes, seed)
    return counts


def draw(run: Path, steps: int) -> dict[str, Any]:
    """One picture, and the largest resident set in MB after each part of the drawing."""
    import torch

    from modules.pipeline import UnCLIP
    from modules.seeds import ImageSeeds

    start, peaks = time.monotonic(), {"imports": resident("VmHWM")}
    few = {"steps": steps}
    overrides: Any = {"diffusion_prior": few, "decoder": few, "upsampler": few}
    system = UnCLIP.from_run(run, precision="bf16", offload=True, **overrides)
    seeds, captions = ImageSeeds.of([0], 1), ["a corgi wearing a red bow tie"]
    with torch.no_grad():
        tokens, z_t = system.embed_text(captions)
        peaks["clip"] = resident("VmHWM")
        z_i = system.sample_prior("diffusion_prior", tokens, z_t, seeds.generators("prior"))
        peaks["diffusion_prior"] = resident("VmHWM")
        low = system.decode(tokens, z_i, seeds.generators("decoder"))
        peaks["decoder"] = resident("VmHWM")
        high = system.upsample(low, seeds)
        peaks["upsampler"] = resident("VmHWM")
    assert torch.isfinite(high).all()
    shown = {name: round(bytes_ / 1e6) for name, bytes_ in peaks.items()}
    return {"picture": list(high.shape), "peak_MB": shown, "seconds": round(time.monotonic() - start, 1)}


def main() -> None:
    """Print one line of JSON for what was written, and one for what was drawn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="run folder to make; one that is there is drawn from")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--steps", type=int, default=2, help="of each sampler (default 2)")
    parser.add_argument("--keep", action="store_true", help="leave the folder there")
    parser.add_argument("--draw", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.draw:
        print(json.dumps(draw(options.out, options.steps)))
        return
    made = not options.out.exists()
    if made:
        start, counts = time.monotonic(), write_run(options.out, options.small)
        size = sum(path.stat().st_size for path in options.out.rglob("*.safetensors"))
        written = {"parameters": counts, "all": sum(counts.values()), "GB": round(size / 1e9, 3)}
        print(json.dumps({**written, "seconds": round(time.monotonic() - start, 1)}), flush=True)
    try:
        words = ["--draw", "--out", str(options.out), "--steps", str(options.steps)]
        subprocess.run([sys.executable, "-m", "benchmarks.trials.full_size", *words], check=True)
    finally:
        if made and not options.keep:
            shutil.rmtree(options.out)


if __name__ == "__main__":
    main()
