"""The Transformer of `modules.networks.transformer` under masks of image tokens, and its steps through a cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modules.networks.blocks import attention, merge_heads
from modules.networks.dalle1.masks import MaskName, sequence_mask, visible_places
from modules.networks.transformer import KeyValueCache, Transformer, TransformerBlock


class MaskedTransformer(Transformer):
    """A Transformer over a prefix of text and a grid of image tokens, with a mask for each layer.

    Args:
        width, depth, heads, dropout, checkpointing: see Transformer.
        masks: one a layer.
        prefix: places before the first image token.
        grid: side of the grid of image tokens.
        kernel: of the convolutional mask.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        masks: Sequence[MaskName],
        prefix: int,
        grid: int,
        kernel: int,
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(width, depth, heads, causal=True, dropout=dropout, checkpointing=checkpointing)
        self.masks, self.prefix, self.grid, self.kernel = list(masks), prefix, grid, kernel

    def mask(self, name: MaskName, start: int, end: int, device: torch.device) -> Tensor:
        """(end - start, end) bool: what the places from start to end see of all places up to end."""
        return sequence_mask(name, self.prefix, self.grid, self.kernel, device)[start:end, :end]

    def forward(
        self,
        x: Tensor,
        *,
        last_only: bool = False,
        cache: KeyValueCache | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """(B, S, W) embeddings -> (B, S, W) outputs; see Transformer. x begins at the cache's end; `mask` must be None.

        Raises:
            ValueError: a mask beside those of the layers.
        """
        if mask is not None:
            raise ValueError("a MaskedTransformer has masks of its own: give none")
        start = 0 if cache is None else cache.length
        masks = {name: self.mask(name, start, start + x.shape[1], x.device) for name in set(self.masks)}
        for layer, (block, name) in enumerate(zip(self.blocks, self.masks, strict=True)):
            if self.checkpointing and self.training and cache is None:
                x = checkpoint(masked, block, x, masks[name], None, layer, use_reentrant=False)
            else:
                x = masked(block, x, masks[name], cache, layer)
        if cache is not None:
            cache.length += x.shape[1]
        found: Tensor = self.norm(x[:, -1:] if last_only else x)
        return found


def masked(block: nn.Module, x: Tensor, mask: Tensor, cache: KeyValueCache | None, layer: int) -> Tensor:
    """A block under a mask (Lq, Lk): (B, Lq, W) -> (B, Lq, W); with a cache the keys of what precedes are its."""
    assert isinstance(block, TransformerBlock)
    q, k, v = block.qkv(block.norm_1(x)).unflatten(-1, (3, block.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    if cache is not None:
        k, v = cache.append(layer, k, v)
    x = x + block.dropout(block.out(merge_heads(attention(q, k, v, mask=mask))))
    found: Tensor = x + block.dropout(block.mlp_out(F.gelu(block.mlp_in(block.norm_2(x)))))
    return found


class Stepping:
    """One image token at a time through a MaskedTransformer with a cache; only the keys that a mask shows are read.

    Args:
        transformer: without dropout; its weights are not to be replaced meanwhile.
        cache: what precedes; each step is cached behind it, and `cache.length` moves on.
    """

    def __init__(self, transformer: MaskedTransformer, cache: KeyValueCache) -> None:
        self.transformer, self.cache = transformer, cache
        device, own = cache.keys.device, transformer
        sizes = (own.prefix, own.grid, own.kernel, device)
        self.visible = [visible_places(name, *sizes) for name in own.masks]

    def __call__(self, x: Tensor) -> Tensor:
        """(B, 1, W) embeddings -> (B, 1, W) outputs."""
        cache, own = self.cache, self.transformer
        place = cache.length - own.prefix
        size = (len(x), 3, own.heads, 1, own.width // own.heads)
        for layer, block in enumerate(own.blocks):
            assert isinstance(block, TransformerBlock)
            q, k, v = block.qkv(block.norm_1(x)).view(size).unbind(1)
            keys, values = cache.append(layer, k, v)
            seen = self.visible[layer][place]
            if len(seen) < keys.shape[2]:
                keys, values = keys.index_select(2, seen), values.index_select(2, seen)
            h = F.scaled_dot_product_attention(q, keys, values)
            x = x + block.out(h.reshape(x.shape))
            x = x + block.mlp_out(F.gelu(block.mlp_in(block.norm_2(x))))
        cache.length += 1
        found: Tensor = own.norm(x)
        return found
