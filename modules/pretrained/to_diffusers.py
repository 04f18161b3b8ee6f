"""Our stages as diffusers' classes have them: for each component its config and its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from modules.errors import InputError
from modules.models.decoder import DecoderModel
from modules.models.diffusion_model import DiffusionModel
from modules.models.priors.diffusion_prior import DiffusionPriorModel
from modules.models.upsampler import UpsamplerModel
from modules.networks.frozen_text import FrozenText
from modules.networks.priors.diffusion_prior import DiffusionPriorNetwork
from modules.networks.unet import UNet
from modules.pretrained.clip_keys import text_entries, vision_entries
from modules.pretrained.decoder_keys import karlo_decoder_entries
from modules.pretrained.key_map import to_theirs
from modules.pretrained.transformer_keys import prior_entries
from modules.pretrained.unet_keys import unet_entries


@dataclass(frozen=True)
class Component:
    """A folder of diffusers' layout.

    Attributes:
        config: config.json, or scheduler_config.json of a component without tensors.
        tensors: by diffusers' or transformers' names; None for a scheduler.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor] | None = None


def prior(model: DiffusionPriorModel) -> dict[str, Component]:
    """prior (PriorTransformer) and prior_scheduler.

    Raises:
        InputError: the prior is conditioned in a way that PriorTransformer does not know.
    """
    network, own = model.network, model.network.conditioning
    if not isinstance(network, DiffusionPriorNetwork):
        raise InputError(f"diffusion_prior: diffusers has no class for a {type(network).__name__}")
    if not (own.padding_mask and own.raw and own.standardise and own.null == "empty_caption"):
        raise InputError(
            "diffusion_prior: diffusers' prior is conditioned as Karlo's is; train with network.conditioning "
            "{padding_mask: true, raw: true, null: empty_caption, standardise: true}, or export without --format"
        )
    if network.feature_dim != network.embedding_dim:
        raise InputError(
            f"diffusion_prior: diffusers' prior reads features of {network.embedding_dim} dimensions, as many as the "
            f"embedding has; this one's have {network.feature_dim}"
        )
    heads, width = network.transformer.heads, network.transformer.width
    config = {
        "_class_name": "PriorTransformer",
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "num_layers": len(network.transformer.blocks),
        "embedding_dim": network.embedding_dim,
        "num_embeddings": network.tokens.context_length,
        "additional_embeddings": 4,
    }
    tensors = to_theirs(prior_entries(network, original=False), network.state_dict())
    return {"prior": Component(config, tensors), "prior_scheduler": scheduler("diffusion_prior", model)}


def scheduler(name: str, model: DiffusionModel) -> Component:
    """The UnCLIPScheduler of a stage.

    Raises:
        InputError: another noise schedule or target than it has.
    """
    objective, sampler = model.objective, model.sampler
    kinds = {"epsilon": "epsilon", "x0": "sample"}
    if objective.schedule != "cosine" or objective.zero_terminal_snr or objective.parameterization not in kinds:
        raise InputError(f"{name}: UnCLIPScheduler has only the cosine schedule, and predicts only epsilon or x0")
    learned = objective.learned_sigma
    config = {
        "_class_name": "UnCLIPScheduler",
        "num_train_timesteps": objective.num_steps,
        "prediction_type": kinds[objective.parameterization],
        "variance_type": "learned_range" if learned else "fixed_small_log",
        "clip_sample": sampler.threshold is not None,
        "clip_sample_range": sampler.threshold_limit,
    }
    return Component(config)


def decoder(model: DecoderModel) -> dict[str, Component]:
    """decoder (UNet2DConditionModel), text_proj (UnCLIPTextProjModel) and decoder_scheduler.

    Raises:
        InputError: a decoder that these classes have no place for; says which setting it is.
    """
    network, text = model.network, model.network.text
    if not isinstance(text, FrozenText):
        raise InputError(
            "decoder: diffusers has no place for a decoder's own text Transformer; train with network.frozen_text, or "
            "export without --format"
        )
    features = network.clip_features
    if not features.raw or features.null is None or features.whitening is not None or features.first is not None:
        raise InputError(
            "decoder: diffusers' decoder reads z_i only by network.pathway {raw: true, learned_null: true}"
        )
    if network.clip_to_map is not None or not text.padding_mask or text.feature_dim != text.z_t_dim:
        raise InputError(
            "decoder: diffusers' decoder has no spatial map, masks padding, and reads features as wide as z_t"
        )
    found = to_theirs(karlo_decoder_entries(network, original=False), network.state_dict())
    parts = {part: _under(found, f"{part}.") for part in ("decoder", "text_proj")}
    width = text.project.out_features
    config = unet_config("decoder", network.unet) | {
        "_class_name": "UNet2DConditionModel",
        "sample_size": model.image_size,
        "cross_attention_dim": width,
        "class_embed_type": "identity",
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    }
    projection = {
        "_class_name": "UnCLIPTextProjModel",
        "clip_extra_context_tokens": 4,
        "clip_embeddings_dim": text.z_t_dim,
        "time_embed_dim": network.unet.emb_width,
        "cross_attention_dim": width,
    }
    return {
        "decoder": Component(config, parts["decoder"]),
        "text_proj": Component(projection, parts["text_proj"]),
        "decoder_scheduler": scheduler("decoder", model),
    }


def upsampler(model: UpsamplerModel) -> dict[str, Component]:
    """super_res_first, super_res_last (UNet2DModel; the same one twice, where there is one) and super_res_scheduler.

    Raises:
        InputError: an upsampler that the pipeline has no place for.
    """
    network = model.network
    if network.interpolation != "bicubic-antialiased" or network.residual or network.learned_sigma or network.text:
        raise InputError(
            "upsampler: diffusers' pipeline needs interpolation: bicubic-antialiased, no text, and a network that "
            "predicts epsilon alone (residual: false, learned_sigma: false)"
        )
    found = {}
    unets = (network.unet, network.last_unet if network.last_unet is not None else network.unet)
    for part, unet in zip(("first", "last"), unets, strict=True):
        config = unet_config("upsampler", unet) | {"_class_name": "UNet2DModel", "sample_size": model.image_size}
        assert isinstance(unet, UNet)  # `unet_config` refuses others.
        tensors = to_theirs(unet_entries(unet, original=False), unet.state_dict())
        found[f"super_res_{part}"] = Component(config | {"add_attention": False}, tensors)
    return {**found, "super_res_scheduler": scheduler("upsampler", model)}


def unet_config(name: str, unet: nn.Module) -> dict[str, Any]:
    """The common part of the configs of diffusers' U-Nets.

    Raises:
        InputError: a U-Net of another body than ADM's, or of other norms than one number of groups describes.
    """
    if not isinstance(unet, UNet) or unet.config.patch_size != 1:
        raise InputError(f"{name}: diffusers has no U-Net of body lean, or with a patch_size other than 1")
    own = unet.config
    groups = {module.num_groups for module in unet.modules() if isinstance(module, nn.GroupNorm)}
    if len(groups) != 1:
        raise InputError(
            f"{name}: its group norms have {sorted(groups)} groups; diffusers' have one number: norm_groups"
        )
    sides = [own.image_size // 2**level for level in range(len(own.channel_multipliers))]
    attends = [side in own.attention_resolutions for side in sides]
    return {
        "in_channels": unet.first.in_channels,
        "out_channels": unet.last.out_channels,
        "block_out_channels": [own.channels * multiplier for multiplier in own.channel_multipliers],
        "layers_per_block": own.depth,
        "down_block_types": [_BLOCKS[on].format("Down") for on in attends],
        "up_block_types": [_BLOCKS[on].format("Up") for on in reversed(attends)],
        "attention_head_dim": own.head_channels if any(attends) else 8,  # Unused then; diffusers' own default.
        "norm_num_groups": groups.pop(),
        "resnet_time_scale_shift": "scale_shift" if own.time_embedding == "scale_shift" else "default",
    }


_BLOCKS = {False: "Resnet{}sampleBlock2D", True: "SimpleCrossAttn{}Block2D"}


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


def clip(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Component]:
    """text_encoder and image_encoder (transformers' CLIP...ModelWithProjection) of an open_clip folder.

    Args:
        config: open_clip_config.json's model_cfg.
        tensors: by open_clip's names.

    Raises:
        InputError: towers of another kind than OpenAI's.
    """
    text, vision = config["text_cfg"], config["vision_cfg"]
    if config.get("custom_text") or not isinstance(vision.get("layers"), int) or vision.get("timm_model_name"):
        raise InputError("clip: transformers has no place for towers of another kind than OpenAI's CLIP")
    act = "quick_gelu" if config.get("quick_gelu") else "gelu"
    common = {"projection_dim": config["embed_dim"], "hidden_act": act}
    words = {
        "architectures": ["CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        **_tower(text["width"], text["layers"], text["heads"], text.get("mlp_ratio", 4.0)),
        "vocab_size": text.get("vocab_size", 49408),
        "max_position_embeddings": text.get("context_length", 77),
        "bos_token_id": 0,
        "eos_token_id": 2,  # As OpenAI's release has it: transformers then pools at the largest token.
        "pad_token_id": 1,
    }
    pixels = {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        **_tower(
            vision["width"],
            vision["layers"],
            vision["width"] // vision.get("head_width", 64),
            vision.get("mlp_ratio", 4.0),
        ),
        "image_size": vision.get("image_size", 224),
        "patch_size": vision.get("patch_size", 16),
    }
    return {
        "text_encoder": Component(words | common, to_theirs(text_entries(text["layers"]), tensors)),
        "image_encoder": Component(pixels | common, to_theirs(vision_entries(vision["layers"]), tensors)),
    }


def _tower(width: int, layers: int, heads: int, ratio: float) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {**sizes, "intermediate_size": int(width * ratio), "layer_norm_eps": 1e-5}
