"""Everything that the paper does to an image (unCLIP, sections 3 and 4). Tensors in, tensors out.

An image is `invert`ed to its two-part latent (z_i, x_T), a `Latents`; `redraw` turns one back into an image, at eta = 0
the same one, above it variations of it. `blend`, `path`, `square`, `text_diff` and `principal_components` move z_i (and
x_T); `inpaint` draws a part of an image anew; `enlarge` takes what the decoder drew through the run's upsamplers.

`modules.pipeline.UnCLIP` offers the same for PIL pictures and paths.
"""

from modules.manipulations.edits import (
    blend,
    component_counts,
    from_captions,
    path,
    principal_components,
    square,
    text_diff,
    text_direction,
)
from modules.manipulations.enlarging import enlarge, reachable_sizes
from modules.manipulations.inpainting import Hole, inpaint
from modules.manipulations.inversion import decoder_size, fresh_noise, invert, redraw, tokens_of
from modules.manipulations.latents import EDIT_STEPS, Latents, Walk, load_latents, save_latents, stack_latents
from modules.manipulations.mixing import Mix, draw_mix, mixed, weighted_sum
from modules.manipulations.slerp import slerp
from modules.manipulations.typography import write_over, zero_shot

__all__ = [
    "EDIT_STEPS",
    "Hole",
    "Latents",
    "Mix",
    "Walk",
    "blend",
    "component_counts",
    "decoder_size",
    "draw_mix",
    "enlarge",
    "fresh_noise",
    "from_captions",
    "inpaint",
    "invert",
    "load_latents",
    "mixed",
    "path",
    "principal_components",
    "reachable_sizes",
    "redraw",
    "save_latents",
    "slerp",
    "square",
    "stack_latents",
    "text_diff",
    "text_direction",
    "tokens_of",
    "weighted_sum",
    "write_over",
    "zero_shot",
]
