"""GLIDE (filtered), OpenAI: base.pt and upsample.pt, U-Net and text Transformer in one file each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from modules.clip.byte_pairs import SOURCE, byte_pairs, find_merges
from modules.clip.caption_tokens import MERGES
from modules.errors import InputError
from modules.networks.decoder import DecoderNetwork
from modules.networks.upsampler import UpsamplerNetwork
from modules.pretrained.decoder_keys import glide_entries
from modules.pretrained.reading import first_file, tensors_of
from modules.pretrained.shapes import HEAD, Settings, network_of, unet_of_tensors
from modules.pretrained.stages import ImportedStage, Stages, stage

FILES = (
    "a folder with base.pt and upsample.pt, or one of them "
    "(https://openaipublic.blob.core.windows.net/diffusion/dec-2021/base.pt and upsample.pt), and with the byte pairs "
    f"of captions ({SOURCE})"
)
PATTERNS = {"glide": ("base.*",), "upsampler": ("upsample.*",)}


def stages(folder: Path) -> Stages:
    """The base model as the stage glide, and the upsampler.

    Raises:
        InputError: the folder has neither; or, from their functions, a file cannot be read.
    """
    found = {name: path for name, patterns in PATTERNS.items() if (path := first_file(folder, patterns)) is not None}
    if not found:
        raise InputError(f"{folder} holds none of GLIDE's files: give {FILES}")
    merges = find_merges(folder)
    return {name: partial(_read, name, path, merges) for name, path in found.items()}


def _read(name: str, path: Path, merges: bytes | None) -> ImportedStage:
    found = (base if name == "glide" else upsampler)(tensors_of(path), str(path))
    if merges is None:
        return found
    words = found.settings["network"]["init_args"]
    size = words["vocab_size"] if name == "glide" else words["text"]["vocab_size"]
    if size != (told := byte_pairs(merges, 1).vocab_size):
        raise InputError(f"{path} knows {size - 1:,} tokens, the byte pairs beside it make {told - 1:,}: take {SOURCE}")
    return replace(found, tensors={**found.tensors, MERGES: torch.frombuffer(bytearray(merges), dtype=torch.uint8)})


def base(tensors: Mapping[str, Tensor], source: str) -> ImportedStage:
    """The base model: 64 px, conditioned on the caption alone."""
    settings = {
        "unet": unet_of_tensors(tensors, source, 64),
        "embedding_dim": None,
        **{
            key if key in ("vocab_size", "context_length") else f"text_{key}": x
            for key, x in _text(tensors, source).items()
        },
    }
    network = network_of(DecoderNetwork, settings, len(tensors))
    sampler = {"name": "ddpm", "steps": 100, "spacing": "adm", "variance": "learned", "guidance_scale": 3.0}
    beside = {"objective": {"learned_sigma": True}, "sampler": sampler, "drop_text": 0.2, "reads": "gpt2"}
    return stage(network, settings, beside, glide_entries(network), tensors, source)


def upsampler(tensors: Mapping[str, Tensor], source: str) -> ImportedStage:
    """The upsampler, 64 to 256 px, which reads the caption too; its schedule is the linear one."""
    learned = (
        len(tensors["out.2.weight"]) == len(tensors["input_blocks.0.0.weight"][0])
        if "out.2.weight" in tensors
        else True
    )
    unet = unet_of_tensors(tensors, source, 256)
    settings = {"unet": unet, "learned_sigma": learned, "interpolation": "bilinear", "text": _text(tensors, source)}
    network = network_of(UpsamplerNetwork, settings, len(tensors))
    beside = {
        "objective": {"schedule": "linear", "learned_sigma": learned},
        "sampler": {
            "name": "ddim",
            "steps": 27,
            "spacing": "fast27",
            "init_noise_sigma": 0.997,
            "eight_bit_input": True,
        },
        "reads": "gpt2",
    }
    return stage(network, settings, beside, glide_entries(network), tensors, source)


def _text(tensors: Mapping[str, Tensor], source: str) -> Settings:
    try:
        vocabulary, width = tensors["token_embedding.weight"].shape
        length = len(tensors["positional_embedding"])
    except KeyError as error:
        raise InputError(f"{source} has no text Transformer of GLIDE's layout: it has no {error}") from error
    depth = len([key for key in tensors if re.fullmatch(r"transformer\.resblocks\.\d+\.ln_1\.weight", key)])
    return {
        "vocab_size": vocabulary + 1,  # Padding, which is our token 0: their token k is our k + 1.
        "context_length": length,
        "width": width,
        "depth": depth,
        "heads": max(1, width // HEAD),
        "padding": "position",
    }
