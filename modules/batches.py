"""The batches that a DataModule gives to a stage.

NamedTuples, because Lightning moves those between devices by itself, and refuses frozen dataclasses.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from modules.errors import InputError


class Captions(NamedTuple):
    """The inputs of a prior for B captions.

    Attributes:
        tokens: (B, L) int64 caption tokens of the CLIP's tokeniser; 0 is padding.
        z_t: (B, D) CLIP text embeddings of unit norm.
        features: (B, L, F) the CLIP's features of every token, 0 for padding; None where no prior reads them.
        negative: B captions to be guided away from; None for guidance away from no caption.
        texts: B captions in words, of negative ones, for decoders that have tokens of their own.
    """

    tokens: Tensor
    z_t: Tensor
    features: Tensor | None = None
    negative: Captions | None = None
    texts: tuple[str, ...] | None = None


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

    @property
    def captions(self) -> Captions:
        """The inputs of a prior for these pairs."""
        return Captions(self.tokens, self.z_t, self.features)

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


def embeddings_of(batch: EmbeddingBatch | ImageTextBatch) -> EmbeddingBatch:
    """The cached embeddings of a batch.

    Raises:
        InputError: for a batch without.
    """
    embeddings = batch if isinstance(batch, EmbeddingBatch) else batch.embeddings
    if embeddings is None:
        raise InputError(
            "the batches hold no CLIP embeddings: make them with `unclip embed` and set "
            "data.init_args.embeddings to the folder"
        )
    return embeddings
