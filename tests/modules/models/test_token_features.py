"""Priors that read a frozen CLIP's features of the caption's tokens in place of tokens."""

import pytest
import torch
from torch.testing import assert_close

from datamodules.embeddings import EmbeddingsDataModule
from modules.batches import EmbeddingBatch
from modules.clip.frozen import FrozenCLIP, caption_features
from modules.errors import InputError
from modules.models.configs import SamplerConfig
from modules.models.priors.diffusion_prior import DiffusionPriorModel
from modules.models.priors.embedding_codec import EmbeddingCodec
from modules.networks.transformer import FeatureEmbedding, unique_rows
from modules.pipeline import UnCLIP

WIDTH = 16  # of the tiny CLIP's text tower
SAMPLER = SamplerConfig(name="ddpm", steps=2, spacing="adm", threshold=None)
PRIORS = ("diffusion_prior", "ar_prior")


@pytest.fixture(scope="module")
def folder(clip_folder, tiny, tmp_path_factory):
    from datamodules.shapes import ShapesDataModule
    from experiments.embeddings.embed import embed

    path = tmp_path_factory.mktemp("features")
    data = ShapesDataModule(16, **tiny.SIZES, cache_dir=None)
    embed(data, FrozenCLIP(str(clip_folder)), path, ["train", "val"], token_features=True)
    return path


@pytest.fixture(scope="module")
def rows(folder):
    return EmbeddingsDataModule(str(folder), token_features=True).dataset("train")[range(12)]


def network(tiny, stage):
    return tiny.randomise(tiny.make_network(stage, feature_dim=WIDTH))


def test_a_feature_is_projected_and_has_its_position():
    module = FeatureEmbedding(3, 2, 5)
    features = torch.randn(4, 2, 3)
    expected = features @ module.project.weight.T + module.project.bias + module.positions
    assert_close(module(features), expected)
    for wrong in (torch.randn(4, 3, 3), torch.randn(4, 2, 4), torch.zeros(4, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"the network's are \(2, 3\)"):
            module(wrong)


def test_the_diffusion_prior_reads_features_and_no_tokens(tiny, rows):
    prior = network(tiny, "diffusion_prior")
    x, t = torch.randn(12, tiny.DIM), torch.arange(12)
    out = prior(x, t, rows.features, rows.z_t)
    changed = rows.features.clone()
    changed[:, 2] += 1
    assert (prior(x, t, changed, rows.z_t) - out).abs().amax(dim=1).min() > 1e-4
    assert DiffusionPriorModel(prior).text(rows.captions) is rows.features
    dropped = torch.zeros(12, dtype=torch.bool)
    assert_close(prior(x, t, rows.features, rows.z_t, dropped), prior(x, t, changed, rows.z_t, dropped))


def test_steps_with_a_cache_are_those_without(tiny, rows):
    prior = network(tiny, "diffusion_prior")
    x, t = torch.randn(24, tiny.DIM), torch.arange(24)
    features, z_t = torch.cat([rows.features] * 2), torch.cat([rows.z_t] * 2)
    keep = torch.arange(24) % 3 > 0
    assert_close(prior.step(x, t, prior.encode(features, z_t)), prior(x, t, features, z_t), atol=1e-5, rtol=0)
    cached = prior.step(x, t, prior.encode(features, z_t, keep))
    assert_close(cached, prior(x, t, features, z_t, keep), atol=1e-5, rtol=0)


def test_captions_with_the_same_features_are_computed_once(rows):
    features = torch.cat([rows.features[:3], rows.features[:3]])
    z_t = torch.cat([rows.z_t[:3], rows.z_t[:3]])
    first, places = unique_rows(features, z_t)
    assert len(first) == 3
    assert torch.equal(features[first][places], features)
    other = features.clone()
    other[4, -1, -1] += 1e-3
    assert len(unique_rows(other, z_t)[0]) == 4


def test_captions_that_are_dropped_are_computed_once(tiny, rows, monkeypatch):
    prior, computed = network(tiny, "diffusion_prior"), []
    prefix = prior._prefix
    monkeypatch.setattr(prior, "_prefix", lambda *text: computed.append(len(text[0])) or prefix(*text))
    prior.encode(rows.features, rows.z_t, torch.zeros(12, dtype=torch.bool))
    assert computed == [1]


def test_the_ar_prior_reads_features(tiny, rows):
    prior = network(tiny, "ar_prior")
    codes, dot = torch.randint(0, 8, (12, 6)), torch.randint(0, 4, (12,))
    out = prior(rows.features, rows.z_t, dot, codes)
    changed = rows.features.clone()
    changed[:, 0] += 1
    assert (prior(changed, rows.z_t, dot, codes) - out).abs().amax(dim=(1, 2)).min() > 1e-4
    drawn = prior.sample(rows.features, rows.z_t, dot, [torch.Generator().manual_seed(k) for k in range(12)])
    again = prior.sample(rows.features[5:6], rows.z_t[5:6], dot[5:6], [torch.Generator().manual_seed(5)])
    assert torch.equal(drawn[5:6], again)
    with pytest.raises(ValueError, match="two ways to encode the caption"):
        tiny.make_network("ar_prior", feature_dim=WIDTH, text_width=8)


@pytest.mark.parametrize("stage", PRIORS)
def test_a_prior_trains_on_features_from_the_folder(tiny, folder, tmp_path, stage):
    made = tiny.make_network(stage, feature_dim=WIDTH)
    options = {"codec": EmbeddingCodec(tiny.DIM, **tiny.CODES)} if stage == "ar_prior" else {"sampler": SAMPLER}
    module = tiny.named(tiny.STAGES[stage][0])(made, **options)
    before = made.tokens.project.weight.detach().clone()
    data = EmbeddingsDataModule(str(folder), batch_size=8, token_features=True)
    tiny.fit(module, data, 2, tmp_path, limit_val_batches=1)
    assert (made.tokens.project.weight - before).abs().max() > 0
    with pytest.raises(InputError, match=r"`unclip embed --token-features` and set data.init_args.token_features"):
        tiny.fit(tiny.named(tiny.STAGES[stage][0])(made, **options), EmbeddingsDataModule(str(folder)), 1, tmp_path)


def test_sampling_computes_the_features_that_training_read(tiny, stored_run, clip_folder, rows, tmp_path, monkeypatch):
    clip = FrozenCLIP(str(clip_folder))
    assert_close(caption_features(clip, rows.tokens), rows.features, atol=2e-3, rtol=0)
    assert caption_features(clip, rows.tokens)[rows.tokens == 0].abs().max() == 0
    system = UnCLIP(stored_run)
    seen = []
    for stage in PRIORS:
        model = system.stage(stage).model
        monkeypatch.setattr(type(model), "reads_features", property(lambda self: True))

        def sample(self, captions, generators):
            seen.append(self.text(captions))
            return captions.z_t

        monkeypatch.setattr(type(model), "sample", sample)
        system.sample_prior(stage, rows.tokens, rows.z_t, [torch.Generator()] * 12)
        assert torch.equal(seen.pop(), caption_features(system.clip, rows.tokens))


def test_batches_without_features_are_as_ever(tiny, embeddings):
    batch = EmbeddingsDataModule(str(embeddings)).dataset("val")[[0, 1]]
    assert isinstance(batch, EmbeddingBatch)
    assert batch.features is None
    assert DiffusionPriorModel(tiny.make_network("diffusion_prior")).text(batch.captions) is batch.tokens
