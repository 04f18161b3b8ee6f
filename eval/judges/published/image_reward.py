"""ImageReward (2023, Xu et al.): BLIP reads caption and picture together, an MLP says how people would like it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eval.errors import InputError
from eval.judges.features import fingerprint
from eval.judges.published.mlp import make_mlp
from eval.judges.published.weights import depth, fill, read_state

REWARD_MEAN, REWARD_STD = 0.16717362830052426, 1.0333394966054072
"""Of the rewards on the authors' validation data: scores are standardised by them."""
MAX_TOKENS, HEAD = 35, 64
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
INSTALL = 'ImageReward and VQAScore need transformers: `pip install -e ".[vlm]"`'


class ImageReward:
    """Scores (N, 1) of pictures and their captions.

    Args:
        path: ImageReward.pt.
        vocabulary: vocab.txt of bert-base-uncased.
        device: where it computes.

    Raises:
        InputError: other files, or transformers is not installed.
    """

    resizing = "short side bicubic to 224 px, antialiased, then the centre"

    def __init__(self, path: Path, vocabulary: Path, device: str | torch.device = "cpu") -> None:
        state = read_state(path)
        try:
            from tokenizers import BertWordPieceTokenizer
        except ImportError:
            raise InputError(INSTALL) from None
        from modules.clip.preprocessing import Preprocessing

        self.device = torch.device(device)
        self.tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=True)
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokenizer.enable_padding(length=MAX_TOKENS)
        vision, text = (part(state, f"blip.{name}.") for name in ("visual_encoder", "text_encoder"))
        self.vision = fill(vision_tower(vision, path), vision, path).to(device)
        self.text = fill(text_tower(text, path), text, path, ("embeddings.position_ids", "pooler.")).to(device)
        self.mlp = make_mlp(part(state, "mlp."), path).to(device)
        side = 16 * round((vision["pos_embed"].shape[1] - 1) ** 0.5)
        self.preprocessing = Preprocessing((side, side), MEAN, STD)
        self.name = f"ImageReward {fingerprint(nn.ModuleList([self.vision, self.text, self.mlp]))}"

    @torch.inference_mode()
    def score(self, images: Tensor, records: Sequence[Mapping[str, Any]]) -> Tensor:
        """(N, 1) of uint8 (N, 3, H, W) and manifest lines with captions."""
        mean, std = (torch.tensor(v, device=self.device)[:, None, None] for v in (MEAN, STD))
        x = self.preprocessing.resized(images.to(self.device).float() / 255)
        seen = self.vision.forward_features((x - mean) / std)  # type: ignore[operator]
        words = self.tokenizer.encode_batch([str(record["caption"]) for record in records])
        ids, mask = (
            torch.tensor([getattr(w, key) for w in words], device=self.device) for key in ("ids", "attention_mask")
        )
        found = self.text(
            input_ids=ids,
            attention_mask=mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:-1], dtype=torch.long, device=self.device),
        )
        reward: Tensor = self.mlp["layers"](found.last_hidden_state[:, 0].float())  # type: ignore[index]
        return ((reward - REWARD_MEAN) / REWARD_STD).cpu()


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below a prefix, without it."""
    return {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}


def vision_tower(state: Mapping[str, Tensor], path: Path) -> nn.Module:
    """BLIP's Vision Transformer of the file's sizes (ViT-L/16 at 224 px in the published one)."""
    from timm.models.vision_transformer import VisionTransformer

    try:
        width, patch = state["cls_token"].shape[-1], state["patch_embed.proj.weight"].shape[-1]
        side = patch * round((state["pos_embed"].shape[1] - 1) ** 0.5)
        ratio = state["blocks.0.mlp.fc1.weight"].shape[0] / width
    except KeyError as error:
        raise InputError(f"{path} lacks blip.visual_encoder.{error.args[0]}: it is not ImageReward's file") from error
    with torch.device("meta"):
        return VisionTransformer(
            side, patch, embed_dim=width, depth=depth(state, "blocks."), num_heads=max(1, width // HEAD),
            mlp_ratio=ratio, num_classes=0, global_pool="",
        )  # fmt: skip


def text_tower(state: Mapping[str, Tensor], path: Path) -> nn.Module:
    """BLIP's BERT with cross attention to the picture, of the file's sizes."""
    try:
        from transformers import BlipTextConfig, BlipTextModel
    except ImportError:
        raise InputError(INSTALL) from None
    try:
        vocabulary, width = state["embeddings.word_embeddings.weight"].shape
        config = BlipTextConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            encoder_hidden_size=state["encoder.layer.0.crossattention.self.key.weight"].shape[1],
            intermediate_size=state["encoder.layer.0.intermediate.dense.weight"].shape[0],
            num_hidden_layers=depth(state, "encoder.layer."),
            num_attention_heads=max(1, width // HEAD),
            max_position_embeddings=state["embeddings.position_embeddings.weight"].shape[0],
            is_decoder=True,
        )
    except KeyError as error:
        raise InputError(f"{path} lacks blip.text_encoder.{error.args[0]}: it is not ImageReward's file") from error
    return BlipTextModel(config, add_pooling_layer=False)
