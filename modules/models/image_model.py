"""The common part of the diffusion models of images: a U-Net, and the sizes that it can take."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from modules.batches import ImageTextBatch
from modules.errors import InputError
from modules.models.configs import check_value, whole
from modules.models.data_sizes import NETWORK, DataSizes
from modules.models.diffusion_model import DiffusionModel
from modules.networks.lean_unet import LeanUNet
from modules.networks.unet import UNet, UNetConfig

SIDE = whole(4096)
"""Pixels of the side of what a U-Net draws; the paper's largest has 1,024."""


@dataclass(frozen=True, eq=False)
class ImageModel(DiffusionModel[ImageTextBatch]):
    """A diffusion model of images, whose network is a U-Net."""

    @property
    def unet(self) -> UNet | LeanUNet:
        """The U-Net in the network."""
        raise NotImplementedError

    def check(self) -> None:
        super().check()
        check_value(f"{NETWORK}.unet.image_size", self.image_size, SIDE)

    @property
    def takes_pictures(self) -> bool:
        return True

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that the U-Net is made for."""
        return self.unet.config.image_size

    def in_layout(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) in the memory layout of the network's weights, which its convolutions prefer."""
        channels_last = self.unet.first.weight.is_contiguous(memory_format=torch.channels_last)
        return x.contiguous(memory_format=torch.channels_last) if channels_last else x

    def check_settings(self, sizes: DataSizes) -> None:
        super().check_settings(sizes)
        check_attention(self.unet.config)

    def check_data(self, sizes: DataSizes) -> None:
        super().check_data(sizes)
        multiple, side = self.unet.multiple, sizes.image_size
        if side is not None and side % multiple:
            raise InputError(
                f"data.init_args.image_size is {side}; this U-Net takes multiples of {multiple} (patch_size x 2 for "
                f"every channel_multiplier but one): take {nearest(side, multiple)}, or fewer "
                f"{NETWORK}.unet.channel_multipliers"
            )


def check_attention(config: UNetConfig) -> None:
    """Refuse attention at resolutions that do not occur, and heads of another width than they are said to have.

    Raises:
        InputError: names the setting and values that will do.
    """
    if not config.attention_resolutions:
        return
    widths = [config.channels * multiplier for multiplier in config.channel_multipliers]
    sides = [config.image_size // config.patch_size // 2**level for level in range(len(widths))]
    absent = [side for side in config.attention_resolutions if side not in sides]
    if absent:
        raise InputError(
            f"{NETWORK}.unet.attention_resolutions has {', '.join(map(str, absent))}, but the network's feature maps "
            f"have sides of {', '.join(map(str, sides))} (image_size / patch_size, halved at every further "
            "channel_multiplier): name some of these"
        )
    attending = [w for w, side in zip(widths, sides, strict=True) if side in config.attention_resolutions]
    attending.append(widths[-1])  # in the middle
    head = config.head_channels
    wrong = next((width for width in attending if width > head and width % head), None)
    if wrong is not None:
        fit = next(d for d in range(head, 0, -1) if all(width % d == 0 for width in attending))
        raise InputError(
            f"{NETWORK}.unet.head_channels is {head}; it does not divide the {wrong} channels of an attention layer: "
            f"its heads would have {wrong // (wrong // head)}: take {fit}, or other channels"
        )


def nearest(number: int, *divisors: int) -> int:
    """The nearest number but 0 that all of them divide."""
    multiple = math.lcm(*divisors)
    return max(1, round(number / multiple)) * multiple
