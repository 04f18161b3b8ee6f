"""Cosine schedules over the steps of the optimiser (DALL-E 1, appendix A.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from modules.errors import InputError


@dataclass(frozen=True)
class CosineSchedule:
    """From `start` to `end` along a half cosine over `steps` steps, `end` afterwards.

    Attributes:
        start: value at step 0.
        end: value from step `steps` on.
        steps: 1 or more; or 0 for `end` throughout.
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise InputError(f"a schedule's steps are {self.steps}: give 0 or more")

    def at(self, step: int) -> float:
        """The value at a step."""
        if step >= self.steps:
            return self.end
        return self.end + (self.start - self.end) * 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass(frozen=True)
class DVAESchedules:
    """The three schedules of the dVAE's training, each with the paper's values by default.

    Attributes:
        beta: of the KL's weight.
        temperature: of the relaxation's tau. A linear one "typically led to divergence" (A.2).
        step_size: of the learning rate, as a share of the optimiser's; null leaves it to the training config.
    """

    beta: CosineSchedule = CosineSchedule(0.0, 6.6, 5_000)
    temperature: CosineSchedule = CosineSchedule(1.0, 1 / 16, 150_000)
    step_size: CosineSchedule | None = CosineSchedule(1.0, 1.25e-6 / 1e-4, 1_200_000)

    def __post_init__(self) -> None:
        if min(self.temperature.start, self.temperature.end) <= 0:
            raise InputError(f"schedules.temperature must stay above 0, found {self.temperature}")
