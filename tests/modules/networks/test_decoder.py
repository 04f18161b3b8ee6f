"""The decoder's condition: what is dropped is exactly the empty caption and the zero embedding; GLIDE knows no CLIP."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from modules.networks.decoder import CLIP_TOKENS, Condition

B, D, L = 3, 16, 20


@pytest.fixture
def decoder(tiny):
    return tiny.randomise(tiny.make_network("decoder"))


@pytest.fixture
def glide(tiny):
    return tiny.randomise(tiny.make_network("glide"))


@pytest.fixture
def pair():
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 30, (B, L), generator=g), F.normalize(torch.randn(B, D, generator=g), dim=1)


def assert_same(first: Condition, second: Condition) -> None:
    assert torch.equal(first.emb, second.emb)
    assert torch.equal(first.context, second.context)


def mask(*flags):
    return torch.tensor(flags)


def test_a_dropped_caption_is_the_empty_caption(decoder, pair):
    tokens, z_i = pair
    dropped = decoder.condition(tokens, z_i, keep_text=mask(False, False, False))
    assert_same(dropped, decoder.condition(torch.zeros_like(tokens), z_i))
    assert not torch.allclose(dropped.emb, decoder.condition(tokens, z_i).emb, atol=1e-3)


def test_a_dropped_embedding_is_the_zero_embedding(decoder, pair):
    tokens, z_i = pair
    dropped = decoder.condition(tokens, z_i, keep_embedding=mask(False, False, False))
    assert_same(dropped, decoder.condition(tokens, torch.zeros_like(z_i)))
    assert_same(dropped, decoder.condition(tokens, None))
    assert not torch.allclose(dropped.emb, decoder.condition(tokens, z_i).emb, atol=1e-3)


def test_masks_go_row_by_row_and_are_independent(decoder, pair):
    tokens, z_i = pair
    mixed = decoder.condition(tokens, z_i, keep_text=mask(True, False, False), keep_embedding=mask(False, True, False))
    rows = [
        decoder.condition(tokens[:1], None),
        decoder.condition(torch.zeros(1, L, dtype=torch.int64), z_i[1:2]),
        decoder.condition(torch.zeros(1, L, dtype=torch.int64), None),
    ]
    expected = Condition.stack(rows)
    assert_close(mixed.emb, expected.emb)
    assert_close(mixed.context, expected.context)


def test_four_more_tokens_of_context(decoder, tiny, pair):
    condition = decoder.condition(*pair)
    assert CLIP_TOKENS == 4
    assert condition.context.shape == (B, L + 4, tiny.DECODER["text_width"])
    assert condition.emb.shape == (B, 4 * tiny.UNET["channels"])
    # The caption's own features are GLIDE's, whatever the embedding; the four tokens are the embedding's alone.
    other = decoder.condition(pair[0], -pair[1])
    assert torch.equal(condition.context[:, :L], other.context[:, :L])
    assert ((condition.context[:, L:] - other.context[:, L:]).abs().amax(dim=(1, 2)) > 1e-3).all()
    turned = decoder.condition(pair[0].flip(0), pair[1])
    assert_close(condition.context[:, L:], turned.context[:, L:])


def test_the_embedding_enters_with_entries_of_order_one(decoder, pair):
    tokens, z_i = pair
    with_z, without = decoder.condition(tokens, z_i).emb, decoder.condition(tokens, None).emb
    weight = (
        decoder.clip_to_emb[0].weight
        if isinstance(decoder.clip_to_emb, torch.nn.Sequential)
        else decoder.clip_to_emb.weight
    )
    assert_close(with_z - without, math.sqrt(D) * z_i @ weight.T, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["decoder", "glide"])
def test_the_images_depend_on_the_condition(tiny, pair, name):
    network = tiny.randomise(tiny.make_network(name))
    tokens, z_i = pair
    x_t, t = torch.randn(B, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.full((B,), 500)
    base = network(x_t, t, network.condition(tokens, z_i))
    changes = [(tokens.flip(0), z_i)] + ([(tokens, -z_i)] if name == "decoder" else [])
    for changed in changes:
        out = network(x_t, t, network.condition(*changed))
        assert ((base - out).abs().amax(dim=(1, 2, 3))[[0, 2]] > 1e-3).all()


def test_glide_knows_no_clip(glide, decoder, pair):
    tokens, z_i = pair
    assert not [name for name, _ in glide.named_parameters() if "clip" in name]
    assert [name for name, _ in decoder.named_parameters() if "clip" in name]
    condition = glide.condition(tokens, z_i, keep_embedding=mask(True, False, True))
    assert_same(condition, glide.condition(tokens, None))
    assert condition.context.shape[1] == L


def test_conditions_are_stacked(decoder, glide, pair):
    first, second = decoder.condition(*pair), decoder.condition(pair[0], None)
    both = Condition.stack([first, second])
    assert torch.equal(both.emb, torch.cat([first.emb, second.emb]))
    assert torch.equal(both.context, torch.cat([first.context, second.context]))
    assert Condition.stack([Condition(first.emb, None)] * 2).context is None


@pytest.mark.parametrize(("learned", "channels"), [(False, 3), (True, 6)])
def test_it_starts_as_zero_and_learned_sigma_doubles_the_channels(tiny, pair, learned, channels):
    network = tiny.make_network("decoder", learned_sigma=learned).eval()
    out = network(torch.randn(B, 3, 16, 16), torch.full((B,), 3), network.condition(*pair))
    assert out.shape == (B, channels, 16, 16)
    assert not out.any()


def test_nothing_is_mutated(decoder, pair):
    before = [tensor.clone() for tensor in pair]
    keep = mask(True, False, True)
    condition = decoder.condition(*pair, keep_text=keep, keep_embedding=keep)
    copies = [tensor.clone() for tensor in condition if tensor is not None]
    decoder(torch.randn(B, 3, 16, 16), torch.full((B,), 3), condition)
    assert all(map(torch.equal, pair, before))
    assert all(map(torch.equal, condition, copies))
    assert keep.tolist() == [True, False, True]


def test_sampling_encodes_each_caption_once(decoder, pair, monkeypatch):
    tokens, z_i = pair
    tokens = tokens[[0, 1, 0]]
    expected = decoder.condition(tokens, z_i)
    rows, whole = [], decoder.text.forward
    monkeypatch.setattr(decoder.text, "forward", lambda tokens: rows.append(len(tokens)) or whole(tokens))
    with torch.no_grad():
        condition = decoder.condition(tokens, z_i)
    assert rows == [2]
    assert_close(condition.context, expected.context, atol=1e-5, rtol=0)
    assert_close(condition.emb, expected.emb, atol=1e-5, rtol=0)


def test_activation_checkpointing_changes_no_gradient(tiny, pair):
    """U-Net and text encoder both."""
    gradients = []
    for checkpointing in (False, True):
        unet = {**tiny.STAGES["decoder"][2]["unet"], "checkpointing": checkpointing}
        network = tiny.randomise(tiny.make_network("decoder", unet=unet)).train()
        assert network.text.transformer.checkpointing == checkpointing
        x = torch.randn(B, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        network(x, torch.tensor([0, 10, 999]), network.condition(*pair)).square().sum().backward()
        gradients.append([p.grad for p in network.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert_close(plain, recomputed)


def test_the_mean_over_the_captions_tokens(tiny):
    """Padding has no say in what joins the timestep's embedding, and an empty caption says 0."""
    network = tiny.randomise(tiny.make_network("decoder", text_pooling="mean"))
    tokens = torch.zeros(2, tiny.CONTEXT, dtype=torch.int64)
    tokens[0, :3] = torch.tensor([4, 5, 6])
    features = network.text(tokens)
    pooled = network._pooled(features, tokens)
    assert torch.allclose(pooled[0], features[0, :3].mean(dim=0), atol=1e-6)
    assert not pooled[1].any()
    last = tiny.randomise(tiny.make_network("decoder", text_pooling="last"))
    assert torch.equal(last._pooled(features, tokens), features[:, -1])


def test_the_spread_of_fresh_token_embeddings(tiny):
    with torch.no_grad():
        wide, narrow = (
            tiny.make_network("decoder", text_std=s).text.embedding.tokens.weight.std() for s in (1.0, 0.05)
        )
    assert wide.item() / narrow.item() == pytest.approx(20.0, rel=1e-4)
