"""The upsamplers' network: an ADMNet without attention over noised and low-resolution image (unCLIP 2.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.networks.lean_unet import make_unet
from modules.networks.transformer import Padding, TextEncoder
from modules.networks.unet import UNetConfig

INTERPOLATIONS = ("bicubic", "bicubic-antialiased", "bilinear", "area", "nearest", "nearest-exact")


@dataclass(frozen=True)
class UpsamplerText:
    """The shape of an upsampler's text Transformer; see `modules.networks.transformer.TextEncoder`."""

    vocab_size: int
    context_length: int
    width: int
    depth: int
    heads: int
    padding: Padding = "token"


class Caption(NamedTuple):
    """The inputs of an upsampler's U-Net for captions.

    Attributes:
        emb: (B, emb_width) vector added to the timestep's embedding.
        context: (B, L, text width) tokens for the attention layers.
    """

    emb: Tensor
    context: Tensor


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
        text: a text Transformer, as in the decoder; the U-Net may then have attention, over its tokens too (GLIDE).

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
        text: UpsamplerText | None = None,
    ) -> None:
        super().__init__()
        if unet.attention_resolutions and text is None:
            raise ValueError(f"the upsamplers have no attention; attention_resolutions is {unet.attention_resolutions}")
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f"unknown interpolation {interpolation!r}; there are {', '.join(INTERPOLATIONS)}")
        if factor < 1:
            raise ValueError(f"factor is {factor}: the output's side must be 1 times the input's or more")
        self.factor, self.interpolation, self.residual, self.channels = factor, interpolation, residual, channels
        self.learned_sigma = learned_sigma
        width = None if text is None else text.width
        sizes = (unet, 2 * channels, channels * (2 if learned_sigma else 1), width)
        self.unet = make_unet(*sizes)
        self.last_unet = make_unet(*sizes) if last_step else None
        self.text: TextEncoder | None = None
        if text is not None:
            sizes_of_text = (text.vocab_size, text.context_length, text.width, text.depth, text.heads)
            self.text = TextEncoder(*sizes_of_text, checkpointing=unet.checkpointing, padding=text.padding)
            self.text_to_emb = nn.Linear(text.width, self.unet.emb_width)

    def enlarge(self, low: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] -> (B, C, factor H, factor W), clipped to [-1, 1] unless it is antialiased."""
        if self.interpolation == "bicubic-antialiased":
            return F.interpolate(low, scale_factor=float(self.factor), mode="bicubic", antialias=True)
        return F.interpolate(low, scale_factor=float(self.factor), mode=self.interpolation).clamp(-1, 1)

    def read(self, tokens: Tensor) -> Caption | None:
        """What the U-Net takes of (B, L) caption tokens, all 0 for no caption; None for a network without text."""
        if self.text is None:
            return None
        features = self.text(tokens)
        return Caption(self.text_to_emb(features[:, -1]), features)

    def forward(
        self, x_t: Tensor, t: Tensor, enlarged: Tensor, last: bool | None = None, caption: Caption | None = None
    ) -> Tensor:
        """One evaluation.

        Args:
            x_t: (B, C, H, W) noised images.
            t: (B,) timesteps.
            enlarged: (B, C, H, W) low-resolution images, enlarged.
            last: whether all timesteps are 0, or none is; None looks at each.
            caption: what `read` gave, for a network with text.

        Returns:
            (B, C or 2 C, H, W).
        """
        out = self._unets(torch.cat([x_t, enlarged], dim=1), t, last, caption)
        if not self.residual:
            return out
        prediction, variance = out[:, : self.channels], out[:, self.channels :]  # The latter is empty unless learned.
        return torch.cat([prediction + enlarged, variance], dim=1)

    def _unets(self, x: Tensor, t: Tensor, last: bool | None, caption: Caption | None) -> Tensor:
        given = (None, None) if caption is None else tuple(caption)
        if self.last_unet is None or last is False:
            return self.unet(x, t, *given)
        if last:
            return self.last_unet(x, t, *given)
        ends = t == 0
        parts = [(unet, rows.nonzero()[:, 0]) for unet, rows in ((self.unet, ~ends), (self.last_unet, ends))]
        found = [
            (rows, unet(x[rows], t[rows], *(None if part is None else part[rows] for part in given)))
            for unet, rows in parts
            if len(rows)
        ]
        out = found[0][1].new_empty(len(x), *found[0][1].shape[1:])
        for rows, part in found:
            out = out.index_copy(0, rows, part)
        return out
