"""Classifier-free guidance of diffusion networks and of logits.

``guide`` and ``guide_two`` wrap a *model* whose conditioning is closed over for several copies of the batch, so that
one network call serves them all. ``conditional`` is the same network with the conditional conditioning only. It saves
the other copies where their outputs would have no effect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from modules.diffusion.denoiser import Model


def guide(
    model: Model,
    scale: float,
    *,
    interval: tuple[int, int] | None = None,
    rescale: float = 0.0,
    conditional: Model | None = None,
) -> Model:
    """Classifier-free guidance (Ho and Salimans eq. 6; unCLIP 2.1).

    unconditional + scale * (conditional - unconditional).

    With caption and CLIP embedding dropped together in the unconditional half, this is the paper's joint form.

    Args:
        model: for 2B samples, with the conditioning [conditional, unconditional] stacked in that order: (x (2B, C,
            ...), t (2B,)) -> (2B, C, ...), or (2B, 2C, ...) with learned sigma. The variance channels are not guided;
            they are the conditional ones.
        scale: 1 is the conditional output and 0 the unconditional one, bit for bit, variance channels included.
        interval: guide only at first <= t <= last (original timesteps, see ``noise_interval``) and be conditional
            elsewhere (Kynkaanniemi et al. 2404.07724).
        rescale: phi in [0, 1]: how far to bring the guided output's standard deviation, per sample, back to the
            conditional one's (Lin et al. eq. 15 and 16).
        conditional: for B samples, with the conditional conditioning: (x (B, C, ...), t (B,)) -> (B, C, ...). With it
            the unconditional half is not evaluated at scale 1, nor outside of the interval in a sampler.

    Returns:
        A model for B samples.

    Raises:
        ValueError: if rescale is outside [0, 1], or the interval ends before it starts.
    """
    _check(rescale, interval)

    def outputs(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        with_condition, without = _copies(model, x_t, t, 2)
        return _blend(with_condition, without, scale, x_t.shape[1], rescale), with_condition

    return _guided(outputs, interval, conditional, always_conditional=scale == 1)


def side_by_side(first: Model, second: Model) -> Model:
    """One model for 2B samples of two models: the first takes the first half of the batch, the second the other.

    ``guide`` of it with a strong and a weak model is autoguidance (Karras et al. 2406.02507 eq. 3).
    """

    def outputs(x: Tensor, t: Tensor) -> Tensor:
        (x_1, x_2), (t_1, t_2) = x.chunk(2), t.chunk(2)
        return torch.cat([first(x_1, t_1), second(x_2, t_2)])

    return outputs


def guide_two(
    model: Model,
    text_scale: float,
    image_scale: float,
    *,
    interval: tuple[int, int] | None = None,
    rescale: float = 0.0,
    conditional: Model | None = None,
) -> Model:
    """Guidance with a scale for each of two conditions (Brooks et al. 2023 eq. 3; the CLIP embedding is their image).

    unconditional + image_scale * (image - unconditional) + text_scale * (both - image). Equal scales give ``guide``.

    Args:
        model: for 3B samples, with the conditioning [text and CLIP embedding, CLIP embedding only, neither] stacked.
        text_scale: scale of the difference that the caption makes beside the CLIP embedding.
        image_scale: scale of the difference that the CLIP embedding makes alone.
        interval, rescale: as in ``guide``; outside of the interval the output is that of both conditions.
        conditional: for B samples, with both conditions. With it the other two thirds are not evaluated where both
            scales are 1, nor outside of the interval in a sampler.

    Returns:
        A model for B samples.

    Raises:
        ValueError: if rescale is outside [0, 1], or the interval ends before it starts.
    """
    _check(rescale, interval)

    def outputs(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        both, image, neither = _copies(model, x_t, t, 3)
        channels = x_t.shape[1]
        if text_scale == image_scale:
            out = _blend(both, neither, text_scale, channels, rescale)
        elif text_scale == 0:
            out = _blend(image, neither, image_scale, channels, rescale)
        else:
            step = text_scale * (both[:, :channels] - image[:, :channels])
            mean = _lerp(image[:, :channels], neither[:, :channels], image_scale) + step
            out = torch.cat([_match_deviation(mean, both[:, :channels], rescale), both[:, channels:]], dim=1)
        return out, both

    return _guided(outputs, interval, conditional, always_conditional=text_scale == image_scale == 1)


def guide_logits(logits: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance of an autoregressive prior (unCLIP 2.2).

    Args:
        logits: (2B, ..., V), [conditional, unconditional] stacked. -inf forbids a code; one that the conditional half
            forbids stays forbidden, one that only the unconditional half forbids keeps its conditional logit.
        scale: 1 is the conditional half and 0 the unconditional one, bit for bit.

    Returns:
        (B, ..., V).
    """
    conditional, unconditional = logits.chunk(2)
    if scale in (0, 1):
        return _lerp(conditional, unconditional, scale)
    forbidden = conditional.isneginf() | unconditional.isneginf()
    return torch.where(forbidden, conditional, _lerp(conditional, unconditional, scale))


def _copies(model: Model, x_t: Tensor, t: Tensor, copies: int) -> tuple[Tensor, ...]:
    """The outputs for each stacked conditioning, from one call."""
    return model(torch.cat([x_t] * copies), torch.cat([t] * copies)).chunk(copies)


def _lerp(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """unconditional + scale * (conditional - unconditional), exact at both ends."""
    if scale == 1:
        return conditional
    if scale == 0:
        return unconditional
    return unconditional + scale * (conditional - unconditional)


def _blend(conditional: Tensor, unconditional: Tensor, scale: float, channels: int, rescale: float) -> Tensor:
    """_lerp of the first channels; the others, if any, are the variance and stay conditional."""
    if scale in (0, 1):
        return _lerp(conditional, unconditional, scale)
    mean = _lerp(conditional[:, :channels], unconditional[:, :channels], scale)
    mean = _match_deviation(mean, conditional[:, :channels], rescale)
    return torch.cat([mean, conditional[:, channels:]], dim=1)


def _match_deviation(guided: Tensor, conditional: Tensor, rescale: float) -> Tensor:
    """Scales each sample part of the way to the conditional standard deviation."""
    if rescale == 0:
        return guided
    dims = tuple(range(1, guided.ndim))
    ratio = conditional.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True)
    return guided * (rescale * ratio + (1 - rescale))


def _check(rescale: float, interval: tuple[int, int] | None) -> None:
    if not 0 <= rescale <= 1:
        raise ValueError(f"rescale must lie in [0, 1], got {rescale}")
    if interval is not None and interval[0] > interval[1]:
        raise ValueError(f"the guidance interval must not end before it starts, got {interval}")


Outputs = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""x_t, t -> the guided output and the conditional one."""


def _guided(
    outputs: Outputs, interval: tuple[int, int] | None, conditional: Model | None, *, always_conditional: bool
) -> Model:
    if always_conditional and conditional is not None:
        return conditional
    return (lambda x_t, t: outputs(x_t, t)[0]) if interval is None else GuidedWithin(outputs, *interval, conditional)


@dataclass(frozen=True, eq=False)
class GuidedWithin:
    """A model that is guided at first <= t <= last and conditional elsewhere.

    Attributes:
        outputs: gives both outputs from one call of the network.
        first, last: original timesteps.
        conditional: gives the conditional output alone; None if only `outputs` does.
    """

    outputs: Outputs
    first: int
    last: int
    conditional: Model | None

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """For samples at any timesteps. All copies are evaluated: to look at t would wait for the device."""
        guided, conditional = self.outputs(x_t, t)
        inside = (t >= self.first) & (t <= self.last)
        return torch.where(inside.reshape(-1, *([1] * (guided.ndim - 1))), guided, conditional)

    def at_timestep(self, timestep: int) -> Model:
        """The guided model inside of the interval, the conditional one outside; see ``denoiser.at_timestep``."""
        if self.first <= timestep <= self.last:
            return lambda x_t, t: self.outputs(x_t, t)[0]
        return (lambda x_t, t: self.outputs(x_t, t)[1]) if self.conditional is None else self.conditional
