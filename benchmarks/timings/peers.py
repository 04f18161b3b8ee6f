"""The same networks as others build them: as many parameters and FLOPs as the implementations allow."""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor, nn


def available(name: str) -> bool:
    """Whether an optional package can be imported."""
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def diffusers_unet(channels: int, depth: int, context_width: int) -> Any:
    """UNet2DConditionModel with unCLIP's blocks (Karlo's): the same layers as our U-Net, to the parameter."""
    from diffusers import UNet2DConditionModel

    attending = ("SimpleCrossAttnDownBlock2D",) * 3, ("SimpleCrossAttnUpBlock2D",) * 3
    return UNet2DConditionModel(
        sample_size=64,
        in_channels=3,
        out_channels=6,
        down_block_types=("ResnetDownsampleBlock2D", *attending[0]),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=(*attending[1], "ResnetUpsampleBlock2D"),
        block_out_channels=tuple(channels * k for k in (1, 2, 3, 4)),
        layers_per_block=depth,
        cross_attention_dim=context_width,
        attention_head_dim=64,
        resnet_time_scale_shift="scale_shift",
    )


def dalle2_unet(channels: int, depth: int, embedding_dim: int) -> Any:
    """DALLE2-pytorch's Unet, conditioned on an image embedding alone, with attention at the resolutions of ours.

    One block a level more brings it to 0.95 of our FLOPs; its attention has fewer heads, and its captions none.
    """
    from dalle2_pytorch import Unet

    return Unet(
        dim=channels,
        image_embed_dim=embedding_dim,
        cond_dim=embedding_dim,
        channels=3,
        dim_mults=(1, 2, 3, 4),
        num_resnet_blocks=depth + 1,
        self_attn=(False, True, True, True),
        attn_dim_head=64,
        attn_heads=4,
        learned_variance=True,
    )


class DiffusersPrior(nn.Module):
    """PriorTransformer with token embeddings in front, since its captions come encoded."""

    def __init__(self, vocab_size: int, context: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        import diffusers

        make: Any = diffusers.PriorTransformer
        self.tokens = nn.Embedding(vocab_size, width)
        self.prior = make(
            num_attention_heads=heads,
            attention_head_dim=width // heads,
            num_layers=depth,
            embedding_dim=width,
            num_embeddings=context,
            additional_embeddings=4,
        )

    def forward(self, x_t: Tensor, t: Tensor, tokens: Tensor, z_t: Tensor) -> Tensor:
        """(B, D), (B,), (B, L), (B, D) -> (B, D)."""
        out = self.prior(x_t, t, proj_embedding=z_t, encoder_hidden_states=self.tokens(tokens), attention_mask=None)
        return out.predicted_image_embedding


class Dalle2Prior(nn.Module):
    """DALLE2-pytorch's DiffusionPriorNetwork with token embeddings in front."""

    def __init__(self, vocab_size: int, context: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        from dalle2_pytorch import DiffusionPriorNetwork

        self.tokens = nn.Embedding(vocab_size, width)
        self.prior = DiffusionPriorNetwork(
            dim=width, depth=depth, heads=heads, dim_head=width // heads, max_text_len=context, num_timesteps=1000
        )

    def forward(self, x_t: Tensor, t: Tensor, tokens: Tensor, z_t: Tensor) -> Tensor:
        """(B, D), (B,), (B, L), (B, D) -> (B, D)."""
        return self.prior(x_t, t, text_embed=z_t, text_encodings=self.tokens(tokens), text_cond_drop_prob=0.0)


def parameters(network: nn.Module) -> int:
    """How many."""
    return sum(p.numel() for p in network.parameters())
