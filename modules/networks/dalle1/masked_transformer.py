"""The Transformer of `modules.networks.transformer` under masks of image tokens, and its steps through a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from modules.networks.dalle1.masks import MaskName, sequence_mask, visible_places
from modules.networks.stepping import Stepper, plain
from modules.networks.transformer import KeyValueCache, Transformer


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
                x = checkpoint(block, x, causal=True, visible=masks[name], use_reentrant=False)
            else:
                x = block(x, causal=True, cache=cache, layer=layer, visible=masks[name])
        if cache is not None:
            cache.length += x.shape[1]
        found: Tensor = self.norm(x[:, -1:] if last_only else x)
        return found

    def stepping(self, cache: KeyValueCache) -> Callable[[Tensor], Tensor]:
        """One image token at a time, (B, 1, W) -> (B, 1, W): as `forward`, but only keys that a mask shows are read.

        Args:
            cache: what precedes; each step is cached behind it, and `cache.length` moves on.
        """
        if not plain(self):  # Such as shares of the weights on several devices, which `forward` gathers.
            return partial(self, cache=cache)
        sizes = (self.prefix, self.grid, self.kernel, cache.keys.device)
        places = [visible_places(name, *sizes) for name in self.masks]
        return Stepper(self, cache, lambda layer, place: places[layer][place - self.prefix])
