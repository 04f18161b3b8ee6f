"""The AR prior's codec of CLIP image embeddings: PCA, then buckets (unCLIP, section 2.2)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from modules.errors import InputError
from modules.models.priors.embedding_statistics import EmbeddingStatistics, components_for
from modules.placement.exact import exact

Buckets = Literal["quantile", "uniform"]


class EmbeddingCodec(nn.Module):
    """z_i (B, D) <-> codes (B, K): the K leading principal components, each in one of `num_buckets` buckets.

    It also holds the training distribution of z_i . z_t, as the edges of `num_dot_buckets` buckets and how often each
    occurred, from which sampling draws the dot-product token. All of it is in buffers, so a checkpoint holds it.

    Args:
        embedding_dim: D.
        num_codes: K, kept components. The paper keeps 319 of 1,024 for less than 1 % mean squared error.
        retained_variance: keep only as many components as hold this share of the variance, 0 to 1; num_codes is then
            the most that there may be, and K is known after the fit (`kept`).
        num_buckets: per component.
        num_dot_buckets: number of buckets for the dot product.
        buckets: "quantile" gives every bucket equally many training values; "uniform" equal widths over their range.
    """

    mean: Tensor
    components: Tensor
    eigenvalues: Tensor
    edges: Tensor
    centres: Tensor
    dot_edges: Tensor
    dot_counts: Tensor
    kept_count: Tensor

    def __init__(
        self,
        embedding_dim: int,
        num_codes: int,
        num_buckets: int = 1024,
        num_dot_buckets: int = 64,
        buckets: Buckets = "quantile",
        retained_variance: float | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= num_codes <= embedding_dim:
            raise InputError(f"num_codes must lie in 1 to {embedding_dim} (the embedding's width), got {num_codes}")
        if retained_variance is not None and not 0 < retained_variance <= 1:
            raise InputError(
                f"retained_variance is a share of the variance, above 0 and up to 1, not {retained_variance}"
            )
        self.embedding_dim, self.retained_variance, self.kept = embedding_dim, retained_variance, num_codes
        self.num_codes, self.num_buckets, self.num_dot_buckets, self.buckets = (
            num_codes,
            num_buckets,
            num_dot_buckets,
            buckets,
        )
        self.register_buffer("mean", torch.zeros(embedding_dim))
        self.register_buffer("components", torch.zeros(num_codes, embedding_dim))
        self.register_buffer("eigenvalues", torch.zeros(embedding_dim))
        self.register_buffer("edges", torch.zeros(num_codes, num_buckets - 1))
        self.register_buffer("centres", torch.zeros(num_codes, num_buckets))
        self.register_buffer("dot_edges", torch.zeros(num_dot_buckets - 1))
        self.register_buffer("dot_counts", torch.zeros(num_dot_buckets))
        if retained_variance is not None:  # Without it checkpoints are as they have always been.
            self.register_buffer("kept_count", torch.tensor(num_codes))

    def _read_kept(self) -> None:
        if self.retained_variance is not None:
            self.kept = int(self.kept_count)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._read_kept()

    @property
    def fitted(self) -> bool:
        """Whether `fit` has run, here or before the checkpoint that was loaded."""
        return bool(self.dot_counts.sum() > 0)

    def fit(self, z_i: Tensor, z_t: Tensor) -> None:
        """Take components, buckets and the dot product's distribution from training embeddings.

        Args:
            z_i, z_t: (N, D) of unit norm, rows of the same pairs; N must exceed D.

        Raises:
            ValueError: for too few rows.
        """
        index = torch.arange(len(z_i), device=z_i.device)
        self.fit_statistics(EmbeddingStatistics.of(z_i, z_t, index, sample_size=len(z_i)))

    @torch.no_grad()
    def fit_statistics(self, statistics: EmbeddingStatistics) -> None:
        """As `fit`, from a pass over the data: components from all embeddings, buckets from the sample.

        Raises:
            InputError: for too few embeddings, or more components to keep than num_codes allows.
        """
        dim = len(statistics.mean)
        if statistics.count <= dim:
            raise InputError(
                f"the codec needs more embeddings than their {dim} dimensions, the training split holds"
                f" {statistics.count}"
            )
        values, vectors = statistics.principal()
        if self.retained_variance is not None:
            self.kept_count.fill_(self._enough(values, self.retained_variance))
            self._read_kept()
        self.mean.copy_(statistics.mean)
        self.eigenvalues.copy_(values)
        self.components[: self.kept] = _oriented(vectors[: self.kept]).to(self.components)
        z_i, z_t = (x.to(self.mean.device) for x in (statistics.z_i, statistics.z_t))
        scores = self._project(z_i)
        for k in range(self.kept):
            edges = _edges(scores[:, k], self.num_buckets, self.buckets)
            self.edges[k] = edges
            self.centres[k] = _centres(scores[:, k], edges)
        dots = (z_i * z_t).sum(dim=1)
        self.dot_edges.copy_(_edges(dots, self.num_dot_buckets, "uniform"))
        self.dot_counts.copy_(torch.bincount(self.encode_dot(z_i, z_t), minlength=self.num_dot_buckets))

    def _enough(self, eigenvalues: Tensor, retained: float) -> int:
        """As many components as hold the share, no more than there is room for."""
        count = components_for(eigenvalues, retained)
        if count > self.num_codes:
            raise InputError(
                f"{retained:g} of the variance takes {count} components, but num_codes is {self.num_codes}: raise"
                " num_codes of codec and network, or lower retained_variance"
            )
        return count

    def _project(self, z_i: Tensor) -> Tensor:
        with exact_products(z_i):
            return (z_i.float() - self.mean) @ self.components[: self.kept].T

    def encode(self, z_i: Tensor) -> Tensor:
        """(B, D) -> (B, K) int64 codes in 0 to num_buckets - 1."""
        return torch.searchsorted(self.edges[: self.kept], self._project(z_i).T.contiguous()).T.contiguous()

    def decode(self, codes: Tensor) -> Tensor:
        """(B, K) codes -> (B, D) embeddings of unit norm, each code at the mean of its bucket's training values."""
        scores = torch.gather(self.centres[: self.kept], 1, codes.T).T
        with exact_products(scores):
            return nn.functional.normalize(scores @ self.components[: self.kept] + self.mean, dim=1)

    def reconstruct(self, z_i: Tensor, num_components: int, raw: bool = False) -> Tensor:
        """(B, D) -> (B, D): z_i from its leading components alone, unquantised (the paper's figure 7).

        Args:
            z_i: embeddings.
            num_components: how many of them.
            raw: whether embeddings are a CLIP's own, so that the result is not brought to unit norm.

        Raises:
            ValueError: for more components than are kept.
        """
        if not 0 <= num_components <= self.kept:
            raise ValueError(f"the codec keeps {self.kept} components, {num_components} were asked for")
        kept = self.components[:num_components]
        with exact_products(z_i):
            rebuilt = (z_i - self.mean) @ kept.T @ kept + self.mean
        return rebuilt if raw else nn.functional.normalize(rebuilt, dim=1)

    def encode_dot(self, z_i: Tensor, z_t: Tensor) -> Tensor:
        """(B, D), (B, D) -> (B,) int64 bucket of z_i . z_t."""
        return torch.searchsorted(self.dot_edges, (z_i * z_t).sum(dim=1).contiguous())

    def draw_dot(self, generators: list[torch.Generator], percentile: float = 50.0) -> Tensor:
        """(B,) int64 dot-product tokens, from the training distribution above a percentile (the paper's best: 50).

        Raises:
            ValueError: for a percentile outside [0, 100).
        """
        if not 0 <= percentile < 100:
            raise ValueError(f"percentile must lie in [0, 100), got {percentile}")
        counts = self.dot_counts.cpu().double()
        below = (counts.cumsum(0) - percentile / 100 * counts.sum()).clamp(min=0)
        weights = torch.minimum(below, counts)  # The bucket that the percentile cuts keeps its upper part.
        rows = [torch.multinomial(weights, 1, generator=g) for g in generators]
        return torch.cat(rows).to(self.dot_counts.device)

    def share_kept(self) -> float:
        """Share of the training variance that the kept components hold, 0 to 1."""
        return float(self.eigenvalues[: self.kept].sum() / self.eigenvalues.sum())


def exact_products(x: Tensor) -> torch.autocast:
    """Matrix products in x's own precision, inside an autocast too: in bfloat16 a code would land in other buckets."""
    return torch.autocast(x.device.type, enabled=False)


def _oriented(vectors: Tensor) -> Tensor:
    """Each row's largest entry positive: eigenvectors have no sign of their own, and codes must not depend on it."""
    largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    return vectors * largest.sign()


def _edges(values: Tensor, buckets: int, kind: Buckets) -> Tensor:
    """(buckets - 1,) increasing inner edges."""
    if kind == "uniform":
        low, high = values.min(), values.max()
        return torch.linspace(float(low), float(high), buckets + 1, device=values.device)[1:-1]
    ordered = exact(values).sort().values  # torch.quantile refuses long inputs.
    positions = torch.linspace(0, 1, buckets + 1, dtype=torch.float64, device=ordered.device)[1:-1]
    place = positions * (len(ordered) - 1)
    low = place.floor().long()
    high = place.ceil().long()
    return torch.lerp(ordered[low], ordered[high], place - low).to(values)


def _centres(values: Tensor, edges: Tensor) -> Tensor:
    """(buckets,) mean of the values in each bucket; of its edges where it is empty."""
    bucket = torch.searchsorted(edges, values.contiguous())
    x = exact(values)
    bucket = bucket.to(x.device)
    count = torch.bincount(bucket, minlength=len(edges) + 1)
    total = x.new_zeros(len(edges) + 1).index_add_(0, bucket, x)
    ends = exact(torch.cat([values.min()[None], edges, values.max()[None]]))
    middle = (ends[:-1] + ends[1:]) / 2
    return torch.where(count > 0, total / count.clamp(min=1), middle).to(values)
