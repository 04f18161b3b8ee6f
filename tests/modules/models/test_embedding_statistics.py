"""The codec's pass over the data: the same in any order and any cut, and exact where the sample holds everything."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from modules.models.priors.embedding_codec import EmbeddingCodec
from modules.models.priors.embedding_statistics import EmbeddingStatistics, components_for

N, D = 3000, 10


@pytest.fixture(scope="module")
def pairs():
    g = torch.Generator().manual_seed(0)
    z_i = F.normalize(torch.randn(N, D, generator=g) * 0.7 ** torch.arange(D) + 1, dim=1)
    return z_i, F.normalize(z_i + 0.3 * torch.randn(N, D, generator=g), dim=1), torch.arange(N)


def of(pairs, rows, sample_size=N):
    return EmbeddingStatistics.of(*(x[rows] for x in pairs), sample_size=sample_size)


def codec(statistics):
    made = EmbeddingCodec(embedding_dim=D, num_codes=4, num_buckets=16, num_dot_buckets=8)
    made.fit_statistics(statistics)
    return made.state_dict()


def test_parts_in_any_order_are_the_whole(pairs):
    whole = of(pairs, slice(None))
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    a, b, c = (of(pairs, rows) for rows in order.split([700, 1, N - 701]))
    for parts in (a.merge(b).merge(c), c.merge(a.merge(b))):
        assert parts.count == N
        assert_close(parts.mean, whole.mean, atol=1e-12, rtol=0)
        assert_close(parts.scatter / (N - 1), torch.cov(pairs[0].double().T), atol=1e-12, rtol=0)
        assert torch.equal(parts.keys, whole.keys)
        assert torch.equal(parts.z_i, whole.z_i)
        assert torch.equal(parts.z_t, whole.z_t)


def test_the_streamed_codec_is_the_one_fitted_at_once(pairs):
    at_once = EmbeddingCodec(embedding_dim=D, num_codes=4, num_buckets=16, num_dot_buckets=8)
    at_once.fit(pairs[0], pairs[1])
    streamed = codec(of(pairs, slice(0, 1000)).merge(of(pairs, slice(1000, N))))
    for name, tensor in at_once.state_dict().items():
        assert_close(streamed[name], tensor, atol=1e-5, rtol=0)


def test_a_small_sample_is_uniform_and_knows_no_order(pairs):
    """The components stay exact; the buckets are those of a sample."""
    whole, small = codec(of(pairs, slice(None))), of(pairs, slice(0, 2000), 600).merge(of(pairs, slice(2000, N), 600))
    assert torch.equal(small.z_i, of(pairs, slice(None), 600).z_i)
    places = (small.z_i[:, None] == pairs[0][None]).all(dim=2).nonzero()[:, 1].float()
    assert places.mean() == pytest.approx(N / 2, rel=0.1)
    assert places.std() == pytest.approx(N / 12**0.5, rel=0.1)
    fitted = codec(small)
    assert_close(fitted["components"], whole["components"], atol=1e-6, rtol=0)
    assert (fitted["edges"] - whole["edges"]).abs().mean() < 0.1 * pairs[0].std()
    assert not torch.equal(fitted["edges"], whole["edges"])


def test_samples_of_different_sizes_are_not_merged(pairs):
    with pytest.raises(ValueError, match="sample sizes 5 and 6"):
        of(pairs, slice(0, 20), 5).merge(of(pairs, slice(20, 40), 6))


@pytest.mark.parametrize(("retained", "count"), [(0.5, 1), (0.6, 2), (0.8, 2), (0.99, 4), (1.0, 4)])
def test_components_by_retained_variance(retained, count):
    assert components_for(torch.tensor([5.0, 3.0, 1.5, 0.5]), retained) == count


def test_a_share_of_nothing():
    with pytest.raises(ValueError, match=r"\(0, 1\], got 0"):
        components_for(torch.ones(3), 0)
