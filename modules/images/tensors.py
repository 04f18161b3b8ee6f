"""Pictures of any kind in, tensors in [-1, 1] out, and back; what is unclear or damaged is refused in one line."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from modules.errors import InputError
from modules.images.files import as_rgb, check_size, lies, opened, upright

ImageLike: TypeAlias = str | Path | Image.Image | Tensor | np.ndarray
"""A path, a PIL picture, a tensor (3, H, W) in [-1, 1] or uint8, or an array (H, W, 3) uint8."""

MAX_SIDE = 1024
"""Larger pictures are reduced to it when they are read: no decoder or CLIP looks at more."""


class Pictures(list[Image.Image]):
    """A list of PIL pictures that also holds them as a tensor.

    Attributes:
        tensor: (B, 3, H, W) float32 in [-1, 1], on the CPU, unrounded.
    """

    def __init__(self, images: Tensor) -> None:
        self.tensor = images.detach().float().cpu().contiguous()
        super().__init__(to_pil(image) for image in self.tensor)

    def grid(self, columns: int = 8, gap: int = 2) -> Image.Image:
        """All pictures in one, row by row on white.

        Args:
            columns: pictures in a row, at most.
            gap: pixels between them.

        Raises:
            InputError: there is no picture.
        """
        if not self:
            raise InputError("there is no picture to show")
        side, count = self[0].width, min(columns, len(self))
        rows = -(-len(self) // count)
        sheet = Image.new("RGB", (count * (side + gap) - gap, rows * (side + gap) - gap), "white")
        for k, picture in enumerate(self):
            sheet.paste(picture, (k % count * (side + gap), k // count * (side + gap)))
        return sheet

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows for a list of pictures: the grid."""
        if not self:
            return None
        out = io.BytesIO()
        self.grid().save(out, format="PNG")
        return out.getvalue()


def load_images(sources: ImageLike | Sequence[ImageLike], size: int | None = None) -> Tensor:
    """Any pictures as one batch.

    Args:
        sources: one picture or several; a tensor (B, 3, H, W) is several.
        size: side that all are brought to; by default the largest of theirs, so that none loses anything.

    Returns:
        (B, 3, S, S) float32 in [-1, 1]; see `load_image` for how each is read.

    Raises:
        InputError: no picture, or one that cannot be read.
    """
    if isinstance(sources, (str, Path, Image.Image)) or (
        isinstance(sources, (Tensor, np.ndarray)) and sources.ndim < 4
    ):
        sources = [sources]
    loaded = [load_image(source) for source in sources]
    if not loaded:
        raise InputError("no picture was given: name a file, or pass a PIL picture or a tensor")
    side = max(image.shape[-1] for image in loaded) if size is None else size
    return torch.stack([resized(image[None], side)[0] for image in loaded])


def load_image(source: ImageLike) -> Tensor:
    """One picture as a square tensor.

    EXIF's orientation is applied; transparency is laid over white; greyscale (8 or 16 bits), palettes and CMYK become
    RGB; of an animation the first frame counts; what is not square is cropped to its middle; more than `MAX_SIDE`
    pixels a side are reduced to it.

    Args:
        source: see `ImageLike`. A float tensor is in [-1, 1].

    Returns:
        (3, S, S) float32 in [-1, 1].

    Raises:
        InputError: a file that is missing, truncated, no picture or too large to decode; a mode whose range of values
            is unknown; a tensor of another shape or range. The line names which.
    """
    if isinstance(source, Tensor):
        return _from_tensor(source)
    if isinstance(source, np.ndarray):
        return _from_tensor(_array_as_tensor(source))
    if isinstance(source, Image.Image):
        check_size(source, "the picture")
        return _from_pil(source, "the picture")
    if not isinstance(source, (str, Path)):
        raise InputError(f"a picture is a path, a PIL picture, a tensor or an array, not {type(source).__name__}")
    path = Path(source).expanduser()
    with opened(path, str(path)) as image:
        return _from_pil(image, str(path))


def sides_of(source: ImageLike) -> tuple[int, int]:
    """(height, width) of a picture, turned as EXIF says, before it is cropped or reduced.

    Raises:
        InputError: a file that is missing or no picture.
    """
    if isinstance(source, Tensor):
        return source.shape[-2], source.shape[-1]
    if isinstance(source, np.ndarray):
        return source.shape[0], source.shape[1]
    if isinstance(source, Image.Image):
        return (source.width, source.height) if lies(source) else (source.height, source.width)
    with opened(Path(source).expanduser(), str(source)) as image:
        return sides_of(image)


def _from_pil(image: Image.Image, name: str) -> Tensor:
    if image.format == "JPEG":
        image.draft("RGB", (MAX_SIDE, MAX_SIDE))  # Decodes a large JPEG at a half, a quarter or an eighth.
    rgb = as_rgb(upright(image), name)
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    rgb = rgb.crop((left, top, left + side, top + side))
    if side > MAX_SIDE:
        rgb = rgb.resize((MAX_SIDE, MAX_SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return torch.from_numpy(np.asarray(rgb).copy()).permute(2, 0, 1).float() / 127.5 - 1


def _array_as_tensor(array: np.ndarray) -> Tensor:
    if array.ndim != 3 or array.shape[2] not in (1, 3) or array.dtype != np.uint8:
        raise InputError(f"an array is (H, W, 3) of uint8, this one is {array.shape} of {array.dtype}")
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))


def _from_tensor(image: Tensor) -> Tensor:
    if image.ndim == 2:
        image = image[None]
    if image.ndim != 3 or image.shape[0] not in (1, 3) or 0 in image.shape:
        raise InputError(f"a tensor of one picture is (3, H, W) or (1, H, W), this one is {tuple(image.shape)}")
    if image.dtype == torch.uint8:
        image = image.float() / 127.5 - 1
    elif not image.is_floating_point():
        raise InputError(f"a tensor is uint8 or floating-point in [-1, 1], this one is {image.dtype}")
    image = image.detach().float().cpu().expand(3, -1, -1)
    if not bool((image.abs() <= 1 + 1e-4).all()):
        raise InputError(
            f"a floating-point tensor is in [-1, 1], this one is in [{image.min():.3g}, {image.max():.3g}]: rescale it"
        )
    side = min(image.shape[1:])
    top, left = ((extent - side) // 2 for extent in image.shape[1:])
    return resized(image[None, :, top : top + side, left : left + side], min(side, MAX_SIDE))[0].clamp(-1, 1)


def resized(images: Tensor, size: int) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> (B, 3, size, size), bicubic and antialiased, kept in range."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(-1, 1)


def to_pil(image: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1] -> an RGB picture."""
    return Image.fromarray(to_uint8(image[None])[0].permute(1, 2, 0).contiguous().numpy())


def to_uint8(images: Tensor) -> Tensor:
    """(B, 3, H, W) in [-1, 1] -> uint8 on the CPU, rounded."""
    return ((images.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()
