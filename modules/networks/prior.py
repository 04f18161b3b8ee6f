"""What the networks of all priors have."""

from __future__ import annotations

from torch import nn


class PriorNetwork(nn.Module):
    """The network of a prior.

    Attributes:
        embedding_dim: D of the CLIP embeddings.
    """

    embedding_dim: int
