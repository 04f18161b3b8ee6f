from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modules.diffusion.schedules import (
    NoiseSchedule,
    at_positions,
    cosine,
    from_betas,
    linear,
    noise_interval,
    rescale_zero_terminal_snr,
    respace,
)

F64 = torch.float64


def test_cosine_follows_the_squared_cosine_and_clips_beta() -> None:
    schedule = cosine(1000)
    k = torch.tensor([0, 1, 250, 500, 900, 998], dtype=F64)
    f = torch.cos(((k + 1) / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    torch.testing.assert_close(schedule.alpha_bar[k.long()], f, rtol=1e-11, atol=0)
    assert schedule.betas[-1] == pytest.approx(0.999, rel=1e-12)
    assert schedule.alpha_bar.dtype == F64


@pytest.mark.parametrize("steps", [1000, 250, 4000])
def test_linear_betas_are_scaled_to_the_number_of_steps(steps: int) -> None:
    betas = linear(steps).betas
    scale = 1000 / steps
    expected = torch.tensor([1e-4 * scale, 0.01005 * scale, 0.02 * scale], dtype=F64)
    middle = (betas[steps // 2 - 1] + betas[steps // 2]) / 2
    torch.testing.assert_close(torch.stack([betas[0], middle, betas[-1]]), expected, rtol=1e-10, atol=0)


def test_linear_refuses_so_few_steps_that_beta_reaches_one() -> None:
    with pytest.raises(ValueError, match="more than 20 steps, got 20"):
        linear(20)


def adm_spacing(total: int, counts: list[int]) -> list[int]:
    """Written from the description in Improved DDPM's repository: accumulate a fractional stride in each section."""
    steps, start = [], 0
    for i, count in enumerate(counts):
        size = total // len(counts) + (i < total % len(counts))
        stride = 1.0 if count <= 1 else (size - 1) / (count - 1)
        position = 0.0
        for _ in range(count):
            steps.append(start + round(position))
            position += stride
        start += size
    return steps


def test_adm_spacing_for_every_count() -> None:
    schedule = linear(1000)
    differ = [n for n in range(1, 1001) if respace(schedule, n).timesteps.tolist() != adm_spacing(1000, [n])]
    assert differ == []


def test_adm_spacing_in_sections() -> None:
    steps = respace(cosine(1000), [10, 10, 3, 2, 2]).timesteps.tolist()
    assert steps == adm_spacing(1000, [10, 10, 3, 2, 2])
    assert steps[:3] == [0, 22, 44] and steps[-4:] == [600, 799, 800, 999]
    assert respace(cosine(10), [2, 2, 2]).timesteps.tolist() == [0, 3, 4, 6, 7, 9]


def test_other_spacings() -> None:
    schedule = cosine(1000)
    assert respace(schedule, 10, "adm").timesteps.tolist() == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]
    assert respace(schedule, 27, "ddim").timesteps.tolist() == list(range(0, 1000, 38))
    assert respace(schedule, 15, "leading").timesteps.tolist() == list(range(0, 66 * 15, 66))
    assert respace(schedule, 4, "trailing").timesteps.tolist() == [249, 499, 749, 999]
    assert respace(schedule, 1, "trailing").timesteps.tolist() == [999]


def test_log_snr_spacing_is_even_in_log_snr() -> None:
    schedule = linear(1000)
    spaced = respace(schedule, 12, "log_snr")
    assert spaced.timesteps[0] == 0 and spaced.timesteps[-1] == 999
    gaps = spaced.log_snr.diff()
    even = (schedule.log_snr[-1] - schedule.log_snr[0]) / 11
    assert float((gaps / even - 1).abs().max()) < 0.2
    with pytest.raises(ValueError, match="repeat a timestep"):
        respace(schedule, 200, "log_snr")
    with pytest.raises(ValueError, match="zero SNR"):
        respace(rescale_zero_terminal_snr(schedule), 5, "log_snr")


@pytest.mark.parametrize(
    ("steps", "spacing", "message"),
    [
        (0, "adm", "cannot take 0 steps"),
        (101, "adm", "cannot take 101 steps of a schedule of 100"),
        (60, "ddim", "no whole stride takes exactly 60 steps of 100"),
        ([60, 10], "adm", "cannot take 60 steps of a section of 50"),
        ([10, 10], "ddim", "sections of steps go with adm"),
        (10, "cubic", "unknown spacing 'cubic'"),
    ],
)
def test_impossible_trajectories_are_refused(steps: int, spacing: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        respace(cosine(100), steps, spacing)  # type: ignore[arg-type]


def test_respacing_keeps_the_noise_levels_and_the_original_timesteps() -> None:
    schedule = cosine(1000)
    once = respace(schedule, 100)
    twice = respace(once, 10)
    torch.testing.assert_close(twice.alpha_bar, schedule.alpha_bar[twice.timesteps], rtol=0, atol=0)
    assert twice.timesteps.tolist() == [once.timesteps[round(11 * k)] for k in range(10)]
    # A longer step's beta is what the short steps that it spans add up to.
    spanned = [
        schedule.alphas[a + 1 : b + 1].prod() for a, b in zip(twice.timesteps, twice.timesteps[1:], strict=False)
    ]
    torch.testing.assert_close(twice.betas[1:], 1 - torch.stack(spanned), rtol=1e-10, atol=0)


def test_lookup_goes_by_original_timestep_and_broadcasts() -> None:
    schedule = respace(cosine(1000), 10)
    t = torch.tensor([999, 0, 111])
    picked = schedule.lookup(schedule.log_snr, t, torch.zeros(3, 2, 4, 4, dtype=F64))
    assert picked.shape == (3, 1, 1, 1)
    assert picked.flatten().tolist() == schedule.log_snr[[9, 0, 1]].tolist()
    assert schedule.lookup(schedule.snr, t, torch.zeros(3, 7)).shape == (3, 1)


@pytest.mark.parametrize(
    ("dtype", "expected"), [(F64, F64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)]
)
def test_lookup_is_rounded_once_from_float64(dtype: torch.dtype, expected: torch.dtype) -> None:
    schedule = cosine(1000)
    picked = schedule.lookup(schedule.noise, torch.tensor([0]), torch.zeros(1, 1, dtype=dtype))
    assert picked.dtype == expected
    assert picked.item() == schedule.noise[0].to(expected).item()


def test_lookup_refuses_a_timestep_outside_of_the_schedule() -> None:
    schedule = respace(cosine(1000), 10)
    for t in (5, 1000, -1):
        with pytest.raises(ValueError, match="not all in the schedule's 10 timesteps"):
            schedule.lookup(schedule.snr, torch.tensor([0, t]), torch.zeros(2, 1))


def test_where_the_check_would_wait_for_a_device_an_unknown_timestep_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoiseSchedule, "_check", lambda self, t: None)
    schedule = respace(cosine(1000), 10)
    picked = schedule.lookup(schedule.snr, torch.tensor([0, 5, 999]), torch.zeros(3, 1)).flatten()
    assert picked.isnan().tolist() == [False, True, False]


def test_zero_terminal_snr() -> None:
    schedule = linear(1000)
    rescaled = rescale_zero_terminal_snr(schedule)
    assert rescaled.alpha_bar[-1] == 0 and rescaled.log_snr[-1] == -math.inf
    assert rescaled.alpha_bar[0] == pytest.approx(schedule.alpha_bar[0].item(), rel=1e-12)
    # The map is affine in sqrt(alpha_bar).
    x, y = schedule.signal, rescaled.signal
    slope = (y[0] - y[-1]) / (x[0] - x[-1])
    torch.testing.assert_close(y, y[0] + slope * (x - x[0]), rtol=0, atol=1e-13)


def test_noise_interval() -> None:
    schedule = cosine(1000)
    first, last = noise_interval(schedule, 0.28, 2.9)
    sigma = (1 / schedule.alpha_bar - 1).sqrt()
    assert sigma[first - 1] < 0.28 <= sigma[first] < sigma[last] <= 2.9 < sigma[last + 1]
    with pytest.raises(ValueError, match="no timestep has a noise level between"):
        noise_interval(schedule, 1e-9, 1e-8)


@pytest.mark.parametrize(
    ("alpha_bar", "timesteps", "message"),
    [
        ([0.9, 0.95], [0, 1], "decrease strictly"),
        ([1.0, 0.5], [0, 1], "decrease strictly"),
        ([0.5, -0.1], [0, 1], "decrease strictly"),
        ([0.5, math.nan], [0, 1], "decrease strictly"),
        ([0.9, 0.5], [1, 1], "increase strictly"),
        ([0.9, 0.5], [-1, 1], "increase strictly"),
        ([0.9, 0.5], [0], "two non-empty vectors"),
    ],
)
def test_a_schedule_that_is_none_is_refused(alpha_bar: list[float], timesteps: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoiseSchedule(torch.tensor(alpha_bar, dtype=F64), torch.tensor(timesteps))


def test_only_float64_will_do() -> None:
    with pytest.raises(ValueError, match="want float64"):
        NoiseSchedule(torch.tensor([0.9, 0.5]), torch.arange(2))


@settings(deadline=None)
@given(st.lists(st.floats(1e-5, 0.999), min_size=2, max_size=30))
def test_derived_quantities_agree_for_any_betas(values: list[float]) -> None:
    betas = torch.tensor(values, dtype=F64)
    schedule = from_betas(betas)
    torch.testing.assert_close(schedule.betas, betas, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(schedule.signal**2 + schedule.noise**2, torch.ones_like(betas), rtol=0, atol=1e-15)
    torch.testing.assert_close(schedule.log_snr.exp(), schedule.snr, rtol=1e-12, atol=0)
    assert schedule.alpha_bar_prev.tolist() == [1.0, *schedule.alpha_bar[:-1].tolist()]
    assert schedule.posterior_variance[0] == 0
    assert bool((schedule.posterior_variance[1:] > 0).all() and (schedule.posterior_variance <= schedule.betas).all())
    expected = schedule.posterior_variance[1:].log()
    assert schedule.posterior_log_variance.tolist() == [expected[0], *expected.tolist()]


def test_at_positions_of_one_step() -> None:
    schedule = at_positions(cosine(10), [4])
    assert schedule.num_steps == 1
    assert schedule.posterior_log_variance.item() == pytest.approx(math.log(schedule.betas.item()))


def test_glides_fast27_spares_the_noisiest_timestep() -> None:
    """GLIDE's upsampler: sections of 10, 10, 3, 2 and 2 steps, 997 in the place of 999."""
    steps = respace(linear(1000), 27, "fast27").timesteps.tolist()
    assert steps == [*adm_spacing(1000, [10, 10, 3, 2, 2])[:-1], 997] and len(steps) == 27
    with pytest.raises(ValueError, match="fast27 spacing has 27 steps, not 8"):
        respace(linear(1000), 8, "fast27")
