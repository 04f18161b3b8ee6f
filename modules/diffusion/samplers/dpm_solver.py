"""DPM-Solver++ (Lu et al. 2211.01095)."""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

from torch import Tensor

from modules.diffusion.denoiser import Denoiser
from modules.diffusion.noise import Generators
from modules.diffusion.noise_schedule import NoiseSchedule
from modules.diffusion.samplers.loop import Denoise, Noise, OnStep, State, run
from modules.diffusion.samplers.trajectory import Transition

Order = Literal[1, 2]


def dpm_solver_pp(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x_T: Tensor,
    *,
    generators: Generators | None = None,
    on_step: OnStep | None = None,
    order: Order = 2,
    sde: bool = False,
) -> Tensor:
    """DPM-Solver++ 2M (algorithm 2), or SDE-DPM-Solver++ 2M (eq. 19), midpoint form.

    The first step, and the last one to zero noise, are of first order.

    Args:
        order: 2, or 1, which is DDIM with eta = 0 (and, with sde, DDPM's fixed_small variance in another mean).
        sde: the stochastic solver.

    Raises:
        ValueError: for another order; for sde without generators.
    """
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order}")
    return run(partial(dpm_solver_pp_step, order=order, sde=sde), denoiser, schedule, x_T, generators, on_step)


def dpm_solver_pp_step(
    state: State, transition: Transition, denoise: Denoise, noise: Noise, *, order: Order = 2, sde: bool = False
) -> State:
    """A step in half the log-SNR, by h; of second order it looks back to the estimate of the step before."""
    before, now, cleaner = transition.before, transition.now, transition.next
    h = cleaner.half_log_snr - now.half_log_snr
    x0 = denoise(state.x).x0
    direction = x0
    if order == 2 and before is not None and state.x0 is not None and not transition.last:
        last_h = now.half_log_snr - before.half_log_snr
        direction = x0 + 0.5 * h / last_h * (x0 - state.x0)
    decay = math.exp(-h) if sde else 1.0
    gain = -math.expm1(-2 * h if sde else -h)
    x = cleaner.noise / now.noise * decay * state.x + cleaner.signal * gain * direction
    if sde and not transition.last:
        x = x + cleaner.noise * math.sqrt(-math.expm1(-2 * h)) * noise(x)
    return State(x, x0)
