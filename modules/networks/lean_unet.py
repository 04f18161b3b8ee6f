"""A U-Net for few steps on a small machine, with fewer multiplications than ADM's of the same widths.

It differs from ADM (`modules.networks.unet`) in four ways. It has no residual up- and downsampling blocks: a pixel
shuffle and a 1 x 1 convolution resample. Each resolution has as many blocks on the way up as on the way down, and one
skip connection. Its lowest resolution is a chain of blocks with attention. A spatial map of the condition can be added
there. Simple Diffusion (2301.11093, section 3) and SDXL (2307.01952, section 2.1) moved their blocks to the low
resolutions for the same reason.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.networks.unet import (
    Body,
    Stage,
    UNet,
    UNetConfig,
    add_map,
    blocks_of,
)


class Downsample(nn.Module):
    """(B, C_in, H, W) -> (B, C_out, H / 2, W / 2): 2 x 2 blocks become channels, which a 1 x 1 convolution mixes."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(4 * c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(F.pixel_unshuffle(x, 2))


class Upsample(nn.Module):
    """(B, C_in, H, W) -> (B, C_out, 2 H, 2 W): a 1 x 1 convolution, whose channels become 2 x 2 blocks."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(c_in, 4 * c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.mix(x), 2)


class LeanUNet(Body):
    """The lean body; arguments, inputs and output are those of `UNet`.

    `config.depth` counts the blocks of each resolution but the lowest, down and up each; `config.middle_depth` those of
    the lowest.
    """

    def __init__(
        self, config: UNetConfig, in_channels: int, out_channels: int, context_width: int | None = None
    ) -> None:
        super().__init__(config, in_channels, context_width, time_width=2 * config.channels)
        widths = self.widths
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        for level, (width, below) in enumerate(pairwise(widths)):
            self.down.append(self._blocks(level, width, width, config.depth))
            self.shrink.append(Downsample(width, below))
        self.middle = self._blocks(len(widths) - 1, widths[-1], widths[-1], config.middle_depth, middle=True)
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, (width, below) in reversed(list(enumerate(pairwise(widths)))):
            self.grow.append(Upsample(below, width))
            self.up.append(self._blocks(level, 2 * width, width, config.depth))
        self._make_last(out_channels)

    def _blocks(self, level: int, c_in: int, c_out: int, count: int, *, middle: bool = False) -> nn.ModuleList:
        config = self.config
        side = config.image_size // config.patch_size // 2**level
        attend = side in config.attention_resolutions or (middle and bool(config.attention_resolutions))
        blocks = nn.ModuleList()
        for number in range(count):
            first = c_in if number == 0 else c_out
            residual, attention = blocks_of(config, first, c_out, self.context_width, attend=attend)
            blocks.append(Stage(residual, attention, checkpointing=config.checkpointing))
        return blocks

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        emb: Tensor | None = None,
        context: Tensor | None = None,
        spatial: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """See `UNet.forward`."""
        h, emb = self._enter(x, t, emb)
        skips = []
        for blocks, shrink in zip(self.down, self.shrink, strict=True):
            h = _run(blocks, h, emb, context, context_mask)
            skips.append(h)
            h = shrink(h)
        h = _run(self.middle, add_map(h, spatial), emb, context, context_mask)
        for grow, blocks in zip(self.grow, self.up, strict=True):
            h = _run(blocks, torch.cat([grow(h), skips.pop()], dim=1), emb, context, context_mask)
        return self._leave(h)


def _run(blocks: nn.Module, h: Tensor, emb: Tensor, context: Tensor | None, context_mask: Tensor | None) -> Tensor:
    assert isinstance(blocks, nn.ModuleList)
    for block in blocks:
        h = block(h, emb, context, context_mask)
    return h


def make_unet(
    config: UNetConfig, in_channels: int, out_channels: int, context_width: int | None = None
) -> UNet | LeanUNet:
    """The network of `config.body`; see `UNet` for the arguments."""
    body = LeanUNet if config.body == "lean" else UNet
    return body(config, in_channels, out_channels, context_width)
