"""The Transformer: its cache is exact, its mask is causal, and attention is what the formula says."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from modules.networks import blocks
from modules.networks.blocks import TimeEmbedding, attention, merge_heads, split_heads, timestep_embedding, zero_init
from modules.networks.stepping import Stepper, plain
from modules.networks.transformer import (
    TextEncoder,
    TokenEmbedding,
    Transformer,
    scale_to_unit_variance,
    unique_rows,
)

WIDTH, LENGTH = 16, 7


@pytest.fixture
def transformer():
    def make(causal=True, **options):
        torch.manual_seed(0)
        return Transformer(WIDTH, 3, 2, causal=causal, **options).eval()

    return make


@pytest.fixture
def x():
    return torch.randn(2, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("causal", [True, False])
def test_last_only_is_the_last_row(transformer, x, causal):
    network = transformer(causal)
    assert_close(network(x, last_only=True), network(x)[:, -1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_last_only_trains_as_all_rows_do(transformer, x, checkpointing):
    """Computing the query's row alone is exact in the gradients too, of the weights and of the input."""
    found = []
    for last_only in (True, False):
        network, inputs = transformer(checkpointing=checkpointing).train(), x.clone().requires_grad_()
        network(inputs, last_only=last_only)[:, -1].square().sum().backward()
        found.append([inputs.grad, *(p.grad for p in network.parameters())])
    for fast, slow in zip(*found, strict=True):
        assert_close(fast, slow, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pieces", [[7], [1] * 7, [4, 3], [4, 1, 2], [1, 6]])
def test_pieces_with_a_cache_are_the_whole(transformer, x, pieces):
    network = transformer()
    cache = network.make_cache(2, LENGTH)
    outputs = [network(piece, cache=cache) for piece in x.split(pieces, dim=1)]
    assert cache.length == LENGTH
    assert_close(torch.cat(outputs, dim=1), network(x), atol=1e-5, rtol=0)


def test_last_only_behind_a_cache_leaves_the_cache_as_it_was(transformer, x):
    network = transformer()
    cache = network.make_cache(2, LENGTH)
    network(x[:, :4], cache=cache)
    before = cache.keys[:, :, :, :4].clone()
    first = network(x[:, 4:], last_only=True, cache=cache)
    network(x[:, 4:] + 1, last_only=True, cache=cache)
    second = network(x[:, 4:], last_only=True, cache=cache)
    assert cache.length == 4
    assert torch.equal(cache.keys[:, :, :, :4], before)
    assert torch.equal(first, second)
    assert_close(first, network(x)[:, -1:], atol=1e-5, rtol=0)


@pytest.mark.parametrize("place", range(1, LENGTH))
def test_a_later_token_leaves_earlier_outputs_bit_identical(transformer, x, place):
    network, changed = transformer(), x.clone()
    changed[:, place:] += 1
    first, second = network(x), network(changed)
    assert torch.equal(first[:, :place], second[:, :place])
    assert (first[:, place:] != second[:, place:]).any(dim=2).all()


def test_without_the_mask_every_output_sees_every_token(transformer, x):
    network, changed = transformer(causal=False), x.clone()
    changed[:, -1, 0] += 1
    assert (network(x) != network(changed)).any(dim=2).all()


@torch.no_grad()
def test_steps_are_the_whole(transformer, x):
    """Position by position, behind a prefix; the cache holds afterwards what the Transformer itself leaves there."""
    network = transformer(dropout=0.3)
    caches = [network.make_cache(2, LENGTH) for _ in range(2)]
    for cache in caches:
        network(x[:, :3], cache=cache)
    step = Stepper(network, caches[0])
    stepped = torch.cat([step(x[:, k : k + 1]) for k in range(3, LENGTH)], dim=1)
    assert_close(stepped, network(x)[:, 3:], atol=1e-5, rtol=0)
    network(x[:, 3:], cache=caches[1])
    assert caches[0].length == caches[1].length == LENGTH
    for name in ("keys", "values"):
        assert_close(*(getattr(cache, name) for cache in caches), atol=1e-5, rtol=0)
    with pytest.raises(IndexError, match=f"holds {LENGTH} positions, not {LENGTH + 1}"):
        step(x[:, :1])


def test_only_plain_weights_are_stepped_over(transformer):
    network = transformer()
    assert plain(network)
    network.blocks[1].qkv.weight = torch.nn.Parameter(network.blocks[1].qkv.weight.as_subclass(Share))
    assert not plain(network)


class Share(torch.Tensor):
    """A weight of another kind, as a sharded one is."""


def test_the_cache_says_when_it_is_full(transformer, x):
    network = transformer()
    cache = network.make_cache(2, LENGTH - 1)
    with pytest.raises(IndexError, match="holds 6 positions, not 7"):
        network(x, cache=cache)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match=r"heads \(3\) must divide the width \(16\)"):
        Transformer(16, 1, 3, causal=True)


def test_checkpointing_recomputes_and_changes_nothing(transformer, x, monkeypatch):
    plain, saving = transformer().train(), transformer(checkpointing=True).train()
    calls = []
    whole = blocks.F.scaled_dot_product_attention
    monkeypatch.setattr(blocks.F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or whole(*a, **k))
    counts = []
    for network in (plain, saving):
        calls.clear()
        network(x).square().sum().backward()
        counts.append(len(calls))
    assert counts == [3, 6]
    for first, second in zip(plain.parameters(), saving.parameters(), strict=True):
        assert torch.equal(first.grad, second.grad)


def test_dropout_is_for_training(transformer, x):
    network = transformer(dropout=0.5)
    assert torch.equal(network(x), network(x))
    network.train()
    assert not torch.equal(network(x), network(x))


def test_nothing_is_mutated(transformer, x):
    before = x.clone()
    network = transformer()
    cache = network.make_cache(2, LENGTH + 1)
    network(x)
    network(x, cache=cache)
    network(x[:, :1], last_only=True, cache=cache)
    assert torch.equal(x, before)


def kernels(run):
    """Which attention kernels a call ran, by name, with how often."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return {e.key: e.count for e in profile.key_averages() if e.key.startswith("aten::_scaled_dot_product")}


FAST = "aten::_scaled_dot_product_flash_attention_for_cpu"


@pytest.mark.parametrize("how", ["whole", "last", "cached", "step", "stepper"])
def test_the_fast_attention_is_taken(transformer, x, how):
    """With a strided head dimension the CPU takes a slow kernel without a word."""
    network = transformer()
    cache = network.make_cache(2, 2 * LENGTH) if how in ("cached", "step") else None
    with torch.no_grad():
        if how == "step":
            network(x, cache=cache)
        if how == "stepper":
            step = Stepper(network, network.make_cache(2, LENGTH))
            assert kernels(lambda: step(x[:, :1])) == {FAST: 3}
            return
        assert kernels(lambda: network(x[:, :3] if how == "step" else x, last_only=how == "last", cache=cache)) == {
            FAST: 3
        }


def test_attention_mends_a_strided_head_dimension():
    q, k, v = torch.randn(3, 2, 2, 4, 5).transpose(-1, -2).unbind()
    assert q.stride(-1) != 1
    assert kernels(lambda: attention(q, k, v)) == {FAST: 1}
    assert FAST not in kernels(
        lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v)
    )  # or this proves nothing


def test_unique_rows_are_told_apart_bit_by_bit():
    tokens = torch.tensor([[3, 1], [2, 2], [3, 1], [3, 1], [2, 2]])
    z = torch.tensor([[1.0], [5.0], [1.0], [1.0000001], [5.0]])
    rows, places = unique_rows(tokens, z)
    assert sorted(rows.tolist()) == [0, 1, 3]
    assert torch.equal(tokens[rows][places], tokens)
    assert torch.equal(z[rows][places], z)
    assert sorted(unique_rows(tokens)[0].tolist()) == [0, 1]


def test_a_selected_cache_goes_on_as_its_sequences_would(transformer, x):
    network = transformer()
    cache = network.make_cache(2, LENGTH)
    network(x[:, : LENGTH - 2], cache=cache)
    rows = torch.tensor([1, 0, 1])
    chosen = cache.select(rows, LENGTH)
    tail = x[rows][:, LENGTH - 2 :] + torch.arange(3.0)[:, None, None]
    expected = network(torch.cat([x[rows][:, : LENGTH - 2], tail], dim=1))[:, LENGTH - 2 :]
    assert_close(network(tail, cache=chosen), expected, atol=1e-5, rtol=0)
    assert cache.length == LENGTH - 2


@pytest.mark.parametrize("kind", ["full", "causal", "mask"])
def test_attention_is_the_formula(kind):
    q, k, v = torch.randn(3, 2, 2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    allowed = torch.ones(5, 5, dtype=torch.bool)
    if kind != "full":
        allowed = allowed.tril() if kind == "causal" else torch.rand(5, 5).argsort(dim=1) > 1
    scores = (q @ k.transpose(-1, -2) / 2).masked_fill(~allowed, -math.inf)
    out = attention(q, k, v, mask=allowed if kind == "mask" else None, causal=kind == "causal")
    assert_close(out, scores.softmax(dim=-1) @ v)


def test_heads_are_split_and_merged():
    x = torch.arange(2 * 3 * 8.0).reshape(2, 3, 8)
    heads = split_heads(x, 2)
    assert heads.shape == (2, 2, 3, 4)
    assert torch.equal(heads[0, 1, 2], x[0, 2, 4:])
    assert torch.equal(merge_heads(heads), x)


def test_the_sinusoids_of_a_timestep():
    t = torch.tensor([0, 7, 999])
    expected = [
        [f(float(step) * 10_000 ** (-i / 3)) for f in (math.cos, math.sin) for i in range(3)] for step in t.tolist()
    ]
    assert_close(timestep_embedding(t, 6), torch.tensor(expected), atol=1e-4, rtol=0)


def test_the_time_embedding_tells_all_timesteps_apart():
    torch.manual_seed(0)
    out = TimeEmbedding(16, 8)(torch.arange(1000))
    assert out.shape == (1000, 8)
    assert len(out.unique(dim=0)) == 1000


def test_zero_init():
    layer = zero_init(torch.nn.Linear(3, 4))
    assert not layer(torch.randn(2, 3)).any()


def test_token_embeddings_start_small_and_know_their_places():
    torch.manual_seed(0)
    embedding = TokenEmbedding(50, 6, 32)
    assert embedding.tokens.weight.std().item() == pytest.approx(0.05, rel=0.1)
    assert embedding.positions.std().item() == pytest.approx(0.05, rel=0.2)
    tokens = torch.tensor([[3, 3, 0, 0, 0, 0]])
    out = embedding(tokens)
    assert_close(out[0, 0] - out[0, 1], embedding.positions[0] - embedding.positions[1])
    assert embedding.tokens.weight[0].any()  # padding has an embedding of its own
    with pytest.raises(ValueError, match="captions have 5 tokens, the network's context is 6"):
        embedding(tokens[:, :5])


def test_every_token_of_a_caption_sees_every_other():
    torch.manual_seed(0)
    encoder = TextEncoder(10, 5, 16, 2, 2).eval()
    one, other = torch.tensor([[1, 2, 3, 0, 0]]), torch.tensor([[1, 2, 4, 0, 0]])
    assert (encoder(one) != encoder(other)).any(dim=2).all()
    assert encoder(one).shape == (1, 5, 16)


def test_a_stack_starts_near_the_identity():
    """The residual branches of a deep stack start small: the signal neither explodes nor vanishes."""
    torch.manual_seed(0)
    network = Transformer(64, 24, 4, causal=True).eval()
    x = torch.randn(2, 8, 64)
    for block in network.blocks:
        x = block(x, causal=True)
    assert 1.0 < x.std().item() < 2.0


def test_unit_vectors_become_entries_of_order_one():
    z = torch.nn.functional.normalize(torch.randn(5, 64), dim=1)
    assert_close(scale_to_unit_variance(z).square().mean(dim=1), torch.ones(5))
