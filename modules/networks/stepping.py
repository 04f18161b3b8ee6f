"""One position at a time through a Transformer with a cache: the numbers of its `forward`, at less of a call's cost.

A step of a small batch reads all weights for a handful of products, so that what Python, module calls and slicing cost
beside them counts: a sixth of the step of a Transformer of width 512.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.networks.transformer import KeyValueCache, Transformer, TransformerBlock


class Stepper:
    """`transformer(x, cache=cache)` for a single position x, without dropout, its weights and buffers looked up once.

    Args:
        transformer: causal; its weights are not to be replaced meanwhile.
        cache: what precedes; each step is cached behind it, and `cache.length` moves on.
        visible: (layer, place) -> the places (int64) that a place sees, itself among them; None for all up to it.
    """

    def __init__(
        self,
        transformer: Transformer,
        cache: KeyValueCache,
        visible: Callable[[int, int], Tensor] | None = None,
    ) -> None:
        self.cache, self.heads, self.norm, self.visible = cache, transformer.heads, transformer.norm, visible
        self.layers = [
            (_weights(block), cache.keys[layer], cache.values[layer]) for layer, block in enumerate(transformer.blocks)
        ]

    def __call__(self, x: Tensor) -> Tensor:
        """(B, 1, W) embeddings -> (B, 1, W) outputs.

        Raises:
            IndexError: the cache is full.
        """
        place, size = self.cache.length, (len(x), 3, self.heads, 1, x.shape[2] // self.heads)
        if place >= self.cache.keys.shape[3]:
            raise IndexError(f"the key/value cache holds {self.cache.keys.shape[3]} positions, not {place + 1}")
        for layer, ((norm_1, qkv, out, norm_2, mlp_in, mlp_out), keys, values) in enumerate(self.layers):
            q, k, v = F.linear(F.layer_norm(x, *norm_1), *qkv).view(size).unbind(1)
            keys.narrow(2, place, 1).copy_(k)
            values.narrow(2, place, 1).copy_(v)
            h = F.scaled_dot_product_attention(q, *self._seen(layer, place, keys, values))
            x = x + F.linear(h.reshape(x.shape), *out)
            x = x + F.linear(F.gelu(F.linear(F.layer_norm(x, *norm_2), *mlp_in)), *mlp_out)
        self.cache.length = place + 1
        return self.norm(x)

    def _seen(self, layer: int, place: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values that a place sees."""
        if self.visible is not None:
            places = self.visible(layer, place)
            if len(places) <= place:
                return keys.index_select(2, places), values.index_select(2, places)
        return keys.narrow(2, 0, place + 1), values.narrow(2, 0, place + 1)


def plain(transformer: Transformer) -> bool:
    """Whether the weights can be read as they are: not shares of them on several devices, nor other kinds of layers."""
    linears = [part for part in transformer.modules() if isinstance(part, nn.Linear)]
    return all(type(part) is nn.Linear and type(part.weight) is nn.Parameter for part in linears)


def _weights(block: Any) -> tuple[tuple[Any, ...], ...]:
    assert isinstance(block, TransformerBlock)
    norms = [(norm.normalized_shape, norm.weight, norm.bias, norm.eps) for norm in (block.norm_1, block.norm_2)]
    qkv, out, mlp_in, mlp_out = (
        (linear.weight, linear.bias) for linear in (block.qkv, block.out, block.mlp_in, block.mlp_out)
    )
    return norms[0], qkv, out, norms[1], mlp_in, mlp_out


def draw(logits: Tensor, generators: list[torch.Generator], temperature: float) -> Tensor:
    """(B, V) logits -> (B,) one draw each, from its own generator; at temperature 0 the most likely."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    p = F.softmax(logits / temperature, dim=-1).cpu()
    rows = [torch.multinomial(row, 1, generator=g) for row, g in zip(p, generators, strict=True)]
    return torch.cat(rows).to(logits.device)
