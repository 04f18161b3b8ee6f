"""The dVAE: its density, its KL, its schedules and its network against closed forms; and it fits what it is shown."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Laplace
from torchmetrics.utilities import dim_zero_sum

from modules.batches import ImageTextBatch
from modules.dalle1.code_counts import CodeCounts
from modules.dalle1.dvae import DVAE
from modules.dalle1.schedules import CosineSchedule, DVAESchedules
from modules.errors import InputError
from modules.models.dalle1.dvae import DVAEModel, code_use, kl_to_uniform, spread_logits
from modules.models.dalle1.logit_laplace import EPSILON, as_images, from_unit, nll, to_unit
from modules.networks.dalle1.dvae import BottleneckBlock, DVAENetwork, over_codes


def small(**changes) -> DVAENetwork:
    torch.manual_seed(0)
    settings = {"image_size": 8, "num_codes": 6, "width": 8, "multipliers": (1, 2), "blocks": 1, "first_width": 8}
    return DVAENetwork(**{**settings, **changes})


def batch_of(images: torch.Tensor) -> ImageTextBatch:
    return ImageTextBatch(images, [""] * len(images), torch.arange(len(images)))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Four squares of different places and colours on different grounds."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(4, 3, 1, 1, generator=generator).mul(2).sub(1).expand(4, 3, 8, 8).clone()
    for k in range(4):
        pictures[k, :, k : k + 4, 2:6] = torch.rand(3, 1, 1, generator=generator) * 2 - 1
    return pictures


@pytest.mark.parametrize(("mu", "ln_b"), [(0.0, 0.0), (1.5, -2.0), (-2.0, 0.5)])
def test_the_density_integrates_to_one(mu, ln_b):
    logits = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    x = torch.sigmoid(logits)
    inside = (x > 0) & (x < 1)
    density = (-nll(x[inside], torch.tensor(mu), torch.tensor(ln_b))).exp()
    assert torch.trapezoid(density, x[inside]) == pytest.approx(1, abs=1e-4)


def test_the_density_is_a_laplace_of_the_logit_and_its_gradient_is_right():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(50, generator=generator, dtype=torch.float64) * 0.8 + 0.1
    mu, ln_b = (torch.randn(50, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    found = nll(x, mu, ln_b)
    expected = -Laplace(mu, ln_b.exp()).log_prob(torch.logit(x)) + torch.log(x) + torch.log1p(-x)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    distance = torch.logit(x) - mu.detach()
    torch.testing.assert_close(mu.grad, -distance.sign() / ln_b.detach().exp())
    torch.testing.assert_close(ln_b.grad, 1 - distance.abs() / ln_b.detach().exp())


def test_pixels_go_to_a_tenth_and_nine_tenths_and_back():
    levels = torch.arange(256.0)
    x = to_unit(levels / 127.5 - 1)
    torch.testing.assert_close(x, (1 - 2 * EPSILON) * levels / 255 + EPSILON)
    torch.testing.assert_close((from_unit(x) + 1) * 127.5, levels, atol=1e-4, rtol=0)
    parameters = torch.cat([torch.logit(x), torch.full((256,), 3.0)])[None, :, None, None]
    torch.testing.assert_close(as_images(parameters)[0, :, 0, 0], levels / 127.5 - 1, atol=1e-5, rtol=0)
    assert from_unit(torch.tensor([0.01, 0.99])).tolist() == [-1, 1]


def test_the_kl_is_zero_for_uniform_logits_and_ln_k_for_a_certain_code():
    assert kl_to_uniform(torch.full((2, 7, 3, 3), 0.3)).abs().max() < 1e-6
    certain = torch.zeros(1, 7, 2, 2)
    certain[:, 3] = 200
    torch.testing.assert_close(kl_to_uniform(certain), torch.full((1, 2, 2), math.log(7)))


def test_the_loss_is_both_joint_terms_over_the_number_of_values(images):
    """The KL of a token weighs beta over the colour values of a token: 192 in the paper (appendix A.2)."""
    model = DVAEModel(small(), beta=6.6, temperature=0.5)
    found = model.parts(batch_of(images), torch.Generator().manual_seed(1))
    loss = model.loss(batch_of(images), torch.Generator().manual_seed(1))
    tokens, values = model.grid**2, images[0].numel()
    joint = found.reconstruction * values + 6.6 * found.kl * tokens
    torch.testing.assert_close(loss, joint / values)
    with torch.device("meta"):
        assert DVAEModel(DVAENetwork()).values_per_token == 192


def test_the_scale_has_a_lower_bound_where_one_is_set(images):
    model, bounded = DVAEModel(small()), DVAEModel(small(), smallest_scale=0.1)
    x = to_unit(images)
    parameters = torch.cat([torch.logit(x), torch.full_like(x, -30.0)], dim=1)
    assert model.reconstruction(x, parameters) < -28
    torch.testing.assert_close(
        bounded.reconstruction(x, parameters), nll(x, torch.logit(x), torch.tensor(0.1).log()).mean()
    )
    with pytest.raises(InputError, match="smallest_scale"):
        DVAEModel(small(), smallest_scale=-1.0).check()


def test_at_a_small_temperature_the_relaxed_bound_is_the_true_one(images):
    cold, warm = (DVAEModel(small(), temperature=tau) for tau in (1e-4, 1.0))
    same = [f(batch_of(images), torch.Generator().manual_seed(3)) for f in (cold.parts, cold.true_parts)]
    torch.testing.assert_close(same[0].reconstruction, same[1].reconstruction, atol=1e-4, rtol=0)
    assert torch.equal(same[0].kl, same[1].kl)
    relaxed = warm.parts(batch_of(images), torch.Generator().manual_seed(3))
    assert (relaxed.reconstruction - same[1].reconstruction).abs() > 1e-3


def test_the_noise_is_gumbels():
    noise = DVAEModel(small(num_codes=64)).gumbel(400, torch.Generator().manual_seed(0))
    assert noise.mean() == pytest.approx(0.5772, abs=0.01)
    assert noise.var() == pytest.approx(math.pi**2 / 6, rel=0.02)


def test_the_papers_network_has_the_papers_sizes():
    with torch.device("meta"):
        network = DVAENetwork()
    gains = {block.gain for block in network.modules() if isinstance(block, BottleneckBlock)}
    assert gains == {1 / 64}
    counts = [sum(p.numel() for p in part.parameters()) for part in (network.encoder, network.decoder)]
    assert counts == [53_786_240, 43_829_766]  # The released files have 53.8 M and 43.8 M.
    assert network.grid == 32 and len(network.encoder.groups) == 4
    kernels = [layer.kernel_size[0] for layer in network.encoder.groups[0][0].branch]
    assert kernels == [3, 3, 3, 1]
    assert [layer.kernel_size[0] for layer in network.decoder.groups[0][0].branch] == [1, 3, 3, 3]


def test_fresh_weights_have_the_variance_of_their_fan_in():
    layer = small(width=64).encoder.groups[1][0].branch[1]
    assert layer.weight.std().item() == pytest.approx((layer.in_channels * 9) ** -0.5, rel=0.05)
    assert layer.bias.abs().max() == 0


def test_a_block_adds_its_branch_times_the_gain():
    torch.manual_seed(0)
    block, x = BottleneckBlock(8, 8, (3, 3, 3, 1), 0.25), torch.randn(2, 8, 4, 4)
    h = x
    for layer in block.branch:
        h = layer(h.clamp(min=0))
    torch.testing.assert_close(block(x), x + h / 4)


def test_the_encoder_pools_the_largest_of_four(images):
    """The second group sees the largest value of every window of two by two."""
    network = small()
    seen = []
    network.encoder.groups[1].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    first = network.encoder.groups[0](network.encoder.input(to_unit(images)))
    network.encoder(to_unit(images))
    expected = first.unflatten(2, (4, 2)).unflatten(4, (4, 2)).amax(dim=(3, 5))
    torch.testing.assert_close(seen[0], expected)


def test_tokens_decode_as_their_one_hot_vectors_do():
    network = small()
    tokens = torch.randint(0, 6, (3, 4, 4), generator=torch.Generator().manual_seed(0))
    weights = F.one_hot(tokens, 6).permute(0, 3, 1, 2).float()
    torch.testing.assert_close(network.decoder.of_tokens(tokens), network.decoder(weights))


def test_under_bfloat16_both_sides_of_the_relaxation_are_float32(images):
    """The released code has float32 convolutions there; what lies between them is bfloat16."""
    network, seen = small(), {}
    for name in ("encoder.output", "decoder.input", "decoder.output"):
        network.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: output})
        )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = network(to_unit(images), torch.zeros(1, 1, 1, 1), 0.5)
        relaxed = torch.softmax(found["logits"] / 0.5, dim=1)
        tokens = network.decoder.of_tokens(found["logits"].argmax(1))
    assert [seen[name].dtype for name in seen] == [torch.float32, torch.float32, torch.bfloat16]
    assert found["logits"].dtype == torch.float32 and tokens.dtype == torch.bfloat16
    torch.testing.assert_close(seen["decoder.input"], F.conv2d(relaxed, *network.decoder.input.parameters()))


def test_sizes_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="image_size"):
        small(image_size=9)
    with pytest.raises(ValueError, match="width"):
        small(width=6)


def test_the_schedules_begin_and_end_as_the_paper_says():
    paper = DVAESchedules()
    assert (paper.beta.at(0), paper.beta.at(5_000), paper.beta.at(10**7)) == (0, 6.6, 6.6)
    assert (paper.temperature.at(0), paper.temperature.at(150_000)) == (1, 1 / 16)
    assert paper.step_size is not None
    assert 1e-4 * paper.step_size.at(0) == 1e-4
    assert 1e-4 * paper.step_size.at(1_200_000) == pytest.approx(1.25e-6)
    half = CosineSchedule(2.0, 1.0, 100)
    assert half.at(50) == pytest.approx(1.5)
    assert half.at(25) == pytest.approx(1 + 0.5 * (1 + math.cos(math.pi / 4)))
    assert CosineSchedule(5.0, 1.0, 0).at(0) == 1
    with pytest.raises(InputError, match="temperature"):
        DVAESchedules(temperature=CosineSchedule(1.0, 0.0, 10))


def test_the_use_of_codes_is_counted():
    even = code_use(torch.tensor([[0, 1], [2, 3]]), 8)
    assert (even.perplexity.item(), even.used.item()) == (pytest.approx(4), 0.5)
    assert code_use(torch.zeros(9, dtype=torch.int64), 8).perplexity == pytest.approx(1)


def test_the_use_of_codes_is_counted_over_batches():
    """Two batches of one code each use two codes of four, where each batch by itself uses one."""
    for number, expected in (("perplexity", 2.0), ("used", 0.5)):
        metric = CodeCounts(4, number)
        for code in (1, 3):
            metric.update(torch.full((2, 3), code))
        assert metric.compute() == pytest.approx(expected)
        assert metric._reductions["counts"] is dim_zero_sum  # So it is over ranks.
        metric.reset()
        assert metric.counts.sum() == 0


def test_it_fits_a_batch(images):
    """Most of the variance, and more codes than the eight colours; the encoder is spread and slow, as in the YAML.

    Over six seeds of the noise at most 0.11 of the variance is left, and 13 to 16 codes are in use.
    """
    network, lr, steps = small(num_codes=32, width=16, gain=0.5), 1e-2, 140
    spread_logits(network.encoder, to_unit(images), 4.0)
    parts = [
        {"params": network.decoder.parameters(), "lr": lr},
        {"params": network.encoder.parameters(), "lr": lr / 10},
    ]
    optimizer = torch.optim.Adam(parts, betas=(0.9, 0.99))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    schedules = DVAESchedules(CosineSchedule(0, 0.05, 50), CosineSchedule(1, 1 / 8, steps))
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        model = DVAEModel(network, schedules.beta.at(step), schedules.temperature.at(step), 0.1)
        optimizer.zero_grad()
        model.loss(batch_of(images), generator).backward()
        optimizer.step()
        scheduler.step()
    tokens = model.encode(images)
    assert (model.decode(tokens) - images).square().mean() < 0.2 * images.var()
    assert len(tokens.unique()) > 8


def test_a_fresh_encoder_is_spread_over_its_codes(images):
    network = small(num_codes=32, width=16)
    fresh = network.encoder(to_unit(images))
    before = len(fresh.argmax(1).unique())
    spread_logits(network.encoder, to_unit(images), 3.0)
    logits = network.encoder(to_unit(images))
    assert logits.mean(dim=(0, 2, 3)).abs().max() < 1e-5
    assert logits.std(dim=(0, 2, 3)).square().mean().sqrt().item() == pytest.approx(3, rel=1e-4)
    assert len(logits.argmax(1).unique()) > 2 * before
    x, first = to_unit(images), network.encoder.input
    inner = first(x)[:, :, 3:-3, 3:-3]  # Padding is 0, which is not the pictures' mean.
    torch.manual_seed(0)
    normed = (x - x.mean()) / x.std()
    expected = small(num_codes=32, width=16).encoder.input(normed)[:, :, 3:-3, 3:-3]
    torch.testing.assert_close(inner, expected, atol=1e-4, rtol=1e-4)


def test_training_follows_the_schedules_and_exports_what_it_trained(tiny, shapes, tmp_path):
    ramp = CosineSchedule(0.0, 4.0, 4)
    schedules = DVAESchedules(ramp, CosineSchedule(1.0, 0.5, 4), CosineSchedule(1.0, 0.5, 4))
    own = {"spread": 2.0, "encoder_rate": 0.5, "optimizer": lambda p: torch.optim.SGD(p, lr=1e-3)}
    stage = DVAE(small(image_size=16), schedules, **own)
    seen = []

    def watch(*_):
        seen.append((stage.model.beta, stage.model.temperature, stage.trainer.optimizers[0].param_groups[0]["lr"]))

    stage.network.register_forward_pre_hook(watch)
    trainer = tiny.fit(stage, shapes(), 5, tmp_path, limit_val_batches=1)
    steps = range(5)
    assert [beta for beta, _, _ in seen[:5]] == [ramp.at(step) for step in steps]
    assert [tau for _, tau, _ in seen[:5]] == [schedules.temperature.at(step) for step in steps]
    warm = [min(1, (step + 1) / 100) * schedules.step_size.at(step) * 1e-3 for step in steps]
    assert [lr for _, _, lr in seen[:5]] == pytest.approx(warm)
    decoder, encoder = trainer.optimizers[0].param_groups
    assert encoder["lr"] == pytest.approx(decoder["lr"] / 2)
    assert {id(p) for p in encoder["params"]} == {id(p) for p in stage.network.encoder.parameters()}
    train = shapes().dataset("train").__getitems__(range(64)).images
    assert stage.network.encoder(to_unit(train)).std(dim=(0, 2, 3)).square().mean().sqrt().item() == pytest.approx(
        2, rel=0.1
    )
    found = trainer.callback_metrics
    for name in ("loss", "reconstruction", "kl", "bound_gap", "code_perplexity", "codes_used", "psnr"):
        assert torch.isfinite(found[f"val/{name}"])
    assert (found["train/beta"], found["train/temperature"]) == (ramp.at(4), schedules.temperature.at(4))
    assert found["train/reconstruction"] + ramp.at(4) / 12 * found["train/kl"] == pytest.approx(found["train/loss"])
    batch = shapes().dataset("val").__getitems__(range(6))
    shown = stage.show_samples(batch)
    torch.testing.assert_close(shown[6:], batch.images)
    torch.testing.assert_close(shown[:6], stage.averaged_model.decode(stage.averaged_model.encode(batch.images)))
    assert stage.predictions(batch, [])["tokens"].shape == (6, 8, 8)
    assert stage.model.beta == 4 and stage.averaged_model.beta == 4


def test_validation_measures_both_terms_the_gap_the_codes_and_the_picture(images):
    """Each from its definition, at the temperature of the step."""
    schedules = DVAESchedules(temperature=CosineSchedule(0.7, 0.7, 0))
    stage, batch = DVAE(small(), schedules), batch_of(images)
    stage._trainer = SimpleNamespace(global_rank=0, global_step=0)  # type: ignore[assignment]
    with torch.no_grad():
        found, x = stage.judge(batch), to_unit(images)
        network, noise = stage.averaged, stage.averaged_model.gumbel(4, stage.generator(1, 0))
        logits = network.encoder(x)
        relaxed, true = (
            nll(x, *network.decoder(codes).chunk(2, dim=1)).mean()
            for codes in (
                torch.softmax((logits + noise) / 0.7, dim=1),
                F.one_hot((logits + noise).argmax(1), 6).permute(0, 3, 1, 2).float(),
            )
        )
        tokens = logits.argmax(1)
        again = as_images(network.decoder.of_tokens(tokens))
    torch.testing.assert_close(found["reconstruction"], relaxed)
    torch.testing.assert_close(found["bound_gap"], true - relaxed, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["kl"], kl_to_uniform(logits).mean())
    assert found["codes_used"].compute() == pytest.approx(len(tokens.unique()) / 6)
    share = torch.bincount(tokens.flatten()).double() / tokens.numel()
    assert found["code_perplexity"].compute() == pytest.approx(
        math.exp(-share[share > 0].mul(share[share > 0].log()).sum())
    )
    error = ((again - images) / 2).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(found["psnr"], 10 * torch.log10(1 / error))


def test_a_resumed_training_is_the_uninterrupted_one(tiny, shapes, tmp_path):
    """The encoder is spread when training begins, and not again when it goes on."""

    def made() -> DVAE:
        return DVAE(small(image_size=16), spread=2.0, encoder_rate=0.5, optimizer=lambda p: torch.optim.SGD(p, lr=1e-2))

    whole, first, again = made(), made(), made()
    tiny.fit(whole, shapes(), 4, tmp_path / "whole")
    tiny.fit(first, shapes(), 2, tmp_path / "first").save_checkpoint(tmp_path / "saved.ckpt")
    tiny.fit(again, shapes(), 4, tmp_path / "again", tmp_path / "saved.ckpt")
    for network in ("network", "averaged"):
        torch.testing.assert_close(getattr(again, network).state_dict(), getattr(whole, network).state_dict())


def test_weights_that_init_from_gave_are_not_spread(tiny, shapes, tmp_path):
    stage = DVAE(small(image_size=16), spread=2.0, optimizer=lambda p: torch.optim.SGD(p, lr=0.0))
    stage.initial = ("encoder.input.weight",)
    before = {name: tensor.clone() for name, tensor in stage.network.state_dict().items()}
    tiny.fit(stage, shapes(), 1, tmp_path)
    torch.testing.assert_close(stage.network.state_dict(), before, rtol=0, atol=0)


def test_memory_layout_changes_neither_softmax_nor_its_layout():
    x = torch.randn(3, 6, 4, 5)
    for function in (F.softmax, F.log_softmax):
        for layout in (torch.contiguous_format, torch.channels_last):
            found = over_codes(function, x.contiguous(memory_format=layout))
            torch.testing.assert_close(found, function(x, dim=1))
            assert found.is_contiguous(memory_format=layout)
