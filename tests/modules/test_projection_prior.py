"""The priors without diffusion: squared error, ECLIPSE's one-directional contrastive loss, and no text at all."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from modules.errors import InputError
from modules.models.priors.eclipse_prior import EclipsePriorModel
from modules.models.priors.projection_prior import ProjectionPriorModel, contrastive
from modules.networks.priors.eclipse_prior import EclipsePriorNetwork
from modules.networks.priors.projection_prior import ProjectionPriorNetwork
from modules.projection_prior import EclipsePrior, ProjectionPrior
from modules.training.stage import TrainingConfig

B, D, L = 6, 16, 20


def network() -> ProjectionPriorNetwork:
    torch.manual_seed(0)
    return ProjectionPriorNetwork(D, 30, L, width=32, depth=2, heads=4)


@pytest.fixture
def rows(shapes):
    g = torch.Generator().manual_seed(1)
    batch = shapes().dataset("train").__getitems__(range(B)).embeddings
    z_i, z_t = (F.normalize(torch.randn(B, D, generator=g), dim=1) for _ in range(2))
    return batch._replace(z_i=z_i, z_t=z_t, tokens=torch.randint(1, 30, (B, L), generator=g))


def test_the_contrastive_loss_by_hand(rows):
    found = torch.randn(B, D, generator=torch.Generator().manual_seed(2))
    tokens = rows.tokens.clone()
    tokens[4] = tokens[1]  # the same caption twice: neither is the other's negative
    cosines = F.cosine_similarity(found[:, None], rows.z_t[None], dim=2).double() / 0.2
    by_hand = []
    for k in range(B):
        others = [j for j in range(B) if j == k or not torch.equal(tokens[j], tokens[k])]
        by_hand.append(torch.logsumexp(cosines[k, others], 0) - cosines[k, k])
    assert_close(contrastive(found, rows.z_t, tokens, 0.2).double(), torch.stack(by_hand).mean(), atol=1e-5, rtol=0)
    turned = contrastive(rows.z_t, found, tokens, 0.2)  # the other direction is another loss
    assert abs(turned - contrastive(found, rows.z_t, tokens, 0.2)) > 1e-3


def test_the_loss_is_the_squared_distance_plus_the_weighted_contrast(rows):
    generator = torch.Generator()
    plain, eclipse = (ProjectionPriorModel(network(), weight, 0.1) for weight in (0.0, 0.2))
    found = plain.network(rows.tokens, rows.z_t)
    squared = (found - rows.z_i).square().sum(dim=1).mean()
    assert_close(plain.loss(rows, generator), squared)
    assert_close(eclipse.loss(rows, generator), squared + 0.2 * contrastive(found, rows.z_t, rows.tokens, 0.1))
    assert_close(eclipse.validation_loss(rows, generator), squared)


def released() -> EclipsePriorNetwork:
    torch.manual_seed(0)
    return EclipsePriorNetwork(D, 30, L, width=32, depth=2, heads=4)


def test_the_released_networks_loss_looks_from_pictures_to_captions_only(rows):
    model = EclipsePriorModel(released(), 0.2, 0.1)
    noise = torch.randn(B, D, generator=torch.Generator().manual_seed(3))
    found = model.network.draw(noise, rows.tokens, rows.z_t)
    cosines = F.cosine_similarity(found[:, None], rows.z_t[None], dim=2) / 0.1
    by_hand = (found - rows.z_i).square().mean() + 0.2 * (cosines.logsumexp(1) - cosines.diagonal()).mean()
    assert_close(model.loss(rows, torch.Generator().manual_seed(3)), by_hand)


def test_the_released_network_trains(rows, shapes, tiny, tmp_path):
    optimizer = lambda params: torch.optim.AdamW(params, lr=3e-3)  # noqa: E731
    stage = EclipsePrior(released(), temperature=0.1, optimizer=optimizer, training=TrainingConfig(0.9, 0))
    before = stage.validation_loss(rows, torch.Generator().manual_seed(0))
    tiny.fit(stage, tiny.repeat(shapes(), rows, 60), 60, tmp_path)
    assert stage.validation_loss(rows, torch.Generator().manual_seed(0)) < 0.5 * before


def test_without_text_every_caption_has_the_mean_embedding(rows, shapes, tiny, tmp_path):
    optimizer = lambda params: torch.optim.AdamW(params, lr=3e-3)  # noqa: E731
    stage = ProjectionPrior(network(), drop_text=1.0, optimizer=optimizer, training=TrainingConfig(0.9, 0))
    tiny.fit(stage, tiny.repeat(shapes(), rows, 100), 100, tmp_path)
    drawn = stage.averaged_model.sample(rows.captions, [torch.Generator()] * B)
    assert_close(drawn, F.normalize(rows.z_i.mean(0), dim=0).expand(B, -1), atol=0.05, rtol=0)
    assert_close(drawn, drawn[:1].expand(B, -1))


def test_it_reads_the_caption_and_z_t(rows):
    model = ProjectionPriorModel(network())
    drawn = model.sample(rows.captions, [torch.Generator()] * B)
    assert_close(drawn.norm(dim=1), torch.ones(B))
    for other in (rows.captions._replace(tokens=rows.tokens.flip(0)), rows.captions._replace(z_t=rows.z_t.flip(0))):
        assert (model.sample(other, [torch.Generator()] * B) - drawn).abs().max() > 1e-4


@pytest.mark.parametrize(("name", "value"), [("contrastive_weight", -1), ("temperature", 0)])
def test_values_out_of_range_are_refused(name, value):
    with pytest.raises(InputError, match=rf"model.init_args.{name} must be .*, found {value}"):
        ProjectionPrior(network(), **{name: value})
