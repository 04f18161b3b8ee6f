"""`python -m benchmarks.pictures.sharpness --run RUN`: how flat are grounds and objects, and how sharp edges?

Prints a row for each way to pictures of 128 px, from test pairs of the shapes data: bicubic enlargement of the true
32 px pictures, the run's upsampler from the true 32 px pictures (its ceiling), and decoder and upsampler from the true
z_i. RUN is a run folder with the CLIP, decoder and upsampler, or `shipped:shapes`. --upsamplers compares several of its
stages, with the same noise. --page FILE.png also shows the first eight pairs, magnified, so that eyes can judge.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.pictures.flat_regions import edge_width, flatness, pattern
from datamodules.rendered import scenes
from datamodules.transforms import to_float
from eval.figures.panels import panel
from eval.samples.grid import to_pil
from modules.images.tensors import to_uint8
from modules.pipeline import UnCLIP
from modules.seeds import ImageSeeds

SMALL, LARGE = 32, 128
HEAD = ("pictures", "PSNR, dB", "ground", "object", "pattern", "edges")
SHOWN, MAGNIFIED = 8, 192


def main() -> int:
    """Draw, measure, print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="shipped:shapes", help="run folder (default: %(default)s)")
    parser.add_argument("--pictures", type=int, default=64, help="test pairs (default: %(default)s)")
    parser.add_argument("--steps", type=int, nargs="+", help="of the upsamplers; their own if left out")
    parser.add_argument("--upsamplers", nargs="+", default=["upsampler"], help="stages (default: upsampler)")
    parser.add_argument("--page", type=Path, metavar="FILE.png", help="the first pictures, magnified (default: none)")
    options = parser.parse_args()
    system = UnCLIP.from_run(options.run)
    drawn, true, captions = ways(system, options.pictures, options.steps, options.upsamplers)
    print(table({name: judged(pictures, true) for name, pictures in drawn.items()}))
    if options.page is not None:
        page = [[to_pil(picture) for picture in to_uint8(pictures[:SHOWN])] for pictures in drawn.values()]
        panel(page, captions[:SHOWN], list(drawn), MAGNIFIED).save(options.page)
    return 0


@torch.no_grad()
def ways(
    system: UnCLIP, count: int, steps: list[int] | None = None, upsamplers: Sequence[str] = ("upsampler",)
) -> tuple[dict[str, Tensor], Tensor, list[str]]:
    """By name, the pictures (N, 3, S, S) of each way to `LARGE` pixels; the true ones; their captions.

    Args:
        count: N, of test pairs.
        steps: of the upsamplers, each in turn; None for their own number.
        upsamplers: stages of the run.
    """
    pairs = [scenes.make_pair("test", index) for index in range(count)]
    true, low = (true_pictures([pair.scene for pair in pairs], size) for size in (LARGE, SMALL))
    captions = [pair.caption for pair in pairs]
    seeds, drawn_seeds = ImageSeeds.of([0] * count, count), ImageSeeds.at(0, [(k, 0) for k in range(count)])
    drawn = system.generate(captions, "image_embedding", images=low, upsample=False)
    found = {"bicubic, from true 32 px": system.upsampler(upsamplers[0]).enlarged(low)}
    behind = {}
    for name in upsamplers:
        model = system.upsampler(name)
        for number in steps or [model.sampler.steps]:
            way = f"{name.replace('_', ' ')}, {number} step{'s' * (number > 1)}"
            chosen = model.overridden(name, {"steps": number})
            found[f"{way}, from true 32 px"] = chosen.sample(low, seeds.generators("upsampler"))
            behind[f"decoder, {way}, from true z_i"] = chosen.sample(drawn, drawn_seeds.generators("upsampler"))
    return {**found, **behind, "real pictures": true}, true, captions


def judged(pictures: Tensor, true: Tensor) -> dict[str, float]:
    """The numbers of pictures (N, 3, S, S) in [-1, 1] against the true ones."""
    ours, wanted = to_uint8(pictures), to_uint8(true)
    errors = (ours.float() - wanted.float()).square().mean(dim=(1, 2, 3))
    ground, thing = flatness(ours, wanted)
    found = {"PSNR, dB": float(10 * torch.log10(255**2 / errors).mean()), "ground": ground, "object": thing}
    return found | {"pattern": pattern(ours, wanted), "edges": edge_width(ours, wanted)}


def true_pictures(drawn: list[scenes.Scene], size: int) -> Tensor:
    """(N, 3, S, S) in [-1, 1]."""
    return torch.cat([to_float(scenes.render(scene, size)[None]) for scene in drawn])


def table(found: dict[str, dict[str, float]]) -> str:
    """The rows as a Markdown table."""
    lines = [f"| {' | '.join(HEAD)} |", "| --- " * len(HEAD) + "|"]
    lines += [f"| {name} | {' | '.join(f'{row[key]:.2f}' for key in HEAD[1:])} |" for name, row in found.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
