"""Typographic attacks: text over an image, and what CLIP then takes it for (unCLIP, section 4 and figure 6)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from modules.trained_run import TrainedRun

SHARE = 0.9  # of the picture's width that the text fills at most


def write_over(image: Image.Image, text: str) -> Image.Image:
    """The picture with a white label across its middle that says `text`; the picture itself is left alone."""
    image = image.convert("RGB").copy()
    size = max(6, image.height // 4)
    font = ImageFont.load_default(size)
    while size > 6 and font.getlength(text) > SHARE * image.width:
        size -= 1
        font = ImageFont.load_default(size)
    draw = ImageDraw.Draw(image)
    middle = (image.width / 2, image.height / 2)
    left, top, right, bottom = draw.textbbox(middle, text, font=font, anchor="mm")
    margin = size / 4
    draw.rectangle((left - margin, top - margin, right + margin, bottom + margin), fill="white")
    draw.text(middle, text, fill="black", font=font, anchor="mm")
    return image


def zero_shot(system: TrainedRun, images: Tensor, captions: Sequence[str]) -> Tensor:
    """(B, C) probabilities that CLIP gives each caption for each image (B, 3, H, W) in [-1, 1]."""
    z_t = system.embed_text(list(captions))[1]
    scale = system.clip.model.logit_scale.exp()
    unit = system.clip.unit
    return torch.softmax(scale * unit(system.embed_image(images)) @ unit(z_t).T, dim=1)
