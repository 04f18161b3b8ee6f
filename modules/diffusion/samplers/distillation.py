"""Progressive distillation: the estimate of x0 with which one DDIM step goes as far as two (2202.00512, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.diffusion.denoiser import Denoiser, Prediction
from modules.diffusion.gaussian import epsilon_from_x0
from modules.diffusion.schedules import NoiseSchedule, Spacing, respace


def trajectory_pairs(schedule: NoiseSchedule, steps: int, spacing: Spacing) -> Tensor:
    """(steps, 3) int64: where each step of a trajectory starts, where its two halves meet, and where it ends.

    The halves meet at the timestep in the middle. The end is -1, the data, for the last step.

    Raises:
        ValueError: two timesteps of the trajectory are neighbours, so that there is no middle.
    """
    starts = respace(schedule, steps, spacing).timesteps.tolist()
    rows = []
    for start, end in zip(starts, [-1, *starts[:-1]], strict=True):
        if start - end < 2:
            reached = "the data" if end < 0 else f"timestep {end}"
            raise ValueError(f"between timestep {start} and {reached} there is none, so that step is not made of two")
        rows.append([start, (start + end) // 2 if end >= 0 else start // 2, end])
    return torch.tensor(rows)


def two_steps_as_one(denoise: Denoiser, schedule: NoiseSchedule, x_t: Tensor, places: Tensor) -> Prediction:
    """The prediction that takes x_t in one DDIM step to where the teacher's two steps take it.

    Args:
        denoise: the teacher.
        x_t: (B, ...) noised data at the timesteps of the first column.
        places: (B, 3) rows of `trajectory_pairs`.
    """
    start, middle, end = (column.to(x_t.device) for column in places.T)
    first = denoise(x_t, start)
    at_middle, at_start = schedule.at(middle, like=x_t), schedule.at(start, like=x_t)
    second = denoise(at_middle.signal * first.x0 + at_middle.noise * first.epsilon, middle)
    last = (end < 0).reshape(-1, *[1] * (x_t.ndim - 1))
    at_end = schedule.at(end.clamp(min=0), like=x_t)
    signal = torch.where(last, 1.0, at_end.signal)
    noise = torch.where(last, 0.0, at_end.noise)
    reached = signal * second.x0 + noise * second.epsilon
    ratio = noise / at_start.noise
    x0 = (reached - ratio * x_t) / (signal - ratio * at_start.signal)
    return Prediction(x0, epsilon_from_x0(schedule, x0, x_t, start))
