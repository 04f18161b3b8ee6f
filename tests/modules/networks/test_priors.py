"""The priors' networks: caches are exact, dropping the text drops nothing else, codes see only what came before."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from modules.diffusion.guidance import guide_logits
from modules.models.diffusion_prior import embedding_scale
from modules.networks import ar_prior as module
from modules.networks.mlp_prior import MLPBlock, MLPPriorNetwork

B, D, L = 3, 16, 20


def guided(scale):
    """The guidance that a prior of this scale gives the network."""
    return None if scale == 1 else lambda logits: guide_logits(logits, scale)


@pytest.fixture
def diffusion(tiny):
    return tiny.randomise(tiny.make_network("diffusion_prior"))


@pytest.fixture(params=["tokens", "text encoder"])
def autoregressive(tiny, request):
    """The caption's embedded tokens as the prefix, or a Transformer's features of them (Table 3)."""
    sizes = {} if request.param == "tokens" else {"text_width": 8, "text_depth": 1, "text_heads": 2}
    return tiny.randomise(tiny.make_network("ar_prior", **sizes))


@pytest.fixture
def batch(tiny):
    g = torch.Generator().manual_seed(0)
    z_t = F.normalize(torch.randn(B, D, generator=g), dim=1)
    codes = torch.randint(0, tiny.CODES["num_buckets"], (B, tiny.CODES["num_codes"]), generator=g)
    return {
        "x_t": torch.randn(B, D, generator=g),
        "t": torch.tensor([0, 500, 999]),
        "tokens": torch.randint(0, 30, (B, L), generator=g),
        "z_t": z_t,
        "codes": codes,
        "dot": torch.tensor([0, 1, 3]),
    }


def generators(seeds=(5, 6, 7)):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("keep", [None, [True, False, True], [False] * 3])
def test_a_cached_step_is_the_whole_forward(diffusion, batch, keep):
    keep = None if keep is None else torch.tensor(keep)
    tokens, z_t = batch["tokens"], batch["z_t"]
    cache = diffusion.encode(tokens, z_t, keep)
    for k in range(3):  # one cache, many steps
        x_t, t = batch["x_t"] + k, batch["t"].roll(k)
        assert_close(diffusion.step(x_t, t, cache), diffusion(x_t, t, tokens, z_t, keep), atol=1e-5, rtol=0)
    assert cache.length == L + 1


def test_dropping_the_text_drops_caption_and_z_t(diffusion, batch):
    dropped = torch.zeros(B, dtype=torch.bool)
    out = diffusion(batch["x_t"], batch["t"], batch["tokens"], batch["z_t"], dropped)
    other = diffusion(batch["x_t"], batch["t"], batch["tokens"].flip(0), -batch["z_t"], dropped)
    assert torch.equal(out, other)
    assert not torch.allclose(out, diffusion(batch["x_t"], batch["t"], batch["tokens"], batch["z_t"]), atol=1e-3)


@pytest.mark.parametrize("text", [True, False])
def test_dropping_the_text_never_drops_the_noised_embedding_or_the_timestep(diffusion, batch, text):
    """A known implementation's null branch is blind to x_t: guidance then points nowhere."""
    keep = torch.full((B,), text)
    out = diffusion(batch["x_t"], batch["t"], batch["tokens"], batch["z_t"], keep)
    for change in ({"x_t": batch["x_t"] + 0.5}, {"t": batch["t"].flip(0) + torch.tensor([0, 3, 0])}):
        other = {**batch, **change}
        changed = diffusion(other["x_t"], other["t"], batch["tokens"], batch["z_t"], keep)
        assert ((out - changed).abs().amax(dim=1) > 1e-3).all()


def test_keeping_the_text_is_the_default_and_goes_row_by_row(diffusion, batch):
    inputs = (batch["x_t"], batch["t"], batch["tokens"], batch["z_t"])
    kept, dropped = (diffusion(*inputs, torch.full((B,), flag)) for flag in (True, False))
    assert torch.equal(kept, diffusion(*inputs))
    mixed = diffusion(*inputs, torch.tensor([True, False, True]))
    assert_close(mixed, torch.stack([kept[0], dropped[1], kept[2]]))


@pytest.mark.parametrize("name", ["tokens", "z_t"])
def test_the_diffusion_prior_reads_caption_and_z_t(diffusion, batch, name):
    other = {**batch, name: batch[name].flip(0)}
    out, changed = (diffusion(b["x_t"], b["t"], b["tokens"], b["z_t"]) for b in (batch, other))
    assert ((out - changed).abs().amax(dim=1)[[0, 2]] > 1e-3).all()


def test_the_scale_is_the_papers():
    assert embedding_scale(1024) == pytest.approx(17.2)
    z = F.normalize(torch.randn(100, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    large = F.normalize(torch.randn(100, 1024, generator=torch.Generator().manual_seed(0)), dim=1)
    variances = [(x * embedding_scale(x.shape[1])).square().mean() for x in (z, large)]
    assert_close(*variances)


def test_the_priors_mutate_nothing(diffusion, autoregressive, batch):
    before = {name: tensor.clone() for name, tensor in batch.items()}
    keep = torch.tensor([True, False, True])
    diffusion(batch["x_t"], batch["t"], batch["tokens"], batch["z_t"], keep)
    diffusion.step(batch["x_t"], batch["t"], diffusion.encode(batch["tokens"], batch["z_t"], keep))
    autoregressive(batch["tokens"], batch["z_t"], batch["dot"], batch["codes"], keep)
    autoregressive.sample(batch["tokens"], batch["z_t"], batch["dot"], generators(), guidance=guided(2.0))
    assert keep.tolist() == [True, False, True]
    for name, tensor in batch.items():
        assert torch.equal(tensor, before[name]), name


def logits(network, batch, codes, keep=None):
    return network(batch["tokens"], batch["z_t"], batch["dot"], codes, keep)


def test_a_code_sees_only_the_codes_before_it(autoregressive, batch, tiny):
    base = logits(autoregressive, batch, batch["codes"])
    assert base.shape == (B, tiny.CODES["num_codes"], tiny.CODES["num_buckets"])
    for k in range(tiny.CODES["num_codes"]):
        codes = batch["codes"].clone()
        codes[:, k] = (codes[:, k] + 1) % tiny.CODES["num_buckets"]
        changed = logits(autoregressive, batch, codes)
        assert torch.equal(base[:, : k + 1], changed[:, : k + 1])
        assert (base[:, k + 1 :] != changed[:, k + 1 :]).any(dim=2).all()


@pytest.mark.parametrize("name", ["tokens", "z_t", "dot"])
def test_every_code_reads_the_prefix(autoregressive, batch, name):
    """Also with the text dropped the dot-product token stays."""
    other = {**batch, name: batch[name].roll(1, 0)}
    for keep in (None, torch.zeros(B, dtype=torch.bool)):
        same = torch.equal(
            logits(autoregressive, batch, batch["codes"], keep), logits(autoregressive, other, batch["codes"], keep)
        )
        assert same == (keep is not None and name != "dot")


def naive(network, batch, scale, pick):
    """One forward over everything for each code, conditional and unconditional in separate runs."""
    codes = torch.zeros_like(batch["codes"])
    for k in range(codes.shape[1]):
        row = logits(network, batch, codes)[:, k]
        if scale != 1:
            without = logits(network, batch, codes, torch.zeros(B, dtype=torch.bool))[:, k]
            row = without + scale * (row - without)
        codes[:, k] = pick(row)
    return codes


@pytest.mark.parametrize("scale", [1.0, 0.0, 3.0])
def test_sampling_at_temperature_0_is_the_naive_loop(autoregressive, batch, scale):
    drawn = autoregressive.sample(
        batch["tokens"], batch["z_t"], batch["dot"], generators(), guidance=guided(scale), temperature=0.0
    )
    assert torch.equal(drawn, naive(autoregressive, batch, scale, lambda row: row.argmax(dim=1)))


@pytest.mark.parametrize(("scale", "temperature"), [(1.0, 1.0), (2.0, 0.7)])
def test_sampling_draws_what_the_naive_loop_draws(autoregressive, batch, scale, temperature):
    own = generators()

    def pick(row):
        p = (row / temperature).softmax(dim=1)
        return torch.cat([torch.multinomial(q, 1, generator=g) for q, g in zip(p, own, strict=True)])

    drawn = autoregressive.sample(
        batch["tokens"], batch["z_t"], batch["dot"], generators(), guidance=guided(scale), temperature=temperature
    )
    assert torch.equal(drawn, naive(autoregressive, batch, scale, pick))


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_the_caches_logits_are_those_of_the_whole_forward(autoregressive, batch, scale, monkeypatch):
    """At every code, with guidance in one batch against two runs."""
    seen = []
    draw = module._draw
    monkeypatch.setattr(module, "_draw", lambda logits, *rest: seen.append(logits) or draw(logits, *rest))
    arguments = batch["tokens"], batch["z_t"], batch["dot"]
    codes = autoregressive.sample(*arguments, generators(), guidance=guided(scale))
    conditional, unconditional = (
        logits(autoregressive, batch, codes, torch.full((B,), keep)) for keep in (True, False)
    )
    assert_close(torch.stack(seen, dim=1), unconditional + scale * (conditional - unconditional), atol=1e-5, rtol=0)


def test_a_sequence_is_the_same_in_any_batch(autoregressive, batch):
    together = autoregressive.sample(batch["tokens"], batch["z_t"], batch["dot"], generators(), guidance=guided(2.0))
    for k, generator in enumerate(generators()):
        row = slice(k, k + 1)
        alone = autoregressive.sample(
            batch["tokens"][row], batch["z_t"][row], batch["dot"][row], [generator], guidance=guided(2.0)
        )
        assert torch.equal(alone[0], together[k])


def test_sampling_leaves_no_graph(autoregressive, batch):
    autoregressive.requires_grad_(True)
    out = autoregressive.sample(batch["tokens"], batch["z_t"], batch["dot"], generators())
    assert out.dtype == torch.int64
    assert not out.requires_grad


def test_the_embedding_tables_of_a_fresh_prior_are_small(tiny):
    """With torch's default standard deviation of 1 a small prior does not learn."""
    for name in ("ar_prior", "diffusion_prior"):
        network = tiny.make_network(name)
        tables = [m.weight for m in network.modules() if isinstance(m, torch.nn.Embedding)]
        assert tables
        assert all(table.std() < 0.1 for table in tables)


def test_samples_of_one_caption_share_its_keys_and_values(diffusion, autoregressive, batch, monkeypatch):
    """Six sequences of two captions, guided: three prefixes. What comes out is what the whole forward gives."""
    order = torch.tensor([1, 0, 0, 1, 0, 1])
    tokens, z_t, dot = batch["tokens"][order], batch["z_t"][order], batch["dot"][order]
    keep = torch.arange(12) < 6
    double = lambda x: torch.cat([x, x])  # noqa: E731
    counts = []
    for network in (diffusion, autoregressive):
        whole = network.transformer.forward

        def look(x, *args, whole=whole, **options):
            counts.append(tuple(x.shape[:2]))
            return whole(x, *args, **options)

        monkeypatch.setattr(network.transformer, "forward", look)
    cache = diffusion.encode(double(tokens), double(z_t), keep)
    assert counts == [(3, L + 1)]
    x_t, t = torch.randn(12, D), torch.arange(12)
    assert_close(diffusion.step(x_t, t, cache), diffusion(x_t, t, double(tokens), double(z_t), keep), atol=1e-5, rtol=0)
    counts.clear()
    step = module.Stepper.__call__
    monkeypatch.setattr(module.Stepper, "__call__", lambda self, x: counts.append(tuple(x.shape[:2])) or step(self, x))
    drawn = autoregressive.sample(tokens, z_t, dot, generators(range(6)), guidance=guided(2.0))
    assert counts == [(3, L + 1), *[(12, 1)] * drawn.shape[1]]
    alone = autoregressive.sample(tokens[4:5], z_t[4:5], dot[4:5], generators([4]), guidance=guided(2.0))
    assert torch.equal(drawn[4:5], alone)


def test_the_text_encoder_of_the_autoregressive_prior_sees_the_whole_caption(tiny, batch):
    network = tiny.randomise(tiny.make_network("ar_prior", text_width=8, text_depth=1, text_heads=2))
    changed = batch["tokens"].clone()
    changed[:, -1] = (changed[:, -1] + 1) % 30
    features, other = (network._text(tokens, batch["z_t"], None)[:, 0] for tokens in (batch["tokens"], changed))
    assert ((features - other).abs().amax(dim=1) > 1e-4).all()  # the first token's, after a change of the last


def test_without_plain_weights_the_transformer_itself_is_stepped(autoregressive, batch, monkeypatch):
    """As where they are spread over devices: the same draws."""
    arguments = batch["tokens"], batch["z_t"], batch["dot"]
    expected = autoregressive.sample(*arguments, generators(), guidance=guided(2.0))
    monkeypatch.setattr(module, "plain", lambda transformer: False)
    monkeypatch.setattr(module, "Stepper", None)
    assert torch.equal(autoregressive.sample(*arguments, generators(), guidance=guided(2.0)), expected)


def test_the_mlp_prior_reads_time_z_t_and_the_noised_embedding_only(tiny, batch):
    network = tiny.randomise(MLPPriorNetwork(D, width=24, depth=2))
    x_t, t, tokens, z_t = (batch[key] for key in ("x_t", "t", "tokens", "z_t"))
    found = network(x_t, t, tokens, z_t)
    for changed in ((x_t + 1, t, tokens, z_t), (x_t, t + 1, tokens, z_t), (x_t, t, tokens, z_t.flip(0))):
        assert (network(*changed) - found).abs().max() > 1e-4
    assert_close(network(x_t, t, tokens.flip(0), z_t), found)
    keep = torch.tensor([True, False, True])
    dropped = network(x_t, t, tokens, z_t, keep)
    assert_close(dropped[keep], found[keep])
    assert_close(dropped, network(x_t, t, tokens, torch.where(keep[:, None], z_t, 7.0), keep))
    assert_close(network.given(tokens, z_t, keep)(x_t, t), dropped)


def test_an_mlp_block_by_hand():
    torch.manual_seed(0)
    block = MLPBlock(8)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    x, condition = torch.randn(2, B, 8).unbind(0)
    norm = lambda v, layer: (  # noqa: E731
        (v - v.mean(1, keepdim=True)) / (v.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt() * layer.weight
        + layer.bias
    )
    silu = lambda v: v * torch.sigmoid(v)  # noqa: E731
    hidden = silu(norm(x, block.norm_1)) @ block.first.weight.T + block.first.bias
    hidden = hidden + silu(condition) @ block.condition.weight.T + block.condition.bias
    by_hand = x + silu(norm(hidden, block.norm_2)) @ block.second.weight.T + block.second.bias
    assert_close(block(x, condition), by_hand, atol=1e-4, rtol=1e-4)
