"""How pictures come to the size of a CLIP: what the `preprocess_cfg` of its open_clip_config.json says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from modules.clip.lean_import import import_open_clip
from modules.errors import InputError

MODES = ("shortest", "longest", "squash")
INTERPOLATIONS = ("bicubic", "bilinear", "random")


@dataclass(frozen=True)
class Preprocessing:
    """The resizing of a CLIP, as open_clip's evaluation transform does it on pictures, here on tensors.

    A tensor is not rounded to 8 bits after resizing, as a picture is: the two differ by half a step of 255 at most.

    Attributes:
        size: (height, width) that the CLIP takes.
        mean, std: of the channels in [0, 1], for normalising.
        interpolation: "bilinear", else bicubic; both antialiased. ("random" is for training, and bicubic otherwise.)
        resize_mode: "shortest" side to the size and the centre of the other; "longest" side, padded with `fill_color`;
            or "squash" both.
        fill_color: of the padding, 0 to 255.

    Raises:
        InputError: an interpolation or mode that open_clip does not have.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0

    def __post_init__(self) -> None:
        for key, known in (("interpolation", INTERPOLATIONS), ("resize_mode", MODES)):
            if getattr(self, key) not in known:
                raise InputError(f"preprocess_cfg.{key} is {getattr(self, key)!r}; open_clip has {', '.join(known)}")

    @classmethod
    def of(cls, model: Any) -> Preprocessing:
        """The preprocessing of an open_clip model."""
        found = import_open_clip().get_model_preprocess_cfg(model)
        size = found["size"]
        size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[-1]))
        optional = {key: found[key] for key in ("interpolation", "resize_mode", "fill_color") if found.get(key)}
        return cls(size, tuple(found["mean"]), tuple(found["std"]), **optional)

    def resized(self, images: Tensor, low: float = 0.0) -> Tensor:
        """Pictures of any one size at the CLIP's.

        Args:
            images: (B, 3, H, W) in [low, 1].
            low: 0 or -1.

        Returns:
            (B, 3, height, width) in [low, 1]; differentiable.
        """
        high, wide = self.size
        old_high, old_wide = images.shape[-2:]
        if (old_high, old_wide) == (high, wide):
            return images
        new = self._scaled(old_high, old_wide)
        if new != (old_high, old_wide):
            mode = "bilinear" if self.interpolation == "bilinear" else "bicubic"
            images = F.interpolate(images, new, mode=mode, antialias=True, align_corners=False).clamp(low, 1)
        return self._padded_or_cropped(images, low + (1 - low) * self.fill_color / 255)

    def _scaled(self, old_high: int, old_wide: int) -> tuple[int, int]:
        high, wide = self.size
        if self.resize_mode == "squash":
            return high, wide
        if self.resize_mode == "shortest" and high == wide:  # torchvision's Resize cuts the longer side's fraction off.
            short = min(old_high, old_wide)
            return int(high * old_high / short), int(high * old_wide / short)
        pick = max if self.resize_mode == "longest" else min
        ratio = pick(old_high / high, old_wide / wide)
        return round(old_high / ratio), round(old_wide / ratio)

    def _padded_or_cropped(self, images: Tensor, fill: float) -> Tensor:
        """The centre of (height, width), as torchvision's CenterCrop and open_clip's CenterCropOrPad take it."""
        high, wide = self.size
        down, right = max(high - images.shape[-2], 0), max(wide - images.shape[-1], 0)
        if down or right:
            images = F.pad(images, (right // 2, (right + 1) // 2, down // 2, (down + 1) // 2), value=fill)
        top, left = round((images.shape[-2] - high) / 2), round((images.shape[-1] - wide) / 2)
        return images[..., top : top + high, left : left + wide]
