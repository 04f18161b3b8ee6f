"""DINOv2 from its authors' file, as dgm-eval uses it: 224 px, the class token after the last norm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eval.errors import InputError
from eval.judges.features import fingerprint
from eval.judges.published.weights import depth, fill, read_state

SIDE, HEAD = 224, 64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OFFSET = 0.1
"""DINOv2 adds it to the number of patches when it enlarges position embeddings, against rounding."""


class DINOv2Extractor:
    """Features (N, 1024 for ViT-L/14) by DINOv2.

    Args:
        path: dinov2_vits14_pretrain.pth, vitb14 or vitl14, or a safetensors file of the same tensors.
        device: where it computes.
        side: of the pictures that the network sees.

    Raises:
        InputError: another file.
    """

    resizing = "bicubic to 224 px, antialiased, both sides"

    def __init__(self, path: Path, device: str | torch.device = "cpu", side: int = SIDE) -> None:
        state = read_state(path)
        self.side, self.device = side, torch.device(device)
        self.model = fill(network(state, path, side), at_side(state, side), path, ("mask_token",)).to(device)
        width = int(state["cls_token"].shape[-1])
        self.name = f"DINOv2 {width} {fingerprint(self.model)}"
        self.mean, self.std = (torch.tensor(v, device=self.device)[:, None, None] for v in (MEAN, STD))

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        x = images.to(self.device).float() / 255
        if tuple(x.shape[-2:]) != (self.side, self.side):
            size = (self.side, self.side)
            x = F.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        found: Tensor = self.model((x - self.mean) / self.std)
        return found.float().cpu()


def network(state: Mapping[str, Tensor], path: Path, side: int) -> nn.Module:
    """timm's Vision Transformer of the sizes that the file's tensors have, without weights.

    Raises:
        InputError: the file is not DINOv2's, or of the giant model, whose layers are others.
    """
    from timm.models.vision_transformer import VisionTransformer

    try:
        width, patch = state["cls_token"].shape[-1], state["patch_embed.proj.weight"].shape[-1]
        ratio = state["blocks.0.mlp.fc1.weight"].shape[0] / width
    except KeyError as error:
        raise InputError(f"{path} lacks {error}: DINOv2's ViT-S, B or L/14 without registers is needed") from error
    sizes: dict[str, Any] = {"embed_dim": width, "depth": depth(state, "blocks."), "num_heads": max(1, width // HEAD)}
    with torch.device("meta"):
        return VisionTransformer(
            side, patch, **sizes, mlp_ratio=ratio, init_values=1.0, num_classes=0, global_pool="token"
        )


def at_side(state: Mapping[str, Tensor], side: int) -> dict[str, Tensor]:
    """The tensors with position embeddings for pictures of `side` px, interpolated as DINOv2 does (bicubic)."""
    found = dict(state)
    position, patch = state["pos_embed"], state["patch_embed.proj.weight"].shape[-1]
    before, after = round((position.shape[1] - 1) ** 0.5), side // patch
    if before != after:
        grid = position[:, 1:].reshape(1, before, before, -1).permute(0, 3, 1, 2)
        scale = (after + OFFSET) / before
        moved = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic", antialias=False)
        found["pos_embed"] = torch.cat([position[:, :1], moved.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
    return found
