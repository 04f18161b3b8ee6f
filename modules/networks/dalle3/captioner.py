"""The captioner's network: a causal language model behind a prefix that is made of a CLIP image embedding.

DALL-E 3, section 2.1: a language model over captions, conditioned on F(i), the embedding of a frozen CLIP. The
embedding becomes a few tokens before the caption (Mokady et al. 2111.09734). For the contrastive objective that may
stand beside it (CoCa, Yu et al. 2205.01917) the same Transformer reads the caption without the prefix.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.networks.embedding_pathway import EmbeddingFeatures, EmbeddingPathway
from modules.networks.stepping import draw
from modules.networks.transformer import TokenEmbedding, Transformer

PREFIX = 4
PLAIN = EmbeddingPathway()
START_SCALE = 2.6593  # ln(1 / 0.07), where CLIP's begins (CLIP, section 2.5)


class CaptionerNetwork(nn.Module):
    """Logits of each token of a caption, from the image embedding and the tokens before it.

    Args:
        embedding_dim: D of the CLIP embeddings.
        vocab_size, context_length: of the tokeniser; 0 is padding, vocab_size - 1 the end of a caption.
        width, depth, heads: of the Transformer.
        dropout: on its residual branches.
        pathway: what is done to the embedding before it becomes the prefix; it has no map.
    """

    def __init__(
        self,
        embedding_dim: int,
        vocab_size: int,
        context_length: int,
        width: int,
        depth: int,
        heads: int,
        dropout: float = 0.0,
        pathway: EmbeddingPathway = PLAIN,
    ) -> None:
        super().__init__()
        if pathway.spatial_map:
            raise ValueError("a captioner has no map: set pathway.spatial_map to false")
        self.embedding_dim = embedding_dim
        self.clip_features = EmbeddingFeatures(embedding_dim, pathway)
        self.clip_to_tokens = nn.Linear(self.clip_features.width, PREFIX * width)
        self.embedding = TokenEmbedding(vocab_size, context_length, width)
        self.transformer = Transformer(width, depth, heads, causal=True, dropout=dropout)
        self.last = nn.Linear(width, vocab_size)
        self.text_to_clip = nn.Linear(width, embedding_dim)
        self.logit_scale = nn.Parameter(torch.tensor(START_SCALE))

    @property
    def end(self) -> int:
        """The token that ends a caption."""
        return self.embedding.vocab_size - 1

    def prefix(self, z_i: Tensor) -> Tensor:
        """(B, D) embeddings of unit norm -> (B, PREFIX, width)."""
        features = self.clip_features(z_i, self.clip_to_tokens.weight.dtype)
        return self.clip_to_tokens(features).unflatten(1, (PREFIX, -1))

    def forward(self, z_i: Tensor, tokens: Tensor) -> Tensor:
        """(B, D) and (B, L) int64 -> (B, L, vocab_size): logits of token k, given z_i and the tokens before it."""
        before = self.embedding(tokens)[:, :-1]  # (B, L - 1, width)
        out = self.transformer(torch.cat([self.prefix(z_i), before], dim=1))
        return self.last(out[:, PREFIX - 1 :])

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) -> (B, D) of unit norm: the caption read without the image, at its end."""
        out = self.transformer(self.embedding(tokens))
        place = (tokens == self.end).float().argmax(dim=1)  # the first end
        found = out[torch.arange(len(tokens), device=tokens.device), place]
        return F.normalize(self.text_to_clip(found).float(), dim=-1)

    @torch.no_grad()
    def sample(self, z_i: Tensor, generators: list[torch.Generator], temperature: float = 0.0) -> Tensor:
        """Captions of B images, token after token with a key/value cache.

        Args:
            z_i: (B, D) of unit norm.
            generators: one for each image, on the CPU; not used at temperature 0.
            temperature: divides the logits; 0 takes the most likely token.

        Returns:
            (B, L) int64, 0 after a caption's end; a caption that fills the context has no end.
        """
        length, count = self.embedding.context_length, len(z_i)
        cache = self.transformer.make_cache(count, PREFIX + length)
        x, drawn = self.prefix(z_i), torch.zeros(count, length, dtype=torch.int64, device=z_i.device)
        ended = torch.zeros(count, dtype=torch.bool, device=z_i.device)
        for k in range(length):
            logits = self.last(self.transformer(x, cache=cache)[:, -1]).float()
            logits[:, 0] = -torch.inf  # Padding is no word.
            token = draw(logits, generators, temperature)
            drawn[:, k] = torch.where(ended, 0, token)
            ended |= token == self.end
            if bool(ended.all()):
                break
            x = (self.embedding.tokens(token) + self.embedding.positions[k])[:, None]
        return drawn
