"""The corruptions of the upsamplers' conditions in training (unCLIP, section 2.1)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.images.jpeg import jpeg

BLUR_SIDE = 7  # of the kernels of the BSR degradation
GROUPS = 4  # of images that share an order of steps


def gaussian_blur(images: Tensor, kernel_size: int = 3, sigma: float = 0.6) -> Tensor:
    """The 64 -> 256 upsampler's corruption (unCLIP appendix C; SR3).

    Args:
        images: (B, C, H, W) in [-1, 1].
        kernel_size: odd, pixels.
        sigma: pixels.

    Returns:
        (B, C, H, W).
    """
    from torchvision.transforms.v2.functional import gaussian_blur as blurred  # Of training only, and slow to import.

    return blurred(images, [kernel_size, kernel_size], [sigma, sigma])


def bsr_degrade(images: Tensor, factor: int, generator: torch.Generator, groups: int = GROUPS) -> Tensor:
    """The 256 -> 1024 upsampler's degradation, from the target to the low-resolution condition (unCLIP 2.1).

    BSR (Zhang et al. 2103.14006, section 3) in the light form that Latent Diffusion trains upsamplers with: two blurs,
    two downscalings, noise and JPEG in shuffled order, then JPEG once more. Every image has its own blur, noise and
    quality; the order and the sizes on the way are shared by the images of a group, which go through it as a batch.

    Args:
        images: (B, C, H, W) in [-1, 1].
        factor: H and W are divided by it.
        generator: on the CPU; decides everything.
        groups: how many orders are drawn for a batch.

    Returns:
        (B, C, H / factor, W / factor) in [-1, 1].
    """
    out = images.new_empty(len(images), images.shape[1], *(side // factor for side in images.shape[2:]))
    for start in range(min(groups, len(images))):
        out[start::groups] = _degrade_group(images[start::groups], factor, generator)
    return out


def _degrade_group(images: Tensor, factor: int, generator: torch.Generator) -> Tensor:
    size = [side // factor for side in images.shape[2:]]
    order = torch.randperm(6, generator=generator).tolist()
    first, second = sorted((order.index(2), order.index(3)))
    order[first], order[second] = 2, 3  # The downscaling to the final size is the later one.
    for step in order:
        if step in (0, 1):
            images = _random_blur(images, factor, generator)
        elif step == 2:
            images = _random_downscale(images, factor, generator)
        elif step == 3:
            images = _resize(images, size, generator)
        elif step == 4:
            images = _random_noise(images, generator)
        else:
            images = _random_jpeg(images, 0.9, generator)
    return _random_jpeg(images, 1.0, generator)


def _uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator)


def _random_blur(images: Tensor, factor: int, generator: torch.Generator) -> Tensor:
    """Half of the images under an isotropic Gaussian, half under an anisotropic, turned one."""
    count, channels = images.shape[:2]
    isotropic = torch.rand(count, generator=generator) < 0.5
    sigma = _uniform(generator, 0.1, (2 + 0.2 * factor) / 4, count)
    variances = _uniform(generator, 0.05, (4 + factor) / 4, count, 2)
    variances = torch.where(isotropic[:, None], sigma[:, None] ** 2, variances)
    kernels = gaussian_kernels(variances, _uniform(generator, 0, math.pi, count)).to(images)
    padded = F.pad(images, [BLUR_SIDE // 2] * 4, mode="replicate").flatten(0, 1)[None]
    kernels = kernels.repeat_interleave(channels, dim=0)[:, None]
    return F.conv2d(padded, kernels, groups=count * channels)[0].unflatten(0, (count, channels))


def gaussian_kernels(variances: Tensor, angle: Tensor, side: int = BLUR_SIDE) -> Tensor:
    """Normalised Gaussian kernels.

    Args:
        variances: (B, 2) along the two axes, in square pixels.
        angle: (B,) of the first axis, in radians.

    Returns:
        (B, side, side), each of sum 1.
    """
    place = torch.arange(side) - side // 2
    y, x = torch.meshgrid(place.float(), place.float(), indexing="ij")
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    along, across = x * cos + y * sin, y * cos - x * sin
    first, second = (v[:, None, None] for v in variances.unbind(1))
    kernels = torch.exp(-0.5 * (along**2 / first + across**2 / second))
    return kernels / kernels.sum(dim=(1, 2), keepdim=True)


def _random_downscale(images: Tensor, factor: int, generator: torch.Generator) -> Tensor:
    """To 1 / s of the side, s uniform in [1, 2 factor], which may be smaller than the final size."""
    scale = float(_uniform(generator, 1, 2 * factor, 1))
    return _resize(images, [max(1, int(side / scale)) for side in images.shape[2:]], generator)


def _resize(images: Tensor, size: list[int], generator: torch.Generator) -> Tensor:
    """Without antialiasing, as in BSR: what that leaves is part of the degradation."""
    mode = ("bilinear", "bicubic", "area")[int(torch.randint(3, (1,), generator=generator))]
    return F.interpolate(images, size, mode=mode).clamp(-1, 1)


def _random_noise(images: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise of 1 or 2 of 255 levels, alike in all channels for half of the images."""
    count = len(images)
    level = torch.randint(1, 3, (count, 1, 1, 1), generator=generator) * (2 / 255)
    noise = torch.randn(images.shape, generator=generator)
    grey = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    return (images + (level * torch.where(grey, noise[:, :1], noise)).to(images)).clamp(-1, 1)


def _random_jpeg(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """JPEG of quality 80 to 95 for a share of the images."""
    quality = torch.randint(80, 96, (len(images),), generator=generator).to(images.device)
    chosen = (torch.rand(len(images), 1, 1, 1, generator=generator) < share).to(images.device)
    return torch.where(chosen, jpeg(images, quality), images)


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
