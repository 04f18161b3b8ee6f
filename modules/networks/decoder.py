"""The decoder's network: GLIDE's U-Net and text Transformer, with the CLIP embedding added (unCLIP, section 2.1)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.networks.blocks import TimeEmbedding
from modules.networks.embedding_pathway import EmbeddingFeatures, EmbeddingNoise, EmbeddingPathway
from modules.networks.frozen_text import CaptionFeatures, FrozenText, FrozenTextConfig
from modules.networks.lean_unet import make_unet
from modules.networks.transformer import Padding, TextEncoder, unique_rows
from modules.networks.unet import UNetConfig

PAPER = EmbeddingPathway()
CLIP_TOKENS = 4  # unCLIP, section 2.1: "four extra tokens of context".


class Condition(NamedTuple):
    """The U-Net's conditions: computed once for each caption, used at every step.

    Attributes:
        emb: (B, emb_width) vector added to the timestep's embedding.
        context: (B, L, context width) tokens for the attention layers, or None.
        spatial: (B, C, h, w) map added at the U-Net's lowest resolution, or None.
        mask: (B, L) bool, False where attention does not look at a token of the context; None where it looks at all.
    """

    emb: Tensor
    context: Tensor | None
    spatial: Tensor | None = None
    mask: Tensor | None = None

    @staticmethod
    def stack(parts: list[Condition]) -> Condition:
        """The batches one behind another, for one call of the network."""
        contexts = [part.context for part in parts if part.context is not None]
        maps = [part.spatial for part in parts if part.spatial is not None]
        masks = [part.mask for part in parts if part.mask is not None]
        return Condition(
            torch.cat([part.emb for part in parts]),
            torch.cat(contexts) if contexts else None,
            torch.cat(maps) if maps else None,
            torch.cat(masks) if masks else None,
        )


class DecoderNetwork(nn.Module):
    """p(x | z_i, y): the U-Net, the caption's Transformer, and the CLIP embedding's two projections.

    Args:
        unet: the U-Net's shape.
        embedding_dim: D of the CLIP embedding; None makes the network GLIDE, conditioned on the caption alone.
        vocab_size, context_length: of the tokeniser.
        text_width, text_depth, text_heads: of the text Transformer.
        learned_sigma: twice the output channels, the second half being the interpolation v (Improved DDPM, eq. 15).
        channels: of the images.
        text_pooling: which feature of the caption joins the timestep's embedding: "last", the last position's (GLIDE,
            section 2.4), or "mean", the mean over the caption's tokens. With "mean" a small network learns to heed
            colours hundreds of steps sooner, because nearly all positions of a short caption are padding.
        text_std: standard deviation of the fresh token embeddings.
        pathway: what is done to z_i before it is projected; by default nothing, as in the paper.
        frozen_text: reads the caption through a frozen CLIP instead of a Transformer of its own (Karlo); vocab_size,
            text_depth, text_heads, text_pooling and text_std then have no meaning. Differs from the paper.
        text_padding: "token", one embedding beside the position's; "position", one for each position, instead of the
            position's (GLIDE's released weights).
        noise_levels: whether the network is told how noisy z_i is (Stable unCLIP's noise augmentation).
    """

    def __init__(
        self,
        unet: UNetConfig,
        embedding_dim: int | None,
        vocab_size: int,
        context_length: int,
        text_width: int,
        text_depth: int,
        text_heads: int,
        learned_sigma: bool = True,
        channels: int = 3,
        text_pooling: Literal["last", "mean"] = "last",
        text_std: float = 0.05,
        pathway: EmbeddingPathway = PAPER,
        frozen_text: FrozenTextConfig | None = None,
        text_padding: Padding = "token",
        noise_levels: bool = False,
    ) -> None:
        super().__init__()
        self.embedding_dim, self.learned_sigma, self.channels = embedding_dim, learned_sigma, channels
        self.unet = make_unet(unet, channels, channels * (2 if learned_sigma else 1), context_width=text_width)
        self.text: TextEncoder | FrozenText
        self.text_pooling = text_pooling
        if frozen_text is None:
            sizes = (vocab_size, context_length, text_width, text_depth, text_heads)
            self.text = TextEncoder(*sizes, checkpointing=unet.checkpointing, std=text_std, padding=text_padding)
            self.text_to_emb = nn.Linear(text_width, self.unet.emb_width)
        else:
            self.text = FrozenText(frozen_text, context_length, text_width, self.unet.emb_width)
        self.clip_to_map, self.noise_level = None, None
        if embedding_dim is not None:
            self.noise_level = TimeEmbedding(self.unet.emb_width, self.unet.emb_width) if noise_levels else None
            self.clip_features = EmbeddingFeatures(embedding_dim, pathway)
            width = self.clip_features.width
            # A Sequential of one, for the names in the files of weights.
            self.clip_to_emb = nn.Sequential(nn.Linear(width, self.unet.emb_width))
            self.clip_to_tokens = nn.Linear(width, CLIP_TOKENS * text_width)
            if pathway.spatial_map:
                self._map_side = lowest_side(unet)
                self.clip_to_map = nn.Linear(width, lowest_width(unet) * self._map_side**2)

    def condition(
        self,
        tokens: Tensor | CaptionFeatures,
        z_i: Tensor | None,
        *,
        keep_text: Tensor | None = None,
        keep_embedding: Tensor | None = None,
        noised: EmbeddingNoise | None = None,
    ) -> Condition:
        """What the U-Net is conditioned on.

        Args:
            tokens: (B, L) int64 caption tokens; with `frozen_text`, what the CLIP gives of the captions.
            z_i: (B, D) CLIP image embeddings of unit norm; None for none (the zero embedding).
            keep_text, keep_embedding: (B,) bool; where False, the caption becomes the empty one (all padding), the
                embedding zero, or the learned one, as for classifier-free guidance.
            noised: noise on z_i; None for none, or for a network that is not told of it.
        """
        features, emb, mask = self._read(tokens, keep_text)
        if self.embedding_dim is None:
            return Condition(emb, features, None, mask)
        z = self._embedding(emb, z_i, keep_embedding, noised)
        if self.noise_level is not None:
            level = torch.zeros(len(emb), dtype=torch.int64, device=emb.device) if noised is None else noised.level
            emb = emb + self.noise_level(level)
        extra = self.clip_to_tokens(z).unflatten(1, (CLIP_TOKENS, -1))
        spatial = None
        if self.clip_to_map is not None:
            spatial = self.clip_to_map(z).unflatten(1, (-1, self._map_side, self._map_side))
        if mask is not None:
            mask = F.pad(mask, (0, CLIP_TOKENS), value=True)
        return Condition(emb + self.clip_to_emb(z), torch.cat([features, extra], dim=1), spatial, mask)

    def _read(self, captions: Tensor | CaptionFeatures, keep: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """The captions' context (B, L, text width), vector (B, emb_width) and mask."""
        if isinstance(self.text, FrozenText):
            if isinstance(captions, Tensor):
                raise ValueError("a decoder with frozen_text reads a CLIP's features of a caption, not its tokens")
            return self.text(captions, keep)  # type: ignore[no-any-return]
        if not isinstance(captions, Tensor):
            raise ValueError("a decoder without frozen_text reads a caption's tokens, not a CLIP's features of it")
        tokens = captions if keep is None else torch.where(keep[:, None], captions, 0)
        features = self._features(tokens)
        return features, self.text_to_emb(self._pooled(features, tokens)), None

    def _embedding(self, emb: Tensor, z_i: Tensor | None, keep: Tensor | None, noised: EmbeddingNoise | None) -> Tensor:
        """What the projections read: (B, width), of the type of `emb`."""
        assert self.embedding_dim is not None
        if z_i is None:
            return self.clip_features.absent(len(emb), emb)
        found: Tensor = self.clip_features(z_i, emb.dtype, keep, noised)
        return found

    def _pooled(self, features: Tensor, tokens: Tensor) -> Tensor:
        """(B, L, W) features of (B, L) tokens -> (B, W), as `text_pooling` says; 0 for the mean of an empty caption."""
        if self.text_pooling == "last":
            return features[:, -1]
        weight = (tokens != 0).to(features.dtype)[..., None]
        return (features * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)

    def _features(self, tokens: Tensor) -> Tensor:
        """(B, L) -> (B, L, text width); in sampling, each caption of the batch goes through the encoder once."""
        if torch.is_grad_enabled():
            return self.text(tokens)
        rows, places = unique_rows(tokens)
        return self.text(tokens[rows])[places]

    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """(B, C, H, W) noised images, (B,) timesteps -> (B, C or 2 C, H, W)."""
        found: Tensor = self.unet(x_t, t, condition.emb, condition.context, condition.spatial, condition.mask)
        return found


def lowest_side(config: UNetConfig) -> int:
    """Side of the feature maps at a U-Net's lowest resolution, for images of the size that it is made for."""
    return config.image_size // config.patch_size // 2 ** (len(config.channel_multipliers) - 1)


def lowest_width(config: UNetConfig) -> int:
    """Channels of the feature maps at a U-Net's lowest resolution."""
    return config.channels * config.channel_multipliers[-1]
