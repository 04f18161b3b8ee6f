"""The keys of U-Nets of ADM's kind, Karlo's and GLIDE's, in diffusers' layout and in their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from modules.networks.unet import AttentionBlock, Stage, UNet
from modules.pretrained.key_map import Entry, by_head, layer, reshaped, stacked

RESIDUAL = {
    "diffusers": ("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut"),
    "original": ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3", "skip_connection"),
}
"""Their names of norm_1, conv_1, emb, norm_2, conv_2 and skip."""

ENDS = {
    "diffusers": ("conv_in", "time_embedding.linear_1", "time_embedding.linear_2", "conv_norm_out", "conv_out"),
    "original": ("input_blocks.0.0", "time_embed.0", "time_embed.2", "out.0", "out.2"),
}
"""Their names of first, time.first, time.second, last_norm and last."""


class Place(NamedTuple):
    """The place of a stage of our U-Net in theirs: names of the residual block and of the attention behind it."""

    residual: str
    attend: str


def unet_entries(unet: UNet, original: bool) -> list[Entry]:
    """A U-Net's tensors: `original` for Karlo's and GLIDE's own checkpoints, otherwise diffusers' classes."""
    layout = "original" if original else "diffusers"
    ours = ("first", "time.first", "time.second", "last_norm", "last")
    entries = [entry for pair in zip(ENDS[layout], ours, strict=True) for entry in layer(*pair)]
    for group, places in (("down", _down(unet, original)), ("middle", _middle(original)), ("up", _up(unet, original))):
        for number, (stage, place) in enumerate(zip(getattr(unet, group), places, strict=True)):
            entries += _stage(stage, place, f"{group}.{number}", original)
    return entries


def _down(unet: UNet, original: bool) -> Iterator[Place]:
    level, block = 0, 0
    for number, stage in enumerate(unet.down):
        down = _resample(stage) == "down"
        if original:
            yield Place(f"input_blocks.{number + 1}.0", f"input_blocks.{number + 1}.1")
        elif down:
            yield Place(f"down_blocks.{level}.downsamplers.0", "")
        else:
            yield Place(f"down_blocks.{level}.resnets.{block}", f"down_blocks.{level}.attentions.{block}")
        level, block = (level + 1, 0) if down else (level, block + 1)


def _middle(original: bool) -> list[Place]:
    if original:
        return [Place("middle_block.0", "middle_block.1"), Place("middle_block.2", "")]
    return [Place("mid_block.resnets.0", "mid_block.attentions.0"), Place("mid_block.resnets.1", "")]


def _up(unet: UNet, original: bool) -> Iterator[Place]:
    level, block, number, behind = 0, 0, -1, 0
    for stage in unet.up:
        up = _resample(stage) == "up"
        if not up:
            number, behind = number + 1, 1 if stage.attend is None else 2  # type: ignore[union-attr]
        if original and up:
            yield Place(f"output_blocks.{number}.{behind}", "")
        elif original:
            yield Place(f"output_blocks.{number}.0", f"output_blocks.{number}.1")
        elif up:
            yield Place(f"up_blocks.{level}.upsamplers.0", "")
        else:
            yield Place(f"up_blocks.{level}.resnets.{block}", f"up_blocks.{level}.attentions.{block}")
        level, block = (level + 1, 0) if up else (level, block + 1)


def _resample(stage: nn.Module) -> str:
    assert isinstance(stage, Stage)
    return stage.residual.resample


def _stage(stage: Stage, place: Place, ours: str, original: bool) -> list[Entry]:
    names = RESIDUAL["original" if original else "diffusers"]
    parts = ["norm_1", "conv_1", "emb", "norm_2", "conv_2"]
    if not isinstance(stage.residual.skip, nn.Identity):
        parts.append("skip")
    pairs = zip(names[: len(parts)], parts, strict=True)
    entries = [e for their, our in pairs for e in layer(f"{place.residual}.{their}", f"{ours}.residual.{our}")]
    if stage.attend is not None:
        attention = _original_attention if original else _diffusers_attention
        entries += attention(stage.attend, place.attend, f"{ours}.attend")
    return entries


def _diffusers_attention(block: AttentionBlock, theirs: str, ours: str) -> list[Entry]:
    assert isinstance(block.out, nn.Conv2d)
    width = block.out.out_channels
    entries = layer(f"{theirs}.group_norm", f"{ours}.norm")
    for part, tail in (("weight", (1, 1)), ("bias", ())):
        entries.append(stacked([f"{theirs}.to_{name}.{part}" for name in "qkv"], f"{ours}.qkv.{part}", tail))
        if block.context_kv is not None:
            entries.append(stacked([f"{theirs}.add_{name}_proj.{part}" for name in "kv"], f"{ours}.context_kv.{part}"))
    shapes = ((width, width), (width, width, 1, 1))
    entries.append(reshaped(f"{theirs}.to_out.0.weight", f"{ours}.out.weight", *shapes))
    return [*entries, *layer(f"{theirs}.to_out.0", f"{ours}.out")[1:]]


def _original_attention(block: AttentionBlock, theirs: str, ours: str) -> list[Entry]:
    assert isinstance(block.out, nn.Conv2d)
    width = block.out.out_channels
    entries = layer(f"{theirs}.norm", f"{ours}.norm")
    for part in ("weight", "bias"):
        entries.append(by_head(f"{theirs}.qkv.{part}", f"{ours}.qkv.{part}", block.heads, 3, 1, 2))
        if block.context_kv is not None:
            names = f"{theirs}.encoder_kv.{part}", f"{ours}.context_kv.{part}"
            entries.append(by_head(*names, block.heads, 2, 1, 0))
    shapes = ((width, width, 1), (width, width, 1, 1))
    entries.append(reshaped(f"{theirs}.proj_out.weight", f"{ours}.out.weight", *shapes))
    return [*entries, *layer(f"{theirs}.proj_out", f"{ours}.out")[1:]]
