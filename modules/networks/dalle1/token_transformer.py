"""DALL-E 1's Transformer: text and image tokens in one sequence, under sparse masks (section 2.2, appendix B.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.networks.dalle1.masked_transformer import MaskedTransformer
from modules.networks.dalle1.masks import MaskName, layer_masks
from modules.networks.dalle1.precision import in_float32
from modules.networks.transformer import KeyValueCache, unique_rows


class TextEmbedding(nn.Module):
    """(B, L) tokens -> (B, L + 1, width): a start vector, then each token's embedding and its position's.

    Token 0 is padding: where no text is, a padding embedding of that position stands instead (figure 10; 256 of them).

    Args:
        vocab_size, context_length: of the tokeniser.
        width: of the Transformer.
        std: of the fresh embeddings.
    """

    feature_dim = None

    def __init__(self, vocab_size: int, context_length: int, width: int, std: float = 0.05) -> None:
        super().__init__()
        self.vocab_size, self.context_length = vocab_size, context_length
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Parameter(torch.randn(context_length, width) * std)
        self.padding = nn.Parameter(torch.randn(context_length, width) * std)
        self.start = nn.Parameter(torch.randn(width) * std)
        nn.init.normal_(self.tokens.weight, std=std)

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.shape[1] != self.context_length:
            raise ValueError(f"captions have {tokens.shape[1]} tokens, the network's context is {self.context_length}")
        words = torch.where((tokens != 0)[..., None], self.tokens(tokens) + self.positions, self.padding)
        return torch.cat([self.start.expand(len(tokens), 1, -1), words], dim=1)


class ImageEmbedding(nn.Module):
    """Image tokens at places of the grid -> (B, n, width): the code's embedding, its row's and its column's."""

    def __init__(self, num_codes: int, grid: int, width: int, std: float = 0.05) -> None:
        super().__init__()
        self.grid = grid
        self.codes = nn.Embedding(num_codes, width)
        self.rows = nn.Parameter(torch.randn(grid, width) * std)
        self.columns = nn.Parameter(torch.randn(grid, width) * std)
        nn.init.normal_(self.codes.weight, std=std)

    def forward(self, tokens: Tensor, first: int = 0) -> Tensor:
        """(B, n) int64 tokens at the places from `first` on."""
        places = torch.arange(first, first + tokens.shape[1], device=tokens.device)
        return self.codes(tokens) + self.rows[places // self.grid] + self.columns[places % self.grid]


class TokenTransformerNetwork(nn.Module):
    """Logits of text and image tokens, each from all that precedes it and its masks let it see.

    The sequence that goes in is [start, text 1 .. L, image 1 .. N - 1]; what comes out at each place predicts the next
    token: text by one head, image by another, each over its own vocabulary.

    Args:
        vocab_size, context_length: of the text; L = context_length.
        num_codes: values of an image token.
        grid: side of the grid of image tokens; N = grid^2.
        width, depth, heads: of the Transformer; the paper's are 3,968, 64 and 62.
        kernel: of the convolutional mask.
        masks: of the layers, a list; or "paper" for the paper's. With null they are the paper's, but for the window of
            the last layer, which wraps round as on a torus (see `MaskName`).
        dropout: on the residual branches.
        checkpointing: recompute activations in the backward pass.

    Raises:
        ValueError: sizes or masks that do not go together.
    """

    def __init__(
        self,
        vocab_size: int,
        context_length: int,
        num_codes: int,
        grid: int,
        width: int,
        depth: int,
        heads: int,
        kernel: int = 11,
        masks: Sequence[MaskName] | Literal["paper"] | None = None,
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        chosen = chosen_masks(masks, depth)
        if len(chosen) != depth:
            raise ValueError(f"masks names {len(chosen)} layers, depth is {depth}: name one a layer, or leave it null")
        self.num_codes, self.grid = num_codes, grid
        self.text = TextEmbedding(vocab_size, context_length, width)
        self.image = ImageEmbedding(num_codes, grid, width)
        self.transformer = MaskedTransformer(
            width,
            depth,
            heads,
            masks=chosen,
            prefix=context_length + 1,
            grid=grid,
            kernel=kernel,
            dropout=dropout,
            checkpointing=checkpointing,
        )
        self.text_out = nn.Linear(width, vocab_size)
        self.image_out = nn.Linear(width, num_codes)
        for head in (self.text_out, self.image_out):
            nn.init.normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)

    @property
    def num_tokens(self) -> int:
        """N, the tokens of a picture."""
        return self.grid**2

    def forward(self, text: Tensor, image: Tensor) -> dict[str, Tensor]:
        """Logits of all tokens at once, as training does it.

        Args:
            text: (B, L) tokens, 0 for padding.
            image: (B, N) tokens in raster order; the last one is not read.

        Returns:
            "text" (B, L, vocab_size) and "image" (B, N, num_codes), float32.
        """
        x = torch.cat([self.text(text), self.image(image[:, :-1])], dim=1)
        x, count = self.transformer(x), text.shape[1]
        return {"text": float_head(self.text_out, x[:, :count]), "image": float_head(self.image_out, x[:, count:])}

    @torch.no_grad()
    def sample(
        self,
        text: Tensor,
        draw: Callable[[Tensor, int], Tensor],
        *,
        guidance: Callable[[Tensor], Tensor] | None = None,
        given: Tensor | None = None,
    ) -> Tensor:
        """Draw image tokens one after another, with a preallocated key/value cache.

        The text's keys and values are computed once for all samples of a caption; guidance is one batch.

        Args:
            text: (B, L) tokens.
            draw: (B, num_codes) float32 logits and the place in the picture -> (B,) tokens.
            guidance: (2B, V) logits, [with text, without], -> (B, V); None draws with text alone.
            given: (B, k) the first k tokens of the picture (priming, section 3.3); None for none.

        Returns:
            (B, N) int64, the given tokens in front.
        """
        tokens = [] if given is None else list(given.unbind(1))
        cache, logits = self._begin(text, given, guided=guidance is not None)
        step = self.transformer.stepping(cache)
        for place in range(len(tokens), self.num_tokens):
            tokens.append(draw(logits if guidance is None else guidance(logits), place))
            if place < self.num_tokens - 1:
                last = tokens[-1] if guidance is None else torch.cat([tokens[-1], tokens[-1]])
                logits = float_head(self.image_out, step(self.image(last[:, None], place))[:, -1])
        return torch.stack(tokens, dim=1)

    def begin(self, text: Tensor) -> tuple[KeyValueCache, Tensor]:
        """The cache of text, and the logits of the first token to draw: what `sample` starts from, without guidance."""
        return self._begin(text, None, guided=False)

    def _begin(self, text: Tensor, given: Tensor | None, guided: bool) -> tuple[KeyValueCache, Tensor]:
        """The cache of text and given tokens, and the logits of the first token to draw.

        With guidance the batch is twice as long, its latter half without text.
        """
        rows, places = unique_rows(text)
        words = text[rows]
        if guided:  # Without text all are the same: one row more.
            places = torch.cat([places, torch.full_like(places, len(rows))])
            words = torch.cat([words, torch.zeros_like(words[:1])])
        prefix = self.text(words)
        cache = self.transformer.make_cache(len(words), prefix.shape[1])
        last = self.transformer(prefix, cache=cache)[:, -1][places]
        cache = cache.select(places, prefix.shape[1] + self.num_tokens)
        if given is not None and given.shape[1]:
            both = torch.cat([given, given]) if guided else given
            last = self.transformer(self.image(both), cache=cache)[:, -1]
        return cache, float_head(self.image_out, last)


def chosen_masks(masks: Sequence[MaskName] | Literal["paper"] | None, depth: int) -> list[MaskName]:
    """The masks of the layers, as `TokenTransformerNetwork` is given them."""
    if masks is None:
        return layer_masks(depth)
    return layer_masks(depth, "raster_convolutional") if masks == "paper" else list(masks)


def float_head(head: nn.Linear, x: Tensor) -> Tensor:
    """A head's logits in float32, under autocast too (appendix D: 16-bit logits shift the curve)."""
    with in_float32(x):
        return F.linear(x.float(), head.weight.float(), head.bias.float())
