"""What the upsamplers' conditions are corrupted with in training (unCLIP, section 2.1)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur as _blur


def gaussian_blur(images: Tensor, kernel_size: int = 3, sigma: float = 0.6) -> Tensor:
    """The 64 -> 256 upsampler's corruption (unCLIP appendix C; SR3).

    Args:
        images: (B, C, H, W) in [-1, 1].
        kernel_size: odd, pixels.
        sigma: pixels.

    Returns:
        (B, C, H, W).
    """
    return _blur(images, [kernel_size, kernel_size], [sigma, sigma])


def random_crop(images: Tensor, size: int, multiple: int, generator: torch.Generator) -> Tensor:
    """One window of each image, at random.

    Args:
        images: (B, C, H, W).
        size: side of the window.
        multiple: corners fall on multiples of this many pixels, so that the window's low-resolution version is a
            window of the image's.
        generator: on the CPU.

    Returns:
        (B, C, size, size).

    Raises:
        ValueError: if the window is larger than the image.
    """
    height, width = images.shape[2:]
    if size > min(height, width):
        raise ValueError(f"a crop of {size} pixels does not fit into {height} x {width}")
    corners = [
        torch.randint((side - size) // multiple + 1, (len(images),), generator=generator) * multiple
        for side in (height, width)
    ]
    windows = zip(images, *(corner.tolist() for corner in corners), strict=True)
    return torch.stack([image[:, top : top + size, left : left + size] for image, top, left in windows])
