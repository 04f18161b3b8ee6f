"""CLIPs by name and file: those that CMMD, HPSv2, PickScore, the LAION predictor and GenEval are published with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eval.errors import InputError
from eval.judges.features import CLIPExtractor
from eval.judges.published.weights import depth, fill, read_state
from modules.clip.lean_import import import_open_clip

ARCHITECTURES = {
    "cmmd": "ViT-L-14-336-quickgelu",
    "hpsv2": "ViT-H-14",
    "hpsv2.1": "ViT-H-14",
    "pickscore": "ViT-H-14",
    "laion_aesthetic": "ViT-L-14-quickgelu",
    "geneval": "ViT-L-14-quickgelu",
}
"""Metric -> the open_clip architecture of its CLIP; OpenAI's have the quick GELU."""
RESIZE_MODES = {"hpsv2": "longest", "hpsv2.1": "longest"}
"""Where pictures that are not square are not cropped to their centre; CMMD's authors crop, as CLIP does."""
OF_TRANSFORMERS = "text_model.embeddings.token_embedding.weight"


def published_clip(
    metric: str, path: Path, device: str | torch.device = "cpu", config: Mapping[str, Any] | None = None
) -> CLIPExtractor:
    """The CLIP of a published metric, with its tokeniser.

    Args:
        metric: one of `ARCHITECTURES`.
        path: its weights, with the names of open_clip or of transformers' CLIPModel.
        device: where it computes.
        config: open_clip's model config in the place of the architecture's own, for other sizes.

    Raises:
        InputError: another file.
    """
    open_clip = import_open_clip()
    name = ARCHITECTURES[metric]
    config = dict(config or open_clip.get_model_config(name) or {})
    state = read_state(path)
    if OF_TRANSFORMERS in state:
        state = from_transformers(state)
    state.setdefault("logit_scale", torch.tensor(0.0))
    with torch.device("meta"):
        model = open_clip.CLIP(**{key: config[key] for key in config if key not in ("custom_text",)})
    # Causal, and in no file.
    length = config["text_cfg"]["context_length"]
    model.attn_mask = torch.full((length, length), float("-inf")).triu(1)
    model = fill(
        model, state, path, ("attn_mask", "visual.attn_mask", "input_resolution", "context_length", "vocab_size")
    )
    side = config["vision_cfg"]["image_size"]
    visual: Any = model.visual
    visual.preprocess_cfg = {
        "size": (side, side),
        "mean": open_clip.OPENAI_DATASET_MEAN,
        "std": open_clip.OPENAI_DATASET_STD,
        "interpolation": "bicubic",
        "resize_mode": RESIZE_MODES.get(metric, "shortest"),
        "fill_color": 0,
    }
    tokenizer = open_clip.get_tokenizer(name)
    return CLIPExtractor(model, f"{metric}: {name}", tokenizer, device, {"model": config})


def logit_scale(clip: CLIPExtractor) -> float:
    """The factor of cosines in a CLIP's contrastive loss."""
    return float(clip.model.logit_scale.exp())  # type: ignore[operator,union-attr]


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of transformers' CLIPModel under open_clip's names.

    Raises:
        InputError: a tensor is missing.
    """
    try:
        found = {
            "logit_scale": state["logit_scale"],
            "text_projection": state["text_projection.weight"].T,
            "visual.proj": state["visual_projection.weight"].T,
            "token_embedding.weight": state[OF_TRANSFORMERS],
            "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
            "visual.class_embedding": state["vision_model.embeddings.class_embedding"],
            "visual.conv1.weight": state["vision_model.embeddings.patch_embedding.weight"],
            "visual.positional_embedding": state["vision_model.embeddings.position_embedding.weight"],
        }
        norms = {
            "ln_final": "text_model.final_layer_norm",
            "visual.ln_pre": "vision_model.pre_layrnorm",
            "visual.ln_post": "vision_model.post_layernorm",
        }
        for ours, theirs in norms.items():
            found |= {f"{ours}.{kind}": state[f"{theirs}.{kind}"] for kind in ("weight", "bias")}
        for ours, theirs in (("", "text_model"), ("visual.", "vision_model")):
            for k in range(depth(state, f"{theirs}.encoder.layers.")):
                found |= _block(state, f"{theirs}.encoder.layers.{k}", f"{ours}transformer.resblocks.{k}")
    except KeyError as error:
        raise InputError(f"the weights lack {error}, which transformers' CLIPModel has") from error
    return found


def _block(state: Mapping[str, Tensor], theirs: str, ours: str) -> dict[str, Tensor]:
    names = {
        "self_attn.out_proj": "attn.out_proj",
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    found = {}
    for kind in ("weight", "bias"):
        parts = [state[f"{theirs}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
        found[f"{ours}.attn.in_proj_{kind}"] = torch.cat(parts)
        found |= {f"{ours}.{b}.{kind}": state[f"{theirs}.{a}.{kind}"] for a, b in names.items()}
    return found
