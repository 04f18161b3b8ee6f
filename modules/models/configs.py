"""Two records that a YAML fills in: what a diffusion stage learns, and how it is sampled."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Literal, get_args

import torch
from torch import Tensor

from modules.diffusion import losses, samplers, timestep_sampling
from modules.diffusion.denoiser import Threshold, dynamic_threshold, static_threshold
from modules.diffusion.gaussian import Parameterization, q_sample
from modules.diffusion.losses import Weighting
from modules.diffusion.schedules import SCHEDULES, NoiseSchedule, ScheduleName, Spacing, rescale_zero_terminal_snr
from modules.errors import InputError
from modules.models.sampler_names import SAMPLERS, SamplerName

MAX_STEPS = 100_000
"""Of a training schedule, whose tables are in memory: the paper's have 1,000."""

Rule = tuple[Callable[[object], bool], str]
"""Whether a value will do, and what it must be."""


def number(low: float = -math.inf, high: float = math.inf, below: bool = False) -> Callable[[object], bool]:
    """A test for finite numbers from `low` to `high`; with `below`, without `high` itself."""

    def check(value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        return low <= value < high if below else low <= value <= high

    return check


def one_of(*names: object) -> Rule:
    """The rule of a choice between names."""
    return lambda value: value in names, f"one of {', '.join(map(str, names))}"


def check_value(name: str, value: object, rule: Rule) -> None:
    """Refuse a value that breaks a rule.

    Raises:
        InputError: names the setting, the rule and the value.
    """
    fits, wanted = rule
    if not fits(value):
        raise InputError(f"{name} must be {wanted}, found {value!r}")


def _interval(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(number(0), value)) and value[0] < value[1]


MAX_GUIDANCE = 100
"""Of a guidance scale, either sign. Published ones end at 30; pictures have saturated long before 100."""

MAX_CLIP_GUIDANCE = 100_000
"""Of a CLIP's gradient, whose size depends on the CLIP."""

GUIDANCE: Rule = (number(-MAX_GUIDANCE, MAX_GUIDANCE), f"a number from -{MAX_GUIDANCE} to {MAX_GUIDANCE}")


def whole(most: int) -> Rule:
    """The rule of a whole number from 1 to `most`."""
    return lambda value: type(value) is int and 1 <= value <= most, f"a whole number from 1 to {most:,}"


NUM_STEPS = whole(MAX_STEPS)
HUBER_SCALE: Rule = (lambda value: value is None or number(1e-6, 1e6)(value), "null, or a number from 1e-6 to 1e6")
SAMPLING_STEPS = whole(10_000)


@dataclass(frozen=True)
class Objective:
    """What is learned (the rows "diffusion steps" and "noise schedule" of the paper's Table 3, and section 2).

    Attributes:
        schedule: "cosine" (Improved DDPM) or "linear" (DDPM).
        num_steps: T, the steps of the training schedule.
        parameterization: what the network predicts. The paper: epsilon in the decoder and upsamplers, x0 in the prior.
        learned_sigma: the network also outputs the variance; the loss is the hybrid one (Improved DDPM eq. 16).
        weighting, gamma: weighting of the loss over timesteps, see `modules.diffusion.losses.loss_weight`.
        huber_scale: errors far above this scale count by their size instead of their square, see
            `modules.diffusion.losses.pseudo_huber`. In the unit of what is predicted. Null: squared errors, as in the
            paper.
        bound_weight: weight of the variational bound, which is added to L_simple with learned sigma.
        timesteps: how a training batch draws its timesteps; "loss_second_moment" is importance sampling by recent
            losses (Improved DDPM 3.3), which the stage remembers.
        timestep_mean, timestep_std: mean and standard deviation of the logit-normal draw.
        zero_terminal_snr: rescale the schedule to end without signal (Lin et al. 2305.08891); not with epsilon.
    """

    schedule: ScheduleName = "cosine"
    num_steps: int = 1000
    parameterization: Parameterization = "epsilon"
    learned_sigma: bool = False
    weighting: Weighting = "none"
    gamma: float = 5.0
    huber_scale: float | None = None
    bound_weight: float = 0.001
    timesteps: Literal["uniform", "antithetic", "logit_normal", "loss_second_moment"] = "uniform"
    timestep_mean: float = 0.0
    timestep_std: float = 1.0
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        check_value("num_steps", self.num_steps, NUM_STEPS)
        check_value("huber_scale", self.huber_scale, HUBER_SCALE)

    @cached_property
    def noise_schedule(self) -> NoiseSchedule:
        """The training schedule: numbers on the CPU, also where networks are made as shapes only (`torch.device`)."""
        with torch.device("cpu"):
            schedule = SCHEDULES[self.schedule](self.num_steps)
            return rescale_zero_terminal_snr(schedule) if self.zero_terminal_snr else schedule

    def draw(
        self,
        x0: Tensor,
        generator: torch.Generator,
        importance: timestep_sampling.LossSecondMoment | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Timesteps, noise and noised data of one training batch.

        Args:
            x0: (B, ...) data.
            generator: on the CPU, so that the draw does not depend on the device.
            importance: the losses so far; without, "loss_second_moment" is uniform, as it is when a stage is judged.

        Returns:
            t (B,) int64, noise (B, ...), x_t (B, ...), on x0's device.
        """
        draws: dict[str, Callable[..., timestep_sampling.TimestepSample]] = {
            "uniform": timestep_sampling.uniform,
            "antithetic": timestep_sampling.antithetic,
            "loss_second_moment": importance or timestep_sampling.uniform,
            "logit_normal": partial(timestep_sampling.logit_normal, mean=self.timestep_mean, std=self.timestep_std),
        }
        t = draws[self.timesteps](self.noise_schedule, len(x0), generator).t.to(x0.device)
        noise = torch.randn(x0.shape, generator=generator).to(x0.device)
        return t, noise, q_sample(self.noise_schedule, x0, t, noise)

    def loss(self, output: Tensor, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """(B,) loss of a network's output for `draw`'s x_t."""
        return self._hybrid(output, x0, noise, t) if self.learned_sigma else self._simple(output, x0, noise, t)

    def terms(self, output: Tensor, x0: Tensor, noise: Tensor, t: Tensor) -> dict[str, Tensor]:
        """The terms whose sum is `loss`, (B,) each: L_simple and, with learned sigma, the weighted L_vlb."""
        simple = self._simple(output[:, : x0.shape[1]], x0, noise, t)
        if not self.learned_sigma:
            return {"L_simple": simple}
        return {"L_simple": simple, "L_vlb": self._hybrid(output, x0, noise, t) - simple}

    def _hybrid(self, output: Tensor, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        how = (self.parameterization, self.weighting, self.gamma, self.huber_scale, self.bound_weight)
        return losses.hybrid_loss(output, self.noise_schedule, x0, noise, t, *how)

    def _simple(self, mean: Tensor, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        how = (self.parameterization, self.weighting, self.gamma, self.huber_scale)
        return losses.diffusion_loss(mean, self.noise_schedule, x0, noise, t, *how)


GuidedFrom = Literal["unconditional", "weak"]


@dataclass(frozen=True)
class SamplerConfig:
    """How a stage is sampled (the rows "sampling steps" and "sampling variance" of the paper's Table 3).

    Attributes:
        name: a sampler of `modules.diffusion.samplers`; analytic_ddim is analytic_dpm with eta 0,
            dpm_solver_pp_sde the stochastic solver.
        steps: network evaluations of one trajectory.
        spacing: spacing of the timesteps, see `modules.diffusion.schedules.respace`.
        guidance_scale: scale of classifier-free guidance; 1 is none.
        guidance_interval: smallest and largest sigma = sqrt((1 - alpha_bar) / alpha_bar) with guidance; null for all.
        guidance_rescale: how far to bring the standard deviation back that guidance has raised, 0 to 1, see
            `modules.diffusion.guidance.guide`.
        eta: DDIM's eta: 0 is deterministic, 1 is ancestral sampling.
        variance: DDPM's variance.
        threshold: keeps the estimate of the data in [-1, 1] or `threshold_limit`; null for embeddings.
        text_guidance_scale: for decoders: a scale for the caption alone, from the output with z_i to that with both;
            guidance_scale is then the scale of z_i, from the output without either (Brooks et al. 2023 eq. 3). Null
            guides both together, as the paper does.
        clip_guidance_scale: for decoders: how far to follow the gradient of a CLIP's similarity of picture and caption
            (GLIDE, section 2.4); 0 is none.
        guided_from: for decoders: guidance leads away from the unconditional output, or from the output of a weak
            version of the decoder for the same conditions (autoguidance, Karras et al. 2406.02507). The weak decoder
            is the run's stage weak_decoder.
        threshold_limit: the range of `threshold` is [-threshold_limit, threshold_limit]; Karlo's prior clips at 5.
        init_noise_sigma: for an upsampler: the standard deviation of x_T; 0.997 in GLIDE's notebook (`upsample_temp`).
        eight_bit_input: for an upsampler: round the picture that it enlarges to 256 values, as picture files have
            (GLIDE's notebook).
    """

    name: SamplerName = "ddim"
    steps: int = 50
    spacing: Spacing = "trailing"
    guidance_scale: float = 1.0
    guidance_interval: tuple[float, float] | None = None
    guidance_rescale: float = 0.0
    eta: float = 0.0
    variance: samplers.Variance = "fixed_small"
    threshold: Literal["static", "dynamic"] | None = "static"
    text_guidance_scale: float | None = field(default=None, repr=False)
    clip_guidance_scale: float = field(default=0.0, repr=False)
    guided_from: GuidedFrom = field(default="unconditional", repr=False)
    threshold_limit: float = field(default=1.0, repr=False)
    init_noise_sigma: float = field(default=1.0, repr=False)
    eight_bit_input: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        for name, rule in SAMPLER_RULES.items():
            check_value(name, getattr(self, name), rule)

    @property
    def needs_statistics(self) -> bool:
        """Whether this is one of Analytic-DPM's, which need the score's statistics."""
        return self.name in ("analytic_dpm", "analytic_ddim")

    @property
    def clip(self) -> Threshold | None:
        """`threshold` with its limit."""
        if self.threshold is None or self.threshold_limit == 1:
            return self.threshold
        if self.threshold == "static":
            return partial(static_threshold, limit=self.threshold_limit)
        return partial(dynamic_threshold, limit=self.threshold_limit)

    def without_statistics(self) -> SamplerConfig:
        """This sampler, or the nearest one that needs no statistics: the same mean, DDPM's or DDIM's variance."""
        names: dict[SamplerName, SamplerName] = {"analytic_dpm": "ddpm", "analytic_ddim": "ddim"}
        return replace(self, name=names[self.name]) if self.name in names else self


SAMPLER_RULES: dict[str, Rule] = {
    "name": one_of(*SAMPLERS),
    "steps": SAMPLING_STEPS,
    "spacing": one_of(*get_args(Spacing)),
    "guidance_scale": GUIDANCE,
    "guidance_interval": (_interval, "null or two numbers [low, high], low < high"),
    "guidance_rescale": (number(0, 1), "a number from 0 to 1"),
    "eta": (number(0, 1), "a number from 0 to 1"),
    "variance": one_of(*get_args(samplers.Variance)),
    "threshold": one_of("static", "dynamic", None),
    "text_guidance_scale": (lambda value: value is None or GUIDANCE[0](value), f"null or {GUIDANCE[1]}"),
    "clip_guidance_scale": (number(0, MAX_CLIP_GUIDANCE), f"a number from 0 to {MAX_CLIP_GUIDANCE:,}"),
    "guided_from": one_of(*get_args(GuidedFrom)),
    "threshold_limit": (number(1e-6, 1e6), "a number from 0.000001 to 1,000,000"),
    "init_noise_sigma": (number(0, 10), "a number from 0 to 10"),
    "eight_bit_input": (lambda value: type(value) is bool, "true or false"),
}
"""The settings of a diffusion model's sampling, and which values they may have."""

DECODER_ONLY: dict[str, object] = {
    "text_guidance_scale": None,
    "clip_guidance_scale": 0.0,
    "guided_from": "unconditional",
}
"""Those that only decoders have, with the values at which they do nothing."""

UPSAMPLER_ONLY: dict[str, object] = {"init_noise_sigma": 1.0, "eight_bit_input": False}
"""The same of upsamplers."""

DECODER_RULES: dict[str, Rule] = {
    "noise_level": (lambda value: type(value) is int and value >= 0, "a whole number of 0 or more"),
}
"""The settings of a decoder's sampling that are no sampler's, and which values they may have."""
