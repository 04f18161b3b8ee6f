"""The upsamplers' network: an ADMNet without attention over noised and low-resolution image (unCLIP 2.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.networks.lean_unet import make_unet
from modules.networks.unet import UNetConfig

INTERPOLATIONS = ("bicubic", "bilinear", "area", "nearest", "nearest-exact")


class UpsamplerNetwork(nn.Module):
    """p(x | low-resolution x): no caption, no guidance, no attention; so it runs at any size that its strides divide.

    Args:
        unet: the U-Net's shape; its attention_resolutions must be empty.
        factor: how much larger the output's side is.
        learned_sigma: twice the output channels.
        interpolation: how the low-resolution image is enlarged before it joins the noised one; see INTERPOLATIONS.
        residual: whether the network's output is added to the enlarged image; for x0 prediction, where that is nearly
            the answer already. Differs from the paper, which predicts epsilon.
        channels: of the images.

    Raises:
        ValueError: attention, an unknown interpolation, or a factor below 1.
    """

    def __init__(
        self,
        unet: UNetConfig,
        factor: int = 4,
        learned_sigma: bool = False,
        interpolation: str = "bicubic",
        residual: bool = False,
        channels: int = 3,
    ) -> None:
        super().__init__()
        if unet.attention_resolutions:
            raise ValueError(f"the upsamplers have no attention; attention_resolutions is {unet.attention_resolutions}")
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f"unknown interpolation {interpolation!r}; there are {', '.join(INTERPOLATIONS)}")
        if factor < 1:
            raise ValueError(f"factor is {factor}: the output's side must be 1 times the input's or more")
        self.factor, self.interpolation, self.residual, self.channels = factor, interpolation, residual, channels
        self.learned_sigma = learned_sigma
        self.unet = make_unet(unet, 2 * channels, channels * (2 if learned_sigma else 1))

    def enlarge(self, low: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> (B, C, factor H, factor W), clipped to [-1, 1]."""
        return F.interpolate(low, scale_factor=float(self.factor), mode=self.interpolation).clamp(-1, 1)

    def forward(self, x_t: Tensor, t: Tensor, enlarged: Tensor) -> Tensor:
        """(B, C, H, W) noised images, (B,) timesteps, (B, C, H, W) enlarged conditions -> (B, C or 2 C, H, W)."""
        out = self.unet(torch.cat([x_t, enlarged], dim=1), t)
        if not self.residual:
            return out
        prediction, variance = out[:, : self.channels], out[:, self.channels :]  # The latter is empty unless learned.
        return torch.cat([prediction + enlarged, variance], dim=1)
