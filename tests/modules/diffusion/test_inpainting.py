"""Inpainting against a Gaussian whose conditional distribution is known."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from modules.diffusion.inpainting import inpaint
from modules.diffusion.schedules import cosine, respace

MEAN = torch.tensor([0.5, -0.5], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.3, 0.24], [0.24, 0.3]], dtype=torch.float64)
MASK = torch.tensor([[1.0, 0.0]], dtype=torch.float64)


def draw(gaussian_denoiser, generators, count=800, steps=50, **options):
    schedule = respace(cosine(1000), steps, "trailing")
    own = generators(count)
    x_T = torch.randn(count, 2, generator=own[0], dtype=torch.float64)
    known = torch.tensor([1.1, 7.0], dtype=torch.float64).expand(count, 2)
    denoiser = gaussian_denoiser(schedule, MEAN, COVARIANCE)
    return inpaint(denoiser, schedule, x_T, known=known, mask=MASK, generators=own, **options)


def test_what_is_known_is_returned_exactly_and_the_rest_follows_its_conditional(gaussian_denoiser, generators):
    drawn = draw(gaussian_denoiser, generators, resamples=6)
    assert torch.equal(drawn[:, 0], torch.full((800,), 1.1, dtype=torch.float64))
    mean = -0.5 + 0.24 / 0.3 * (1.1 - 0.5)
    deviation = (0.3 - 0.24**2 / 0.3) ** 0.5
    assert_close(float(drawn[:, 1].mean()), mean, atol=0.05, rtol=0)
    assert_close(float(drawn[:, 1].std()), deviation, atol=0.05, rtol=0)


def test_what_is_known_is_noised_to_the_level_of_each_step(gaussian_denoiser, generators):
    schedule, steps = respace(cosine(1000), 10, "trailing"), []
    denoiser = gaussian_denoiser(schedule, MEAN, COVARIANCE)
    known = torch.full((2, 4000, 2), 2.0, dtype=torch.float64)
    x_T = torch.randn(known.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    everything = torch.ones(1, 1, 1, dtype=torch.float64)
    inpaint(
        denoiser,
        schedule,
        x_T,
        known=known,
        mask=everything,
        generators=generators(2),
        on_step=steps.append,
        resamples=2,
    )
    for step, alpha_bar in zip(steps, schedule.alpha_bar_prev.flip(0).tolist(), strict=True):
        assert_close(float(step.x.mean()), 2 * alpha_bar**0.5, atol=0.05, rtol=0)
        assert_close(float(step.x.std()), (1 - alpha_bar) ** 0.5, atol=0.05, rtol=0)


def test_resampling_brings_the_two_parts_together(gaussian_denoiser, generators):
    wanted = -0.5 + 0.24 / 0.3 * (1.1 - 0.5)
    once, often = (
        abs(float(draw(gaussian_denoiser, generators, steps=10, resamples=n)[:, 1].mean()) - wanted) for n in (1, 8)
    )
    assert often < 0.6 * once, (once, often)


def test_without_a_mask_it_is_ddim(gaussian_denoiser, generators):
    from modules.diffusion.samplers import ddim

    schedule = respace(cosine(1000), 8, "trailing")
    denoiser = gaussian_denoiser(schedule, MEAN, COVARIANCE)
    x_T = torch.randn(4, 2, dtype=torch.float64)
    nothing = torch.zeros(1, 2, dtype=torch.float64)
    drawn = inpaint(
        denoiser, schedule, x_T, known=x_T * torch.nan, mask=nothing, generators=generators(4), resamples=1, eta=0.0
    )
    assert_close(drawn, ddim(denoiser, schedule, x_T))


@pytest.mark.parametrize(
    ("options", "message"), [({"eta": 1.5}, "eta"), ({"resamples": 0}, "resamples"), ({"mask": MASK * 2}, "mask")]
)
def test_what_makes_no_sense_is_refused(gaussian_denoiser, generators, options, message):
    schedule = respace(cosine(1000), 8, "trailing")
    denoiser = gaussian_denoiser(schedule, MEAN, COVARIANCE)
    x = torch.zeros(2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=message):
        inpaint(denoiser, schedule, x, **{"known": x, "mask": MASK, "generators": generators(2), **options})
