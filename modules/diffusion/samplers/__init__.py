"""Samplers over any denoiser: x_T in, x_0 out.

All take ``(denoiser, schedule, x_T, *, generators, on_step, ...)``. ``schedule`` is the trajectory, usually
``respace``d. ``generators`` holds one torch.Generator per image, so that image i does not depend on the batch it is
drawn in; they may live on another device than x_T. ``on_step`` is called after every step. Images (B, C, H, W) and
embeddings (B, D) alike.

Each sampler is a step (``ddim_step``), a function of the state and of a pair of noise levels. ``run`` is the loop over
the noise levels that all of them share. Coefficients are Python floats from the schedule's float64 tensors; x keeps
the dtype and the device of x_T. To write a sampler, write its step and give it to ``run``.
"""

from modules.diffusion.samplers.ancestral import Variance, analytic_dpm, ddpm
from modules.diffusion.samplers.dpm_solver import dpm_solver_pp
from modules.diffusion.samplers.implicit import ddim, ddim_invert
from modules.diffusion.samplers.loop import OnStep, State, Step, StepFunction, run
from modules.diffusion.samplers.trajectory import Level, Transition, transitions

__all__ = [
    "Level",
    "OnStep",
    "State",
    "Step",
    "StepFunction",
    "Transition",
    "Variance",
    "analytic_dpm",
    "ddim",
    "ddim_invert",
    "ddpm",
    "dpm_solver_pp",
    "run",
    "transitions",
]
