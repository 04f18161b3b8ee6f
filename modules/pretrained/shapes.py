"""The settings of our networks that released weights need, from a config of diffusers' or from the tensors' shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from modules.errors import InputError
from modules.networks.on_meta import on_meta
from modules.untrusted.allowed import class_named, made
from modules.untrusted.reading import printable
from modules.untrusted.weights import at_most_parameters

N = TypeVar("N", bound=nn.Module)

Settings = dict[str, Any]
"""Plain values, as a YAML has them."""

HEAD = 64
"""Channels of an attention head in Karlo's and GLIDE's networks; no file of weights says it."""

DOWN = {"ResnetDownsampleBlock2D": False, "SimpleCrossAttnDownBlock2D": True}
UP = {"ResnetUpsampleBlock2D": False, "SimpleCrossAttnUpBlock2D": True}


def network_of(kind: type[N], settings: Settings, tensors: int) -> N:
    """The network of these settings, as shapes alone.

    Args:
        kind: its class.
        settings: the network's settings.
        tensors: how many the file has; ours has no more parameters than twice as many.

    Raises:
        InputError: it would have more, or sizes that do not go together.
    """
    try:
        with on_meta(), at_most_parameters(2 * tensors + 64):
            found: N = made(kind, settings, kind.__name__, class_named)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"there is no {kind.__name__} of these sizes ({printable(str(error)[:200])})") from error
    return found


def number(config: Mapping[str, Any], key: str, source: str) -> int:
    """A size that a config says.

    Raises:
        InputError: it does not, or it is no whole number above 0.
    """
    found = config.get(key)
    if type(found) is not int or found < 1:
        raise InputError(f"{source}: {key} should be a whole number above 0, found {printable(repr(found)[:60])}")
    return found


def listed(config: Mapping[str, Any], key: str, kind: type, source: str) -> list[Any]:
    """A list of texts, or of sizes, that a config has.

    Raises:
        InputError: it has none, or one of something else.
    """
    found = config.get(key)
    fits = isinstance(found, list) and found and all(type(x) is kind and x not in (0, "") for x in found)
    if not fits:
        raise InputError(f"{source}: {key} should be a list, found {printable(repr(found)[:60])}")
    return list(found)  # type: ignore[arg-type]


def expect(config: Mapping[str, Any], wanted: Mapping[str, object], source: str) -> None:
    """Refuse a config with other values; a key that is not there has the value of `wanted`.

    Raises:
        InputError: names the key.
    """
    for key, value in wanted.items():
        found = config.get(key, value)
        if found not in (value, None):
            raise InputError(f"{source}: {key} is {printable(repr(found)[:60])}; only {value!r} is read here")


def unet_of_config(config: Mapping[str, Any], source: str, image_size: int) -> Settings:
    """A U-Net of diffusers' UNet2DConditionModel or UNet2DModel, of the blocks that unCLIP's networks have.

    Raises:
        InputError: another kind of block or setting; names it.
    """
    wanted = {"act_fn": "silu", "center_input_sample": False, "norm_eps": 1e-5, "freq_shift": 0}
    wanted |= {"flip_sin_to_cos": True, "mid_block_scale_factor": 1, "downsample_padding": 1}
    expect(config, wanted, source)
    channels = listed(config, "block_out_channels", int, source)
    blocks = tuple(listed(config, f"{way}_block_types", str, source) for way in ("down", "up"))
    unknown = [kind for kinds, known in zip(blocks, (DOWN, UP), strict=True) for kind in kinds if kind not in known]
    if unknown:
        raise InputError(f"{source}: blocks of the kind {printable(unknown[0])} are not read here")
    attends = [DOWN[kind] for kind in blocks[0]]
    alike = len(attends) == len(channels) and attends == [UP[kind] for kind in reversed(blocks[1])]
    if not alike or any(width % channels[0] for width in channels):
        raise InputError(f"{source}: block_out_channels, down_block_types and up_block_types are of no ADM network")
    head = number({"attention_head_dim": 8, **config}, "attention_head_dim", source)
    return {
        "channels": channels[0],
        "channel_multipliers": [width // channels[0] for width in channels],
        "depth": number(config, "layers_per_block", source),
        "attention_resolutions": [image_size // 2**level for level, on in enumerate(attends) if on],
        "head_channels": head if any(attends) else HEAD,
        "image_size": image_size,
        "norm_groups": number({"norm_num_groups": 32, **config}, "norm_num_groups", source),
        "time_embedding": "scale_shift" if config.get("resnet_time_scale_shift") == "scale_shift" else "additive",
    }


def unet_of_tensors(tensors: Mapping[str, Tensor], source: str, image_size: int) -> Settings:
    """A U-Net of Karlo's or GLIDE's own layout, from its tensors.

    Raises:
        InputError: they are of no ADM network.
    """
    try:
        channels = len(tensors["input_blocks.0.0.weight"])
        ups = [key for key in tensors if re.fullmatch(r"output_blocks\.\d+\.[12]\.in_layers\.0\.weight", key)]
        count = 1 + max(int(key.split(".")[1]) for key in tensors if key.startswith("input_blocks."))
        depth = min((int(key.split(".")[1]) for key in ups), default=count - 1)
        firsts = [1 + level * (depth + 1) for level in range(count // (depth + 1))]
        widths = [len(tensors[f"input_blocks.{first}.0.out_layers.3.weight"]) for first in firsts]
        attends = [f"input_blocks.{first}.1.qkv.weight" in tensors for first in firsts]
        rows = len(tensors["input_blocks.1.0.emb_layers.1.weight"])
    except (KeyError, ValueError) as error:
        raise InputError(f"{source} holds no U-Net of Karlo's or GLIDE's layout ({error})") from error
    return {
        "channels": channels,
        "channel_multipliers": [width // channels for width in widths],
        "depth": depth,
        "attention_resolutions": [image_size // 2**level for level, on in enumerate(attends) if on],
        "head_channels": HEAD,
        "image_size": image_size,
        "norm_groups": 32,
        "time_embedding": "scale_shift" if rows == 2 * widths[0] else "additive",
    }


def prior_of_config(config: Mapping[str, Any], source: str, timestep: bool = True) -> Settings:
    """A prior of diffusers' PriorTransformer.

    Raises:
        InputError: a variant that has no network here; names the setting.
    """
    wanted: dict[str, object] = {
        "added_emb_type": "prd",
        "encoder_hid_proj_type": "linear",
        "time_embed_act_fn": "silu",
    }
    wanted |= dict.fromkeys(("norm_in_type", "embedding_proj_norm_type", "embedding_proj_dim", "clip_embed_dim"))
    names = ("embedding_dim", "num_embeddings", "num_layers", "num_attention_heads", "attention_head_dim")
    dim, length, depth, heads, head = (number(config, name, source) for name in names)
    wanted |= {"time_embed_dim": heads * head, "additional_embeddings": 4 if timestep else 3}
    expect(config, {**wanted, "embedding_proj_dim": dim, "clip_embed_dim": dim}, source)
    return _prior(dim, length, heads * head, depth, heads, feature_dim=dim)


def prior_of_tensors(tensors: Mapping[str, Tensor], source: str) -> Settings:
    """A prior of Karlo's own layout, from its tensors."""
    try:
        width, feature_dim = tensors["text_enc_proj.weight"].shape
        dim = tensors["clip_img_proj.weight"].shape[1]
        length = tensors["positional_embedding"].reshape(-1, width).shape[0] - 4
    except KeyError as error:
        raise InputError(f"{source} holds no prior of Karlo's layout: it has no {error}") from error
    depth = len([key for key in tensors if re.fullmatch(r"transformer\.resblocks\.\d+\.ln_1\.weight", key)])
    return _prior(dim, length, width, depth, max(1, width // HEAD), feature_dim)


def _prior(dim: int, length: int, width: int, depth: int, heads: int, feature_dim: int) -> Settings:
    conditioning = {"padding_mask": True, "raw": True, "null": "empty_caption", "standardise": True}
    return {
        "embedding_dim": dim,
        "vocab_size": 49408,
        "context_length": length,
        "width": width,
        "depth": depth,
        "heads": heads,
        "feature_dim": feature_dim,
        "conditioning": conditioning,
    }
