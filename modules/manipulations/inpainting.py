"""Inpainting through decoder and upsamplers (as GLIDE and the paper's production model offer it)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modules.diffusion.denoiser import Denoiser
from modules.diffusion.inpainting import inpaint as repaint
from modules.diffusion.noise import randn_per_image
from modules.diffusion.schedules import NoiseSchedule
from modules.errors import InputError
from modules.images.tensors import resized
from modules.manipulations.enlarging import reachable_sizes, upsampler_names
from modules.manipulations.inversion import decoder_size, given_denoiser, walk_schedule
from modules.manipulations.latents import Walk
from modules.manipulations.seams import without_seam
from modules.seeds import ImageSeeds
from modules.trained_run import TrainedRun


@dataclass(frozen=True)
class Hole:
    """B images, and which of their pixels are known.

    Attributes:
        images: (B, 3, S, S) in [-1, 1].
        keep: (B, 1, S, S), 1 where a pixel is known and 0 where it is to be drawn.
    """

    images: Tensor
    keep: Tensor

    def __post_init__(self) -> None:
        if self.keep.shape != (len(self.images), 1, *self.images.shape[2:]):
            raise InputError(
                f"the mask is {tuple(self.keep.shape)}, the pictures are {tuple(self.images.shape)}: it needs one "
                "channel and their size"
            )

    def at(self, size: int) -> Hole:
        """The same at another size. A pixel is known only if all pixels that it covers are known."""
        open_ = torch.nn.functional.interpolate(1 - self.keep, (size, size), mode="area")
        return Hole(resized(self.images, size), (open_ == 0).float())


def inpaint(
    system: TrainedRun,
    hole: Hole,
    z_i: Tensor | None,
    tokens: Tensor,
    seeds: ImageSeeds,
    walk: Walk = Walk(guidance_scale=1.5),
    *,
    size: int | None = None,
    resamples: int = 4,
) -> Tensor:
    """Draws the open part of images for (z_i, caption), at the decoder's size and then at each upsampler's.

    At each size the drawn part is shifted smoothly to the shade of the known pixels (`modules.manipulations.seams`).

    Args:
        z_i: (B, D) of what the whole image is to be; None where the caption alone says it.
        tokens: (B, L), all 0 for no caption.
        seeds: one an image.
        walk: steps and guidance; the upsamplers keep their own.
        size: a side that the run reaches; the decoder's own by default.
        resamples: see `modules.diffusion.inpainting.inpaint`.

    Returns:
        (B, 3, size, size) in [-1, 1]; known pixels are the image's own, resized.

    Raises:
        InputError: a size that the run does not reach.
    """
    hole = Hole(hole.images.to(system.device), hole.keep.to(system.device))
    sizes = reachable_sizes(system, size)
    drawn = []
    for start in range(0, len(tokens), walk.batch_size):
        rows = slice(start, start + walk.batch_size)
        part = Hole(hole.images[rows], hole.keep[rows])
        own = None if z_i is None else z_i[rows]
        denoiser = given_denoiser(system, tokens[rows], own, walk.guidance_scale, "static")
        low = _fill(
            denoiser, walk_schedule(system, walk), part.at(decoder_size(system)), seeds[rows], "decoder", resamples
        )
        for name, side in zip(upsampler_names(system), sizes[1:], strict=False):
            low = _fill_upsampled(system, name, low, part.at(side), seeds[rows])
        drawn.append(low)
    return torch.cat(drawn)


def _fill_upsampled(system: TrainedRun, name: str, low: Tensor, hole: Hole, seeds: ImageSeeds) -> Tensor:
    upsampler = system.upsampler(name)
    # No resampling: the low image has settled how the new part fits to the old.
    return _fill(upsampler.denoiser_for(low, "static"), upsampler.trajectory, hole, seeds, name, 1)


def _fill(
    denoiser: Denoiser, schedule: NoiseSchedule, hole: Hole, seeds: ImageSeeds, stage: str, resamples: int
) -> Tensor:
    generators = seeds.generators(stage)
    x_T = randn_per_image(generators, hole.images.shape, hole.images.device)
    filled = repaint(
        denoiser, schedule, x_T, known=hole.images, mask=hole.keep, generators=generators, resamples=resamples
    )
    return without_seam(filled.clamp(-1, 1), hole.images, hole.keep)
