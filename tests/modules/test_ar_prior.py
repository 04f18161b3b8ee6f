"""The AR prior: learns codes by heart, drops the text as often as it is told to, and is exported with its codec."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from modules.ar_prior import ARPrior
from modules.errors import InputError
from modules.models.exports import load_model
from modules.models.priors.autoregressive_prior import ARPriorModel
from modules.models.priors.embedding_codec import EmbeddingCodec
from modules.training.stage import TrainingConfig

TRAINING = TrainingConfig(warmup_steps=0, ema_decay=0.9)


@pytest.fixture
def make(tiny):
    def make(**changes) -> ARPrior:
        codec = EmbeddingCodec(tiny.DIM, **tiny.CODES)
        optimizer = lambda params: torch.optim.AdamW(params, lr=1e-2)  # noqa: E731
        settings = {"optimizer": optimizer, "training": TRAINING, **changes}
        return ARPrior(tiny.make_network("ar_prior"), codec, **settings)

    return make


def fitted(stage, data):
    rows = data.dataset("train").__getitems__(range(64)).embeddings
    stage.codec.fit(rows.z_i, rows.z_t)
    return rows


class Spy(nn.Module):
    """In place of the network: gives constant logits, and remembers what it was asked."""

    tokens = SimpleNamespace(feature_dim=None)

    def __init__(self, logits) -> None:
        super().__init__()
        self.logits, self.asked = logits, []

    def forward(self, tokens, z_t, dot, codes, keep=None):
        self.asked.append((tokens, z_t, dot, codes, keep))
        return self.logits.expand(*codes.shape, -1)


def test_it_learns_a_batch_by_heart(make, shapes, tiny, tmp_path):
    stage, data = make(drop_text=0.0), shapes()
    batch = data.dataset("train").__getitems__(range(8))
    rows = batch.embeddings
    # Pairs with one text must not have two images.
    rows = rows._replace(z_t=F.normalize(torch.randn(8, tiny.DIM, generator=torch.Generator().manual_seed(0)), dim=1))
    tiny.fit(stage, tiny.repeat(data, rows, 150), 150, tmp_path)
    assert stage.codec.fitted  # by the Trainer, from the training split
    everything = data.dataset("train").embeddings[range(64)]
    assert_close(stage.codec.mean, everything.z_i.mean(dim=0))
    assert stage.validation_loss(rows, None) < 0.05 < 0.2 * math.log(8)
    codes = stage.averaged.sample(
        rows.tokens, rows.z_t, stage.codec.encode_dot(rows.z_i, rows.z_t), [torch.Generator()] * 8, temperature=0.0
    )
    assert torch.equal(codes, stage.codec.encode(rows.z_i))


def test_the_loss_is_the_cross_entropy_of_the_codes(make, shapes):
    stage = make(drop_text=0.0)
    rows = fitted(stage, shapes())
    logits = torch.arange(8.0) / 3
    stage.network = Spy(logits)
    found = stage.training_loss(rows, torch.Generator())
    codes = stage.codec.encode(rows.z_i)
    assert_close(found, -logits.log_softmax(dim=0)[codes].mean())
    ((tokens, z_t, dot, given, keep),) = stage.network.asked
    assert torch.equal(tokens, rows.tokens) and torch.equal(z_t, rows.z_t) and torch.equal(given, codes)
    assert torch.equal(dot, stage.codec.encode_dot(rows.z_i, rows.z_t))
    assert keep.all()


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_the_text_is_dropped_as_often_as_the_config_says(make, shapes, rate):
    stage = make(drop_text=rate)
    rows = fitted(stage, shapes())
    stage.network = Spy(torch.zeros(8))
    for step in range(100):
        stage.training_loss(rows, stage.generator(0, step))
    dropped = 1 - torch.cat([asked[-1] for asked in stage.network.asked]).double().mean()
    assert dropped == pytest.approx(rate, abs=3.5 * math.sqrt(rate * (1 - rate) / 6400))


def test_validation_keeps_the_text(make, shapes):
    stage = make(drop_text=0.9)
    rows = fitted(stage, shapes())
    stage.average.module = Spy(torch.zeros(8))
    stage.validation_loss(rows, torch.Generator())
    assert stage.averaged.asked[0][-1] is None


def test_judging_draws_from_the_average_with_the_stages_own_settings(make, shapes, tiny):
    stage = make(guidance_scale=2.0, percentile=70.0)
    rows = fitted(stage, shapes())
    tiny.randomise(stage.averaged, seed=3)
    generators = [torch.Generator().manual_seed(k) for k in range(64)]
    model = ARPriorModel(stage.averaged, stage.codec, guidance_scale=2.0, percentile=70.0)
    drawn = model.sample(rows.captions, generators)
    assert_close(stage.judge(rows)["cosine_to_z_i"], (drawn * rows.z_i).sum(dim=1))


def test_the_export_holds_the_codec_and_a_resumed_codec_is_not_fitted_again(make, shapes, tiny, tmp_path):
    stage = make()
    fitted(stage, shapes())
    stage.codec.mean.add_(1)  # a mark
    tiny.fit(stage, shapes(), 1, tmp_path)
    state = stage.exported_state()
    tiny.write_stage(tmp_path, "ar_prior", stage.averaged, {k: v for k, v in state.items() if k.startswith("codec.")})
    codec = load_model(tmp_path, ARPriorModel).model.codec
    assert all(torch.equal(tensor, codec.state_dict()[name]) for name, tensor in stage.codec.state_dict().items())
    rows = shapes().dataset("train").embeddings[range(64)]
    assert_close(codec.mean, rows.z_i.mean(dim=0) + 1)


@pytest.mark.parametrize("name", ["num_codes", "num_buckets", "num_dot_buckets"])
def test_a_codec_of_other_sizes_is_refused_by_name(tiny, name):
    codec = EmbeddingCodec(tiny.DIM, **{**tiny.CODES, name: 5})
    with pytest.raises(InputError, match=rf"model.network.{name} is \d, model.codec.{name} is 5: make them equal"):
        ARPrior(tiny.make_network("ar_prior"), codec)
