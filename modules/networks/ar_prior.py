"""The autoregressive prior's network: a causal Transformer over caption, z_t, z_i . z_t and the codes of z_i."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.networks.transformer import TokenEmbedding, Transformer, scale_to_unit_variance


class ARPriorNetwork(nn.Module):
    """Logits of each code of z_i from [caption tokens, z_t, dot-product token, the codes before it] (unCLIP 2.2).

    Args:
        embedding_dim: D of the CLIP embeddings.
        num_codes: kept dimensions of z_i, that is codes in a sequence.
        num_buckets: values of a code.
        num_dot_buckets: values of the dot-product token.
        vocab_size, context_length: of the tokeniser.
        width, depth, heads: of the Transformer.
        dropout: on its residual branches.
    """

    def __init__(
        self,
        embedding_dim: int,
        num_codes: int,
        num_buckets: int,
        num_dot_buckets: int,
        vocab_size: int,
        context_length: int,
        width: int,
        depth: int,
        heads: int,
        dropout: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.num_codes, self.num_buckets, self.num_dot_buckets = num_codes, num_buckets, num_dot_buckets
        self.tokens = TokenEmbedding(vocab_size, context_length, width)
        self.z_t = nn.Linear(embedding_dim, width)
        self.dot = nn.Embedding(num_dot_buckets, width)
        self.codes = nn.Embedding(num_buckets, width)
        self.code_positions = nn.Parameter(torch.randn(num_codes + 2, width) * 0.05)
        self.no_token = nn.Parameter(torch.randn(width) * 0.05)
        self.no_z_t = nn.Parameter(torch.randn(width) * 0.05)
        self.transformer = Transformer(width, depth, heads, causal=True, dropout=dropout, checkpointing=checkpointing)
        self.out = nn.Linear(width, num_buckets)
        for table in (self.dot, self.codes):
            nn.init.normal_(table.weight, std=0.05)

    def _prefix(self, tokens: Tensor, z_t: Tensor, dot: Tensor, keep: Tensor | None) -> Tensor:
        """(B, L + 2, width)."""
        words, text = self.tokens(tokens), self.z_t(scale_to_unit_variance(z_t))
        if keep is not None:
            words = torch.where(keep[:, None, None], words, self.no_token + self.tokens.positions)
            text = torch.where(keep[:, None], text, self.no_z_t)
        pair = torch.stack([text, self.dot(dot)], dim=1) + self.code_positions[:2]
        return torch.cat([words, pair], dim=1)

    def forward(self, tokens: Tensor, z_t: Tensor, dot: Tensor, codes: Tensor, keep: Tensor | None = None) -> Tensor:
        """Logits of all codes at once, as training does it.

        Args:
            tokens: (B, L) caption tokens.
            z_t: (B, D) CLIP text embeddings of unit norm.
            dot: (B,) bucket of z_i . z_t.
            codes: (B, num_codes) buckets of z_i; the last one is not read.
            keep: (B,) bool, False where the text is dropped; the dot-product token stays.

        Returns:
            (B, num_codes, num_buckets).
        """
        before = self.codes(codes[:, :-1]) + self.code_positions[2 : self.num_codes + 1]
        sequence = torch.cat([self._prefix(tokens, z_t, dot, keep), before], dim=1)
        return self.out(self.transformer(sequence)[:, -self.num_codes :])

    @torch.no_grad()
    def sample(
        self,
        tokens: Tensor,
        z_t: Tensor,
        dot: Tensor,
        generators: list[torch.Generator],
        *,
        guidance_scale: float = 1.0,
        temperature: float = 1.0,
    ) -> Tensor:
        """Draw codes one after another, with a preallocated key/value cache.

        Args:
            tokens, z_t, dot: as in `forward`.
            generators: one for each sequence, on the CPU.
            guidance_scale: of classifier-free guidance on the logits; 1 is none.
            temperature: divides the logits; 0 takes the most likely code.

        Returns:
            (B, num_codes) int64.
        """
        batch, guided = len(tokens), guidance_scale != 1
        if guided:  # One batch: the conditional half, then the unconditional one.
            tokens, z_t, dot = (torch.cat([x, x]) for x in (tokens, z_t, dot))
            keep = torch.arange(2 * batch, device=tokens.device) < batch
        x = self._prefix(tokens, z_t, dot, keep if guided else None)
        cache = self.transformer.make_cache(len(x), x.shape[1] + self.num_codes - 1)
        drawn: list[Tensor] = []
        for k in range(self.num_codes):
            logits = self.out(self.transformer(x, cache=cache)[:, -1]).float()
            if guided:
                conditional, unconditional = logits.chunk(2)
                logits = unconditional + guidance_scale * (conditional - unconditional)
            drawn.append(_draw(logits, generators, temperature))
            code = torch.cat([drawn[-1], drawn[-1]]) if guided else drawn[-1]
            if k < self.num_codes - 1:
                x = (self.codes(code) + self.code_positions[2 + k])[:, None]
        return torch.stack(drawn, dim=1)


def _draw(logits: Tensor, generators: list[torch.Generator], temperature: float) -> Tensor:
    """(B, V) logits -> (B,) one draw each, from its own generator."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    p = F.softmax(logits / temperature, dim=-1).cpu()
    rows = [torch.multinomial(row, 1, generator=g) for row, g in zip(p, generators, strict=True)]
    return torch.cat(rows).to(logits.device)
