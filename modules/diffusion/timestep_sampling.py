"""Which timesteps a training batch sees, and how much each counts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from modules.diffusion.noise_schedule import NoiseSchedule


class TimestepSample(NamedTuple):
    """t: (B,) int64 original timesteps; weight: (B,) float32, which makes the mean of weight * loss unbiased."""

    t: Tensor
    weight: Tensor


def uniform(schedule: NoiseSchedule, batch_size: int, generator: torch.Generator) -> TimestepSample:
    """Each timestep equally likely (DDPM algorithm 1). On the generator's device."""
    position = torch.randint(schedule.num_steps, (batch_size,), generator=generator, device=generator.device)
    return _at(schedule, position)


def antithetic(schedule: NoiseSchedule, batch_size: int, generator: torch.Generator) -> TimestepSample:
    """Half of the batch uniform, the other half mirrored (k and N - 1 - k): each is uniform, their mean varies less.

    An odd batch leaves the last mirror image out.
    """
    half = torch.randint(schedule.num_steps, ((batch_size + 1) // 2,), generator=generator, device=generator.device)
    return _at(schedule, torch.cat([half, schedule.num_steps - 1 - half])[:batch_size])


def logit_normal(
    schedule: NoiseSchedule, batch_size: int, generator: torch.Generator, mean: float = 0.0, std: float = 1.0
) -> TimestepSample:
    """More of the training in the middle: position / N is the sigmoid of a normal draw (2403.03206, 3.1).

    The emphasis is meant, so the weights are 1 and do not take it back.

    Args:
        mean: above 0 favours high noise.
        std: the spread, in logits.
    """
    normal = torch.randn(batch_size, generator=generator, device=generator.device)
    position = (torch.sigmoid(mean + std * normal) * schedule.num_steps).long().clamp(max=schedule.num_steps - 1)
    return _at(schedule, position)


class LossSecondMoment(nn.Module):
    """Importance sampling with p_t proportional to sqrt(E[L_t^2]) over recent losses (Improved DDPM eq. 18).

    Uniform until every timestep has a full history. The history is in buffers, so a checkpoint holds it.

    Args:
        num_steps: of the schedule.
        history: how many losses to remember per timestep.
        uniform_probability: mixed in, so that no timestep starves.
    """

    losses: Tensor
    seen: Tensor

    def __init__(self, num_steps: int, history: int = 10, uniform_probability: float = 0.001) -> None:
        super().__init__()
        self.uniform_probability = uniform_probability
        self.register_buffer("losses", torch.zeros(num_steps, history))
        self.register_buffer("seen", torch.zeros(num_steps, dtype=torch.int64))

    def probabilities(self) -> Tensor:
        """(N,) float32, summing to 1."""
        num_steps, history = self.losses.shape
        even = torch.full_like(self.losses[:, 0], 1 / num_steps)
        root = self.losses.square().mean(dim=1).sqrt()
        importance = root / root.sum().clamp(min=torch.finfo(root.dtype).tiny)
        mixed = importance * (1 - self.uniform_probability) + even * self.uniform_probability
        ready = (self.seen >= history).all() & (root.sum() > 0)
        return torch.where(ready, mixed, even)

    def forward(self, schedule: NoiseSchedule, batch_size: int, generator: torch.Generator) -> TimestepSample:
        """Timesteps and their weights 1 / (N p_t), on the generator's device."""
        p = self.probabilities().to(generator.device)
        position = torch.multinomial(p, batch_size, replacement=True, generator=generator)
        t, _ = _at(schedule, position)
        return TimestepSample(t, 1 / (len(p) * p[position]))

    @torch.no_grad()
    def update(self, schedule: NoiseSchedule, t: Tensor, losses: Tensor) -> None:
        """Remembers the unweighted losses (B,) at t (B,); with several ranks, gather both from all of them first."""
        device, history = self.losses.device, self.losses.shape[1]
        position, order = self._position(schedule, t.to(device)).sort(stable=True)
        values = losses.to(device, self.losses.dtype)[order]
        # Not bincount, nor a mask as an index below: both would wait for the device.
        count = torch.zeros_like(self.seen).index_add(0, position, torch.ones_like(position))
        rank = torch.arange(len(position), device=device) - (count.cumsum(0) - count)[position]
        # Of more losses than the history holds, only the latest: two writes to one slot would land in any order.
        keep = rank >= count[position] - history
        # The others go into one more slot, which is cut off again.
        slot = torch.where(keep, (self.seen[position] + rank) % history, history)
        padded = torch.nn.functional.pad(self.losses, (0, 1))
        padded[position, slot] = values
        self.losses.copy_(padded[:, :history])
        self.seen += count

    def _position(self, schedule: NoiseSchedule, t: Tensor) -> Tensor:
        """Which step of the schedule each timestep is."""
        return schedule.kept_lookup("position", lambda: torch.arange(schedule.num_steps, dtype=torch.float64), t).long()


def _at(schedule: NoiseSchedule, position: Tensor) -> TimestepSample:
    t = schedule.timesteps.to(position.device)[position]
    return TimestepSample(t, torch.ones(len(t), device=t.device))
