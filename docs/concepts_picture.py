"""Draws the pictures of docs/concepts.md from the shipped weights: `python docs/concepts_picture.py`."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from modules.diffusion.samplers import ddim
from modules.images.tensors import Pictures
from modules.manipulations import from_captions
from modules.manipulations.inversion import decoder_denoiser, walk_schedule
from modules.manipulations.latents import Walk
from modules.pipeline import UnCLIP
from modules.seeds import ImageSeeds

HERE = Path(__file__).parent
CAPTION = "a large red circle"
SCALES = (1.0, 1.5, 2.0, 3.0, 5.0)
SHOWN = 7


def main() -> None:
    """Write the three pictures."""
    system = UnCLIP.from_run("shipped:shapes")
    save(conditions(system), 4, "concepts_conditions")
    save(steps(system), SHOWN, "concepts_steps")
    save(guidance(system), len(SCALES), "concepts_guidance")


def save(images: torch.Tensor, columns: int, name: str) -> None:
    """(B, 3, S, S) in [-1, 1], with so many beside each other."""
    Pictures(images).grid(columns, gap=4).convert("P", palette=Image.Palette.ADAPTIVE, colors=255).save(
        HERE / f"{name}.png", optimize=True
    )


def conditions(system: UnCLIP) -> torch.Tensor:
    """A row of four seeds for each condition."""
    names = ("caption_only", "text_embedding", "diffusion_prior")
    return torch.cat([system.text_to_image(CAPTION, seed=[0, 1, 2, 3], condition=name).tensor for name in names])


def steps(system: UnCLIP) -> torch.Tensor:
    """x_t on DDIM's way from noise to the picture, enlarged without the upsampler."""
    latents = from_captions(system, [CAPTION], ImageSeeds.of([1], 1))
    states = [latents.x_T]
    with torch.no_grad():
        ddim(
            decoder_denoiser(system, latents, 1.0),
            walk_schedule(system, Walk(24)),
            latents.x_T,
            on_step=lambda step: states.append(step.x),
        )
    chosen = [states[round(k * (len(states) - 1) / (SHOWN - 1))] for k in range(SHOWN)]
    return torch.nn.functional.interpolate(torch.cat(chosen).clamp(-1, 1), scale_factor=4, mode="nearest")


def guidance(system: UnCLIP) -> torch.Tensor:
    """The same z_i and noise at growing guidance."""
    pictures = []
    for scale in SCALES:
        guided = UnCLIP.from_run("shipped:shapes", decoder={"guidance_scale": scale})
        pictures.append(guided.text_to_image(CAPTION, seed=[0]).tensor)
    return torch.cat(pictures)


if __name__ == "__main__":
    main()
