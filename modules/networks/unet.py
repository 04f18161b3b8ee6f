"""The ADM U-Net (Diffusion Models Beat GANs, section 3), as GLIDE and unCLIP use it.

Scale-shift group norm, residual up- and downsampling blocks, attention at chosen resolutions over the image's own
positions and, where there is a context, over the context's keys and values concatenated in front of them (GLIDE,
section 2.4). Without attention resolutions it is the upsamplers' ADMNet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modules.networks.blocks import (
    TimeEmbedding,
    add_,
    attention,
    merge_heads,
    silu_,
    split_heads,
    upsampled_conv,
    zero_init,
)
from modules.networks.convolutions.layer import Conv3x3
from modules.networks.group_norm import GroupNorm


@dataclass(frozen=True)
class UNetConfig:
    """The shape of a U-Net; the names are those of the paper's Table 3.

    Attributes:
        channels: width at the highest resolution.
        channel_multipliers: one for each resolution, from high to low.
        depth: residual blocks at each resolution.
        attention_resolutions: sides of the feature maps (after `patch_size`) at which there is attention; () for none.
        head_channels: channels of one attention head; a narrower layer has one head of all its channels.
        dropout: inside the residual blocks.
        image_size: side, in pixels, that attention_resolutions counts from; the network itself takes any size that its
            downsampling divides.
        patch_size: pixels of a patch that become channels before the first layer; 1 as in the paper. A small model on a
            small machine gains from 2.
        checkpointing: recompute activations in the backward pass instead of keeping them.
        body: "adm" is this file's network, the paper's; "lean" is `modules.networks.lean_unet`, for small budgets.
        middle_depth: blocks at the lowest resolution of a lean body; ADM always has two.
        norm_groups: groups of every group norm; null is 32, or as many as leave 4 channels or more in a group.
        time_embedding: how a residual block takes the embedding of the timestep and of what conditions the network as a
            vector: "scale_shift" scales and shifts its second norm (ADM); "additive" adds it before that norm (DDPM,
            and Karlo's super-resolution networks).
    """

    channels: int
    channel_multipliers: tuple[int, ...] = (1, 2, 3, 4)
    depth: int = 3
    attention_resolutions: tuple[int, ...] = ()
    head_channels: int = 64
    dropout: float = 0.0
    image_size: int = 64
    patch_size: int = 1
    checkpointing: bool = False
    body: Literal["adm", "lean"] = "adm"
    middle_depth: int = 2
    norm_groups: int | None = None
    time_embedding: Literal["scale_shift", "additive"] = "scale_shift"


def group_norm(channels: int, groups: int | None = None) -> GroupNorm:
    """Group norm; by default with 32 groups (ADM), or fewer, so that each group has 4 channels or more."""
    if groups is not None:
        return GroupNorm(groups, channels)
    groups = 32
    while groups > 1 and (channels % groups or channels // groups < 4):
        groups //= 2
    return GroupNorm(groups, channels)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions; the embedding scales and shifts the second norm; optionally resamples by 2 (ADM).

    With `additive` the embedding is added before the second norm instead. `groups` are those of both norms.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        emb_width: int,
        *,
        dropout: float = 0.0,
        resample: str = "none",
        additive: bool = False,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        self.resample, self.additive = resample, additive
        self.norm_1, self.conv_1 = group_norm(c_in, groups), Conv3x3(c_in, c_out)
        self.emb = nn.Linear(emb_width, c_out if additive else 2 * c_out)
        self.norm_2, self.dropout = group_norm(c_out, groups), nn.Dropout(dropout)
        self.conv_2 = zero_init(Conv3x3(c_out, c_out))
        self.skip = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def _resample(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2.0, mode="nearest") if self.resample == "up" else x

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """(B, C_in, H, W), (B, E) -> (B, C_out, H', W')."""
        h = silu_(self.norm_1(x))
        h = upsampled_conv(h, self.conv_1) if self.resample == "up" else self.conv_1(self._resample(h))
        vector = self.emb(F.silu(emb))
        h = self.norm_2(h + vector[:, :, None, None]) if self.additive else self.norm_2(h, *vector.chunk(2, dim=1))
        h = self.conv_2(self.dropout(silu_(h)))
        return add_(h, self.skip(self._resample(x)))


class AttentionBlock(nn.Module):
    """Self-attention over an image's positions, and over a context's where there is one."""

    def __init__(self, channels: int, head_channels: int, context_width: int | None, groups: int | None = None) -> None:
        super().__init__()
        self.heads = max(1, channels // head_channels)
        self.norm = group_norm(channels, groups)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.context_kv = nn.Linear(context_width, 2 * channels) if context_width else None
        self.out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, context: Tensor | None = None, context_mask: Tensor | None = None) -> Tensor:
        """(B, C, H, W), (B, L, context width) or None -> (B, C, H, W).

        Where `context_mask` (B, L) is False, a token of the context is not looked at; the image's positions always are.
        """
        mask = None
        tokens = self.qkv(self.norm(x)).flatten(2).transpose(1, 2)
        q, k, v = (split_heads(y, self.heads) for y in tokens.chunk(3, dim=-1))
        if self.context_kv is not None and context is not None:
            context_k, context_v = (split_heads(y, self.heads) for y in self.context_kv(context).chunk(2, dim=-1))
            k, v = torch.cat([context_k, k], dim=2), torch.cat([context_v, v], dim=2)
            if context_mask is not None:
                mask = F.pad(context_mask, (0, q.shape[2]), value=True)[:, None, None]
        h = merge_heads(attention(q, k, v, mask=mask)).transpose(1, 2).unflatten(2, x.shape[2:])
        if x.device.type == "cpu" and x.is_contiguous():
            h = h.contiguous()  # heads come in channels_last, and the layers behind would follow
        return add_(self.out(h), x)


class Stage(nn.Module):
    """A residual block and, at an attention resolution, an attention block behind it."""

    def __init__(self, residual: ResidualBlock, attend: AttentionBlock | None, *, checkpointing: bool = False) -> None:
        super().__init__()
        self.residual, self.attend, self.checkpointing = residual, attend, checkpointing

    def _run(self, x: Tensor, emb: Tensor, context: Tensor | None, context_mask: Tensor | None) -> Tensor:
        x = self.residual(x, emb)
        return x if self.attend is None else self.attend(x, context, context_mask)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None, context_mask: Tensor | None = None) -> Tensor:
        if self.checkpointing and self.training:
            return checkpoint(self._run, x, emb, context, context_mask, use_reentrant=False)
        return self._run(x, emb, context, context_mask)


def blocks_of(
    config: UNetConfig, c_in: int, c_out: int, context_width: int | None, *, attend: bool, resample: str = "none"
) -> tuple[ResidualBlock, AttentionBlock | None]:
    """A residual block and, with `attend`, an attention block, as a U-Net's config has them."""
    residual = ResidualBlock(
        c_in,
        c_out,
        4 * config.channels,
        dropout=config.dropout,
        resample=resample,
        additive=config.time_embedding == "additive",
        groups=config.norm_groups,
    )
    return residual, AttentionBlock(c_out, config.head_channels, context_width, config.norm_groups) if attend else None


class Body(nn.Module):
    """The common part of the two bodies: the embedding of the timestep, the first and the last layers.

    Args:
        config: the shape.
        in_channels: of the images that go in.
        context_width: see `UNet`.
        time_width: of the sinusoids of the timestep.

    Raises:
        ValueError: a setting with which no image could go through.
    """

    def __init__(self, config: UNetConfig, in_channels: int, context_width: int | None, time_width: int) -> None:
        super().__init__()
        check_config(config)
        self.config, self.context_width = config, context_width
        self.emb_width = 4 * config.channels
        self.time = TimeEmbedding(time_width, self.emb_width)
        self.widths = [config.channels * multiplier for multiplier in config.channel_multipliers]
        self.first = nn.Conv2d(in_channels * config.patch_size**2, self.widths[0], 3, padding=1)

    def _make_last(self, out_channels: int) -> None:
        """Make the last layers, behind all others."""
        self.last_norm = group_norm(self.widths[0], self.config.norm_groups)
        self.last = zero_init(nn.Conv2d(self.widths[0], out_channels * self.config.patch_size**2, 3, padding=1))

    @property
    def multiple(self) -> int:
        """The sides of images must be multiples of this: patch_size x 2^(levels - 1)."""
        return self.config.patch_size * 2 ** (len(self.config.channel_multipliers) - 1)

    def _enter(self, x: Tensor, t: Tensor, emb: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) images, (B,) timesteps, (B, E) or None -> features at the highest resolution, and (B, E)."""
        if x.shape[2] % self.multiple or x.shape[3] % self.multiple:
            raise ValueError(f"this U-Net takes sides that are multiples of {self.multiple}, not {tuple(x.shape[2:])}")
        if x.device.type == "cpu" and self.first.weight.is_contiguous():
            # Pictures are decoded in channels_last. All features would follow, and group norms are slow in that layout.
            x = x.contiguous()
        time = self.time(t)
        return self.first(unshuffle(x, self.config.patch_size)), time if emb is None else time + emb

    def _leave(self, h: Tensor) -> Tensor:
        """Features at the highest resolution -> (B, out_channels, H, W)."""
        h = self.last(silu_(self.last_norm(h)))
        return F.pixel_shuffle(h, self.config.patch_size) if self.config.patch_size > 1 else h


class UNet(Body):
    """The U-Net over images of `in_channels`, conditioned on a timestep, an embedding and a context.

    Args:
        config: its shape.
        in_channels, out_channels: of the images that go in and come out.
        context_width: width of the context's tokens; None for a network without a context.

    `emb_width` is 4 x channels, as in ADM; whatever conditions the network as a vector is projected to that width and
    added to the timestep's embedding.

    Raises:
        ValueError: a setting with which no image could go through.
    """

    def __init__(
        self, config: UNetConfig, in_channels: int, out_channels: int, context_width: int | None = None
    ) -> None:
        super().__init__(config, in_channels, context_width, time_width=config.channels)
        widths = self.widths
        skips = self._build_down(widths)
        self.middle = nn.ModuleList(
            [
                self._stage(widths[-1], widths[-1], attend=bool(config.attention_resolutions)),
                self._stage(widths[-1], widths[-1], attend=False),
            ]
        )
        self._build_up(widths, skips)
        self._make_last(out_channels)

    def _stage(self, c_in: int, c_out: int, *, attend: bool, resample: str = "none") -> Stage:
        residual, block = blocks_of(self.config, c_in, c_out, self.context_width, attend=attend, resample=resample)
        return Stage(residual, block, checkpointing=self.config.checkpointing)

    def _attends(self, level: int) -> bool:
        side = self.config.image_size // self.config.patch_size // 2**level
        return side in self.config.attention_resolutions

    def _build_down(self, widths: list[int]) -> list[int]:
        """Make `self.down`; returns the widths of its outputs, which the way up concatenates."""
        self.down = nn.ModuleList()
        width, skips = widths[0], [widths[0]]
        for level, out in enumerate(widths):
            for _ in range(self.config.depth):
                self.down.append(self._stage(width, out, attend=self._attends(level)))
                width = out
                skips.append(width)
            if level < len(widths) - 1:
                self.down.append(self._stage(width, width, attend=False, resample="down"))
                skips.append(width)
        return skips

    def _build_up(self, widths: list[int], skips: list[int]) -> None:
        """Make `self.up`; one stage for each skip, and an upsampling one behind each level's last."""
        self.up = nn.ModuleList()
        width, skips = widths[-1], list(skips)
        for level, out in reversed(list(enumerate(widths))):
            for _ in range(self.config.depth + 1):
                self.up.append(self._stage(width + skips.pop(), out, attend=self._attends(level)))
                width = out
            if level > 0:
                self.up.append(self._stage(width, width, attend=False, resample="up"))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        emb: Tensor | None = None,
        context: Tensor | None = None,
        spatial: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """One evaluation.

        Args:
            x: (B, in_channels, H, W); H and W must be multiples of patch_size x 2^(levels - 1).
            t: (B,) timesteps of the training schedule.
            emb: (B, emb_width) added to the timestep's embedding.
            context: (B, L, context_width) tokens for the attention layers.
            spatial: (B, C, h, w) added at the lowest resolution, of that resolution's width.
            context_mask: (B, L) bool, False where a token of the context is not looked at; None for all.

        Returns:
            (B, out_channels, H, W).

        Raises:
            ValueError: where H or W is not such a multiple.
        """
        h, emb = self._enter(x, t, emb)
        skips = [h]
        for stage in self.down:
            h = stage(h, emb, context, context_mask)
            skips.append(h)
        h = add_map(h, spatial)
        for stage in self.middle:
            h = stage(h, emb, context, context_mask)
        for stage in self.up:
            assert isinstance(stage, Stage)
            h = h if stage.residual.resample == "up" else torch.cat([h, skips.pop()], dim=1)
            h = stage(h, emb, context, context_mask)
        return self._leave(h)


def add_map(h: Tensor, spatial: Tensor | None) -> Tensor:
    """Features (B, C, H, W) with a map (B, C, h, w) added, which is stretched where the image has another size."""
    if spatial is None:
        return h
    if spatial.shape[2:] != h.shape[2:]:
        spatial = F.interpolate(spatial, size=h.shape[2:], mode="bilinear", align_corners=False)
    return h + spatial


def check_config(config: UNetConfig) -> None:
    """Refuse a shape that no image can go through.

    Raises:
        ValueError: names the setting.
    """
    if not config.channel_multipliers:
        raise ValueError("unet.channel_multipliers is empty: give one for each resolution, such as [1, 2, 3, 4]")
    named = {name: getattr(config, name) for name in ("channels", "depth", "head_channels", "patch_size", "image_size")}
    named["channel_multipliers"] = min(config.channel_multipliers)
    if config.body == "lean":
        named["middle_depth"] = config.middle_depth
    elif config.middle_depth != 2:
        raise ValueError(f"unet.middle_depth is {config.middle_depth}: only a lean body has another than 2")
    if config.norm_groups is not None:
        named["norm_groups"] = config.norm_groups
    for name, value in named.items():
        if value < 1:
            raise ValueError(f"unet.{name} is {value}: give 1 or more")
    widths = [config.channels * multiplier for multiplier in config.channel_multipliers]
    wrong = next((width for width in widths if config.norm_groups and width % config.norm_groups), None)
    if wrong is not None:
        raise ValueError(f"unet.norm_groups is {config.norm_groups}, which does not divide a layer's {wrong} channels")


def unshuffle(x: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) -> (B, C patch^2, H / patch, W / patch), in the same memory layout."""
    if patch == 1:
        return x
    # pixel_unshuffle drops channels_last, which the convolutions behind it are faster in.
    layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    return F.pixel_unshuffle(x, patch).contiguous(memory_format=layout)
