from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import scipy.special
import torch
from torch import Tensor, nn

from modules.diffusion import gaussian as g
from modules.diffusion.bound import bound_term
from modules.diffusion.losses import Weighting, diffusion_loss, hybrid_loss, loss_weight, pseudo_huber
from modules.diffusion.schedules import NoiseSchedule, cosine, linear, rescale_zero_terminal_snr, respace

F64 = torch.float64
PARAMETERIZATIONS: tuple[g.Parameterization, ...] = ("x0", "epsilon", "v")


def draws(shape: tuple[int, ...], dtype: torch.dtype = F64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x0, noise, other = (torch.randn(shape, generator=draw, dtype=dtype) for _ in range(3))
    return x0, noise, other


def outputs_for(
    schedule: NoiseSchedule, x0_estimate: Tensor, x_t: Tensor, t: Tensor
) -> dict[g.Parameterization, Tensor]:
    """The same estimate as each parameterization would put it."""
    epsilon = g.epsilon_from_x0(schedule, x0_estimate, x_t, t)
    return {"x0": x0_estimate, "epsilon": epsilon, "v": g.velocity(schedule, x0_estimate, epsilon, t)}


@pytest.mark.parametrize("shape", [(3, 2, 4, 4), (3, 6)])
def test_plain_losses_are_the_mean_squared_error_per_sample(shape: tuple[int, ...]) -> None:
    schedule, t = cosine(1000), torch.tensor([0, 500, 999])
    x0, noise, output = draws(shape)
    a, s = schedule.signal[t], schedule.noise[t]
    for i in range(3):
        targets = {"x0": x0[i], "epsilon": noise[i], "v": a[i] * noise[i] - s[i] * x0[i]}
        for name in PARAMETERIZATIONS:
            loss = diffusion_loss(output, schedule, x0, noise, t, name)
            assert loss.shape == (3,)
            # The weight is float32.
            assert loss[i].item() == pytest.approx((output[i] - targets[name]).square().mean().item(), rel=1e-6)


@pytest.mark.parametrize(
    ("weighting", "x0_weight"),
    [
        ("snr", lambda snr: snr),
        ("min_snr", lambda snr: snr.clamp(max=5)),
        ("min_snr_plus_one", lambda snr: (snr + 1).clamp(max=5)),
    ],
)
def test_a_weighting_is_a_weight_of_the_x0_error_whatever_is_predicted(
    weighting: Weighting, x0_weight: Callable[[Tensor], Tensor]
) -> None:
    schedule, t = cosine(1000), torch.tensor([0, 1, 100, 400, 600, 900, 999])
    x0, noise, estimate = draws((7, 5))
    x_t = g.q_sample(schedule, x0, t, noise)
    expected = x0_weight(schedule.snr[t]) * (estimate - x0).square().mean(dim=1)
    for name, output in outputs_for(schedule, estimate, x_t, t).items():
        if (name, weighting) != ("epsilon", "min_snr_plus_one"):
            loss = diffusion_loss(output, schedule, x0, noise, t, name, weighting)
            torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", [0.01, 0.1, 3.0])
def test_pseudo_huber_is_scipys_twice(scale: float) -> None:
    error = torch.cat([torch.linspace(-4, 4, 41, dtype=F64), torch.tensor([1e-6, -1e6], dtype=F64)]).requires_grad_()
    found = pseudo_huber(error, scale)
    expected = 2 * scipy.special.pseudo_huber(scale, error.detach().numpy())
    torch.testing.assert_close(found.detach(), torch.from_numpy(expected), rtol=1e-4, atol=0)
    (slope,) = torch.autograd.grad(found.sum(), error)
    values = error.detach()
    torch.testing.assert_close(slope, 2 * scale * values / (values.square() + scale**2).sqrt(), rtol=1e-9, atol=0)


def test_pseudo_huber_is_the_square_of_small_errors_and_grows_with_the_size_of_large_ones() -> None:
    small, large = torch.tensor([1e-5]), torch.tensor([50.0])
    torch.testing.assert_close(pseudo_huber(small, 0.1), small.square(), rtol=1e-6, atol=0)  # In float32, too.
    torch.testing.assert_close(pseudo_huber(large, 0.1), 0.2 * large - 0.02, rtol=1e-5, atol=0)


def test_the_best_guess_of_two_is_sharp_by_pseudo_huber_and_soft_by_squares() -> None:
    """A pixel is black in 70 of 100 pictures, white in 30: the mean is grey, the median black."""
    values = torch.cat([torch.full((70,), -1.0), torch.full((30,), 1.0)])
    guesses = torch.linspace(-1, 1, 2001)[:, None]
    by_squares = guesses[(guesses - values).square().mean(dim=1).argmin()]
    by_huber = guesses[pseudo_huber(guesses - values, 0.1).mean(dim=1).argmin()]
    assert by_squares.item() == pytest.approx(-0.4, abs=1e-3)
    assert by_huber.item() < -0.95


@pytest.mark.parametrize("weighting", ["none", "snr", "min_snr"])
def test_a_huber_scale_replaces_the_square_of_what_is_predicted(weighting: Weighting) -> None:
    schedule, t = cosine(1000), torch.tensor([0, 500, 999])
    x0, noise, output = draws((3, 2, 4, 4))
    for name in PARAMETERIZATIONS:
        error = output - g.training_target(schedule, x0, noise, t, name)
        expected = pseudo_huber(error, 0.3).mean(dim=(1, 2, 3)) * loss_weight(schedule, t, name, weighting)
        found = diffusion_loss(output, schedule, x0, noise, t, name, weighting, huber_scale=0.3)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
        both = torch.cat([output, torch.zeros_like(output)], dim=1)
        plain = hybrid_loss(both, schedule, x0, noise, t, name, weighting)
        robust = hybrid_loss(both, schedule, x0, noise, t, name, weighting, huber_scale=0.3)
        squared = diffusion_loss(output, schedule, x0, noise, t, name, weighting)
        torch.testing.assert_close(robust - plain, found - squared, rtol=1e-6, atol=1e-6)  # The bound is as before.


def test_gamma_is_where_the_weight_is_cut_off() -> None:
    schedule = cosine(1000)
    t = schedule.timesteps
    for gamma in (1.0, 5.0, 20.0):
        weight = loss_weight(schedule, t, "x0", "min_snr_plus_one", gamma)
        assert weight.shape == (1000,)
        assert weight.max() == gamma
        assert weight[-1] == pytest.approx(min(1 + schedule.snr[-1].item(), gamma))
        below = (schedule.snr + 1) < gamma
        torch.testing.assert_close(weight[below].double(), (schedule.snr + 1)[below], rtol=1e-6, atol=0)
    assert loss_weight(schedule, t, "x0", "min_snr_plus_one").max() == 5


def test_weights_at_zero_snr_are_finite() -> None:
    schedule, t = rescale_zero_terminal_snr(cosine(1000)), torch.tensor([999])
    found = {
        (name, weighting): loss_weight(schedule, t, name, weighting).item()
        for name, weighting in itertools.product(PARAMETERIZATIONS, ("none", "snr", "min_snr"))
    }
    assert found == {
        ("x0", "none"): 1, ("x0", "snr"): 0, ("x0", "min_snr"): 0,
        ("epsilon", "none"): 1, ("epsilon", "snr"): 1, ("epsilon", "min_snr"): 1,
        ("v", "none"): 1, ("v", "snr"): 0, ("v", "min_snr"): 0,
    }  # fmt: skip


def test_weightings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="for epsilon it grows without bound"):
        loss_weight(cosine(10), torch.tensor([1]), "epsilon", "min_snr_plus_one")
    with pytest.raises(ValueError, match="unknown weighting 'p2'"):
        loss_weight(cosine(10), torch.tensor([1]), "x0", "p2")  # type: ignore[arg-type]


def reference_hybrid(
    schedule: NoiseSchedule, mean_output: Tensor, raw: Tensor, x0: Tensor, noise: Tensor, t: int
) -> float:
    """One epsilon-predicting sample, step by step from Improved DDPM section 3.1, for t > 0, in nats turned to bits."""
    alpha_bar, previous = schedule.alpha_bar[t], schedule.alpha_bar[t - 1]
    beta = 1 - alpha_bar / previous
    tilde = (1 - previous) / (1 - alpha_bar) * beta
    x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
    sigma2 = torch.exp((raw + 1) / 2 * beta.log() + (1 - raw) / 2 * tilde.log())

    def mean(epsilon: Tensor) -> Tensor:
        return (x_t - beta / (1 - alpha_bar).sqrt() * epsilon) / (1 - beta).sqrt()

    true = torch.distributions.Normal(mean(noise), tilde.sqrt())
    model = torch.distributions.Normal(mean(mean_output), sigma2.sqrt())
    bits = torch.distributions.kl_divergence(true, model).mean() / math.log(2)
    simple = (mean_output - noise).square().mean()
    return float(simple + 0.001 * schedule.num_steps * bits)


@pytest.mark.parametrize("t", [1, 40, 500, 998])
def test_hybrid_loss_is_that_of_improved_ddpm(t: int) -> None:
    schedule = cosine(1000)
    x0, noise, mean_output = draws((1, 3, 4, 4))
    raw = draws((1, 3, 4, 4), seed=1)[0]
    output = torch.cat([mean_output, raw], dim=1)
    loss = hybrid_loss(output, schedule, x0, noise, torch.tensor([t]), "epsilon")
    assert loss.item() == pytest.approx(reference_hybrid(schedule, mean_output, raw, x0, noise, t), rel=1e-6)


def test_hybrid_loss_at_the_first_step_has_the_decoder_s_likelihood() -> None:
    schedule, t = cosine(1000), torch.tensor([0])
    x0, noise, mean_output = draws((1, 2, 4, 4))
    x0, raw = x0.clamp(-1, 1), draws((1, 2, 4, 4), seed=1)[0]
    x_t = g.q_sample(schedule, x0, t, noise)
    log_variance = g.learned_log_variance(schedule, (raw + 1) / 2, t)
    model = g.Gaussian(g.x0_from_epsilon(schedule, mean_output, x_t, t), log_variance.exp(), log_variance)
    for decoder in ("discretised", "gaussian"):
        loss = hybrid_loss(
            torch.cat([mean_output, raw], dim=1), schedule, x0, noise, t, "epsilon", bound_weight=0.25, decoder=decoder
        )
        simple = diffusion_loss(mean_output, schedule, x0, noise, t, "epsilon")
        term = bound_term(schedule, model, x0, x_t, t, decoder)
        torch.testing.assert_close(loss, simple + 0.25 * 1000 * term)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_the_bound_s_gradient_reaches_the_variance_head_only(parameterization: g.Parameterization) -> None:
    schedule = cosine(1000)
    t = torch.tensor([0, 1, 500, 999])
    x0, noise, mean_output = draws((4, 2, 4, 4))
    raw = draws((4, 2, 4, 4), seed=1)[0]
    mean_output.requires_grad_()
    raw.requires_grad_()
    loss = hybrid_loss(torch.cat([mean_output, raw], dim=1), schedule, x0, noise, t, parameterization, "min_snr")
    hybrid_gradient, variance_gradient = torch.autograd.grad(loss.sum(), [mean_output, raw])
    simple = diffusion_loss(mean_output, schedule, x0, noise, t, parameterization, "min_snr")
    (simple_gradient,) = torch.autograd.grad(simple.sum(), mean_output)
    assert torch.equal(hybrid_gradient, simple_gradient)
    assert bool((variance_gradient.abs().amax(dim=(1, 2, 3)) > 0).all())


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize(
    "schedule", [cosine(1000), linear(1000), respace(cosine(1000), 10)], ids=["cosine", "linear", "respaced"]
)
@pytest.mark.parametrize("size", [1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hybrid_loss_is_finite_at_every_timestep(
    parameterization: g.Parameterization, schedule: NoiseSchedule, size: float, dtype: torch.dtype
) -> None:
    """Inputs and outputs up to ``size``, with the extremes among them; output in fp32 or as bf16 autocast leaves it."""
    t = schedule.timesteps.repeat(3)
    draw = torch.Generator().manual_seed(0)
    x0, noise, output = ((torch.rand(len(t), c, 8, generator=draw) * 2 - 1) * size for c in (1, 1, 2))
    noise = noise / size
    output[::3, :, 0], output[1::3, :, 1], x0[::2, :, 2] = size, -size, size
    output[2::3, 1, 3], x0[:, :, 4] = 0.0, 0.0
    output = output.to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        for decoder in ("discretised", "gaussian"):
            loss = hybrid_loss(output, schedule, x0, noise, t, parameterization, "min_snr", decoder=decoder)
            assert loss.dtype == torch.float32
            assert bool(torch.isfinite(loss).all())
            (gradient,) = torch.autograd.grad(loss.sum(), output)
            assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("autocast", [False, True])
def test_hybrid_loss_trains_a_network_from_extreme_inputs(autocast: bool) -> None:
    """Through a real backward pass: no gradient of a weight is NaN, infinite or, for the variance head, dead."""
    schedule = cosine(1000)
    torch.manual_seed(0)
    network = nn.Conv2d(3, 6, 3, padding=1)
    t = schedule.timesteps[::37]
    draw = torch.Generator().manual_seed(0)
    x0 = (torch.rand(len(t), 3, 8, 8, generator=draw) * 2 - 1) * 1e3
    noise = torch.randn(x0.shape, generator=draw)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = network(g.q_sample(schedule, x0, t, noise))
        assert output.dtype == (torch.bfloat16 if autocast else torch.float32)
        hybrid_loss(output, schedule, x0, noise, t, "epsilon").mean().backward()
    assert network.weight.grad is not None
    assert bool(torch.isfinite(network.weight.grad).all())
    assert float(network.weight.grad[3:].abs().max()) > 0


def test_a_variance_head_far_out_of_range_is_pulled_back() -> None:
    """Beyond any range the gradient still points inwards, so that the head can come back."""
    schedule = respace(cosine(1000), 10)
    t = schedule.timesteps[1:]  # at the first step, a perfect mean wants no variance at all
    x0, noise, _ = draws((9, 2, 4))
    for start in (-1e3, 1e3):
        raw = torch.full((9, 2, 4), start, dtype=F64, requires_grad=True)
        # The posterior's own mean: only the variance is wrong.
        loss = hybrid_loss(torch.cat([x0, raw], dim=1), schedule, x0, noise, t, "x0", decoder="gaussian")
        (gradient,) = torch.autograd.grad(loss.sum(), raw)
        assert bool((gradient * start > 0).all())
