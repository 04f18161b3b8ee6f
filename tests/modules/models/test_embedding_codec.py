"""EmbeddingCodec: scikit-learn's PCA, buckets that keep their promises, and a dot product from the top half."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from torch.testing import assert_close

from modules.errors import InputError
from modules.models.priors.embedding_codec import EmbeddingCodec

N, D = 2000, 12


def pairs(count=N, seed=0):
    """Unit vectors whose variance falls off fast, off the origin, as CLIP's are."""
    g = torch.Generator().manual_seed(seed)
    scale = 0.7 ** torch.arange(D)
    turn = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(9))).Q
    z_i = (torch.randn(count, D, generator=g) * scale) @ turn + turn[:, 0] * 2
    z_t = z_i + torch.randn(count, D, generator=g)
    return F.normalize(z_i, dim=1), F.normalize(z_t, dim=1)


@pytest.fixture(scope="module")
def fitted():
    codecs = {}

    def make(**settings):
        key = tuple(sorted(settings.items()))
        if key not in codecs:
            codecs[key] = EmbeddingCodec(**{"embedding_dim": D, "num_codes": 5, "num_buckets": 16, **settings})
            codecs[key].fit(*pairs())
        return codecs[key]

    return make


def generators(count, seed=0):
    return [torch.Generator().manual_seed(seed * 100_000 + k) for k in range(count)]


def test_the_components_are_scikit_learns(fitted):
    codec = fitted(num_codes=D)
    pca = PCA().fit(pairs()[0].double().numpy())
    ours = codec.components.double().numpy()
    np.testing.assert_allclose(np.abs((ours * pca.components_).sum(axis=1)), 1, atol=1e-5)
    np.testing.assert_allclose(codec.eigenvalues.numpy(), pca.explained_variance_, atol=1e-6)
    np.testing.assert_allclose(codec.mean.numpy(), pca.mean_, atol=1e-6)
    assert fitted(num_codes=5).share_kept() == pytest.approx(pca.explained_variance_ratio_[:5].sum(), abs=1e-5)
    assert fitted(num_codes=5).share_kept() < 0.999


def test_the_sign_of_a_component_is_a_choice_and_always_the_same(fitted):
    components = fitted(num_codes=D).components
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    assert (largest > 0).all()


def test_the_leading_components_alone(fitted):
    """Figure 7 of the paper: better with every component, exact with all of them."""
    codec, (z, _) = fitted(num_codes=D), pairs()
    errors = [(codec.reconstruct(z, k) - z).square().sum(dim=1).mean().item() for k in range(D + 1)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10
    for k in range(D):  # Before the normalisation the error is the variance that was left out.
        axes = codec.components[:k]
        projected = codec.mean + (z - codec.mean) @ axes.T @ axes
        assert (projected - z).square().sum(dim=1).mean().item() == pytest.approx(
            codec.eigenvalues[k:].sum().item(), rel=0.02
        )
        assert errors[k] == pytest.approx(
            (F.normalize(projected, dim=1) - z).square().sum(dim=1).mean().item(), rel=1e-3
        )
    assert_close(codec.reconstruct(z[:3], 0), F.normalize(codec.mean, dim=0).expand(3, -1))
    for count in (-1, 13):
        with pytest.raises(ValueError, match=f"keeps 12 components, {count} were asked for"):
            codec.reconstruct(z, count)


def test_a_round_trip_errs_by_its_buckets_at_most(fitted):
    """No score is further from its bucket's centre than the bucket is wide; the normalisation at most doubles that."""
    codec, (z, _) = fitted(num_codes=D, num_buckets=64, buckets="uniform"), pairs()
    widths = codec.edges[:, 1] - codec.edges[:, 0]
    decoded = codec.decode(codec.encode(z))
    assert_close(decoded.norm(dim=1), torch.ones(N))
    assert (decoded - z).norm(dim=1).max() < 2 * widths.norm()
    assert (decoded - z).norm(dim=1).mean() < widths.norm()


def test_a_round_trip_errs_by_what_is_left_out(fitted):
    z, _ = pairs()
    coarse, fine = fitted(num_codes=5, num_buckets=256), fitted(num_codes=D, num_buckets=256)
    errors = [(codec.decode(codec.encode(z)) - z).square().sum(dim=1).mean() for codec in (coarse, fine)]
    assert errors[0] == pytest.approx(coarse.eigenvalues[5:].sum().item(), rel=0.2)
    assert errors[1] < 2e-4


def test_quantile_buckets_hold_equally_many(fitted):
    codes = fitted().encode(pairs()[0])
    assert codes.shape == (N, 5)
    assert codes.dtype == torch.int64
    for column in codes.T:
        counts = torch.bincount(column, minlength=16)
        assert counts.min() >= N // 16 - 1
        assert counts.max() <= N // 16 + 1


def test_uniform_buckets_are_equally_wide_over_the_range(fitted):
    codec, (z, _) = fitted(buckets="uniform"), pairs()
    scores = (z - codec.mean) @ codec.components.T
    widths = (scores.max(dim=0).values - scores.min(dim=0).values) / 16
    assert_close(codec.edges.diff(dim=1), widths[:, None].expand(-1, 14), atol=1e-5, rtol=1e-3)
    assert_close(codec.edges[:, 0], scores.min(dim=0).values + widths, atol=1e-5, rtol=1e-3)
    codes = codec.encode(z)
    assert codes.min() == 0
    assert codes.max() == 15


@pytest.mark.parametrize("buckets", ["quantile", "uniform"])
def test_a_code_stands_for_the_mean_of_its_bucket(fitted, buckets):
    codec, (z, _) = fitted(buckets=buckets), pairs()
    scores, codes = (z - codec.mean) @ codec.components.T, codec.encode(z)
    for k in range(5):
        for code in codes[:, k].unique():
            mean = scores[codes[:, k] == code, k].double().mean()
            assert codec.centres[k, code].item() == pytest.approx(mean.item(), abs=1e-5)
    assert (codec.centres.diff(dim=1) >= 0).all()  # empty buckets too


def test_what_lies_outside_of_the_range_gets_the_outermost_codes(fitted):
    codec = fitted()
    far = codec.mean + 100 * codec.components
    assert codec.encode(far).diagonal().tolist() == [15] * 5
    assert codec.encode(2 * codec.mean - far).diagonal().tolist() == [0] * 5


def test_the_dot_product_is_recorded(fitted):
    codec, (z_i, z_t) = fitted(num_dot_buckets=8), pairs()
    dots = (z_i * z_t).sum(dim=1)
    counts, edges = np.histogram(dots.numpy(), bins=8)
    assert np.abs(codec.dot_counts.numpy() - counts).max() <= 1  # a value on an edge may fall to either side
    np.testing.assert_allclose(codec.dot_edges.numpy(), edges[1:-1], atol=1e-5)
    assert codec.dot_counts.sum() == N
    tokens = codec.encode_dot(z_i, z_t)
    assert (tokens[dots.argsort()].diff() >= 0).all()


def test_the_dot_token_comes_from_the_top_half(fitted):
    """The paper: "the top half of the distribution"; drawn in proportion to the training pairs above the median."""
    codec, (z_i, z_t) = fitted(num_dot_buckets=8), pairs()
    for percentile in (50.0, 85.0, 0.0):
        threshold = torch.quantile((z_i * z_t).sum(dim=1), percentile / 100)
        above = (z_i * z_t).sum(dim=1) >= threshold
        expected = torch.bincount(codec.encode_dot(z_i[above], z_t[above]), minlength=8) / above.sum()
        drawn = codec.draw_dot(generators(3000), percentile)
        share = torch.bincount(drawn, minlength=8) / 3000
        assert (drawn >= torch.searchsorted(codec.dot_edges, threshold)).all()
        assert (share - expected).abs().max() < 0.04
    assert torch.equal(codec.draw_dot(generators(50)), codec.draw_dot(generators(50), 50.0))


def test_a_draw_belongs_to_its_generator(fitted):
    codec = fitted()
    together = codec.draw_dot(generators(6))
    assert together.dtype == torch.int64
    assert len(together.unique()) > 1
    alone = [codec.draw_dot([generator]) for generator in generators(6)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("percentile", [-1.0, 100.0])
def test_a_percentile_out_of_range(fitted, percentile):
    with pytest.raises(ValueError, match=rf"percentile must lie in \[0, 100\), got {percentile}"):
        fitted().draw_dot(generators(2), percentile)


def test_a_checkpoint_holds_all_of_it(fitted):
    codec, (z_i, z_t) = fitted(), pairs(100, seed=1)
    other = EmbeddingCodec(D, 5, 16)
    assert not other.fitted
    other.load_state_dict(codec.state_dict())
    assert other.fitted
    codes = codec.encode(z_i)
    assert torch.equal(other.encode(z_i), codes)
    assert torch.equal(other.decode(codes), codec.decode(codes))
    assert torch.equal(other.encode_dot(z_i, z_t), codec.encode_dot(z_i, z_t))
    assert torch.equal(other.draw_dot(generators(20)), codec.draw_dot(generators(20)))
    assert other.share_kept() == codec.share_kept()


def test_nothing_is_mutated(fitted):
    z_i, z_t = pairs(300)
    before = z_i.clone(), z_t.clone()
    codec = EmbeddingCodec(D, 5, 16)
    codec.fit(z_i, z_t)
    codes = codec.encode(z_i)
    kept = codes.clone()
    codec.decode(codes)
    codec.reconstruct(z_i, 3)
    codec.encode_dot(z_i, z_t)
    assert torch.equal(z_i, before[0])
    assert torch.equal(z_t, before[1])
    assert torch.equal(codes, kept)


def test_too_few_rows_and_too_many_codes():
    with pytest.raises(ValueError, match="needs more embeddings than their 12 dimensions, the training split holds 12"):
        EmbeddingCodec(D, 5, 16).fit(*pairs(12))
    for codes in (0, 13):
        with pytest.raises(ValueError, match=f"num_codes must lie in 1 to 12 .*got {codes}"):
            EmbeddingCodec(D, codes)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_as_many_components_as_hold_the_share(share):
    codec = EmbeddingCodec(D, D, 16, retained_variance=share)
    codec.fit(*pairs())
    held = PCA().fit(pairs()[0].double().numpy()).explained_variance_ratio_.cumsum()
    assert codec.kept == int((held < share).sum()) + 1 < D
    assert held[codec.kept - 2] < share <= codec.share_kept() + 1e-6
    z_i = pairs(100, seed=1)[0]
    by_count = EmbeddingCodec(D, codec.kept, 16)
    by_count.fit(*pairs())
    assert torch.equal(codec.encode(z_i), by_count.encode(z_i))
    assert torch.equal(codec.decode(codec.encode(z_i)), by_count.decode(by_count.encode(z_i)))


def test_a_checkpoint_knows_how_many_components_were_kept():
    codec, other = (EmbeddingCodec(D, 8, 16, retained_variance=0.8) for _ in range(2))
    codec.fit(*pairs())
    other.load_state_dict(codec.state_dict())
    z_i = pairs(100, seed=1)[0]
    assert other.kept == codec.kept < 8 and torch.equal(other.encode(z_i), codec.encode(z_i))
    assert "kept_count" not in EmbeddingCodec(D, 8).state_dict()  # older checkpoints load as ever


def test_a_share_that_the_codes_cannot_hold_is_refused():
    with pytest.raises(InputError, match=r"0.99 of the variance takes \d+ components, but num_codes is 2: raise"):
        EmbeddingCodec(D, 2, 16, retained_variance=0.99).fit(*pairs())
    for share in (0.0, 1.5):
        with pytest.raises(InputError, match=f"retained_variance is a share .* not {share}"):
            EmbeddingCodec(D, 2, retained_variance=share)
