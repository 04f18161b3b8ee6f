"""Principal components of z_i, by two ways that have to agree."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from modules.errors import InputError
from modules.manipulations.components import components_of, components_of_whitening
from modules.networks.embedding_pathway import Whitening


@pytest.fixture
def z_i():
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([3.0, 2.0, 1.0, 0.7, 0.5, 0.3])
    return F.normalize(torch.randn(4000, 6, generator=generator) * spread + torch.tensor([4.0, 0, 0, 0, 0, 0]), dim=1)


def test_components_are_those_of_the_covariance(z_i):
    found = components_of(z_i)
    assert torch.allclose(found.directions @ found.directions.T, torch.eye(6), atol=1e-5)
    coordinates = found.coordinates(z_i)
    assert torch.allclose(coordinates.std(dim=0, correction=0), torch.ones(6), atol=1e-4)
    assert torch.allclose(torch.cov(coordinates.T, correction=0), torch.eye(6), atol=1e-3)
    assert (found.deviations[:-1] >= found.deviations[1:]).all()


def test_a_whitening_tells_the_same_components(z_i):
    whitening = Whitening(6)
    whitening.fit(z_i)
    found, true = components_of_whitening(whitening), components_of(z_i)
    assert torch.allclose(found.mean, true.mean, atol=1e-6)
    assert torch.allclose(found.deviations, true.deviations, rtol=1e-3)
    assert torch.allclose((found.directions * true.directions).sum(dim=1).abs(), torch.ones(6), atol=1e-3)


def test_a_shift_is_in_standard_deviations(z_i):
    found = components_of(z_i)
    assert torch.allclose(found.moved(z_i[:3], torch.zeros(3, 2)), z_i[:3], atol=1e-6)
    moved = found.moved(z_i[:1], torch.tensor([[2.0]]))
    wanted = F.normalize(z_i[:1] + 2 * found.deviations[0] * found.directions[0], dim=1)
    assert torch.allclose(moved, wanted, atol=1e-6)


def test_one_embedding_has_no_components():
    with pytest.raises(InputError, match="two embeddings or more, found 1"):
        components_of(torch.ones(1, 4))


def test_a_clips_own_embeddings_keep_their_norm(z_i):
    raw = 7 * z_i
    found = components_of(raw)
    assert torch.equal(found.moved(raw[:3], torch.zeros(3, 2), raw=True), raw[:3])
    moved = found.moved(raw[:1], torch.tensor([[2.0]]), raw=True)
    assert torch.allclose(moved, raw[:1] + 2 * found.deviations[0] * found.directions[0], atol=1e-5)
