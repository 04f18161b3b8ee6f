"""Karlo v1.0 alpha (Kakao Brain): the folder of diffusers' layout, and the original checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from modules.errors import InputError
from modules.networks.decoder import DecoderNetwork
from modules.networks.priors.diffusion_prior import DiffusionPriorNetwork
from modules.networks.upsampler import UpsamplerNetwork
from modules.pretrained.decoder_keys import karlo_decoder_entries, karlo_upsampler_entries
from modules.pretrained.reading import component, first_file, read_config, tensors_of, without_prefix
from modules.pretrained.shapes import (
    Settings,
    expect,
    network_of,
    number,
    prior_of_config,
    prior_of_tensors,
    unet_of_config,
    unet_of_tensors,
)
from modules.pretrained.stages import ImportedStage, Stages, stage
from modules.pretrained.transformer_keys import prior_entries
from modules.untrusted.reading import printable

ORIGINAL = {
    "diffusion_prior": ("prior-ckpt*", "prior*"),
    "decoder": ("decoder-ckpt*", "decoder*"),
    "upsampler": ("improved-sr-ckpt*", "improved-sr*"),
}
"""Patterns of the original checkpoints' names, by our stage."""

STATISTICS = ("ViT-L-14_stats*", "*_stats.th", "*_stats.safetensors")

FILES = (
    "a folder of diffusers' layout (https://huggingface.co/kakaobrain/karlo-v1-alpha: prior, decoder, text_proj, "
    "super_res_first, super_res_last, text_encoder, image_encoder), or one with the original checkpoints "
    "(prior-ckpt-*.ckpt, decoder-ckpt-*.ckpt, improved-sr-ckpt-*.ckpt, ViT-L-14_stats.th; "
    "https://github.com/kakaobrain/karlo has them)"
)

SCHEDULER = {"beta_schedule": "squaredcos_cap_v2", "clip_sample": True}
"""What all of Karlo's schedulers have."""


PAIRS = {"decoder": "text_proj", "super_res_first": "super_res_last"}
"""Folders of diffusers' layout of which a stage needs both."""


def is_diffusers(folder: Path) -> bool:
    """Whether a folder has diffusers' layout."""
    return any((folder / name / "config.json").is_file() for name in ("prior", "decoder"))


def stages(folder: Path) -> Stages:
    """The stages that the folder holds.

    Raises:
        InputError: it holds none; or, from their functions, one that cannot be read.
    """
    makers = _diffusers(folder) if is_diffusers(folder) else _original(folder)
    if not makers:
        raise InputError(f"{folder} holds none of Karlo's files: give {FILES}")
    return {name: partial(make, folder) for name, make in makers.items()}


def _diffusers(folder: Path) -> dict[str, Callable[[Path], ImportedStage]]:
    parts = {"diffusion_prior": ("prior", prior), "decoder": ("decoder", decoder)}
    parts["upsampler"] = ("super_res_first", upsampler)
    for one, other in PAIRS.items():
        if (folder / one).is_dir() and not (folder / other / "config.json").is_file():
            raise InputError(f"{folder} holds {one} without {other}, and both make one stage: get that folder, too")
    return {name: make for name, (there, make) in parts.items() if (folder / there).is_dir()}


def prior(folder: Path, threshold_limit: float = 5.0) -> ImportedStage:
    """Karlo's prior, and Kandinsky's, of diffusers' layout: FOLDER/prior, or FOLDER itself.

    Args:
        threshold_limit: the range of clipping if the folder has no scheduler that says it.
    """
    place = folder / "prior" if (folder / "prior").is_dir() else folder
    settings = prior_of_config(read_config(place / "config.json"), str(place / "config.json"))
    scheduler = next((p for n in ("prior_scheduler", "scheduler") if (p := folder / n / FILE).is_file()), None)
    objective, limit = {"num_steps": 1000}, threshold_limit
    if scheduler is not None:
        wanted = {"prediction_type": "sample", "variance_type": "fixed_small_log"}
        objective, limit = schedule(scheduler, wanted, threshold_limit)
    return prior_stage(settings, component(place), str(place), limit, objective, original=False)


FILE = "scheduler_config.json"


def schedule(path: Path, wanted: Mapping[str, object], limit: float = 1.0) -> tuple[Settings, float]:
    """The objective's settings and the range of clipping of an UnCLIPScheduler's config.

    Raises:
        InputError: another scheduler; names the setting.
    """
    config = read_config(path)
    expect(config, {**SCHEDULER, **wanted}, str(path))
    found = config.get("clip_sample_range", limit)
    if type(found) not in (int, float) or not found > 0:
        raise InputError(f"{path}: clip_sample_range should be a number above 0, found {printable(repr(found)[:60])}")
    steps = number({"num_train_timesteps": 1000, **config}, "num_train_timesteps", str(path))
    return {"num_steps": steps}, float(found)


def prior_stage(
    settings: Settings, tensors: Mapping[str, Tensor], source: str, limit: float, objective: Settings, original: bool
) -> ImportedStage:
    """The prior of their tensors; `limit` is the range of clipping."""
    network = network_of(DiffusionPriorNetwork, settings, len(tensors))
    sampler = {"name": "ddpm", "steps": 25, "spacing": "adm", "variance": "fixed_small", "guidance_scale": 4.0}
    sampler |= {"threshold": "static", "threshold_limit": limit}
    beside = {
        "objective": {**objective, "parameterization": "x0"},
        "sampler": sampler,
        "drop_text": 0.2,
        "candidates": 1,
    }
    return stage(network, settings, beside, prior_entries(network, original), tensors, source)


def decoder(folder: Path) -> ImportedStage:
    """Karlo's decoder with its text projection, of diffusers' layout."""
    source = folder / "decoder" / "config.json"
    config, text = read_config(source), read_config(folder / "text_proj" / "config.json")
    wanted = {"in_channels": 3, "out_channels": 6, "class_embed_type": "identity", "only_cross_attention": False}
    expect(config, {**wanted, "mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, str(source))
    expect(text, {"clip_extra_context_tokens": 4}, str(folder / "text_proj" / "config.json"))
    names = ("clip_embeddings_dim", "cross_attention_dim")
    dim, width = (number(text, name, str(folder / "text_proj" / "config.json")) for name in names)
    unet = unet_of_config(config, str(source), number(config, "sample_size", str(source)))
    beside: Settings = {"num_steps": 1000}
    if (path := folder / "decoder_scheduler" / FILE).is_file():
        wanted = {"prediction_type": "epsilon", "variance_type": "learned_range", "clip_sample_range": 1.0}
        beside = schedule(path, wanted)[0]
    tensors = {f"decoder.{name}": x for name, x in component(folder / "decoder").items()}
    tensors |= {f"text_proj.{name}": x for name, x in component(folder / "text_proj").items()}
    return _decoder(unet, dim, width, tensors, str(folder), beside, False)


def _decoder(
    unet: Settings,
    dim: int,
    width: int,
    tensors: Mapping[str, Tensor],
    source: str,
    objective: Settings,
    original: bool,
) -> ImportedStage:
    settings = {
        "unet": unet,
        "embedding_dim": dim,
        "vocab_size": 49408,
        "context_length": 77,
        "text_width": width,
        "text_depth": 0,
        "text_heads": 0,
        "pathway": {"raw": True, "learned_null": True},
        "frozen_text": {"feature_dim": dim, "z_t_dim": dim},
    }
    network = network_of(DecoderNetwork, settings, len(tensors))
    sampler = {"name": "ddpm", "steps": 25, "spacing": "adm", "variance": "learned", "guidance_scale": 8.0}
    beside: dict[str, Any] = {"objective": {**objective, "learned_sigma": True}, "sampler": sampler}
    beside |= {"drop_text": 0.3, "drop_embedding": 0.1}
    return stage(network, settings, beside, karlo_decoder_entries(network, original), tensors, source)


def upsampler(folder: Path) -> ImportedStage:
    """Karlo's two super-resolution networks, of diffusers' layout."""
    parts = ("super_res_first", "super_res_last")
    configs = [read_config(folder / part / "config.json") for part in parts]
    for part, config in zip(parts, configs, strict=True):
        wanted = {"in_channels": 6, "out_channels": 3, "add_attention": False, "time_embedding_type": "positional"}
        expect(config, wanted, str(folder / part / "config.json"))
    size = number({"sample_size": configs[0].get("sample_size") or 256}, "sample_size", str(folder / parts[0]))
    unets = [
        unet_of_config(c, str(folder / part / "config.json"), size) for part, c in zip(parts, configs, strict=True)
    ]
    if unets[0] != unets[1]:
        raise InputError(f"{folder}: super_res_first and super_res_last have other shapes: {unets[0]} and {unets[1]}")
    of_decoder = folder / "decoder" / "config.json"
    small = number(read_config(of_decoder), "sample_size", str(of_decoder)) if of_decoder.is_file() else 64
    objective: Settings = {"num_steps": 1000}
    if (path := folder / "super_res_scheduler" / FILE).is_file():
        wanted = {"prediction_type": "epsilon", "variance_type": "fixed_small_log", "clip_sample_range": 1.0}
        objective = schedule(path, wanted)[0]
    tensors = {f"{part}.{name}": x for part in parts for name, x in component(folder / part).items()}
    return _upsampler(unets[0], size // small, tensors, str(folder), objective, False)


def _upsampler(
    unet: Settings, factor: int, tensors: Mapping[str, Tensor], source: str, objective: Settings, original: bool
) -> ImportedStage:
    settings = {"unet": unet, "factor": factor, "interpolation": "bicubic-antialiased", "last_step": True}
    network = network_of(UpsamplerNetwork, settings, len(tensors))
    sampler = {"name": "ddpm", "steps": 7, "spacing": "adm", "variance": "fixed_small"}
    beside = {"objective": objective, "sampler": sampler}
    return stage(network, settings, beside, karlo_upsampler_entries(network, original), tensors, source)


def _original(folder: Path) -> dict[str, Callable[[Path], ImportedStage]]:
    makers = {"diffusion_prior": original_prior, "decoder": original_decoder, "upsampler": original_upsampler}
    return {name: make for name, make in makers.items() if first_file(folder, ORIGINAL[name]) is not None}


def _checkpoint(folder: Path, name: str) -> tuple[Path, dict[str, Tensor]]:
    path = first_file(folder, ORIGINAL[name])
    assert path is not None
    return path, tensors_of(path)


def original_prior(folder: Path) -> ImportedStage:
    """Karlo's prior and its statistics, as Kakao Brain released them."""
    path, tensors = _checkpoint(folder, "diffusion_prior")
    statistics = first_file(folder, STATISTICS)
    if statistics is None:
        raise InputError(
            f"{folder} lacks ViT-L-14_stats.th, the mean and deviation of the CLIP's embeddings that Karlo's prior is "
            "trained on: put it beside the checkpoints (https://github.com/kakaobrain/karlo says where it is)"
        )
    found = list(tensors_of(statistics).values())
    if len(found) != 2 or found[0].numel() != found[1].numel():
        raise InputError(f"{statistics} should hold two tensors of one length, a mean and a deviation; get it again")
    own = without_prefix(tensors, "model.")
    own |= {name: x.reshape(1, -1).float() for name, x in zip(("clip_mean", "clip_std"), found, strict=True)}
    # Differs from diffusers' folder, whose scheduler says 5: Karlo's own code clips at 10.
    return prior_stage(prior_of_tensors(own, str(path)), own, str(path), 10.0, {"num_steps": 1000}, original=True)


def original_decoder(folder: Path) -> ImportedStage:
    """Karlo's decoder, as Kakao Brain released it."""
    path, tensors = _checkpoint(folder, "decoder")
    own = without_prefix(tensors, "model.")
    unet = unet_of_tensors(own, str(path), 64)
    lost = next((name for name in ("cf_param", "text_seq_proj.0.weight") if name not in own), None)
    if lost:
        raise InputError(f"{path} holds no decoder of Karlo's: it has no {lost}")
    dim, width = own["cf_param"].numel(), len(own["text_seq_proj.0.weight"])
    own["cf_param"] = own["cf_param"].flatten()
    return _decoder(unet, dim, width, own, str(path), {"num_steps": 1000}, True)


def original_upsampler(folder: Path) -> ImportedStage:
    """Karlo's two super-resolution networks, as Kakao Brain released them."""
    path, tensors = _checkpoint(folder, "upsampler")
    unet = unet_of_tensors(without_prefix(tensors, "model_first_steps."), str(path), 256)
    return _upsampler(unet, 4, tensors, str(path), {"num_steps": 1000}, True)
