"""What a DataModule hands to a stage.

NamedTuples, because Lightning moves those between devices by itself, and refuses frozen dataclasses.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class EmbeddingBatch(NamedTuple):
    """CLIP embeddings of B image-text pairs, with the caption's tokens.

    Attributes:
        z_i: (B, D) CLIP image embeddings of unit norm.
        z_t: (B, D) CLIP text embeddings of unit norm.
        tokens: (B, L) int64 caption tokens of the CLIP's tokeniser; 0 is padding.
        index: (B,) int64 position of each pair in its split.
        features: (B, L, F) the CLIP's features of every caption token, 0 for padding; None where nobody asked for them.
    """

    z_i: Tensor
    z_t: Tensor
    tokens: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    features: Tensor | None = None

    def rows(self, chosen: Tensor | slice) -> EmbeddingBatch:
        """The pairs where `chosen` (B,) bool is true, or those of a slice."""
        features = None if self.features is None else self.features[chosen]
        return EmbeddingBatch(self.z_i[chosen], self.z_t[chosen], self.tokens[chosen], self.index[chosen], features)


class ImageTextBatch(NamedTuple):
    """B image-text pairs.

    Attributes:
        images: (B, 3, H, W) float32 in [-1, 1].
        captions: B strings.
        index: (B,) int64 position of each pair in its split.
        attributes: (B, A) int64 classes where the data know the truth, -1 where an attribute does not apply; else None.
        embeddings: the pairs' cached CLIP embeddings, or None when there is no cache.
    """

    images: Tensor
    captions: list[str]
    index: Tensor  # type: ignore[assignment]  # as above
    attributes: Tensor | None = None
    embeddings: EmbeddingBatch | None = None

    def rows(self, chosen: Tensor) -> ImageTextBatch:
        """The pairs where `chosen` (B,) bool is true."""
        captions = [caption for caption, keep in zip(self.captions, chosen.tolist(), strict=True) if keep]
        attributes = None if self.attributes is None else self.attributes[chosen]
        embeddings = None if self.embeddings is None else self.embeddings.rows(chosen)
        return ImageTextBatch(self.images[chosen], captions, self.index[chosen], attributes, embeddings)
