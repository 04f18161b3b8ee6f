"""A pre-norm Transformer with an optional causal mask and a preallocated key/value cache.

Both priors and the text encoder are built on it. Under a causal mask a prefix never sees what follows it, so its keys
and values can be computed once and shared by all the later steps: exact, and the reason why sampling is fast.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modules.networks.blocks import attention, merge_heads


class KeyValueCache:
    """Keys and values of all layers for the first `length` positions, in buffers made once.

    Args:
        keys, values: (depth, B, heads, capacity, head width).
        mask: (B, capacity) bool, False where a position is not looked at; None where all are.
    """

    def __init__(self, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> None:
        self.keys, self.values, self.mask, self.length = keys, values, mask, 0

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, heads, L, head width) behind what is there; return all keys and values of this layer so far.

        `length` moves on when the caller says so (once for all layers), so writing twice overwrites.
        """
        count = k.shape[2]
        end = self.length + count
        if end > self.keys.shape[3]:
            raise IndexError(f"the key/value cache holds {self.keys.shape[3]} positions, not {end}")
        keys, values = self.keys[layer], self.values[layer]
        keys.narrow(2, self.length, count).copy_(k)
        values.narrow(2, self.length, count).copy_(v)
        return keys.narrow(2, 0, end), values.narrow(2, 0, end)

    def select(self, rows: Tensor, capacity: int) -> KeyValueCache:
        """A new cache for `capacity` positions whose sequence i has the past of this one's rows[i]: (B',) int64."""
        depth, _, heads, _, width = self.keys.shape
        chosen = KeyValueCache(
            *(x.new_empty(depth, len(rows), heads, capacity, width) for x in (self.keys, self.values))
        )
        chosen.length = self.length
        for new, old in ((chosen.keys, self.keys), (chosen.values, self.values)):
            new[..., : self.length, :] = old[..., : self.length, :].index_select(1, rows)
        if self.mask is not None:
            past = self.mask[:, : self.length].index_select(0, rows)
            chosen.mask = F.pad(past, (0, capacity - self.length), value=True)
        return chosen


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), the MLP four times as wide."""

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.mlp_in, self.mlp_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(
        self,
        x: Tensor,
        *,
        causal: bool,
        last_only: bool = False,
        cache: KeyValueCache | None = None,
        layer: int = 0,
        mask: Tensor | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """(B, L, W) -> (B, L, W), or (B, 1, W) where only the last position's output is wanted.

        With a cache, x holds the positions that follow those in the cache. Where `mask` (B, all positions) is False, a
        position is seen by itself alone. `visible` (L, all positions) says which positions each one of x sees; it
        stands in the place of `causal` and `mask`.
        """
        q, k, v = self.qkv(self.norm_1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        if last_only:
            q, x = q[:, :, -1:], x[:, -1:]
        seen = visible
        if visible is None and mask is not None:
            seen = _seen(q, k, mask, causal=causal)
        elif visible is None and causal and q.shape[2] != k.shape[2] and q.shape[2] > 1:
            seen = _causal_mask(q, k)
        square = causal and seen is None and q.shape[2] == k.shape[2]
        x = x + self.dropout(self.out(merge_heads(attention(q, k, v, mask=seen, causal=square))))
        return x + self.dropout(self.mlp_out(F.gelu(self.mlp_in(self.norm_2(x)))))


def _causal_mask(q: Tensor, k: Tensor) -> Tensor:
    """(Lq, Lk) bool, True where query i (the last Lq positions) may look."""
    lq, lk = q.shape[2], k.shape[2]
    return torch.ones(lq, lk, dtype=torch.bool, device=q.device).tril(lk - lq)


def _seen(q: Tensor, k: Tensor, mask: Tensor, *, causal: bool) -> Tensor:
    """(B, 1, Lq, Lk) bool, True where query i may look: at keys of the mask (B, Lk), and always at itself."""
    lq, lk = q.shape[2], k.shape[2]
    itself = torch.eye(lk, dtype=torch.bool, device=q.device)[lk - lq :]
    seen = mask[:, None, None, :lk] | itself
    return seen & _causal_mask(q, k) if causal else seen


class Transformer(nn.Module):
    """A stack of blocks and a final norm.

    Args:
        width: model width; heads must divide it.
        depth: number of blocks.
        heads: attention heads.
        causal: whether position i sees positions up to i only.
        dropout: on both residual branches.
        checkpointing: recompute each block's activations in the backward pass instead of keeping them.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        causal: bool,
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"heads ({heads}) must divide the width ({width})")
        self.width, self.heads, self.causal, self.checkpointing = width, heads, causal, checkpointing
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, dropout=dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self._initialise()

    def _initialise(self) -> None:
        """Small normal weights; residual branches scaled down by depth (GPT-2): the stack starts near identity."""
        for block in self.blocks:
            assert isinstance(block, TransformerBlock)
            last = block.mlp_out
            for linear in (block.qkv, block.out, block.mlp_in, last):
                nn.init.normal_(linear.weight, std=self.width**-0.5)
                nn.init.zeros_(linear.bias)
            for linear in (block.out, last):
                with torch.no_grad():
                    linear.weight.mul_((2 * len(self.blocks)) ** -0.5)
            with torch.no_grad():
                last.weight.mul_(0.5)  # Its input is four times as wide.

    def make_cache(self, batch: int, capacity: int, mask: Tensor | None = None) -> KeyValueCache:
        """An empty cache for `batch` sequences of up to `capacity` positions, on the weights' device.

        Where `mask` (batch, capacity) is False, a position is seen by itself alone, now and by what follows.
        """
        weight = self.norm.weight
        shape = (len(self.blocks), batch, self.heads, capacity, self.width // self.heads)
        return KeyValueCache(weight.new_empty(shape), weight.new_empty(shape), mask)

    def forward(
        self, x: Tensor, *, last_only: bool = False, cache: KeyValueCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """(B, L, W) embeddings -> (B, L, W) outputs, or (B, 1, W) with `last_only`.

        With a cache, x follows the cached positions, and is itself cached (`cache.length` moves on by L); the mask is
        then the cache's. Where `mask` (B, L) is False, a position is seen by itself alone.
        """
        mask = mask if cache is None else cache.mask
        for layer, block in enumerate(self.blocks):
            last = last_only and layer == len(self.blocks) - 1
            if self.checkpointing and self.training and cache is None:
                x = checkpoint(block, x, causal=self.causal, last_only=last, mask=mask, use_reentrant=False)
            else:
                x = block(x, causal=self.causal, last_only=last, cache=cache, layer=layer, mask=mask)
        if cache is not None:
            cache.length += x.shape[1] if not last_only else 0
        return self.norm(x)


Padding = Literal["token", "position"]
"""What stands for padding: one embedding, beside the position's; or one for each position, instead of it (GLIDE)."""


class TokenEmbedding(nn.Module):
    """Caption tokens and their positions: (B, L) int64 -> (B, L, width). Token 0, padding, has its own embedding.

    The tables start small (standard deviation 0.02 to 0.05): with torch's default of 1 a small prior does not learn.

    Args:
        vocab_size: number of tokens, padding included. With `padding` "position" the table lacks padding's row.
        context_length, width: L and the width.
        std: of the fresh embeddings.
        padding: see `Padding`.
    """

    feature_dim = None

    def __init__(
        self, vocab_size: int, context_length: int, width: int, *, std: float = 0.05, padding: Padding = "token"
    ) -> None:
        super().__init__()
        self.vocab_size, self.context_length = vocab_size, context_length
        self.tokens = nn.Embedding(vocab_size - (padding == "position"), width)
        self.positions = nn.Parameter(torch.empty(context_length, width))
        self.padding = nn.Parameter(torch.empty(context_length, width)) if padding == "position" else None
        nn.init.normal_(self.tokens.weight, std=std)
        nn.init.normal_(self.positions, std=std)
        if self.padding is not None:
            nn.init.normal_(self.padding, std=std)

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.shape[1] != self.context_length:
            raise ValueError(f"captions have {tokens.shape[1]} tokens, the network's context is {self.context_length}")
        if self.padding is None:
            return self.tokens(tokens) + self.positions
        embedded = self.tokens((tokens - 1).clamp(min=0)) + self.positions
        return torch.where((tokens == 0)[..., None], self.padding, embedded)


class FeatureEmbedding(nn.Module):
    """A frozen CLIP's features of the caption's tokens, and their positions: (B, L, F) -> (B, L, width).

    It stands where a TokenEmbedding stands in a network that reads features. Padding, whose features are 0, is known by
    its position and the projection's bias.
    """

    vocab_size = None

    def __init__(self, feature_dim: int, context_length: int, width: int) -> None:
        super().__init__()
        self.feature_dim, self.context_length = feature_dim, context_length
        self.project = nn.Linear(feature_dim, width)
        self.positions = nn.Parameter(torch.randn(context_length, width) * 0.05)

    def forward(self, features: Tensor) -> Tensor:
        if features.ndim != 3 or features.shape[1:] != (self.context_length, self.project.in_features):
            expected = (self.context_length, self.project.in_features)
            raise ValueError(f"the captions' features are {tuple(features.shape[1:])}, the network's are {expected}")
        return self.project(features) + self.positions


def caption_embedding(
    vocab_size: int, context_length: int, width: int, feature_dim: int | None
) -> TokenEmbedding | FeatureEmbedding:
    """A prior's inputs for a caption: learned embeddings of its tokens, or a frozen CLIP's features of them.

    Args:
        vocab_size, context_length: of the tokeniser.
        width: of the Transformer.
        feature_dim: width of the features of a token; None for the tokens themselves.
    """
    if feature_dim is None:
        return TokenEmbedding(vocab_size, context_length, width)
    return FeatureEmbedding(feature_dim, context_length, width)


class TextEncoder(nn.Module):
    """GLIDE's text Transformer: every token sees every other (GLIDE, section 2.4).

    Args:
        vocab_size, context_length: of the tokeniser.
        width, depth, heads, dropout, checkpointing: see Transformer.
        std: of the fresh embeddings.
        padding: see `Padding`.
    """

    feature_dim = None

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        width: int,
        depth: int,
        heads: int,
        dropout: float = 0.0,
        checkpointing: bool = False,
        std: float = 0.05,
        padding: Padding = "token",
    ) -> None:
        super().__init__()
        self.width, self.vocab_size, self.context_length = width, vocab_size, context_length
        self.embedding = TokenEmbedding(vocab_size, context_length, width, std=std, padding=padding)
        self.transformer = Transformer(width, depth, heads, causal=False, dropout=dropout, checkpointing=checkpointing)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L) tokens, all 0 for no caption -> (B, L, width) features."""
        return self.transformer(self.embedding(tokens))


def scale_to_unit_variance(z: Tensor) -> Tensor:
    """A unit vector (B, D) scaled by sqrt(D), so that its entries are of order 1 as a network's input."""
    return z * math.sqrt(z.shape[-1])


def unique_rows(tokens: Tensor, *others: Tensor) -> tuple[Tensor, Tensor]:
    """Which captions of a batch are different, so that what depends on the caption alone is computed once for each.

    Args:
        tokens: (B, L) int64; or (B, L, F) float features.
        others: (B, ...) float32 tensors that must agree as well, bit for bit.

    Returns:
        (U,) int64 rows to compute, and (B,) int64 the place of each row's result among them. On the meta device, where
        nothing can be compared, all rows are different.
    """
    if tokens.device.type == "meta":
        rows = torch.arange(len(tokens), device=tokens.device)
        return rows, rows
    columns = [x.detach() if not x.is_floating_point() else _bits(x) for x in (tokens, *others)]
    different, places = torch.unique(torch.cat(columns, dim=1), dim=0, return_inverse=True)
    positions = torch.arange(len(tokens), device=tokens.device)
    first = positions.new_full((len(different),), len(tokens)).scatter_reduce(0, places, positions, "amin")
    return first, places


def _bits(x: Tensor) -> Tensor:
    """(B, ...) floats -> (B, n) int64, equal where all bits of the float32 are."""
    return x.detach().float().flatten(1).contiguous().view(torch.int32).long()
