"""Drawing from the stages: guidance is what its formula says, the better draw is kept, a sample is its generator's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from modules.batches import Captions
from modules.diffusion.noise import randn_per_image
from modules.models.configs import Objective, SamplerConfig
from modules.models.decoder import DecoderModel
from modules.models.diffusion_model import DiffusionModel
from modules.models.priors.autoregressive_prior import ARPriorModel
from modules.models.priors.diffusion_prior import DiffusionPriorModel
from modules.models.priors.embedding_codec import EmbeddingCodec
from modules.models.upsampler import UpsamplerModel

B = 5
X0 = Objective(parameterization="x0")
SCALES = [1.0, 0.0, 3.0]


def generators(seeds=range(B)):
    return [torch.Generator().manual_seed(100 + k) for k in seeds]


@pytest.fixture
def text(tiny):
    g = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, tiny.VOCABULARY_SIZE, (B, tiny.CONTEXT), generator=g)
    return tokens, F.normalize(torch.randn(B, tiny.DIM, generator=g), dim=1)


@pytest.fixture
def z_i(tiny):
    return F.normalize(torch.randn(B, tiny.DIM, generator=torch.Generator().manual_seed(1)), dim=1)


@pytest.fixture
def network(tiny):
    """A stage's network with weights that make everything count."""
    return lambda stage: tiny.randomise(tiny.make_network(stage), seed=4)


def solver(scale=1.0, **changes):
    return SamplerConfig(**{"name": "dpm_solver_pp", "steps": 3, "guidance_scale": scale, "threshold": None, **changes})


def prior(network, text, own, sampler, **changes):
    return DiffusionPriorModel(network, X0, sampler, **changes).sample(Captions(*text), own)


def sample_decoder(network, sampler, tokens, z_i, own):
    return DecoderModel(network, X0, sampler).sample(tokens, z_i, own)


def lerp(conditional, unconditional, scale):
    return unconditional + scale * (conditional - unconditional)


@pytest.mark.parametrize("scale", SCALES)
def test_the_diffusion_priors_guidance(network, text, scale):
    """Against the whole forward, without caches; the unconditional half has neither caption nor z_t."""
    net, (tokens, z_t) = network("diffusion_prior"), text

    def model(x_t, t):
        keep = torch.ones(B, dtype=torch.bool)
        return lerp(net(x_t, t, tokens, z_t, keep), net(x_t, t, tokens, z_t, ~keep), scale)

    own = generators()
    expected = DiffusionModel(net, X0, solver()).draw(model, randn_per_image(own, z_t.shape, "cpu"), own)
    drawn = prior(net, text, generators(), solver(scale), candidates=1)
    assert_close(drawn, F.normalize(expected, dim=1), atol=1e-5, rtol=0)
    assert_close(drawn.norm(dim=1), torch.ones(B))


def test_the_better_of_two_draws_is_kept(network, text):
    net, own = network("diffusion_prior"), generators()
    first, second = (prior(net, text, own, solver(), candidates=1) for _ in range(2))
    scores = torch.stack([(z * text[1]).sum(dim=1) for z in (first, second)])
    assert scores.argmax(dim=0).unique().tolist() == [0, 1]  # Or this test would say nothing.
    expected = torch.where((scores[0] >= scores[1])[:, None], first, second)
    assert torch.equal(prior(net, text, generators(), solver()), expected)  # two is the default
    four = prior(net, text, generators(), solver(), candidates=4)
    assert ((four * text[1]).sum(dim=1) >= scores.amax(dim=0) - 1e-6).all()


@pytest.mark.parametrize("scale", SCALES)
def test_the_decoders_guidance_drops_caption_and_embedding_together(network, text, z_i, scale):
    net, (tokens, _) = network("decoder"), text
    both, neither = net.condition(tokens, z_i), net.condition(torch.zeros_like(tokens), torch.zeros_like(z_i))

    def model(x_t, t):
        return lerp(net(x_t, t, both), net(x_t, t, neither), scale)

    own = generators()
    sampler = solver(scale, threshold="static")
    expected = DiffusionModel(net, X0, sampler).draw(model, randn_per_image(own, (B, 3, 16, 16), "cpu"), own)
    drawn = sample_decoder(net, sampler, tokens, z_i, generators())
    assert_close(drawn, expected, atol=1e-5, rtol=0)
    assert drawn.abs().max() <= 1


def test_the_text_encoder_runs_once_a_caption_whatever_the_steps(network, text, z_i, monkeypatch):
    """Five pictures of two captions, guided, three steps: two captions and the empty one; against a caption a row."""
    net, order = network("decoder"), torch.tensor([0, 1, 1, 0, 1])
    tokens, rows, whole = text[0][order], [], net.text.forward
    monkeypatch.setattr(net.text, "forward", lambda tokens: rows.append(len(tokens)) or whole(tokens))
    drawn = sample_decoder(net, solver(2.0), tokens, z_i, generators())
    assert rows == [2, 1]
    alone = [sample_decoder(net, solver(2.0), tokens[[k]], z_i[[k]], [generators()[k]]) for k in range(B)]
    assert_close(drawn, torch.cat(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_diffusion_prior_evaluates_three_tokens_a_step(network, text, scale):
    """What makes its sampling fast: the text's keys and values once, whatever the steps and candidates."""
    net, seen = network("diffusion_prior"), []
    net.transformer.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape[:2])))
    prior(net, text, generators(), solver(scale, steps=4), candidates=2)
    length = text[0].shape[1]
    rows = B + 1 if scale != 1 else B  # Without text all are the same row.
    steps = 2 * 4
    assert seen == [(rows, length + 1)] + [(2 * B if scale != 1 else B, 3)] * steps


def test_a_draw_that_is_not_finite_is_not_hidden(network, text):
    net = network("diffusion_prior")
    net.out.bias.data[0] = torch.nan
    assert not prior(net, text, generators(), solver()).isfinite().any()


def test_pictures_are_drawn_in_the_layout_of_the_weights(network, text, z_i):
    for layout in (torch.contiguous_format, torch.channels_last):
        net, seen = network("decoder").to(memory_format=layout), []
        net.unet.first.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0]))
        sample_decoder(net, solver(3.0), text[0], z_i, generators())
        assert seen and all(x.is_contiguous(memory_format=layout) for x in seen)


def test_caption_and_embedding_both_reach_the_picture(network, text, z_i):
    net, (tokens, z_t) = network("decoder"), text

    def draw(tokens, z):
        return sample_decoder(net, solver(), tokens, z, generators())

    base = draw(tokens, z_i)
    changes = {"caption": draw(tokens.roll(1, 0), z_i), "z_i": draw(tokens, z_t), "no z_i": draw(tokens, None)}
    for name, other in changes.items():
        assert ((base - other).abs().amax(dim=(1, 2, 3)) > 1e-3).all(), name
    assert torch.equal(draw(tokens, None), draw(tokens, torch.zeros_like(z_i)))


def test_glide_ignores_any_embedding(network, text, z_i):
    net = network("glide")
    pictures = [sample_decoder(net, solver(2.0), text[0], z, generators()) for z in (None, z_i)]
    assert torch.equal(*pictures)


def test_an_upsamplers_picture_follows_its_input_at_any_size(network):
    net = network("upsampler")
    for side in (8, 12):
        low = torch.rand(B, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
        high = UpsamplerModel(net, X0, solver()).sample(low, generators())
        assert high.shape == (B, 3, 2 * side, 2 * side)
        assert high.abs().max() <= 1
        other = UpsamplerModel(net, X0, solver()).sample(low.roll(1, 0), generators())
        assert ((high - other).abs().amax(dim=(1, 2, 3)) > 1e-3).all()


@pytest.fixture
def codec(tiny, shapes):
    rows = shapes().dataset("train").embeddings[range(64)]
    codec = EmbeddingCodec(tiny.DIM, **{**tiny.CODES, "num_dot_buckets": 16})
    codec.fit(rows.z_i, rows.z_t)
    return codec


@pytest.mark.parametrize("percentile", [0.0, 50.0, 95.0])
def test_the_dot_product_token_comes_from_above_the_percentile(tiny, codec, text, percentile, monkeypatch):
    net = tiny.randomise(tiny.make_network("ar_prior", num_dot_buckets=16))
    asked, own_sample = [], net.sample

    def spy(tokens, z_t, dot, *words, **settings):
        asked.append(dot)
        return own_sample(tokens, z_t, dot, *words, **settings)

    monkeypatch.setattr(net, "sample", spy)
    for k in range(60):
        ARPriorModel(net, codec, percentile=percentile).sample(Captions(*text), generators(range(5 * k, 5 * k + 5)))
    drawn = torch.cat(asked)
    share = codec.dot_counts.double().cumsum(0) / codec.dot_counts.sum()
    lowest = int((share > percentile / 100).nonzero()[0])
    possible = [k for k in range(lowest, 16) if codec.dot_counts[k] > 0]
    assert drawn.min() >= lowest
    assert set(drawn.tolist()) == set(possible)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_an_ar_draw_is_the_codes_drawn_one_by_one_without_a_cache(tiny, codec, text, scale):
    net = tiny.randomise(tiny.make_network("ar_prior", num_dot_buckets=16))
    own = generators()
    dot = codec.draw_dot(own, 70.0)
    codes = torch.zeros(B, net.num_codes, dtype=torch.int64)
    for k in range(net.num_codes):
        conditional, unconditional = (net(*text, dot, codes, torch.full((B,), keep))[:, k] for keep in (True, False))
        p = lerp(conditional, unconditional, scale).softmax(dim=1)
        codes[:, k] = torch.cat([torch.multinomial(row, 1, generator=g) for row, g in zip(p, own, strict=True)])
    drawn = ARPriorModel(net, codec, guidance_scale=scale, percentile=70.0).sample(Captions(*text), generators())
    assert_close(drawn, codec.decode(codes))
    assert_close(drawn.norm(dim=1), torch.ones(B))


@pytest.mark.parametrize("which", ["diffusion_prior", "decoder", "upsampler"])
@pytest.mark.parametrize("name", ["dpm_solver_pp", "ddpm"])
def test_a_sample_is_its_generators_at_any_batch_size_and_in_any_order(network, text, z_i, which, name):
    net = network(which)
    low = torch.rand(B, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def draw(rows):
        tokens, z_t = (tensor[rows] for tensor in text)
        own, sampler = generators(rows), solver(1.0 if which == "upsampler" else 2.0, name=name)
        if which == "diffusion_prior":
            return prior(net, (tokens, z_t), own, sampler)
        if which == "decoder":
            return sample_decoder(net, sampler, tokens, z_i[rows], own)
        return UpsamplerModel(net, X0, sampler).sample(low[rows], own)

    together = draw(list(range(B)))
    assert_close(draw([3, 0]), together[[3, 0]], atol=2e-5, rtol=0)
    assert_close(draw([4]), together[[4]], atol=2e-5, rtol=0)
