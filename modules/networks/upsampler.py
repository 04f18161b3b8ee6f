"""The upsamplers' network: an ADMNet without attention over noised and low-resolution image (unCLIP 2.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.networks.lean_unet import make_unet
from modules.networks.unet import UNetConfig

INTERPOLATIONS = ("bicubic", "bicubic-antialiased", "bilinear", "area", "nearest", "nearest-exact")


class UpsamplerNetwork(nn.Module):
    """p(x | low-resolution x): no caption, no guidance, no attention; so it runs at any size that its strides divide.

    Args:
        unet: the U-Net's shape; its attention_resolutions must be empty.
        factor: how much larger the output's side is.
        learned_sigma: twice the output channels.
        interpolation: how the low-resolution image is enlarged before it joins the noised one; see INTERPOLATIONS.
            "bicubic-antialiased" (Karlo) has another kernel than "bicubic" (a = -0.5, not -0.75) and is not clipped.
        residual: whether the network's output is added to the enlarged image; for x0 prediction, where that is nearly
            the answer already. Differs from the paper, which predicts epsilon.
        channels: of the images.
        last_step: a second U-Net of the same shape for t = 0, a trajectory's last step (Karlo). Differs from the paper.

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
        last_step: bool = False,
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
        self.last_unet = make_unet(unet, 2 * channels, channels * (2 if learned_sigma else 1)) if last_step else None

    def enlarge(self, low: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> (B, C, factor H, factor W), clipped to [-1, 1] unless it is antialiased."""
        if self.interpolation == "bicubic-antialiased":
            return F.interpolate(low, scale_factor=float(self.factor), mode="bicubic", antialias=True)
        return F.interpolate(low, scale_factor=float(self.factor), mode=self.interpolation).clamp(-1, 1)

    def forward(self, x_t: Tensor, t: Tensor, enlarged: Tensor, last: bool | None = None) -> Tensor:
        """One evaluation.

        Args:
            x_t: (B, C, H, W) noised images.
            t: (B,) timesteps.
            enlarged: (B, C, H, W) low-resolution images, enlarged.
            last: whether all timesteps are 0, or none is; None looks at each.

        Returns:
            (B, C or 2 C, H, W).
        """
        out = self._unets(torch.cat([x_t, enlarged], dim=1), t, last)
        if not self.residual:
            return out
        prediction, variance = out[:, : self.channels], out[:, self.channels :]  # The latter is empty unless learned.
        return torch.cat([prediction + enlarged, variance], dim=1)

    def _unets(self, x: Tensor, t: Tensor, last: bool | None) -> Tensor:
        if self.last_unet is None or last is False:
            return self.unet(x, t)
        if last:
            return self.last_unet(x, t)
        ends = t == 0
        parts = [(unet, rows.nonzero()[:, 0]) for unet, rows in ((self.unet, ~ends), (self.last_unet, ends))]
        found = [(rows, unet(x[rows], t[rows])) for unet, rows in parts if len(rows)]
        out = found[0][1].new_empty(len(x), *found[0][1].shape[1:])
        for rows, part in found:
            out = out.index_copy(0, rows, part)
        return out
