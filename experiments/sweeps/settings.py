"""The settings that a point of a sweep may have, and their values. Others are refused, or a typo would do nothing."""

from __future__ import annotations

from typing import Any

from modules.conditions import CONDITIONS

STAGES = ("prior", "decoder", "upsampler", "ranking")


def setting_problem(condition: str, space: str, upsample: bool, name: str, value: Any) -> str | None:
    """One line that says what is wrong with a setting of a point, or None. The run's stages are not looked at.

    A prior's own settings are checked with the run's prior, see `experiments.sweeps.checks`.

    Args:
        condition: of the point.
        space: of the sweep, "images" or "embeddings".
        upsample: whether the sweep's pictures are enlarged.
        name: as in "decoder.steps".
        value: of the setting.
    """
    from modules.models.configs import (  # It needs torch, and `--help` does not.
        DECODER_RULES,
        SAMPLER_RULES,
        SAMPLING_STEPS,
    )

    stage, _, setting = name.partition(".")
    takes_part = {
        "prior": CONDITIONS[condition].prior is not None,
        "decoder": space == "images",
        "upsampler": space == "images" and upsample,
        "ranking": space == "images" and CONDITIONS[condition].draws,
    }
    if not takes_part[stage]:
        return f"{name} has no effect on {condition} here, which has no {stage} with settings: leave one of them out"
    if stage == "prior":
        return None
    if stage == "ranking":
        fits, wanted = SAMPLING_STEPS
        known = setting == "best_of" and fits(value)
        return None if known else f"{name} is {value!r}: a ranking has best_of, {wanted}"
    if CONDITIONS[condition].z_i in ("tokens", "true tokens"):
        return f"{name} has no effect on {condition}, whose decoder has no settings of sampling: leave one of them out"
    rules = SAMPLER_RULES | (DECODER_RULES if stage == "decoder" else {})
    if setting not in rules:
        return f"{name!r} is no setting; a {stage} of {condition} has {', '.join(rules)}"
    fits, wanted = rules[setting]
    return None if fits(value) else f"{name} must be {wanted}, found {value!r}"
