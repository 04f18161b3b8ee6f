from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from modules.diffusion.denoiser import as_denoiser, dynamic_threshold, split_learned_sigma, static_threshold
from modules.diffusion.gaussian import Parameterization, q_sample, training_target
from modules.diffusion.schedules import cosine, rescale_zero_terminal_snr, respace

F64 = torch.float64
SCHEDULE = cosine(1000)
T = torch.tensor([0, 300, 990])


def pair(shape: tuple[int, ...] = (3, 2, 4, 4)) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=draw, dtype=F64), torch.randn(shape, generator=draw, dtype=F64)


@pytest.mark.parametrize("parameterization", ["x0", "epsilon", "v"])
@pytest.mark.parametrize("shape", [(3, 2, 4, 4), (3, 6)])
def test_a_perfect_network_gives_data_and_noise(parameterization: Parameterization, shape: tuple[int, ...]) -> None:
    x0, noise = pair(shape)
    output = training_target(SCHEDULE, x0, noise, T, parameterization)
    denoiser = as_denoiser(lambda x, t: output, SCHEDULE, parameterization)
    found = denoiser(q_sample(SCHEDULE, x0, T, noise), T)
    torch.testing.assert_close(found[:2], (x0, noise), rtol=1e-9, atol=1e-11)
    assert found.variance_fraction is None


def test_learned_sigma_is_the_second_half_of_the_channels() -> None:
    x0, noise = pair()
    raw = torch.linspace(-1, 1, x0.numel(), dtype=F64).reshape(x0.shape)
    denoiser = as_denoiser(lambda x, t: torch.cat([x0, raw], dim=1), SCHEDULE, "x0", learned_sigma=True)
    found = denoiser(q_sample(SCHEDULE, x0, T, noise), T)
    assert torch.equal(found.x0, x0)
    assert found.variance_fraction is not None
    torch.testing.assert_close(found.variance_fraction, (raw + 1) / 2)
    assert found.variance_fraction.min() == 0 and found.variance_fraction.max() == 1


def test_outputs_of_the_wrong_shape_are_refused() -> None:
    x = torch.zeros(3, 2, 4, 4)
    with pytest.raises(ValueError, match="needs 4 output channels, the network returned 2"):
        as_denoiser(lambda x, t: x, SCHEDULE, "x0", learned_sigma=True)(x, T)
    with pytest.raises(ValueError, match=r"returned \(3, 4, 4, 4\) for a sample of \(3, 2, 4, 4\)"):
        as_denoiser(lambda x, t: torch.cat([x, x], 1), SCHEDULE, "x0")(x, T)
    with pytest.raises(ValueError, match="needs 6 output channels"):
        split_learned_sigma(x, 3)


def test_the_network_is_given_the_sample_and_the_original_timesteps() -> None:
    seen = []

    def model(x: Tensor, t: Tensor) -> Tensor:
        seen.append((x, t))
        return x

    x, t = pair()[0], torch.tensor([111, 0, 999])
    as_denoiser(model, respace(SCHEDULE, 10), "x0")(x, t)
    assert seen[0][0] is x and seen[0][1] is t


def test_zero_terminal_snr_goes_with_v_and_x0_only() -> None:
    schedule = rescale_zero_terminal_snr(SCHEDULE)
    x0, noise = pair()
    t = torch.tensor([999] * 3)
    with pytest.raises(ValueError, match="zero terminal SNR"):
        as_denoiser(lambda x, t: x, schedule, "epsilon")
    v = as_denoiser(lambda x, t: -x0, schedule, "v")(noise, t)
    torch.testing.assert_close(v[:2], (x0, noise))


@pytest.mark.parametrize("threshold", ["static", "dynamic", partial(static_threshold, limit=0.5)])
def test_thresholding_clips_x0_and_derives_epsilon_again(threshold: str) -> None:
    x0, noise = pair()
    x_t = q_sample(SCHEDULE, x0, T, noise)
    limit = 0.5 if isinstance(threshold, partial) else 1.0
    found = as_denoiser(lambda x, t: 3 * x0, SCHEDULE, "x0", threshold=threshold)(x_t, T)  # type: ignore[arg-type]
    assert float(found.x0.abs().max()) == pytest.approx(limit)
    torch.testing.assert_close(q_sample(SCHEDULE, found.x0, T, found.epsilon), x_t, rtol=1e-12, atol=1e-12)
    if threshold != "dynamic":
        torch.testing.assert_close(found.x0, (3 * x0).clamp(-limit, limit))


def test_dynamic_threshold_scales_by_the_sample_s_own_quantile() -> None:
    x0 = torch.stack([torch.linspace(-4, 0, 101, dtype=F64), torch.linspace(-0.5, 0.5, 101, dtype=F64)])
    found = dynamic_threshold(x0, quantile=0.75)
    # |x| of the first row has its third quartile at 3; the second row is within the range and stays.
    torch.testing.assert_close(found, torch.stack([x0[0].clamp(-3, 3) / 3, x0[1]]))
    torch.testing.assert_close(dynamic_threshold(x0, quantile=0.75, largest=2.0)[0], x0[0].clamp(-2, 2) / 2)
    torch.testing.assert_close(dynamic_threshold(x0, quantile=0.75, limit=2.0)[0], x0[0].clamp(-3, 3) * 2 / 3)


def test_half_precision_networks_leave_the_sample_in_float32() -> None:
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    found = as_denoiser(lambda x, t: x.bfloat16(), SCHEDULE, "x0")(x, T)
    assert found.x0.dtype == found.epsilon.dtype == torch.float32
