"""Which settings the points of a sweep may have, and which values: a misspelt one would have no effect and no error."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, get_args

STAGES = ("prior", "decoder", "upsampler")

Rule = tuple[Callable[[Any], bool], str]
"""Whether a value will do, and what it must be."""


def _whole(value: Any) -> bool:
    return type(value) is int and value >= 1


def _number(low: float, high: float = math.inf, below: bool = False) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        return low <= value < high if below else low <= value <= high

    return check


def _one_of(*names: Any) -> Rule:
    return lambda value: value in names, f"one of {', '.join(map(str, names))}"


def _interval(value: Any) -> bool:
    return value is None or (
        isinstance(value, list) and len(value) == 2 and all(map(_number(0), value)) and value[0] < value[1]
    )


def sampler_rules() -> dict[str, Rule]:
    """Those of a diffusion stage: the fields of `modules.models.configs.SamplerConfig`."""
    from modules.diffusion.samplers import Variance
    from modules.diffusion.schedules import Spacing
    from modules.models.configs import SamplerName

    return {
        "name": _one_of(*get_args(SamplerName)),
        "steps": (_whole, "a whole number of 1 or more"),
        "spacing": _one_of(*get_args(Spacing)),
        "guidance_scale": (_number(-math.inf), "a number"),
        "guidance_interval": (_interval, "null or two numbers [[low, high]], low < high"),
        "guidance_rescale": (_number(0, 1), "a number from 0 to 1"),
        "eta": (_number(0, 1), "a number from 0 to 1"),
        "variance": _one_of(*get_args(Variance)),
        "threshold": _one_of("static", "dynamic", None),
    }


def rules(condition: str, space: str, upsample: bool, stage: str) -> dict[str, Rule]:
    """The settings that a stage has under a condition; none, where the stage takes no part."""
    if stage == "decoder":
        return {} if space == "embeddings" else sampler_rules()
    if stage == "upsampler":
        return sampler_rules() if upsample and space == "images" else {}
    if condition == "diffusion_prior":
        return {**sampler_rules(), "candidates": (_whole, "a whole number of 1 or more")}
    if condition == "ar_prior":
        return {
            "guidance_scale": (_number(-math.inf), "a number"),
            "percentile": (_number(0, 100, below=True), "a number of 0 or more, below 100"),
            "temperature": (_number(0), "a number of 0 or more"),
        }
    return {}


def setting_problem(condition: str, space: str, upsample: bool, name: str, value: Any) -> str | None:
    """What is wrong with a setting of a point, in a line; None if nothing is.

    Args:
        condition: of the point.
        space: of the sweep, "images" or "embeddings".
        upsample: whether the sweep's pictures are enlarged.
        name: as in "decoder.steps".
        value: of the setting.
    """
    stage, _, setting = name.partition(".")
    known = rules(condition, space, upsample, stage)
    if not known:
        return f"{name} has no effect on {condition} here, which has no {stage} with settings: leave one of them out"
    if setting not in known:
        return f"{name!r} is no setting; a {stage} of {condition} has {', '.join(known)}"
    fits, wanted = known[setting]
    return None if fits(value) else f"{name} must be {wanted}, found {value!r}"
