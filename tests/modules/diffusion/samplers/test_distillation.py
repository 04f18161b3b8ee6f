"""Progressive distillation: one DDIM step by the target goes exactly as far as the teacher's two."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from modules.diffusion import samplers
from modules.diffusion.denoiser import Prediction
from modules.diffusion.gaussian import epsilon_from_x0
from modules.diffusion.samplers.distillation import trajectory_pairs, two_steps_as_one
from modules.diffusion.schedules import cosine, respace

SCHEDULE = cosine(1000)


def teacher(x_t, t):
    """Anything that depends on x_t and t, not linearly."""
    x0 = torch.tanh(x_t * (1 - t.double() / 2000).reshape(-1, 1, 1, 1) + 0.3)
    return Prediction(x0, epsilon_from_x0(SCHEDULE, x0, x_t, t))


@pytest.mark.parametrize("steps", [1, 4])
def test_students_of_it_draw_what_the_teacher_draws_in_twice_the_steps(steps):
    """A student that has learned the targets perfectly, step by step, against the teacher's own DDIM."""
    pairs = trajectory_pairs(SCHEDULE, steps, "trailing")
    x_T = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x_T
    for start, middle, end in reversed(pairs.tolist()):
        x = ddim_to(teacher(x, at(start)), middle)
        x = ddim_to(teacher(x, at(middle)), end)
    expected = x

    def student(x_t, t):
        row = pairs[(pairs[:, 0] == int(t[0])).nonzero()[0, 0]]
        return two_steps_as_one(teacher, SCHEDULE, x_t, row.expand(len(x_t), 3))

    found = samplers.ddim(student, respace(SCHEDULE, steps, "trailing"), x_T)
    assert_close(found, expected)


def at(timestep):
    return torch.full((3,), timestep)


def ddim_to(prediction, timestep):
    """DDIM eq. 12 without noise, by hand; -1 is the data."""
    if timestep < 0:
        return prediction.x0
    alpha_bar = SCHEDULE.alpha_bar[timestep]
    return alpha_bar.sqrt() * prediction.x0 + (1 - alpha_bar).sqrt() * prediction.epsilon


def test_a_batch_may_hold_different_steps():
    pairs = trajectory_pairs(SCHEDULE, 4, "trailing")
    x = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = two_steps_as_one(teacher, SCHEDULE, x, pairs)
    for k in range(4):
        alone = two_steps_as_one(teacher, SCHEDULE, x[k : k + 1], pairs[k : k + 1])
        assert_close(together.x0[k : k + 1], alone.x0)
        assert_close(together.epsilon[k : k + 1], alone.epsilon)


def test_steps_without_a_middle_are_refused():
    assert trajectory_pairs(SCHEDULE, 4, "trailing").tolist() == [
        [249, 124, -1],
        [499, 374, 249],
        [749, 624, 499],
        [999, 874, 749],
    ]
    with pytest.raises(ValueError, match="between timestep 0 and the data there is none"):
        trajectory_pairs(SCHEDULE, 1000, "trailing")
