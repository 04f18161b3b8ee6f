"""The names of the samplers: apart from their code, so that a command line can list them without torch."""

from __future__ import annotations

from typing import Literal, get_args

SamplerName = Literal[
    "ddpm",
    "ddim",
    "analytic_dpm",
    "analytic_ddim",
    "dpm_solver_pp",
    "dpm_solver_pp_sde",
]

SAMPLERS: tuple[str, ...] = get_args(SamplerName)
