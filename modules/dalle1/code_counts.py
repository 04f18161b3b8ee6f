"""How a dVAE's validation uses the codebook: counts that Lightning adds up over batches and ranks, and resets."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from modules.models.dalle1.dvae import use_of


class CodeCounts(Metric):
    """The perplexity of the codes, or the share of them that is used, over all tokens that were seen on any rank.

    A mean over ranks would be too small: each sees a part of the tokens, and so a part of the codes.

    Args:
        num_codes: K.
        number: which of the two, see CodeUse.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_codes: int, number: Literal["perplexity", "used"]) -> None:
        super().__init__()
        self.number = number
        self.add_state("counts", torch.zeros(num_codes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, tokens: Tensor) -> None:
        """Count int64 tokens of any shape."""
        self.counts += torch.bincount(tokens.flatten(), minlength=len(self.counts))

    def compute(self) -> Tensor:
        """() the number."""
        found: Tensor = getattr(use_of(self.counts), self.number)
        return found
