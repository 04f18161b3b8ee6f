"""How a decoder reads z_i: whitened as its training embeddings ask for, through an MLP, as a map; or as it is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from modules.networks.embedding_pathway import EmbeddingFeatures, EmbeddingPathway, Whitening

D = 16
WHOLE = EmbeddingPathway(whiten=True, hidden_width=8, spatial_map=True)


def embeddings(count=4000, dim=D):
    """In a narrow cone, with variances from 1 to 1e-4."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(count, dim, generator=g) * torch.logspace(0, -2, dim)
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=g)).Q
    return (x @ rotation + 3).float()


def test_whitening_leaves_no_direction_behind():
    """The covariance's eigenvalues l become c^2 l / (l + 0.01 l_max), with c for a mean square of 1."""
    z, whitening = embeddings(), Whitening(D)
    whitening.fit(z)
    values = torch.linalg.eigvalsh(torch.cov(z.double().T))
    shrunk = values / (values + 0.01 * values[-1])
    found = whitening(z)
    expected = shrunk / shrunk.mean()
    assert_close(torch.linalg.eigvalsh(torch.cov(found.double().T)), expected.sort().values, atol=1e-3, rtol=1e-3)
    assert_close(found.mean(dim=0), torch.zeros(D), atol=1e-3, rtol=0)
    assert found.square().mean().item() == pytest.approx(1, abs=1e-3)


def test_a_far_mean_takes_no_bit_from_the_covariance():
    """Embeddings far from 0: their squares leave float32 no digits for variances of 1e-4."""
    z, whitening = embeddings() + 1000, Whitening(D)
    whitening.fit(z)
    near = Whitening(D)
    near.fit(z - 1000)  # Exact in float32.
    assert_close(whitening.mean, near.mean + 1000)
    assert_close(whitening.matrix, near.matrix, atol=1e-5, rtol=1e-5)


def test_before_it_is_fitted_it_only_scales():
    z = F.normalize(embeddings(5), dim=1)
    assert_close(Whitening(D)(z), z * D**0.5)


@pytest.mark.parametrize(
    ("z", "reason"), [(torch.ones(1, D), "two embeddings or more, found 1"), (torch.ones(9, D), "all are the same")]
)
def test_what_cannot_be_whitened_is_refused(z, reason):
    with pytest.raises(ValueError, match=reason):
        Whitening(D).fit(z)


def test_the_default_is_the_papers():
    z = F.normalize(embeddings(5), dim=1)
    features = EmbeddingFeatures(D, EmbeddingPathway())
    assert features.width == D
    assert not list(features.parameters())
    assert torch.equal(features(z, torch.float32), z * D**0.5)


def test_the_mlp_stands_beside_the_embedding_at_its_size():
    torch.manual_seed(0)
    features = EmbeddingFeatures(D, EmbeddingPathway(whiten=True, hidden_width=64))
    z = embeddings(500)
    features.whitening.fit(z)
    found = features(z, torch.float32)
    white = features.whitening(z)
    hidden = F.silu(features.second(F.silu(features.first(white))))
    expected = hidden / hidden.square().mean(dim=1, keepdim=True).add(torch.finfo(torch.float32).eps).sqrt()
    assert_close(found, torch.cat([white, expected], dim=1))


def test_no_embedding_is_zero_behind_the_whitening(tiny):
    decoder = tiny.randomise(tiny.make_network("decoder", pathway=WHOLE))
    z = F.normalize(torch.randn(3, tiny.DIM, generator=torch.Generator().manual_seed(0)), dim=1)
    decoder.clip_features.whitening.fit(z)
    tokens = torch.ones(3, 20, dtype=torch.int64)
    dropped = decoder.condition(tokens, z, keep_embedding=torch.tensor([False, True, False]))
    none, given = decoder.condition(tokens, None), decoder.condition(tokens, z)
    for found, without, with_ in zip(dropped[:3], none[:3], given[:3], strict=True):
        assert torch.equal(found[[0, 2]], without[[0, 2]])
        assert torch.equal(found[1], with_[1])
        assert not torch.allclose(with_[0], without[0], atol=1e-3)


def test_the_map_has_the_lowest_resolutions_shape_and_depends_on_z_i_alone(tiny):
    decoder = tiny.randomise(tiny.make_network("decoder", pathway=WHOLE))
    g = torch.Generator().manual_seed(0)
    z = F.normalize(torch.randn(3, tiny.DIM, generator=g), dim=1)
    tokens = torch.randint(1, 30, (3, 20), generator=g)
    found = decoder.condition(tokens, z).spatial
    features = decoder.clip_features(z, torch.float32)
    seen = []
    decoder.unet.middle[0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].shape))
    decoder(torch.zeros(3, 3, 16, 16), torch.tensor([1, 2, 3]), decoder.condition(tokens, z))
    assert_close(found, decoder.clip_to_map(features).reshape(seen[0]))
    assert torch.equal(found, decoder.condition(tokens.flip(0), z).spatial)
