"""Small random models of others' classes, saved by these classes as the files of a release are."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import torch
from diffusers import PriorTransformer, UnCLIPScheduler, UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.deprecated.unclip import UnCLIPImageVariationPipeline, UnCLIPPipeline
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from open_clip.tokenizer import default_bpe
from torch import nn
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

DIM, CONTEXT, SIDE, LARGE = 32, 77, 16, 64


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """The module with all weights random, so that no zero and no 1 hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(module.named_parameters()):
        fan = parameter[0].numel() if parameter.ndim > 1 else 16
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * fan**-0.5)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
            if name == "clip_std":
                parameter.abs_().add_(0.5)
    return module.eval()


def prior(**changed: object) -> PriorTransformer:
    sizes = {"num_attention_heads": 2, "attention_head_dim": 64, "num_layers": 2, "embedding_dim": DIM}
    return randomised(
        PriorTransformer(**{**sizes, "num_embeddings": CONTEXT, "additional_embeddings": 4, **changed}), 1
    )


def decoder() -> UNet2DConditionModel:
    made = UNet2DConditionModel(
        sample_size=SIDE,
        in_channels=3,
        out_channels=6,
        block_out_channels=(64, 128),
        layers_per_block=2,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        cross_attention_dim=48,
        class_embed_type="identity",
        attention_head_dim=64,
        resnet_time_scale_shift="scale_shift",
    )
    return randomised(made, 2)


def text_proj() -> UnCLIPTextProjModel:
    made = UnCLIPTextProjModel(clip_embeddings_dim=DIM, time_embed_dim=256, cross_attention_dim=48)
    return randomised(made, 3)


def super_res(seed: int) -> UNet2DModel:
    made = UNet2DModel(
        sample_size=LARGE,
        in_channels=6,
        out_channels=3,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D",) * 2,
        up_block_types=("ResnetUpsampleBlock2D",) * 2,
        add_attention=False,
        resnet_time_scale_shift="default",
    )
    return randomised(made, seed)


def text_encoder(act: str = "quick_gelu", dim: int = DIM) -> CLIPTextModelWithProjection:
    sizes = {"hidden_size": dim, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    config = CLIPTextConfig(vocab_size=49408, projection_dim=dim, hidden_act=act, **sizes, **ids)
    return randomised(CLIPTextModelWithProjection(config), 6)


def image_encoder(act: str = "quick_gelu", dim: int = DIM) -> CLIPVisionModelWithProjection:
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = CLIPVisionConfig(image_size=32, patch_size=8, projection_dim=dim, hidden_act=act, **sizes)
    return randomised(CLIPVisionModelWithProjection(config), 7)


def tokenizer(folder: Path) -> CLIPTokenizer:
    """transformers' tokeniser, with the merges that open_clip ships, as CLIP's release has it; padding is "!" (0)."""
    with gzip.open(default_bpe()) as file:
        merges = file.read().decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    codes = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(code) for code in codes] + [chr(256 + k) for k in range(256 - len(codes))]
    words = letters + [letter + "</w>" for letter in letters] + ["".join(merge.split()) for merge in merges]
    vocabulary = {word: k for k, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": CONTEXT, "pad_token": "!"})
    )
    return CLIPTokenizer.from_pretrained(folder)


def schedulers() -> dict[str, UnCLIPScheduler]:
    return {
        "prior_scheduler": UnCLIPScheduler(prediction_type="sample", clip_sample_range=5.0),
        "decoder_scheduler": UnCLIPScheduler(variance_type="learned_range"),
        "super_res_scheduler": UnCLIPScheduler(),
    }


def karlo(folder: Path) -> dict[str, object]:
    """All parts of Karlo, saved by diffusers and transformers as the release is; the parts by name."""
    parts: dict[str, object] = {
        "prior": prior(),
        "decoder": decoder(),
        "text_proj": text_proj(),
        "super_res_first": super_res(4),
        "super_res_last": super_res(5),
        "text_encoder": text_encoder(),
        "image_encoder": image_encoder(),
        **schedulers(),
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    return {**parts, "tokenizer": tokenizer(folder / "tokenizer")}


def text_to_image(parts: dict[str, object]) -> UnCLIPPipeline:
    wanted = {name: part for name, part in parts.items() if name != "image_encoder"}
    pipeline = UnCLIPPipeline(**wanted)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def variation(parts: dict[str, object]) -> UnCLIPImageVariationPipeline:
    wanted = {name: part for name, part in parts.items() if name not in ("prior", "prior_scheduler")}
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pipeline = UnCLIPImageVariationPipeline(**wanted, feature_extractor=processor)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
